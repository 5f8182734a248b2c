"""How far a long phase is: a bar on a terminal, elsewhere a line in the log now and then."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

_log = logging.getLogger(__name__)

# What, how much of how much, how long it took, and how long it will take.
_SO_FAR = "{l_bar}{bar}| {n:,.0f} of {total:,.0f}{unit}, {elapsed}, {remaining} left{postfix}"
_DONE = "{l_bar}{bar}| {n:,.0f} of {total:,.0f}{unit}, {elapsed}{postfix}"
_SECONDS = "{l_bar}{bar}| {n:,.0f} of {total:,.0f} s{postfix}"
_TICKS = "{desc}: {elapsed}{postfix}"


def _assumed_size() -> dict[str, int]:
    """The size of a terminal that has none, as in `docker run -t`: tqdm would draw nothing."""
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # no terminal, or nothing that has a number
        return {}
    return {} if columns and rows else {"ncols": 80, "nrows": 24}


class Progress:
    """A phase of work that says what it is and how far.

    Standard error gets a bar where it is a terminal; otherwise the log gets a line now and then,
    and one at the end. A short phase says nothing.

    Args:
        what: the name of the phase.
        total: how many units there are. None where nobody can tell before the end, as in one call
            of FAISS: the seconds are then counted, by a thread.
        unit: of what is counted.
        shown: False says nothing at all.
        initial: units that were done before.
        seconds: the units are seconds of a budget.
        inner: it is a part of a longer phase, and its bar goes away at its end.
        line_every_s: seconds between two lines in a log.
        short_s: a phase that is over by then is not worth a word.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        *,
        unit: str = "",
        shown: bool = True,
        initial: float = 0,
        seconds: bool = False,
        inner: bool = False,
        line_every_s: float = 30.0,
        short_s: float = 2.0,
    ) -> None:
        self._ticks, self._seconds = total is None, seconds
        layout = _SECONDS if seconds else _SO_FAR
        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=what,
            unit=f" {unit}" if unit else "",
            delay=short_s,
            leave=not inner,
            bar_format=_TICKS if self._ticks else layout,
            disable=None if shown else True,
            **_assumed_size(),
        )
        self._logs = shown and self._bar.disable  # tqdm's word for: this is no terminal
        self.what, self.total, self.n, self._unit = what, total, initial, unit
        self._every_s, self._short_s, self._facts = line_every_s, short_s, ""
        self._initial, self._started = initial, time.monotonic()
        self._said = self._started
        self._said_last: tuple[float, str] | None = None
        self._over = threading.Event()

    def __enter__(self) -> Progress:
        if self._ticks and (self._logs or not self._bar.disable):
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        counts = not (self._ticks or self._seconds)
        if counts and self.total is not None and self.n >= self.total:
            self._bar.bar_format = _DONE
        self._bar.close()
        news = self._ticks or self._said_last != (self.n, self._facts)
        if self._logs and kind is None and self._is_long() and news:
            self._line()

    def update(self, n: float = 1) -> None:
        """So many units more are done."""
        self.n += n
        if self.total is not None and self.n > self.total:  # tqdm would forget the total
            self.extend(self.n)
        self._bar.update(n)
        self._now_and_then()

    def extend(self, total: float) -> None:
        """How many units there are has changed."""
        self.total = self._bar.total = total

    def note(self, **facts: Any) -> None:
        """What else there is to say by now."""
        self._facts = ", ".join(f"{name}={value}" for name, value in facts.items())
        self._bar.set_postfix(facts, refresh=self._is_long())

    def _tick(self) -> None:
        while not self._over.wait(min(1.0, self._every_s)):
            self._bar.update(0)
            self._now_and_then()

    def _is_long(self) -> bool:
        return time.monotonic() - self._started > self._short_s

    def _now_and_then(self) -> None:
        if self._logs and time.monotonic() - self._said > self._every_s:
            self._line()

    def _line(self) -> None:
        self._said, self._said_last = time.monotonic(), (self.n, self._facts)
        unit = f" {self._unit}" if self._unit else ""
        far = "" if self.total is None else f"{self.n:,.0f} of {self.total:,.0f}{unit}, "
        facts = f" ({self._facts})" if self._facts else ""
        passed_s = self._said - self._started
        _log.info("%s: %s%.0f s%s%s", self.what, far, passed_s, self._left(passed_s), facts)

    def _left(self, passed_s: float) -> str:
        """How long the rest takes at the pace until now, where that can be told."""
        new = self.n - self._initial
        if self.total is None or self._seconds or new <= 0 or self.n >= self.total:
            return ""
        return f", {passed_s * (self.total - self.n) / new:.0f} s left"
