"""results.json: what an evaluation found, read and written.

The format is a contract with other programs: keys are added, never renamed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from faiss_pqvae.data.source import natural
from faiss_pqvae.files import replace_bytes

from ..data.protocol import current_protocol
from .from_json import made, required

FORMAT = 1
FILE_NAME = "results.json"
VECTOR_METRIC = "1-recall@10"
JUDGED_METRICS = ("ndcg@10", "mrr@10", "recall@100")  # of those that a file has, what is printed
EXACT = "exact"  # the search setting that others are a share of
RECALL = re.compile(r"\d+-recall@\d+")
_ENDS = {"length": 2}  # of an interval: low and high


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
        intervals: by metric [low, high], a 95 % bootstrap interval over the queries.
        keys: the raw results of every seed; the first is `key`.
        seeds: by metric a value a seed, where there are several: then metrics, curves and times
            are means over them.
        seed_intervals: by metric [low, high], a 95 % bootstrap interval over at least 3 seeds.
        kept: by metric its share of what exact search has, above 1 where it is more: how much of
            its quality is left at so many bytes. Not of recalls, whose truth exact search is.
        kept_intervals: by metric [low, high], a 95 % bootstrap interval over the queries.
        seed_deviations: by metric the standard deviation over the seeds, where there are several.
        marked: what the others are there to be compared with.
        trained_on: "base: 300,000 items" (the database), "learn: 50,000 of 200,000 items" (others,
            of which the method drew some), "half: ..." (the half of the base that is not searched);
            empty for what learned nothing here.
        model_bytes: what is kept besides codes: codebooks, rotations, networks; None where a
            method does not say.
        encode_us: microseconds in which one item is encoded and stored; None in older files.
        queries_per_s: likewise, in batches on the threads that the environment names: the median
            of several where there was time.
        latency_ms: milliseconds of a query that is asked alone: "p50", "p95" and "p99"; none in
            older files.
        n_single: queries that were asked alone for it: p99 of 20 is the slowest of these.
        index_bytes: what the filled index is on a disk: codes, ids of inverted lists and all that
            it keeps besides; None where a method does not say.
        peak_bytes: memory that "train", "add" and "search" needed at most, beyond what the process
            held when they began; none where the system does not say.
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
    intervals: dict[str, list[float]] = field(default_factory=dict, metadata=_ENDS)
    keys: list[str] = field(default_factory=list)
    seeds: dict[str, list[float]] = field(default_factory=dict)
    seed_intervals: dict[str, list[float]] = field(default_factory=dict, metadata=_ENDS)
    seed_deviations: dict[str, float] = field(default_factory=dict)
    marked: bool = False
    trained_on: str = ""
    model_bytes: int | None = None
    encode_us: float | None = None
    queries_per_s: float | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    n_single: int = 0
    index_bytes: int | None = None
    peak_bytes: dict[str, int] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    kept_intervals: dict[str, list[float]] = field(default_factory=dict, metadata=_ENDS)

    @property
    def learned_from(self) -> str:
        """What it was trained on, without the number of items: "base", "learn", "half" or ""."""
        return self.trained_on.partition(":")[0]


@dataclass(frozen=True)
class Filtered:
    """One search of a method that may return some of the items only.

    Attributes:
        method: its name.
        bits: bits per vector.
        bytes_per_vector: of the built index.
        search: its search type or setting.
        among: what is allowed: "10 % of the items", "items of the query's label".
        n_items: how many that are, the mean over the queries.
        metrics: by what is nearest, or relevant, among these; means over the seeds.
        how: "selector", FAISS's or ours, or "oversampling" where an index takes none: more results
            are asked for, and those that are not allowed dropped.
        queries_per_s: in batches, of one pass over the queries.
        intervals: by metric [low, high], a 95 % bootstrap interval over the queries.
        reference: a yardstick outside the comparison at equal bytes.
        keys: the raw results of every seed.
    """

    method: str
    bits: int
    bytes_per_vector: int
    search: str
    among: str
    n_items: float
    how: str
    metrics: dict[str, float]
    queries_per_s: float | None = None
    intervals: dict[str, list[float]] = field(default_factory=dict, metadata=_ENDS)
    reference: bool = False
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """The best method at some number of bytes against another at the same bytes.

    Attributes:
        method: the best.
        search: its search type or setting.
        other: the other method.
        other_search: its search type or setting.
        bits: bits per vector of the best.
        bytes_per_vector: of both.
        metric: what is compared, a share from 0 to 1.
        difference: mean over the queries of the best's score less the other's.
        interval: [low, high], the 95 % bootstrap interval of the difference.
        p: of a paired t-test over the queries, corrected (Holm) for all comparisons of the file.
        p_single: the same before the correction.
    """

    method: str
    search: str
    other: str
    other_search: str
    bits: int
    bytes_per_vector: int
    metric: str
    difference: float
    interval: list[float] = field(metadata=_ENDS)
    p: float
    p_single: float


@dataclass(frozen=True)
class LeftOut:
    """A method that was asked for and has no row.

    Attributes:
        method: its name.
        bits: bits per vector.
        reason: in one line.
        failed: it raised an error, or returned what cannot be right; else it needs more items,
            or a library.
        seed: of the method.
    """

    method: str
    bits: int
    reason: str
    failed: bool = False
    seed: int = 0


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
        comparisons: the best method at each number of bytes against every other.
        confidence: how intervals and p-values were made, JSON values.
        fingerprint: sha256 of the items.
        relevance: sha256 of what is relevant to the queries; empty in older files.
        left_out: methods that were asked for and have no row.
        filtered: the same searches among some of the items, where filters were asked for.
        roles: the protocol in words: what is searched with, in, trained on, and relevant.
        note: what a reader has to know first, such as that a run was a quick one.
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
    comparisons: tuple[Comparison, ...] = ()
    confidence: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    relevance: str = ""
    left_out: tuple[LeftOut, ...] = ()
    filtered: tuple[Filtered, ...] = ()
    roles: str = ""
    note: str = ""


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


def metric_names(results: Results) -> list[str]:
    """The metrics that are printed.

    With labels map@k, map@k/min(R,k) and precision@100 (or @k below 100); of vectors, whose
    relevant items are their nearest, every 1-recall@R and then every k-recall@k that a row has, and
    `JUDGED_METRICS` where relevance was judged.
    """
    names = {name for row in results.rows for name in row.metrics}
    recalls = [name for name in names if RECALL.fullmatch(name)]
    if recalls:
        judged = [name for name in JUDGED_METRICS if name in names]
        by_k = sorted(recalls, key=lambda name: [int(part) for part in name.split("-recall@")])
        return [*by_k, *judged]
    k = results.k
    return [f"map@{k}", f"map@{k}/min(R,k)", f"precision@{min(k, 100)}"]


def main_metric(results: Results) -> str:
    """The metric that decides which row is best: map@k, of vectors 1-recall@10."""
    names = metric_names(results)
    return VECTOR_METRIC if VECTOR_METRIC in names else names[0]


def quality_metric(results: Results) -> str | None:
    """The metric whose share of exact search's is shown: judged relevance before classes.

    None where no row has a share: without exact search, and where that is the truth itself.
    """
    known = {name for row in results.rows for name in row.kept}
    wanted = (*JUDGED_METRICS, main_metric(results)) if results.rows else ()
    return next((name for name in wanted if name in known), None)


def speed_of(row: Row, n_queries: int) -> float | None:
    """Queries a second in batches; of an older file from its seconds; None where there are none."""
    if row.queries_per_s is not None:
        return row.queries_per_s
    return n_queries / row.search_s if row.search_s > 0 else None


def sort_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows by bits, then method, then search setting; numbers in names count as numbers."""
    return sorted(rows, key=lambda row: (row.bits, natural(row.method), natural(row.search)))


