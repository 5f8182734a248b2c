"""results.json: what an evaluation found, read and written, and its table for a terminal.

The format is a contract with other programs: keys are added, never renamed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from faiss_pqvae.files import replace_bytes

FORMAT = 1
FILE_NAME = "results.json"
VECTOR_METRIC = "1-recall@10"
RECALL = re.compile(r"\d+-recall@\d+")


@dataclass(frozen=True)
class Row:
    """One method at one code length with one search type.

    Attributes:
        method: its name.
        bits: bits per vector.
        bytes_per_vector: read from the built index.
        search: "adc", "sdc", "hamming", "exact" or another search type of the method's.
        metrics: shares from 0 to 1, by name ("map@1000", "map@1000/min(R,k)", "precision@100").
        train_s: seconds of training, 0 for what learns nothing.
        add_s: seconds of adding the whole database.
        search_s: seconds of searching for all queries.
        config: what the method was built from, JSON values.
        curves: {"k": [...], "precision": [...], "recall": [...]}, means over the queries.
        key: the raw results are in raw/<key>.npz.
        reference: a yardstick outside the comparison at equal bytes.
    """

    method: str
    bits: int
    bytes_per_vector: int
    search: str
    metrics: dict[str, float]
    train_s: float
    add_s: float
    search_s: float
    config: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    key: str = ""
    reference: bool = False


@dataclass(frozen=True)
class Results:
    """An evaluation: what was asked, where, and a row per method, code length and search type.

    Attributes:
        dataset: name of the data set.
        protocol: which items are queries, database and training set.
        n_database: items in the database.
        n_queries: queries.
        rows: in the order of the run.
        environment: versions and hardware, JSON values.
        k: ranks that were searched for; the k of "map@k".
        command: the shell command, or None.
        created: UTC, ISO 8601.
        data: description of the data set.
    """

    dataset: str
    protocol: str
    n_database: int
    n_queries: int
    rows: tuple[Row, ...]
    environment: dict[str, Any] = field(default_factory=dict)
    k: int = 1000
    command: str | None = None
    created: str = ""
    data: str = ""


def write_results(results: Results, path: str | Path) -> None:
    """Writes results.json so that a crash leaves the old file or the new one.

    Raises:
        ValueError: a number is NaN or infinite, which JSON does not have.
        OSError: the disk is full or failing.
    """
    content = json.dumps({"format": FORMAT, **asdict(results)}, indent=1, allow_nan=False)
    replace_bytes(Path(path), content.encode() + b"\n")


def read_results(path: str | Path) -> Results:
    """Reads results.json. Keys it does not know are left out; a later version may add some.

    Raises:
        ValueError: no JSON, another or a newer format, a missing key, or a value of a wrong type.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of the JSON or of its UTF-8
        raise ValueError(f"cannot read {path}: expected JSON; {error}") from error
    try:
        return _results(content)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def table(results: Results) -> str:
    """The rows as aligned text, sorted by bits and method, shares in percent.

    A star marks the best at every code length, among the methods that are compared at
    equal bytes; references come below the line.
    """
    names = metric_names(results)
    head = ["method", "bits", "bytes", "search", *(f"{name} %" for name in names)]
    head += ["train s", "add s", "search s", ""]
    compared = sort_rows(row for row in results.rows if not row.reference)
    references = sort_rows(row for row in results.rows if row.reference)
    best = best_rows(results)
    cells = [_cells(row, names, "*" if row in best else "") for row in (*compared, *references)]
    widths = [max(len(line[i]) for line in (head, *cells)) for i in range(len(head))]
    rule = "  ".join("-" * width for width in widths[:-1])
    lines = [_line(head, widths), rule, *(_line(line, widths) for line in cells[: len(compared)])]
    if references:
        lines += [rule, *(_line(line, widths) for line in cells[len(compared) :])]
    return "\n".join(lines)


def metric_names(results: Results) -> list[str]:
    """The metrics that are printed.

    With labels map@k, map@k/min(R,k) and precision@100 (or @k below 100); of vectors, whose
    relevant items are their nearest, every 1-recall@R and then every k-recall@k that a row has.
    """
    names = {name for row in results.rows for name in row.metrics}
    recalls = [name for name in names if RECALL.fullmatch(name)]
    if recalls:
        return sorted(recalls, key=lambda name: [int(part) for part in name.split("-recall@")])
    k = results.k
    return [f"map@{k}", f"map@{k}/min(R,k)", f"precision@{min(k, 100)}"]


