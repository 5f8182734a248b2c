import io
import math
import os
import pty
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faiss_pqvae.cli.drawing import (
    Row,
    bar,
    bars,
    columns,
    histogram,
    in_bytes,
    takes_blocks,
)

ANY = st.lists(st.floats(0, 1.7e308), min_size=1, max_size=40)
# Of which no share of the largest is rounded to 0.
VALUES = st.lists(st.just(0.0) | st.floats(1e-100, 1e100), min_size=1, max_size=40)
WIDTHS = st.integers(0, 120)


def rows(values):
    return [Row(f"part {i}", value, f"{value:.3g}") for i, value in enumerate(values)]


def bare(line, row):
    """What stands between a row's name and what is said of it."""
    return line.strip().removeprefix(row.name).removesuffix(row.said).strip(" ")


def test_bars__are_drawn_to_scale():
    parts = [Row("codes", 8, "8 B"), Row("ids", 3, "3 B"), Row("rest", 0, "")]
    assert bars(parts, 20) == [
        "codes  ████████  8 B",
        "  ids  ███       3 B",
        " rest",
    ]
    assert bars(parts, 20, blocks=False) == [
        "codes  ########  8 B",
        "  ids  ###       3 B",
        " rest",
    ]
    assert bars([], 20) == []


@given(ANY, WIDTHS, st.booleans())
def test_bars__are_never_wider_than_asked_for(values, width, blocks):
    drawn = bars(rows(values), width, blocks=blocks)
    assert len(drawn) == len(values)
    assert max(map(len, drawn)) <= width


@given(VALUES, st.integers(60, 120), st.booleans())
def test_bars__the_largest_is_full_and_zero_is_empty(values, width, blocks):
    parts = rows(values)
    drawn = bars(parts, width, blocks=blocks)
    lengths = [len(bare(line, row)) for line, row in zip(drawn, parts, strict=True)]
    assert [length == 0 for length in lengths] == [value == 0 for value in values]
    if max(values):
        largest = int(np.argmax(values))
        assert len(drawn[largest]) == width  # up to what is said, at the right
        assert set(bare(drawn[largest], parts[largest])) == {"█" if blocks else "#"}
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(lengths)[order]) >= 0).all()


@given(st.floats(0, 1), st.integers(0, 60), st.booleans())
def test_bar__fills_its_columns(share, width, blocks):
    drawn = bar(share, width, blocks=blocks)
    assert len(drawn) == width
    if width:
        assert (drawn.strip() == "") == (share == 0)
        is_full = set(drawn) == {"█" if blocks else "#"}
        assert is_full == (share == 1) or (width == 1 and not blocks)


@given(ANY, WIDTHS, st.booleans())
def test_histogram__is_never_wider_than_asked_for(values, width, blocks):
    assert len(histogram(values, width, blocks=blocks)) == min(len(values), width)


@given(VALUES, WIDTHS, st.booleans())
def test_histogram__falls_from_the_largest(values, width, blocks):
    drawn = histogram(values, width, blocks=blocks)
    heights = [(" ▁▂▃▄▅▆▇█" if blocks else " .:-=+*%#").index(column) for column in drawn]
    assert heights == sorted(heights, reverse=True)
    if drawn:
        assert heights[0] == (8 if max(values) else 0)
    if len(values) <= width:  # a column each
        assert [height == 0 for height in heights] == [v == 0 for v in sorted(values)[::-1]]


def test_histogram__columns_are_means_of_neighbours():
    assert histogram([0, 8, 4, 4, 0, 0], 3) == "█▃ "  # of 6, 2 and 0
    assert histogram([], 3) == ""
    assert histogram([0, 0], 3) == "  "


@pytest.mark.parametrize("value", [math.nan, math.inf, -1])
def test_drawing__refuses_what_has_no_length(value):
    message = f"expected a finite value >= 0 to draw, got {value}"
    with pytest.raises(ValueError, match=message):
        bars([Row("a", value, "")], 40)
    with pytest.raises(ValueError, match=message):
        histogram([1, value], 8)


def test_drawing__blocks_are_one_column_wide():
    drawn = bar(0.51, 7) + histogram(range(9), 9)
    assert {unicodedata.east_asian_width(c) for c in drawn} <= {"A", "N", "Na"}
    assert not drawn.isascii()
    ascii_drawn = bar(0.51, 7, blocks=False) + histogram(range(9), 9, blocks=False)
    assert ascii_drawn.isascii()


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_600, "1.0 MB"),
        (7_600_000, "7.6 MB"),
        (123_456_789_012_345_678, "123,457 TB"),
    ],
)
def test_in_bytes(n, said):
    assert in_bytes(n) == said


@pytest.mark.parametrize(
    ("encoding", "takes"), [("utf-8", True), ("ascii", False), ("latin-1", False), ("cp437", False)]
)
def test_takes_blocks__as_the_encoding_does(encoding, takes):
    assert takes_blocks(io.TextIOWrapper(io.BytesIO(), encoding)) == takes
    assert not takes_blocks(io.StringIO())


@pytest.mark.parametrize(("size", "width"), [(60, 60), (300, 100), (0, 80)])
def test_columns__of_a_terminal_and_of_none(size, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", "33")
    assert columns(io.StringIO()) == 80
    ours, theirs = pty.openpty()
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((size, 24)))
    with os.fdopen(theirs, "w") as stream:
        assert columns(stream) == width
    os.close(ours)
