"""What a part of `gpu_check.py` is given, and says what it found to."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARGIN_S = 2.0  # before its limit, in which a part that fills its time ends


class DiffersError(AssertionError):
    """Two ways to the same result that did not get there."""


@dataclass
class Check:
    """What a part is given.

    Attributes:
        device: "cuda" or "cpu".
        ends: when its time is over, by time.monotonic().
        folder: for files; nothing in it is kept.
        failed: what went wrong, and did not end the part.
    """

    device: str
    ends: float
    folder: Path
    failed: list[str] = field(default_factory=list)

    @property
    def on_card(self) -> bool:
        """Whether there is a card."""
        return self.device == "cuda"

    @property
    def left_s(self) -> float:
        """Seconds that may still be filled."""
        return self.ends - MARGIN_S - time.monotonic()

    def note(self, what: str, **values: Any) -> None:
        """Keeps a finding, at once: numbers, texts, and lists and dicts of these."""
        line = json.dumps({"what": what, **values}, allow_nan=False, default=float)
        with _findings(self.folder).open("a") as file:
            file.write(f"{line}\n")

    @contextlib.contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Goes on after an error within; the part has failed all the same."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed.append(what)
            self.note(what, error=f"{type(error).__name__}: {error}")


def read_findings(folder: Path) -> list[dict[str, Any]]:
    """What a part has noted; a line that it had no time to finish is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in _findings(folder).read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
    return found


def _findings(folder: Path) -> Path:
    return folder / "findings.jsonl"
