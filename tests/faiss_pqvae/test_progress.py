"""Bars on a terminal, lines in a log."""

import contextlib
import io
import logging
import os
import pty
import re
import sys
import time
from pathlib import Path

import pytest

from faiss_pqvae.progress import Progress

AT_ONCE = {"line_every_s": 0.0, "short_s": 0.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "faiss_pqvae.progress")
    return caplog


def test_progress__a_log_gets_lines_that_say_what_and_how_far(log):
    with Progress("neighbours", 2000, unit="vectors", **AT_ONCE) as bar:
        bar.update(500)
        bar.note(recall="0.5")
        bar.update(1500)
    assert log.messages == [
        "neighbours: 500 of 2,000 vectors, 0 s, 0 s left",
        "neighbours: 2,000 of 2,000 vectors, 0 s (recall=0.5)",  # once, although it is the end
    ]


def test_progress__counts_the_seconds_of_what_cannot_be_counted(log):
    with Progress("k-means", line_every_s=0.01, short_s=0.0):
        deadline = time.monotonic() + 10
        while not log.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert log.messages[0] == "k-means: 0 s"


@pytest.mark.parametrize(
    "options", [{}, {"shown": False, **AT_ONCE}], ids=["short phase", "not shown"]
)
@pytest.mark.parametrize("terminal", [False, True])
def test_progress__says_nothing(options, terminal, log, monkeypatch):
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress("neighbours", 3, **options) as bar:
        bar.update(3)
    with Progress("k-means", **options):
        pass
    assert log.messages == []
    assert stderr.getvalue() == ""


def test_progress__says_nothing_at_the_end_of_what_failed(log):
    with pytest.raises(KeyboardInterrupt), Progress("neighbours", 3, short_s=0.0):
        raise KeyboardInterrupt
    assert log.messages == []


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"unit": "vectors"}, "| 5 of 9 vectors, 00:00, 00:0"),
        ({"unit": "s", "seconds": True}, "| 5 of 9 s"),
    ],
)
def test_progress__a_terminal_gets_a_bar(options, shown, log, monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress("settling", 9, initial=2, **options, **AT_ONCE) as bar:
        bar.note(recall="0.5")
        assert ", recall=0.5" in stderr.getvalue()
        bar.update(3)
    assert "settling:  56%" in stderr.getvalue()
    assert shown in stderr.getvalue()
    assert log.messages == []


@pytest.mark.parametrize("seconds", [False, True])
def test_progress__a_bar_that_counts_past_its_total_stops_nothing(seconds, monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress("settling", 3, seconds=seconds, **AT_ONCE) as bar:
        for _ in range(5):
            bar.update(1)
            bar.note(recall="0.5")
    assert "5 of 5" in stderr.getvalue()


def test_progress__a_log_says_how_long_the_rest_takes(log, monkeypatch):
    now = iter([100.0, 100.0, 130.0, 130.0, 130.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now, 140.0))
    with Progress("adding", 500, unit="items", initial=100, **AT_ONCE) as bar:
        bar.update(100)
    assert re.match(r"adding: 200 of 500 items, [34]0 s, (90|120) s left$", log.messages[0])


def test_progress__of_a_budget_in_seconds_says_no_time_beside_it(log):
    with Progress("training", 60, unit="s", seconds=True, **AT_ONCE) as bar:
        bar.update(20)
    assert log.messages == ["training: 20 of 60 s, 0 s"]


def test_progress__a_bar_that_is_done_has_nothing_left(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress("adding", 2_000, unit="items", **AT_ONCE) as bar:
        bar.update(500)
        bar.update(1_500)
    last = stderr.getvalue().split("\r")[-1]
    assert " 2,000 of 2,000 items, 00:00" in last
    assert " left" not in last


def test_progress__is_where_every_bar_comes_from():
    root = Path(__file__).parents[2]
    sources = [
        path for room in ("faiss_pqvae", "training", "eval") for path in (root / room).rglob("*.py")
    ]
    importing = {
        path.relative_to(root).as_posix()
        for path in sources
        if "from tqdm" in path.read_text("utf-8")
    }
    assert importing == {"faiss_pqvae/progress.py", "eval/data/download.py"}  # a bar of bytes


def test_progress__has_a_bar_on_a_terminal_of_no_size(monkeypatch):
    """As pseudo terminals have it that nobody looks at through a window."""
    ours, theirs = pty.openpty()
    assert os.get_terminal_size(theirs) == (0, 0)
    with os.fdopen(theirs, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        with Progress("neighbours", 3, **AT_ONCE) as bar:
            bar.update(3)
    drawn = ""
    with contextlib.suppress(OSError):  # as a terminal ends that nobody writes to any more
        while part := os.read(ours, 10_000).decode():
            drawn += part
    os.close(ours)
    assert "neighbours: 100%" in drawn