def main_metric(results: Results) -> str:
    """The metric that decides which row is best: map@k, of vectors 1-recall@10."""
    names = metric_names(results)
    return VECTOR_METRIC if VECTOR_METRIC in names else names[0]


def sort_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows by bits, then method, then search type."""
    return sorted(rows, key=lambda row: (row.bits, row.method, row.search))


def best_rows(results: Results) -> list[Row]:
    """The best row of every code length, references apart; of equally good ones all."""
    name = main_metric(results)
    rows = sort_rows(row for row in results.rows if not row.reference and name in row.metrics)
    best: list[Row] = []
    for _, group in groupby(rows, key=lambda row: row.bits):
        same = list(group)
        highest = max(row.metrics[name] for row in same)
        best += [row for row in same if row.metrics[name] == highest]
    return best


def _cells(row: Row, names: Sequence[str], mark: str) -> list[str]:
    shares = [f"{100 * row.metrics[name]:.2f}" if name in row.metrics else "-" for name in names]
    times = [f"{value:.2f}" for value in (row.train_s, row.add_s, row.search_s)]
    return [
        row.method,
        str(row.bits),
        str(row.bytes_per_vector),
        row.search,
        *shares,
        *times,
        mark,
    ]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Text to the left (columns 0 and 3), numbers to the right."""
    aligned = (
        cell.ljust(width) if i in (0, 3) else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(aligned).rstrip()


# Reading: every value is checked; the file may come from another program, or a newer version.


def _results(content: Any) -> Results:
    whole = _object(content, "the file")
    version = _value(whole, "format", int, "the file")
    if version != FORMAT:
        hint = "; a newer version of faiss-pqvae wrote it" if version > FORMAT else ""
        raise ValueError(f"expected format {FORMAT}, got {version}{hint}")
    rows = _value(whole, "rows", list, "the file")
    return Results(
        dataset=_value(whole, "dataset", str, "the file"),
        protocol=_value(whole, "protocol", str, "the file"),
        n_database=_value(whole, "n_database", int, "the file"),
        n_queries=_value(whole, "n_queries", int, "the file"),
        rows=tuple(_row(row, f"row {i}") for i, row in enumerate(rows)),
        environment=_value(whole, "environment", dict, "the file"),
        k=_value(whole, "k", int, "the file", 1000),
        command=None if whole.get("command") is None else _value(whole, "command", str, "the file"),
        created=_value(whole, "created", str, "the file", ""),
        data=_value(whole, "data", str, "the file", ""),
    )


def _row(content: Any, where: str) -> Row:
    row = _object(content, where)
    curves = _value(row, "curves", dict, where, {})
    return Row(
        method=_value(row, "method", str, where),
        bits=_value(row, "bits", int, where),
        bytes_per_vector=_value(row, "bytes_per_vector", int, where),
        search=_value(row, "search", str, where),
        metrics=_numbers(_value(row, "metrics", dict, where), f"the metrics of {where}"),
        train_s=_number(row, "train_s", where),
        add_s=_number(row, "add_s", where),
        search_s=_number(row, "search_s", where),
        config=_value(row, "config", dict, where),
        curves={name: _list(curves, name, f"the curves of {where}") for name in curves},
        key=_value(row, "key", str, where, ""),
        reference=_value(row, "reference", bool, where, False),
    )


def _object(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"expected {where} to be an object, got {type(content).__name__}")
    return content


def _value(content: dict[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    """The value of a key; without a default the key must be there."""
    if key not in content:
        if default is None:
            raise ValueError(f"expected a key {key!r} in {where}, got {sorted(content)}")
        return default
    value = content[key]
    # JSON's true is an int in Python.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(
            f"expected {key!r} in {where} as {kind.__name__}, got {type(value).__name__}"
        )
    return value


def _number(content: dict[str, Any], key: str, where: str) -> float:
    """A finite number, whole or not."""
    kind = int if isinstance(content.get(key), int) else float
    value = float(_value(content, key, kind, where))
    if not math.isfinite(value):
        raise ValueError(f"expected {key!r} in {where} to be finite, got {value}")
    return value


def _numbers(content: dict[str, Any], where: str) -> dict[str, float]:
    return {key: _number(content, key, where) for key in content}


def _list(content: dict[str, Any], key: str, where: str) -> list[float]:
    values = _value(content, key, list, where)
    return [_number({key: value}, key, where) for value in values]
