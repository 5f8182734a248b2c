"""Runs methods over a data set: raw results first, metrics from them.

Raw results lie in `out/raw/<key>.npz`, where the key is made of the whole configuration and of the
data's content. An interrupted run finds them again; a changed configuration does not.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from faiss_pqvae.native import faiss
from faiss_pqvae.types import FloatArray, IdArray

from ..data.load import Evaluated
from ..methods.baselines import Method, Searchable
from .raw import Raw, check_scores, fingerprint, job_key, read_raw, write_raw, write_scores
from .results import FILE_NAME, Results, write_results
from .rows import Measured, with_rows
from .trust import check_distances, check_results, order_ties

_BATCH_RESULTS = 1 << 24  # that one call of search returns at most: 192 MiB

_log = logging.getLogger(__name__)


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
        batch_size: queries per call of search, fewer where a call would return more than
            16,777,216 results.
        progress: draw a bar, where standard error is a terminal.
        command: the shell command that led here, for the record.
        fresh: measure again what `out/raw` already has.

    Returns:
        The results, as written.

    Raises:
        ValueError: no method, k or batch_size below 1, a supervised method and data without
            labels to train with, an index whose bytes per vector are not the bits of its method,
            or search results that cannot be right: ids out of range or repeated, distances that
            are not finite or not in order.
    """
    if not methods or k < 1 or batch_size < 1:
        raise ValueError(
            f"expected methods, k >= 1 and batch_size >= 1, got {len(methods)} methods, k = {k}, "
            f"batch_size = {batch_size}"
        )
    unlabelled = [method.name for method in methods if method.supervised]
    if unlabelled and data.labels_to_train is None:
        raise ValueError(
            f"expected labels of the training items for {unlabelled[0]}, got data without: "
            f"{data.name} ({data.protocol})"
        )
    if k > len(data.database):
        _log.warning("k = %d is cut to the %d items of the database", k, len(data.database))
        k = len(data.database)
    out = Path(out)
    (out / "raw").mkdir(parents=True, exist_ok=True)
    results = Results(
        dataset=data.name,
        protocol=data.protocol,
        n_database=len(data.database),
        n_queries=len(data.queries),
        rows=(),
        environment=environment(),
        k=k,
        command=command,
        data=data.description,
        fingerprint=fingerprint(data),
    )
    jobs = {job_key(data, method, "", k, results.fingerprint): method for method in methods}
    total = sum(len(method.searches) for method in jobs.values())
    measured = []
    with tqdm(total=total, unit="search", disable=None if progress else True) as bar:
        for method in jobs.values():
            bar.set_description(f"{method.name}, {method.bits} bits")
            for search, key, raw in _measure(data, method, out, k, batch_size, fresh, results):
                measured.append(_scored(data, method, search, key, raw, k))
                write_scores(measured[-1].scores, out, key)
                bar.update()
        bar.set_description("intervals")
        results = with_rows(results, measured)
    results = replace(results, created=datetime.now(UTC).isoformat(timespec="seconds"))
    write_results(results, out / FILE_NAME)
    return results


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


def software() -> str:
    """Versions of what decides results, in one line."""
    return f"faiss {faiss.__version__}, torch {torch.__version__}, numpy {np.__version__}"


def _measure(
    data: Evaluated,
    method: Method,
    out: Path,
    k: int,
    batch_size: int,
    fresh: bool,
    results: Results,
) -> Iterator[tuple[str, str, Raw]]:
    """Each search setting with its key and results, reused or of an index built once for all."""
    index: Searchable | None = None
    times = (0.0, 0.0)
    for search in method.searches:
        key = job_key(data, method, search, k, results.fingerprint)
        raw = None if fresh else _reusable(out, key, method, search)
        if raw is None:
            if index is None:
                index, times = _built(data, method)
            set_search(index, search, of_several=len(method.searches) > 1)
            D, I, search_s = _searched(data, index, k, batch_size)  # noqa: E741
            try:
                check_results(D, I, len(data.database), padded="=" in search)
                if search == "exact":
                    check_distances(data, D, I)
            except ValueError as error:
                raise ValueError(f"{method.name} ({search}): {error}") from error
            raw = Raw(*order_ties(D, I), index.sa_code_size(), *times, search_s, software())
            write_raw(raw, out, key)
        yield search, key, raw


def _scored(data: Evaluated, method: Method, search: str, key: str, raw: Raw, k: int) -> Measured:
    scores = data.scores(raw.I, k)
    try:
        check_scores(scores, len(data.queries))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{method.name} ({search}): {error}") from error
    return Measured(
        method, search, key, scores, raw.code_size, raw.train_s, raw.add_s, raw.search_s
    )


def _reusable(out: Path, key: str, method: Method, search: str) -> Raw | None:
    try:
        raw = read_raw(out, key)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s; it is measured again", error)
        return None
    if raw.software != software():
        _log.warning(
            "%s, %d bits, %s: measured with %s, this is %s; `fresh` measures again",
            *(method.name, method.bits, search, raw.software or "unknown versions", software()),
        )
    _log.info("%s, %d bits, %s: reused raw/%s.npz", method.name, method.bits, search, key)
    return raw


def _built(data: Evaluated, method: Method) -> tuple[Searchable, tuple[float, float]]:
    """A trained and filled index, and the seconds of both."""
    index = method.build(tuple(data.database.shape[1:]))
    _check_bytes(method, index)  # before the hours, and again after: bytes are the built index's
    started = time.perf_counter()
    _train(data, method, index)
    trained = time.perf_counter()
    index.add(data.database)
    added = time.perf_counter()
    _check_bytes(method, index)
    # A training that went on after an interruption knows better than this clock what it took, and
    # so does an index that shares its training or its codes with others.
    train_s = getattr(index, "train_s", trained - started)
    return index, (train_s, getattr(index, "add_s", added - trained))


def _train(data: Evaluated, method: Method, index: Any) -> None:
    if method.supervised:
        index.train(data.train, data.labels_to_train)
    else:
        index.train(data.train)


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
    n, seconds = len(data.queries), 0.0
    D, I = np.empty((n, k), np.float32), np.empty((n, k), np.int64)  # noqa: E741
    # Whole databases come back where k is all of them: not for every query in one piece.
    batch_size = min(batch_size, max(1, _BATCH_RESULTS // k))
    for start in range(0, n, batch_size):
        rows = slice(start, min(start + batch_size, n))
        xq = data.queries[rows]
        started = time.perf_counter()
        found = index.search(xq, k)
        seconds += time.perf_counter() - started
        D[rows], I[rows] = found
    return D, I, seconds


def _cpu_model() -> str:
    """The processor's model name; what `platform` knows where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
