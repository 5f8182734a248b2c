"""Runs methods over a labelled data set: raw results first, metrics from them.

Raw results lie in `out/raw/<key>.npz`, where the key is made of the whole configuration. An
interrupted run finds them again; a changed configuration does not.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import os
import platform
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from faiss_pqvae.eval.data import Evaluated
from faiss_pqvae.eval.methods import FloatArray, IdArray, Method, Searchable
from faiss_pqvae.eval.results import FILE_NAME, Results, Row, write_results
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss

KEY_DIGITS = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Raw:
    """What one search returned, and what it took.

    Attributes:
        D: (nq, k) float32, distances or similarities, best first.
        I: (nq, k) int64, positions in the database; ties in the order of their ids.
        code_size: bytes per vector of the built index.
        train_s: seconds.
        add_s: seconds, for the whole database.
        search_s: seconds, for all queries.
    """

    D: FloatArray
    I: IdArray  # noqa: E741 - FAISS's name
    code_size: int
    train_s: float
    add_s: float
    search_s: float


def run(
    data: Evaluated,
    methods: Sequence[Method],
    out: str | Path,
    *,
    k: int = 1000,
    batch_size: int = 1000,
    progress: bool = True,
    command: str | None = None,
    fresh: bool = False,
) -> Results:
    """Measures every method with each of its search types and writes `out/results.json`.

    Ties are frequent with Hamming and symmetric distances: they are put in the order of their
    ids. Which of the items tied at the k-th distance are returned at all is the index's choice.
    A method that is listed twice (exact L2, say, with two lists of baselines) is run once.

    Args:
        data: what to train on, to search in and to search for.
        methods: at least one.
        out: a folder; made when missing.
        k: results per query; cut to the size of the database, with a warning.
        batch_size: queries per call of search.
        progress: draw a bar, where standard error is a terminal.
        command: the shell command that led here, for the record.
        fresh: measure again what `out/raw` already has.

    Returns:
        The results, as written.

    Raises:
        ValueError: no method, k or batch_size below 1, an index whose bytes per vector are not
            the bits of its method, or search results that cannot be right: ids out of range or
            repeated, distances that are not finite or not in order.
    """
    if not methods or k < 1 or batch_size < 1:
        raise ValueError(
            f"expected methods, k >= 1 and batch_size >= 1, got {len(methods)} methods, k = {k}, "
            f"batch_size = {batch_size}"
        )
    if k > len(data.database):
        _log.warning("k = %d is cut to the %d items of the database", k, len(data.database))
        k = len(data.database)
    out = Path(out)
    (out / "raw").mkdir(parents=True, exist_ok=True)
    jobs = {job_key(data, method, "", k): method for method in methods}
    total = sum(len(method.searches) for method in jobs.values())
    rows = []
    with tqdm(total=total, unit="search", disable=None if progress else True) as bar:
        for method in jobs.values():
            bar.set_description(f"{method.name}, {method.bits} bits")
            for search, raw in _measure(data, method, out, k, batch_size, fresh):
                rows.append(_row(data, method, search, raw, k))
                bar.update()
    results = Results(
        dataset=data.name,
        protocol=data.protocol,
        n_database=len(data.database),
        n_queries=len(data.queries),
        rows=tuple(rows),
        environment=environment(),
        k=k,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data=data.description,
    )
    write_results(results, out / FILE_NAME)
    return results


def job_key(data: Evaluated, method: Method, search: str, k: int) -> str:
    """The name of a raw file: hexadecimal digits of the sha256 of the whole configuration."""
    configuration = {
        "dataset": data.name,
        "protocol": data.protocol,
        "database": list(data.database.shape),
        "train": list(data.train.shape),
        "queries": list(data.queries.shape),
        "method": method.name,
        "bits": method.bits,
        "config": method.config,
        "seed": getattr(method, "seed", 0),
        "search": search,
        "k": k,
    }
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_DIGITS]


def write_raw(raw: Raw, out: Path, key: str) -> None:
    """Writes `out/raw/<key>.npz`; a crash leaves no half of it under this name.

    Ids are stored as int32 where they fit: it is two thirds of the bytes.
    """
    small = raw.I.size == 0 or raw.I.max() <= np.iinfo(np.int32).max
    content = io.BytesIO()
    np.savez(content, **{**vars(raw), "I": raw.I.astype(np.int32) if small else raw.I})
    replace_bytes(_raw_path(out, key), content.getvalue())


def read_raw(out: Path, key: str) -> Raw:
    """Reads `out/raw/<key>.npz`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the key is no key, or the file is corrupt.
    """
    path = _raw_path(out, key)
    try:
        # Opened here: np.load leaves a file open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Raw(
                D=arrays["D"],
                I=arrays["I"].astype(np.int64),
                code_size=int(arrays["code_size"]),
                train_s=float(arrays["train_s"]),
                add_s=float(arrays["add_s"]),
                search_s=float(arrays["search_s"]),
            )
    except (KeyError, EOFError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: expected raw results; {error}") from error


def environment() -> dict[str, Any]:
    """Versions, processor and threads: what a time depends on, and nothing that names a machine."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "faiss_threads": faiss.omp_get_max_threads(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _measure(
    data: Evaluated, method: Method, out: Path, k: int, batch_size: int, fresh: bool
) -> Iterator[tuple[str, Raw]]:
    """Each search type with its results, reused where they are there, else built once for all."""
    index: Searchable | None = None
    times = (0.0, 0.0)
    for search in method.searches:
        key = job_key(data, method, search, k)
        raw = None if fresh else _reusable(out, key, method, search)
        if raw is None:
            if index is None:
                index, times = _built(data, method)
            set_search(index, search, of_several=len(method.searches) > 1)
            D, I, search_s = _searched(data, index, k, batch_size)  # noqa: E741
            try:
                check_results(D, I, len(data.database))
            except ValueError as error:
                raise ValueError(f"{method.name} ({search}): {error}") from error
            raw = Raw(*order_ties(D, I), index.sa_code_size(), *times, search_s)
            write_raw(raw, out, key)
        yield search, raw


