"""How much memory a phase needs at most, as Linux counts it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most resident memory within a `with` block beyond what was held when it began.

    Attributes:
        peak_bytes: after the block; None where the system does not say.
    """

    def __init__(self) -> None:
        self.peak_bytes: int | None = None
        self._before: int | None = None

    def __enter__(self) -> PeakMemory:
        try:
            _CLEAR.write_text("5")  # the highest value so far is forgotten
        except OSError:
            return self
        self._before = _status("VmRSS")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        highest = None if self._before is None else _status("VmHWM")
        if self._before is not None and highest is not None:
            self.peak_bytes = max(0, highest - self._before)


def _status(name: str) -> int | None:
    """A size in this process's status, in bytes."""
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    words = next((line.split() for line in lines if line.startswith(f"{name}:")), None)
    return None if words is None else 1024 * int(words[1])
