"""What a command that Ctrl-C ended leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

# Of the commands that take long. All else writes whole files, at its end.
_TRAINED = "what its training had finished is not done again"
_KEPT = {
    "train": _TRAINED,
    "tune": f"lambdas that were measured are in tune.json, and {_TRAINED}",
    "evaluate": f"methods that were measured are in raw/, and {_TRAINED}",
    "demo": f"methods that were measured are in raw/, and {_TRAINED}",
}


def after_ctrl_c(arguments: Sequence[str], stop: KeyboardInterrupt) -> str:
    """One line: what there is, and what the same command does next.

    Args:
        arguments: of the command line, the command first.
        stop: its notes say what a training, or a build in parts, keeps.
    """
    command = arguments[0] if arguments else ""
    kept = [*([_KEPT[command]] if command in _KEPT else []), *getattr(stop, "__notes__", ())]
    if not kept:
        return "stopped; nothing is half written, and the same command begins again"
    return f"stopped; the same command goes on: {'; '.join(kept)}"