def _reusable(out: Path, key: str, method: Method, search: str) -> Raw | None:
    try:
        raw = read_raw(out, key)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s; it is measured again", error)
        return None
    _log.info("%s, %d bits, %s: reused raw/%s.npz", method.name, method.bits, search, key)
    return raw


def _built(data: Evaluated, method: Method) -> tuple[Searchable, tuple[float, float]]:
    """A trained and filled index, and the seconds of both."""
    index = method.build(tuple(data.database.shape[1:]))
    _check_bytes(method, index)  # before the hours, and again after: bytes are the built index's
    started = time.perf_counter()
    index.train(data.train)
    trained = time.perf_counter()
    index.add(data.database)
    added = time.perf_counter()
    _check_bytes(method, index)
    # A training that went on after an interruption knows better than this clock what it took.
    train_s = getattr(index, "train_s", trained - started)
    return index, (train_s, added - trained)


def set_search(index: Any, search: str, *, of_several: bool = False) -> None:
    """Sets up an index for a search setting.

    Args:
        index: a `Searchable`.
        search: a search type such as "adc", or parameters such as "nprobe=16" or
            "nprobe=16,ht=20" as faiss.ParameterSpace reads them; both at once: "sdc,nprobe=16".
            A parameter that the index has as an attribute is set there, any other on its native
            index.
        of_several: the method has several search settings: then the type is set as
            `index.search_type`; else it only says what the index does.

    Raises:
        ValueError: the index does not have the parameter, or its value is no number.
    """
    for part in search.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            if of_several:
                index.search_type = part
            continue
        try:
            if hasattr(index, name):
                setattr(index, name, type(getattr(index, name))(value))
            else:
                faiss.ParameterSpace().set_index_parameter(index.faiss_index, name, float(value))
        except (ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(f"cannot set {part!r} of {search!r}: {error}") from error


def _check_bytes(method: Method, index: Searchable) -> None:
    expected, got = math.ceil(method.bits / 8), index.sa_code_size()
    if got != expected:
        raise ValueError(
            f"expected {expected} bytes per vector for the {method.bits} bits of {method.name}, "
            f"got {got}: methods are compared at equal bytes"
        )


def _searched(
    data: Evaluated, index: Searchable, k: int, batch_size: int
) -> tuple[FloatArray, IdArray, float]:
    """D and I of all queries, and the seconds of the searches without the reading of queries."""
    found, seconds = [], 0.0
    for start in range(0, len(data.queries), batch_size):
        xq = data.queries[start : start + batch_size]
        started = time.perf_counter()
        found.append(index.search(xq, k))
        seconds += time.perf_counter() - started
    D = np.concatenate([pair[0] for pair in found])
    I = np.concatenate([pair[1] for pair in found])  # noqa: E741
    return D.astype(np.float32, copy=False), I.astype(np.int64, copy=False), seconds


def check_results(D: FloatArray, I: IdArray, n: int) -> None:  # noqa: E741
    """Checks what a search returned.

    Args:
        D: (nq, k) float32, all rows rising (distances) or all falling (similarities).
        I: (nq, k) int64.
        n: size of the database.

    Raises:
        ValueError: shapes differ, an id is not from 0 to n - 1 or is twice in a row, or D is not
            finite or not in order.
    """
    if D.ndim != 2 or D.shape != I.shape:
        raise ValueError(f"expected D and I of one shape (nq, k), got {D.shape} and {I.shape}")
    if I.min() < 0 or I.max() >= n:  # FAISS pads with -1
        raise ValueError(f"expected ids from 0 to {n - 1}, got {I.min()} to {I.max()}")
    repeated = (np.diff(np.sort(I, axis=1), axis=1) == 0).any(axis=1)
    if repeated.any():
        raise ValueError(f"expected distinct ids, got repeated ones for query {repeated.argmax()}")
    if not np.isfinite(D).all():
        raise ValueError("expected finite distances, got NaN or infinity")
    steps = np.diff(D, axis=1)
    if (steps < 0).any() and (steps > 0).any():
        raise ValueError("expected distances in order, best first, got rising and falling ones")


def order_ties(D: FloatArray, I: IdArray) -> tuple[FloatArray, IdArray]:  # noqa: E741
    """Puts the ids of equal distances in rising order, row by row.

    Args:
        D: (nq, k) float32, rising or falling.
        I: (nq, k) int64.

    Returns:
        D and I of the same shapes; D's values are where they were.
    """
    # The number of the run of equal distances sorts like D, whichever way D runs.
    runs = np.zeros(D.shape, np.int32)
    np.cumsum(np.diff(D, axis=1) != 0, axis=1, out=runs[:, 1:])
    return D, np.take_along_axis(I, np.lexsort((I, runs), axis=-1), axis=-1)


def _row(data: Evaluated, method: Method, search: str, raw: Raw, k: int) -> Row:
    scores = data.scores(raw.I, k)
    return Row(
        method=method.name,
        bits=method.bits,
        bytes_per_vector=raw.code_size,
        search=search,
        metrics={name: float(values.mean()) for name, values in scores.per_query.items()},
        train_s=raw.train_s,
        add_s=raw.add_s,
        search_s=raw.search_s,
        config=method.config,
        curves=scores.curves,
        key=job_key(data, method, search, k),
        reference=method.reference,
    )


def _raw_path(out: Path, key: str) -> Path:
    # A key may come from a file that somebody else wrote: it must not lead elsewhere.
    if len(key) != KEY_DIGITS or set(key) - set("0123456789abcdef"):
        raise ValueError(f"expected a key of {KEY_DIGITS} hexadecimal digits, got {key!r}")
    return out / "raw" / f"{key}.npz"


def _cpu_model() -> str:
    """The processor's model name; what `platform` knows where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
