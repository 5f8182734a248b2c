"""Methods under a run-book: recall while items come and go."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from faiss_pqvae.files import replace_bytes
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import BoolArray, IdArray

from ..data.brute_force import Neighbours, nearest
from ..data.held import rows_of
from ..data.neighbours import VectorData
from ..data.runbook import Step
from ..data.truth import DEPTH
from ..methods.errors import told
from ..methods.method import LeftOutError, Method
from .environment import environment
from .from_json import made, required
from .raw import fingerprint, job_key, raw_path
from .results import LeftOut
from .searching import set_search, train
from .trust import check_results

FILE_NAME, FORMAT = "stream.json", 1
K = 10
CHUNK = 65_536  # items that come or go in one call


@dataclass(frozen=True)
class Flow:
    """One search of a method under the whole run-book.

    Attributes:
        method: its name.
        bits: bits per vector.
        bytes_per_vector: of the index.
        search: its search type or setting.
        train_s: seconds, before the first step.
        insert_us: microseconds in which an item is encoded and stored.
        delete_us: microseconds in which one is removed; None where none was.
        recalls: by metric a value a search, of the items that are there then.
        queries_per_s: a value a search.
        reference: a yardstick outside the comparison at equal bytes.
        seed: of the training.
    """

    method: str
    bits: int
    bytes_per_vector: int
    search: str
    train_s: float
    insert_us: float
    delete_us: float | None
    recalls: dict[str, list[float]]
    queries_per_s: list[float]
    reference: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Stream:
    """What an evaluation under a run-book found.

    Attributes:
        dataset: name of the data set.
        protocol: what is trained on, and which neighbours are true.
        n_queries: of every search.
        steps: how many.
        searches: the step of each search, from 1.
        n_items: items that are there at each search.
        flows: of every method and search setting.
        left_out: methods that were asked for and have none.
        environment: versions and hardware, JSON values.
        command: the shell command, or None.
        created: UTC, ISO 8601.
        fingerprint: sha256 of the items.
    """

    dataset: str
    protocol: str
    n_queries: int
    steps: int
    searches: list[int]
    n_items: list[int]
    flows: tuple[Flow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    created: str = ""
    fingerprint: str = ""


def run_stream(
    data: VectorData,
    methods: Sequence[Method],
    steps: Sequence[Step],
    out: str | Path,
    *,
    k: int = K,
    batch_size: int = 1000,
    progress: bool = True,
    command: str | None = None,
    fresh: bool = False,
) -> Stream:
    """Measures every method under a run-book and writes `out/stream.json`.

    A method is trained once, before the first step, on what the data say; then items come and go by
    their places in the database, and every search is judged by the exact neighbours among what is
    there. What was measured of the same data, steps and code is used again.

    Args:
        data: vectors.
        methods: at least one.
        steps: see `runbook`.
        out: a folder; made when missing.
        k: results per query, cut to the fewest items at a search.
        batch_size: queries per call of search.
        progress: draw a bar, where standard error is a terminal.
        command: the shell command that led here, for the record.
        fresh: measure again what `out/raw` already has.

    Raises:
        ValueError: no method, or none that can be measured.
        OSError: the disk is full or failing.
    """
    if not methods:
        raise ValueError("expected methods, got none")
    out = Path(out)
    (out / "raw").mkdir(parents=True, exist_ok=True)
    content = fingerprint(data)
    there = [(at, np.flatnonzero(held)) for at, held in _held(len(data.database), steps)]
    k = min(k, *(len(ids) for _, ids in there))
    asked = Stream(
        dataset=data.name,
        protocol=data.protocol,
        n_queries=len(data.queries),
        steps=len(steps),
        searches=[at for at, _ in there],
        n_items=[len(ids) for _, ids in there],
        environment=environment(),
        command=command,
        fingerprint=content,
    )
    flows: list[Flow] = []
    missing: list[LeftOut] = []
    book = json.dumps([asdict(step) for step in steps])
    keys = {  # each once
        tuple(job_key(data, one, search, k, content, book) for search in one.searches): one
        for one in methods
    }
    truths = cache(lambda: [_truth(data, ids, progress) for _, ids in there])  # if one is missing
    with Progress("run-book", len(keys), unit="methods", shown=progress) as bar:
        for of_method, method in keys.items():
            bar.note(method=f"{method.name}, {method.bits} bits")
            paths = [raw_path(out, key, ".flow.json") for key in of_method]
            left = partial(LeftOut, method.name, method.bits, seed=method.seed)
            try:
                found = [None if fresh else _stored(path) for path in paths]
                if None in found:
                    measured = _flows(data, method, steps, truths(), k, batch_size)
                    for path, flow in zip(paths, measured, strict=True):
                        replace_bytes(path, (json.dumps(asdict(flow)) + "\n").encode())
                        flows.append(flow)
                else:
                    flows += [flow for flow in found if flow is not None]
            except LeftOutError as error:
                missing.append(left(str(error)))
            except OSError:  # of a disk: it concerns all methods
                raise
            except Exception as error:  # whatever somebody's method raises
                missing.append(left(told(error), failed=True))
            bar.update()
    if not flows:
        raise ValueError(
            "no method can be measured: " + "; ".join(f"{x.method}: {x.reason}" for x in missing)
        )
    created = datetime.now(UTC).isoformat(timespec="seconds")
    stream = replace(asked, flows=tuple(flows), left_out=tuple(missing), created=created)
    content_of = json.dumps({"format": FORMAT, **asdict(stream)}, indent=1, allow_nan=False)
    replace_bytes(out / FILE_NAME, content_of.encode() + b"\n")
    return stream


def read_stream(path: str | Path) -> Stream:
    """Reads stream.json.

    Raises:
        ValueError: no JSON, another format, a missing key, or a value of a wrong type.
        OSError: the file cannot be read.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if (version := required(content, "format", int, "the file")) != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {version}")
        found: Stream = made(Stream, content, "the file", (Flow, LeftOut))
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return found


