"""In a checkout two rooms lie beside the package and not in it: they are found there as well."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_PACKAGE = Path(__file__).parent
_ROOMS = ("training", "eval")


class Beside:
    """Finds these rooms only: a longer `__path__` would make packages of tests and results, too."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the import system asks when nobody else has found a module."""
        package, _, room = name.partition(".")
        if package != __package__ or room not in _ROOMS:
            return None
        return PathFinder.find_spec(name, [str(_PACKAGE.parent)], target)


def find_rooms_beside() -> None:
    """Lets `import faiss_pqvae` work in a checkout's root, where no installed copy is seen.

    An installed package has its rooms inside, and nothing is done.
    """
    inside = any((_PACKAGE / room / "__init__.py").is_file() for room in _ROOMS)
    if not inside and (_PACKAGE.parent / "setup.py").is_file() and Beside not in sys.meta_path:
        sys.meta_path.append(Beside)
