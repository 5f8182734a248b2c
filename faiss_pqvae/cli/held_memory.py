"""How much memory a command holds: this process, and all that it began."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

_SAMPLE_S = 0.5
_PROC = Path("/proc")


class HeldMemory:
    """The most memory that is held at a time within a `with` block, looked at twice a second.

    Pages that several processes map count once: it is the proportional set size, as Linux has it.

    Attributes:
        peak_bytes: so far; 0 where the system does not say.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> HeldMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            self._look()

    def _look(self) -> None:
        held = sum(map(_held_bytes, processes_below(os.getpid())))
        self.peak_bytes = max(self.peak_bytes, held)


def processes_below(pid: int) -> set[int]:
    """A process, those that it began, and those that these began."""
    parents = {}
    for path in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # one that has just ended
            text = (path / "stat").read_text(encoding="utf-8", errors="replace")
            parents[int(path.name)] = int(text.rpartition(")")[2].split()[1])
    found: set[int] = set()
    more = {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in found} - found
    return found


def _held_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0
