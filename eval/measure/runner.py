"""Runs methods over a data set: raw results first, metrics from them.

Raw results lie in `out/raw/<key>.npz`, where the key is made of the whole configuration and of the
data's content. An interrupted run finds them again; a changed configuration does not.
"""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from ..data.protocol import Evaluated
from ..faiss_library import faiss
from ..methods.method import Method, Searchable
from .raw import Raw, check_scores, fingerprint, job_key, read_raw, write_raw, write_scores
from .results import FILE_NAME, Results, write_results
from .scored import Measured, with_rows
from .searching import built, searched, set_search
from .trust import check_distances, check_results, order_ties

BATCH_RESULTS = 1 << 24  # that one call of search returns at most: 192 MiB

_log = logging.getLogger(__name__)


def run(
    data: Evaluated,
    methods: Sequence[Method],
    out: str | Path,
    *,
    k: int = 1000,
    batch_size: int = 1000,
    batch_results: int = BATCH_RESULTS,
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
        batch_results: fewer, where a call would return more than so many results.
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
    _check_labels(data, methods)
    if k > len(data.database):
        _log.warning("k = %d is cut to the %d items of the database", k, len(data.database))
        k = len(data.database)
    # Whole databases come back where k is all of them: not for every query in one piece.
    batch_size = min(batch_size, max(1, batch_results // k))
    job = _Job(data, Path(out), k, batch_size, fresh, fingerprint(data))
    (job.out / "raw").mkdir(parents=True, exist_ok=True)
    results = with_rows(_asked(job, command), _measured(job, methods, progress))
    results = replace(results, created=datetime.now(UTC).isoformat(timespec="seconds"))
    write_results(results, job.out / FILE_NAME)
    return results


class _Job(NamedTuple):
    """What is the same for all methods; `content` is the fingerprint of the data."""

    data: Evaluated
    out: Path
    k: int
    batch_size: int
    fresh: bool
    content: str


def _check_labels(data: Evaluated, methods: Sequence[Method]) -> None:
    unlabelled = [method.name for method in methods if method.supervised]
    if unlabelled and data.labels_to_train is None:
        raise ValueError(
            f"expected labels of the training items for {unlabelled[0]}, got data without: "
            f"{data.name} ({data.protocol})"
        )


def _asked(job: _Job, command: str | None) -> Results:
    """The results without their rows."""
    data = job.data
    return Results(
        dataset=data.name,
        protocol=data.protocol,
        n_database=len(data.database),
        n_queries=len(data.queries),
        rows=(),
        environment=environment(),
        k=job.k,
        command=command,
        data=data.description,
        fingerprint=job.content,
    )


def _measured(job: _Job, methods: Sequence[Method], progress: bool) -> list[Measured]:
    """Every search of every method, each once."""
    once = {job_key(job.data, method, "", job.k, job.content): method for method in methods}
    total = sum(len(method.searches) for method in once.values())
    measured = []
    with tqdm(total=total, unit="search", disable=None if progress else True) as bar:
        for method in once.values():
            bar.set_description(f"{method.name}, {method.bits} bits")
            for search, key, raw in _measure(job, method):
                measured.append(_scored(job, method, search, key, raw))
                write_scores(measured[-1].scores, job.out, key)
                bar.update()
    return measured


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


def _measure(job: _Job, method: Method) -> Iterator[tuple[str, str, Raw]]:
    """Each search setting with its key and results, reused or of an index built once for all."""
    data, n = job.data, len(job.data.database)
    index: Searchable | None = None
    times = (0.0, 0.0)
    for search in method.searches:
        key = job_key(data, method, search, job.k, job.content)
        raw = None if job.fresh else _reusable(job.out, key, method, search)
        if raw is None:
            if index is None:
                index, times = built(data, method)
            set_search(index, search, of_several=len(method.searches) > 1)
            D, I, search_s = searched(data, index, job.k, job.batch_size)  # noqa: E741
            try:
                check_results(D, I, n, padded="=" in search)
                if search == "exact":
                    check_distances(data, D, I)
            except ValueError as error:
                raise ValueError(f"{method.name} ({search}): {error}") from error
            raw = Raw(*order_ties(D, I), index.sa_code_size(), *times, search_s, software())
            write_raw(raw, job.out, key)
        yield search, key, raw


def _scored(job: _Job, method: Method, search: str, key: str, raw: Raw) -> Measured:
    scores = job.data.scores(raw.I, job.k)
    try:
        check_scores(scores, len(job.data.queries))
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


def _cpu_model() -> str:
    """The processor's model name; what `platform` knows where there is no /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
