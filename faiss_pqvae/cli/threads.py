"""Threads for a training: as many as there are processors that no other program keeps busy.

Threads of one step wait for each other many times. Where one of them has to share its processor,
all wait for it: two threads on two processors that are busy are slower than one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Set
from pathlib import Path
from typing import NamedTuple

_log = logging.getLogger(__name__)

_STAT = Path("/proc/stat")
# Of a line of it: user, system, irq, softirq and steal. Programs that are "nice" make way.
_BUSY = (1, 3, 6, 7, 8)
_LEAST_S = 0.2  # the figures have a resolution of 0.01 s


class Look(NamedTuple):
    """What the processors have done until now.

    Attributes:
        at_s: on a clock.
        all_s: of all programs, on the processors that this one may use.
        own_s: of this one.
    """

    at_s: float
    all_s: float
    own_s: float


def look() -> Look | None:
    """A look at the processors; None where the system has no such figures."""
    if not _STAT.exists():
        return None
    busy_s = _busy_ticks(_STAT.read_text(), os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK")
    return Look(time.monotonic(), busy_s, time.process_time())


def _busy_ticks(stat: str, processors: Set[int]) -> int:
    """Ticks of the clock in which some processors worked, by the text of /proc/stat."""
    rows = (line.split() for line in stat.splitlines())
    names = {f"cpu{number}" for number in processors}
    return sum(int(row[place]) for row in rows if row and row[0] in names for place in _BUSY)


def choose_threads(before: Look | None, now: Look | None) -> None:
    """Gives torch and FAISS fewer threads where other programs are at work, and says so.

    Args:
        before: from when a command began.
        now: a second or so later, when its libraries are there. Where either is None, too little
            time lies between them, or OMP_NUM_THREADS is set, nothing is done.
    """
    if before is None or now is None or "OMP_NUM_THREADS" in os.environ:
        return
    if now.at_s - before.at_s < _LEAST_S:
        return
    # Here, because nobody else in the command line needs them yet.
    import torch

    from faiss_pqvae.native import faiss

    others = _busy_with_others(before, now)
    processors = len(os.sched_getaffinity(0))
    threads = max(1, processors - round(others))
    if threads >= torch.get_num_threads():
        return
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    _log.info(
        "%d of %d threads, because other programs keep %.1f processors busy; OMP_NUM_THREADS sets "
        "another number",
        threads,
        processors,
        others,
    )


def _busy_with_others(before: Look, now: Look) -> float:
    """How many processors other programs kept busy between two looks."""
    own_s = now.own_s - before.own_s
    return max(0.0, now.all_s - before.all_s - own_s) / (now.at_s - before.at_s)
