"""What a command that Ctrl-C ended leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

# Of the commands that take long. All else writes whole files, at its end.
_TRAINED = "what its training had finished is not done again"
_KEPT = {
    "build in parts": "parts that were done are there",
    "train": _TRAINED,
    "tune": f"lambdas that were measured are in tune.json, and {_TRAINED}",
    "evaluate": f"methods that were measured are in raw/, and {_TRAINED}",
    "demo": f"methods that were measured are in raw/, and {_TRAINED}",
}


def after_ctrl_c(arguments: Sequence[str], stop: KeyboardInterrupt) -> str:
    """One line: what there is, and what the same command does next.

    Args:
        arguments: of the command line, the command first.
        stop: its notes say what a training keeps.
    """
    command = arguments[0] if arguments else ""
    if command == "build" and any(word.startswith(("--part", "--workers")) for word in arguments):
        command = "build in parts"
    if command not in _KEPT:
        return "stopped; nothing is half written, and the same command begins again"
    notes = "".join(f"; {note}" for note in getattr(stop, "__notes__", ()))
    return f"stopped; the same command goes on: {_KEPT[command]}{notes}"