class _Truth(NamedTuple):
    """What is there at a search, (n,) int64, and the exact neighbours among it."""

    ids: IdArray
    near: Neighbours


def _held(n: int, steps: Sequence[Step]) -> Iterator[tuple[int, BoolArray]]:
    """The number of every step that searches, and which items are there then."""
    there = np.zeros(n, bool)
    for at, step in enumerate(steps, 1):
        if step.operation == "search":
            yield at, there
        else:
            there[step.start : step.end] = step.operation == "insert"


def _truth(data: VectorData, ids: IdArray, progress: bool) -> _Truth:
    queries, items = np.asarray(data.queries[:]), rows_of(data.database, ids)
    near = nearest(queries, items, min(DEPTH, len(ids)), data.metric, progress=progress)
    return _Truth(ids, Neighbours(ids[near.I], near.D))


def _flows(
    data: VectorData,
    method: Method,
    steps: Sequence[Step],
    truths: Sequence[_Truth],
    k: int,
    batch_size: int,
) -> Iterator[Flow]:
    """Every search setting of a method, which is trained once."""
    index: Any = method.build(tuple(data.database.shape[1:]))
    if not hasattr(index, "flowing"):
        raise LeftOutError("it says nothing of how items are deleted from it")
    started = time.perf_counter()
    train(data, method, index)
    train_s = getattr(index, "train_s", time.perf_counter() - started)
    for search in method.searches:
        flowing = index.flowing()
        set_search(index, search, of_several=len(method.searches) > 1)
        seconds, counts = {"insert": 0.0, "delete": 0.0}, {"insert": 0, "delete": 0}
        recalls: dict[str, list[float]] = {}
        speeds: list[float] = []
        left = iter(truths)
        for step in steps:
            if step.operation == "search":
                truth = next(left)
                I, elapsed = _searched(data, flowing, truth.ids, k, batch_size)  # noqa: E741
                there = replace(data, truth=truth.near, qrels=None, selections=())
                for name, values in there.scores(I, k).per_query.items():
                    recalls.setdefault(name, []).append(float(values.mean()))
                speeds.append(len(I) / elapsed)
                continue
            for first in range(step.start, step.end, CHUNK):
                ids = np.arange(first, min(first + CHUNK, step.end))
                items = data.database[ids] if step.operation == "insert" else None
                started = time.perf_counter()
                if items is None:
                    flowing.delete(ids)
                else:
                    flowing.insert(items, ids)
                seconds[step.operation] += time.perf_counter() - started
            counts[step.operation] += step.end - step.start
        yield Flow(
            method=method.name,
            bits=method.bits,
            bytes_per_vector=int(index.sa_code_size()),
            search=search,
            train_s=train_s,
            insert_us=1e6 * seconds["insert"] / max(1, counts["insert"]),
            delete_us=1e6 * seconds["delete"] / counts["delete"] if counts["delete"] else None,
            recalls={  # of all searches: of few items some have none
                name: values for name, values in recalls.items() if len(values) == len(truths)
            },
            queries_per_s=speeds,
            reference=method.reference,
            seed=method.seed,
        )


def _searched(
    data: VectorData, flowing: Any, there: IdArray, k: int, batch_size: int
) -> tuple[IdArray, float]:
    found, elapsed = [], 0.0
    for start in range(0, len(data.queries), batch_size):
        xq = data.queries[start : start + batch_size]
        began = time.perf_counter()
        D, I = flowing.search(xq, k)  # noqa: E741
        elapsed += time.perf_counter() - began
        check_results(D, I, len(data.database), padded=True)
        gone = I[(I >= 0) & ~np.isin(I, there)]
        if gone.size:
            raise ValueError(f"expected items that are there, got {gone[0]}, which was deleted")
        found.append(I)
    return np.concatenate(found), max(elapsed, 1e-9)


def _stored(path: Path) -> Flow | None:
    try:
        found: Flow = made(Flow, json.loads(path.read_text(encoding="utf-8")), "the flow")
    except (FileNotFoundError, ValueError):
        return None
    return found
