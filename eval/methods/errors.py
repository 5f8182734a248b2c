"""Errors of somebody's code, in one line."""

from __future__ import annotations

import traceback
from pathlib import Path

from .visible_code import is_installed, is_ours


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
