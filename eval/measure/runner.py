"""Runs methods over a data set: raw results first, metrics from them.

Raw results lie in `out/raw/<key>.npz`, where the key is made of the whole configuration and of the
data's content. An interrupted run finds them again; a changed configuration does not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from faiss_pqvae.messages import listed
from faiss_pqvae.progress import Progress

from ..data.protocol import Evaluated, relevance_key, roles_of
from ..data.selections import Selection
from ..methods.errors import told
from ..methods.method import LeftOutError, Method
from .environment import environment, software
from .failures import FailedMethodsError, lines_of
from .memory import PeakMemory
from .raw import Costs, Raw, check_scores, fingerprint, job_key, read_raw, write_raw, write_scores
from .results import FILE_NAME, LeftOut, Results, write_results
from .scored import Measured, with_rows
from .searching import Built, built, peaks, searched, searched_among, set_search
from .speed import measured_speed
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
    note: str = "",
    fresh: bool = False,
) -> Results:
    """Measures every method with each of its search types and writes `out/results.json`.

    Ties are frequent with Hamming and symmetric distances: they are put in the order of their
    ids. Which of the items tied at the k-th distance are returned at all is the index's choice.
    A method that is listed twice (exact L2, say, with two lists of baselines) is run once. What
    `out/raw` has is used again, as long as data, configuration and code are the same.

    A method that needs more training items than there are, or a library that is not there, is left
    out, and so is one that fails, whatever it raises: the others are measured, and the results say
    what is missing, and why.

    Args:
        data: what to train on, to search in and to search for.
        methods: at least one.
        out: a folder; made when missing.
        k: results per query; cut to the size of the database, with a warning.
        batch_size: queries per call of search.
        batch_results: fewer, where a call would return more than so many results.
        progress: draw a bar, where standard error is a terminal.
        command: the shell command that led here, for the record.
        note: what a reader of the results has to know first.
        fresh: measure again what `out/raw` already has.

    Returns:
        The results, as written.

    Raises:
        ValueError: no method, k or batch_size below 1, a supervised method and data without
            labels to train with, or no method that can be measured.
        FailedMethodsError: methods raised an error, or built an index of other bytes per vector
            than their bits, or returned what cannot be right: another shape or dtype, ids out of
            range or repeated, distances that are not finite or not in order. It has the results
            of all others, which are written.
        OSError: the disk is full or failing.
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
    measured, missing = _measured(job, methods, progress)
    left_out = tuple(dict.fromkeys(found for found, _ in missing))
    errors = [error for _, error in missing if error is not None]
    if not measured and not errors:
        raise ValueError(f"no method can be measured: {'; '.join(lines_of(left_out))}")
    asked = _asked(job, command=command, note=note, left_out=left_out)
    results = with_rows(asked, measured)
    results = replace(results, created=datetime.now(UTC).isoformat(timespec="seconds"))
    if measured:
        write_results(results, job.out / FILE_NAME)
    if errors:
        failed = lines_of([found for found in left_out if found.failed])
        raise FailedMethodsError(f"methods failed: {'; '.join(failed)}", results) from errors[0]
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


def _asked(job: _Job, **told: Any) -> Results:
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
        data=data.description,
        fingerprint=job.content,
        relevance=relevance_key(data),
        roles=roles_of(data),
        **told,
    )


_Missing = list[tuple[LeftOut, Exception | None]]


def _measured(
    job: _Job, methods: Sequence[Method], progress: bool
) -> tuple[list[Measured], _Missing]:
    """Every search of every method, each once, and what is left out."""
    # All keys before the first training, which may change what a method is made of.
    keys = {
        tuple(
            job_key(job.data, one, search, job.k, job.content, among.key if among else "")
            for search, among in _asked_of(job.data, one)
        ): one
        for one in methods
    }
    measured: list[Measured] = []
    missing: _Missing = []
    stored: list[str] = []
    total = sum(map(len, keys))
    with Progress("evaluation", total, unit="searches", shown=progress) as bar:
        for of_method, method in keys.items():
            bar.note(method=f"{method.name}, {method.bits} bits")
            for one in _measure(job, method, of_method, missing):
                measured.append(_scored(job, method, one))
                write_scores(measured[-1].scores, job.out, one.key)
                if one.was_stored:
                    stored.append(f"{method.name}, {method.bits} bits ({one.search})")
                bar.update()
    if stored:
        _log.info(
            "using stored results of %s, %d of %d searches; --fresh (fresh=True) measures again",
            *(listed(stored, 3, between="; "), len(stored), total),
        )
    return measured, missing