def ranked_rows(rows: Iterable[Row], name: str) -> list[Row]:
    """Rows by bits, then the best by a metric first; those without it last."""
    return sorted(sort_rows(rows), key=lambda row: (row.bits, -row.metrics.get(name, -math.inf)))


def filtered_metrics(results: Results) -> list[str]:
    """The metrics that are printed of searches with filters: those that any of them has."""
    known = {name for row in results.filtered for name in row.metrics}
    return [name for name in metric_names(results) if name in known]


def filtered_rows(results: Results) -> list[Filtered]:
    """The searches with filters: by filter, then the compared ones by bits, the best first."""
    name = main_metric(results)
    filters = list(dict.fromkeys(row.among for row in results.filtered))

    def order(row: Filtered) -> tuple[Any, ...]:
        value = row.metrics.get(name, -math.inf)
        return filters.index(row.among), row.reference, row.bits, -value, natural(row.method)

    return sorted(results.filtered, key=order)


def best_rows(results: Results) -> list[Row]:
    """The best row at every number of bytes, references apart; of equally good ones all."""
    name = main_metric(results)
    rows = [row for row in results.rows if not row.reference and name in row.metrics]
    best: dict[int, float] = {}
    for row in rows:
        size = row.bytes_per_vector
        best[size] = max(row.metrics[name], best.get(size, -math.inf))
    return sort_rows(row for row in rows if row.metrics[name] == best[row.bytes_per_vector])


# Reading: every value is checked; the file may come from another program, or a newer version.


def _results(content: Any) -> Results:
    version = required(content, "format", int, "the file")
    if version != FORMAT:
        hint = "; a newer version of faiss-pqvae wrote it" if version > FORMAT else ""
        raise ValueError(f"expected format {FORMAT}, got {version}{hint}")
    found: Results = made(Results, content, "the file", (Row, Comparison, LeftOut, Filtered))
    return replace(found, protocol=current_protocol(found.protocol))
