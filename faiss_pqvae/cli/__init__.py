"""The command `faiss-pqvae`."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from faiss_pqvae.cli.options import with_objectives, with_present_names
from faiss_pqvae.cli.stopped import after_ctrl_c

_MODULES = {
    "demo": "evaluate",
    "train": "train",
    "build": "build",
    "add": "add",
    "search": "search",
    "evaluate": "evaluate",
    "tune": "tune",
    "report": "report",
    "info": "info",
}
_DESCRIPTION = (
    "Train a PQ-VAE end to end, put its codebooks into a native FAISS index, and search. "
    "Start with `faiss-pqvae demo`; each command has its own --help."
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; wrong input ends with one line on standard error and status 2.

    Args:
        arguments: instead of the process's own, without the program's name.
    """
    # Before torch and FAISS are loaded: threads that wait for others sleep. Spinning ones take the
    # processor from those that they wait for, where the machine has other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    given = with_present_names(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        # For "package.module:attribute"; last, to stand before nothing that is installed.
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)
        tyro.extras.subcommand_cli_from_dict(
            _commands(given), prog="faiss-pqvae", description=_DESCRIPTION, args=given
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"faiss-pqvae: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:
        print(f"\nfaiss-pqvae: {after_ctrl_c(given, stop)}", file=sys.stderr)
        sys.exit(130)


def _commands(arguments: Sequence[str]) -> dict[str, Callable[..., None]]:
    found = {}
    for name, module in _MODULES.items():
        command = getattr(importlib.import_module(f"faiss_pqvae.cli.{module}"), name)
        found[name] = with_objectives(command, arguments)
    return found


if __name__ == "__main__":
    main()
