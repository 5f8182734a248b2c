"""Arguments of a command line: what they call, or one line about what is wrong with them."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from faiss_pqvae.cli.option_errors import OptionError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_RULE = re.compile(r"^ *[─-]{3,}$", re.MULTILINE)


def parsed(
    command: Callable[..., None], program: str, arguments: Sequence[str]
) -> Callable[[], None]:
    """A command with its arguments, ready to be called.

    Args:
        command: whose parameters are options.
        program: the words before the arguments.
        arguments: of the command line.

    Raises:
        OptionError: they are no arguments of the command; in one line.
        SystemExit: after the help that they asked for.
    """

    @functools.wraps(command)
    def call(*given: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *given, **options)

    del call.__wrapped__
    call.__signature__ = inspect.signature(command)  # type: ignore[attr-defined]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found: Callable[[], None] = tyro.cli(call, prog=program, args=arguments)
    except SystemExit as end:
        if not end.code:
            raise
        raise OptionError(_in_one_line(said.getvalue(), program, arguments)) from None
    return found


def _in_one_line(box: str, program: str, arguments: Sequence[str]) -> str:
    """What tyro says in a box about arguments that it refuses."""
    # Its title, and in every line a frame: of lines, or of blanks where these cannot be shown.
    lines = [line[1:].rstrip(" │╯") for line in _COLOURS.sub("", box).splitlines()[1:]]
    if lines and _RULE.fullmatch(lines[0]):
        del lines[0]
    parts = [" ".join(part.split()) for part in _RULE.split("\n".join(lines))]
    said, near = parts[0], ""
    # What is described stands alone in its line, and its description further in.
    described = [line.strip() for line in lines if re.fullmatch(r" {5}\S.*(?<!--help)", line)]
    if match := re.match(r"Error parsing (--[\w.-]+): ", said):
        what = _refused(match[1], described, arguments)
    elif match := re.match(r"Missing value for argument '([^'/]+)", said):
        what = f"expected a value after {match[1]}"
    elif match := re.match(r"invalid choice '(.*)' for argument '(.+)'.*\((.*)\)", said):
        choices = ", ".join(sorted(match[3].split(", ")))
        what = f"expected {match[2]} of {choices}, got {match[1]!r}"
    elif said.startswith("Missing from "):
        what = f"expected {' and '.join(described)}"
    elif match := re.match(r"Unrecognized options: ([^ ,]+)", said):
        what = _unknown(match[1])
        close = [name for name in described if name.startswith("--")]
        near = f"; did you mean {close[0].split()[0].rstrip(',')}?" if close else ""
    else:
        what = said
    return f"{what}; see {program} --help{near}"


def _refused(option: str, described: Sequence[str], arguments: Sequence[str]) -> str:
    """An option whose value means nothing: what it takes, and what came."""
    form = next((name for name in described if name.startswith(f"{option} ")), option)
    form = re.sub(r"[{}]", "", form.replace("{None}|", ""))
    came: list[str] = []
    found = False
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            found = name.replace("_", "-") == option.replace("_", "-")
            came = [value] * bool(equals) if found else came
        elif found:
            came.append(argument)
    return f"expected {form}, got {' '.join(came)!r}"


def _unknown(argument: str) -> str:
    """An argument that no parameter takes."""
    if argument.startswith("-"):
        return f"there is no option {argument}"
    several = ": a folder stands for several files" if Path(argument).exists() else ""
    return f"expected no further argument, got {argument!r}{several}"
