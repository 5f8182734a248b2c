"""What is told of methods that are missing from the results."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path

from ..methods.visible_code import is_installed, is_ours
from .results import LeftOut, Results


class FailedMethodsError(ValueError):
    """Methods raised errors, or returned what cannot be right; the others were measured.

    Attributes:
        results: of the others; without rows, where there is nothing else.
    """

    def __init__(self, message: str, results: Results) -> None:
        super().__init__(message)
        self.results = results


def lines_of(left_out: Sequence[LeftOut]) -> list[str]:
    """A line a method; where every seed has the same reason, once."""
    return [*dict.fromkeys(f"{one.method}, {one.bits} bits: {one.reason}" for one in left_out)]


def told(error: Exception) -> str:
    """What the last line of a traceback says, and where in somebody's code, in one line."""
    said = " ".join(str(error).split())
    if type(error) is not ValueError or not said:
        said = f"{type(error).__name__}: {said}"
    theirs = [
        (Path(frame.f_code.co_filename).name, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not is_ours(name := str(frame.f_globals.get("__name__"))) and not is_installed(name)
    ]
    return f"{said} ({theirs[-1][0]}, line {theirs[-1][1]})" if theirs else said