class _Search(NamedTuple):
    """One search that was measured, with or without a filter."""

    search: str
    among: Selection | None
    key: str
    raw: Raw
    was_stored: bool


def _asked_of(data: Evaluated, method: Method) -> list[tuple[str, Selection | None]]:
    """Every search setting of a method: without a filter, then with each."""
    selections: tuple[Selection, ...] = getattr(data, "selections", ())  # only ours have some
    return [(search, among) for among in (None, *selections) for search in method.searches]


def _measure(
    job: _Job, method: Method, keys: Sequence[str], missing: _Missing
) -> Iterator[_Search]:
    """Each search of a method.

    Why a method is left out goes to `missing`: it lacks something, or it is wrong, which the run
    tells at its end. Only what the method itself raises is noted.
    """
    left = partial(LeftOut, method.name, method.bits, seed=method.seed)
    try:
        yield from _searches(job, method, keys)
    except LeftOutError as error:
        missing.append((left(str(error)), None))
    except OSError:  # of a disk: it concerns all methods
        raise
    except Exception as error:  # whatever somebody's method raises
        missing.append((left(told(error), failed=True), error))


def _searches(job: _Job, method: Method, keys: Sequence[str]) -> Iterator[_Search]:
    """The same of an index that is built once for all search settings, where it is needed."""
    made: Built | None = None
    seen = job if method.data is None else job._replace(data=method.data)
    for (search, among), key in zip(_asked_of(job.data, method), keys, strict=True):
        raw = None if job.fresh else _reusable(job.out, key, method, search)
        if raw is not None:
            yield _Search(search, among, key, raw, True)
            continue
        if made is None:
            made = built(seen.data, method)
        set_search(made.index, search, of_several=len(method.searches) > 1)
        raw = _of_all(seen, made, search) if among is None else _of_some(seen, made, among)
        write_raw(raw, job.out, key)
        yield _Search(search, among, key, raw, False)


def _of_some(job: _Job, made: Built, among: Selection) -> Raw:
    """What a search with a filter returns."""
    D, I, search_s, how = searched_among(  # noqa: E741
        job.data, made.index, among, job.k, job.batch_size
    )
    check_results(D, I, len(job.data.database), padded=True)
    return Raw(*order_ties(D, I), _costs(made, search_s, filtered_by=how))


def _costs(made: Built, search_s: float, **more: Any) -> Costs:
    return Costs(
        code_size=made.index.sa_code_size(),
        train_s=made.train_s,
        add_s=made.add_s,
        search_s=search_s,
        software=software(),
        trained_on=made.trained_on,
        model_bytes=made.model_bytes,
        index_bytes=made.index_bytes,
        **more,
    )


def _of_all(job: _Job, made: Built, search: str) -> Raw:
    """What a search of the whole database returns, and how fast."""
    with PeakMemory() as searching:
        D, I, batches = searched(job.data, made.index, job.k, job.batch_size)  # noqa: E741
    try:
        check_results(D, I, len(job.data.database), padded="=" in search)
        if search == "exact":
            check_distances(job.data, D, I)
    except ValueError as error:
        raise ValueError(f"{search}: {error}") from error
    speed = measured_speed(job.data, made.index, job.k, batches)
    costs = _costs(
        made,
        sum(seconds for _, seconds in batches),
        queries_per_s=speed.queries_per_s,
        latency_ms=speed.latency_ms,
        n_single=speed.n_single,
        peak_bytes=made.peak_bytes | peaks(search=searching),
    )
    return Raw(*order_ties(D, I), costs)


def _scored(job: _Job, method: Method, one: _Search) -> Measured:
    data: Any = job.data
    scores = (data if one.among is None else data.among(one.among)).scores(one.raw.I, job.k)
    try:
        check_scores(scores, len(job.data.queries))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{method.name} ({one.search}): {error}") from error
    return Measured(method, one.search, one.key, scores, one.raw.costs, one.among)


def _reusable(out: Path, key: str, method: Method, search: str) -> Raw | None:
    try:
        raw = read_raw(out, key)
    except FileNotFoundError:
        return None
    except ValueError as error:
        _log.warning("%s; it is measured again", error)
        return None
    measured_with = raw.costs.software
    if measured_with != software():
        _log.warning(
            "%s, %d bits, %s: measured with %s, this is %s; --fresh measures again",
            *(method.name, method.bits, search, measured_with or "unknown versions", software()),
        )
    return raw
