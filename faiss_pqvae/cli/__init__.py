"""The command `faiss-pqvae`. What a command needs is imported when that command is called."""

from __future__ import annotations

import ast
import errno
import importlib
import inspect
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss_pqvae
from faiss_pqvae.cli.option_errors import OptionError, with_named_options
from faiss_pqvae.cli.stopped import after_ctrl_c
from faiss_pqvae.cli.threads import choose_threads, look

# The module of each command.
COMMANDS = {
    "demo": "evaluate",
    "train": "train",
    "plan": "plan",
    "build": "build",
    "add": "add",
    "search": "search",
    "evaluate": "evaluate",
    "tune": "tune",
    "report": "report",
    "info": "info",
}
_PROGRAM = "faiss-pqvae"
_DESCRIPTION = (
    "Train a PQ-VAE end to end, put its codebooks into a native FAISS index, and search. "
    "Start with `faiss-pqvae demo`; each command has its own --help, and --version prints the "
    "version."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; wrong input ends with one line on standard error and status 2.

    Args:
        arguments: instead of the process's own, without the program's name.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Which of its files FAISS tries, and what torch counted in an import that Ctrl-C ended.
    for library in ("faiss.loader", "torch"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name is shown wherever it is printed
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            _run(given)
        except SystemExit:  # as --help ends
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough, as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (ValueError, TypeError, OSError, ImportError, OptionError) as error:
        print(f"{_PROGRAM}: {_message(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"\n{_PROGRAM}: {after_ctrl_c(given, stop)}", file=sys.stderr)
        sys.exit(130)


def _message(error: Exception) -> str:
    """What went wrong, without the number that the system has for it."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if error.filename is None:
        full = error.errno == errno.ENOSPC  # where a file's disk is, the error names the file
        return f"cannot write the output: {error.strerror}" if full else str(error)
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} does not exist"
    return f"{error.filename}: {error.strerror}"


def _run(given: list[str]) -> None:
    # Here, where Ctrl-C is answered.
    import tyro

    from faiss_pqvae.cli.parsing import parsed
    from faiss_pqvae.messages import suggestion

    name, rest = (given[0], given[1:]) if given else ("", [])
    if name == "--version":
        print(f"{_PROGRAM} {faiss_pqvae.__version__}")
    elif name in COMMANDS:
        # For "package.module:attribute"; last, to stand before nothing that is installed.
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        before = look()
        command, arguments = _imported(name, rest)
        run = parsed(command, f"{_PROGRAM} {name}", arguments)
        if "torch" in sys.modules:  # as wherever something is trained
            choose_threads(before, look())
        run()
    elif name in ("-h", "--help"):
        tyro.extras.subcommand_cli_from_dict(
            {command: _summarized(command) for command in COMMANDS},
            prog=_PROGRAM,
            description=_DESCRIPTION,
            args=["--help"],
        )
    else:
        raise ValueError(
            f"expected a command ({', '.join(COMMANDS)}) or --help, got "
            f"{repr(name) if given else 'nothing'}{suggestion(name, COMMANDS)}"
        )


def _imported(name: str, arguments: list[str]) -> tuple[Callable[..., None], list[str]]:
    """A command with the options that its arguments ask for, and the arguments as it knows them."""
    module = importlib.import_module(f"faiss_pqvae.cli.{COMMANDS[name]}")
    command: Callable[..., None] = getattr(module, name)
    if "learning" not in inspect.signature(command).parameters:
        return with_named_options(command), arguments
    # Here, because objectives import torch.
    from faiss_pqvae.cli.options import with_objectives, with_present_names

    present = with_present_names(command, arguments)
    return with_objectives(with_named_options(command), present), present


def _summarized(name: str) -> Callable[[], None]:
    """What stands for a command in the list of them: its summary, read and not imported."""

    def command() -> None:
        pass

    text = Path(__file__).with_name(f"{COMMANDS[name]}.py").read_text(encoding="utf-8")
    defined = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    (found,) = (node for node in defined if node.name == name)
    command.__doc__ = (ast.get_docstring(found) or "").partition("\n\n")[0]
    return command
