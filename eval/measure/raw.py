"""Raw results of searches on disk, under a key made of all that decides them.

`out/raw/<key>.npz` holds what a search returned, `out/raw/<key>.scores.npz` what its answers were
worth to each query: from the second, intervals and comparisons can be made without the data.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.source import Source, chunks
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import DoubleArray, FloatArray, IdArray

from ..data.protocol import Evaluated, Scores
from ..methods.method import Method
from ..methods.visible_code import code_hash

KEY_DIGITS = 20
_CHUNK_BYTES = 32 << 20
_PER_QUERY, _CURVE = "per_query/", "curve/"  # prefixes of names in a file of scores
_UNREADABLE = (KeyError, EOFError, ValueError, TypeError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Costs:
    """What an index and a search of it took.

    Attributes:
        code_size: bytes per vector of the built index.
        train_s: seconds.
        add_s: seconds, for the whole database.
        search_s: seconds, for all queries.
        software: versions of what measured it, as `runner.software` writes them.
        trained_on: see `results.Row`.
        model_bytes: see `results.Row`, as of what follows.
        index_bytes: None where it is not known.
        filtered_by: "selector" or "oversampling", of a search with a filter.
        queries_per_s: None in older files.
        latency_ms: none in older files.
        n_single: queries that were asked alone for it.
        peak_bytes: likewise, and where the system does not say.
    """

    code_size: int
    train_s: float
    add_s: float
    search_s: float
    software: str = ""
    trained_on: str = ""
    model_bytes: int | None = None
    index_bytes: int | None = None
    filtered_by: str = ""
    queries_per_s: float | None = None
    latency_ms: dict[str, float] = field(default_factory=dict)
    n_single: int = 0
    peak_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Raw:
    """What one search returned, and what it took.

    Attributes:
        D: (nq, k) float32, distances or similarities, best first.
        I: (nq, k) int64, positions in the database; ties in the order of their ids.
        costs: of the search and of its index.
    """

    D: FloatArray
    I: IdArray  # noqa: E741 - FAISS's name
    costs: Costs


_COSTS = tuple(one.name for one in fields(Costs))
_JSON = ("latency_ms", "peak_bytes")  # as text in a file


def fingerprint(data: Evaluated) -> str:
    """Sha256, in hexadecimal digits, of all items: to train on, to search in, to search for.

    Labels are not in it: they decide what answers are worth, not what the answers are. Those that
    a supervised method learns from are in its `job_key`.
    """
    parts: dict[int, bytes] = {}  # the training set is often the database itself
    whole = hashlib.sha256()
    named = {"training items": data.train, "database": data.database, "queries": data.queries}
    for name, source in named.items():
        if id(source) not in parts:
            parts[id(source)] = _digest(source, name)
        whole.update(parts[id(source)])
    return whole.hexdigest()


def _digest(source: Source, name: str) -> bytes:
    found = hashlib.sha256(f"{source.shape} {source.dtype}".encode())
    item_bytes = source.dtype.itemsize * int(np.prod(source.shape[1:], dtype=np.int64))
    with Progress(f"reading {name}", len(source), unit="items", inner=True) as bar:
        for chunk in chunks(source, max(1, _CHUNK_BYTES // max(1, item_bytes))):
            found.update(np.ascontiguousarray(chunk).data)
            bar.update(len(chunk))
    return found.digest()


def job_key(
    data: Evaluated, method: Method, search: str, k: int, content: str, among: str = ""
) -> str:
    """The name of a raw file: hexadecimal digits of the sha256 of the whole configuration.

    Versions of software are not in it: a new version of a library would throw hours of training
    away. They are in the file, and the runner warns when it reuses what others measured.

    Args:
        data: its name, protocol and shapes count.
        method: its name, bits, configuration, seed and what can be seen of its code count; of a
            supervised one the labels that it is trained with do, too.
        search: the search setting.
        k: results per query.
        content: the `fingerprint` of the data: another data set of the same name and shape
            must not be given these results.
        among: the key of a filter.
    """
    configuration = {
        "dataset": data.name,
        "protocol": data.protocol,
        "database": list(data.database.shape),
        "train": list(data.train.shape),
        "queries": list(data.queries.shape),
        "content": content,
        "method": method.name,
        "bits": method.bits,
        "config": method.config,
        "seed": method.seed,
        "code": code_hash(method.build, *method.code),
        "search": search,
        "k": k,
    }
    if among:
        configuration["among"] = among
    if (metric := getattr(data, "metric", "l2")) != "l2":  # by which indexes rank
        configuration["metric"] = metric
    if method.supervised:
        labels = data.labels_to_train
        assert labels is not None  # or the runner had refused
        configuration["labels"] = hashlib.sha256(np.ascontiguousarray(labels).data).hexdigest()
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_DIGITS]


def write_raw(raw: Raw, out: Path, key: str) -> None:
    """Writes `out/raw/<key>.npz`; a crash leaves no half of it under this name.

    Ids are stored as the smallest integers that hold them: it is a third of the bytes, or half.
    """
    lowest, highest = (int(raw.I.min()), int(raw.I.max())) if raw.I.size else (0, 0)
    # Signed integers that hold -1 - n hold n, too.
    dtype = np.min_scalar_type(highest if lowest >= 0 else -1 - max(highest, 0))
    costs = {name: x for name, x in vars(raw.costs).items() if x is not None}
    costs |= {name: json.dumps(costs[name]) for name in _JSON}
    _write(raw_path(out, key), {"D": raw.D, "I": raw.I.astype(dtype), **costs})


def read_raw(out: Path, key: str) -> Raw:
    """Reads `out/raw/<key>.npz`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the key is no key, or the file is corrupt.
    """
    path = raw_path(out, key)
    try:
        # Opened here: np.load leaves a file open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            of_file = {name: arrays[name].item() for name in _COSTS if name in arrays}
            of_file |= {name: json.loads(of_file[name]) for name in _JSON if name in of_file}
            return Raw(arrays["D"], arrays["I"].astype(np.int64), Costs(**of_file))
    except _UNREADABLE as error:
        raise ValueError(f"cannot read {path}: expected raw results; {error}") from error


def read_ids(out: Path, key: str) -> IdArray:
    """The ids of `out/raw/<key>.npz` alone, (nq, k) int64; errors as of `read_raw`."""
    path = raw_path(out, key)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            ids: IdArray = arrays["I"].astype(np.int64)
            return ids
    except _UNREADABLE as error:
        raise ValueError(f"cannot read {path}: expected raw results; {error}") from error


def write_scores(scores: Scores, out: Path, key: str) -> None:
    """Writes `out/raw/<key>.scores.npz`; a crash leaves no half of it under this name."""
    arrays: dict[str, Any] = {_PER_QUERY + name: x for name, x in scores.per_query.items()}
    _write(
        raw_path(out, key, ".scores.npz"),
        arrays | {_CURVE + name: np.array(x) for name, x in scores.curves.items()},
    )


def read_scores(out: Path, key: str) -> Scores:
    """Reads `out/raw/<key>.scores.npz`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the key is no key, or the file is corrupt.
    """
    path = raw_path(out, key, ".scores.npz")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            per_query, curves = _named(arrays, _PER_QUERY), _named(arrays, _CURVE)
        scores = Scores(per_query, {name: found.tolist() for name, found in curves.items()})
        check_scores(scores, len(next(iter(per_query.values()), ())))
        return scores
    except _UNREADABLE as error:
        raise ValueError(f"cannot read {path}: expected scores; {error}") from error


def check_scores(scores: Scores, n_queries: int) -> None:
    """Checks what a data set made of the answers.

    Raises:
        TypeError: scores are not float64.
        ValueError: there are none, or not one a query, or one is NaN or infinite.
    """
    if not scores.per_query:
        raise ValueError("expected at least one metric, got none")
    for name, values in scores.per_query.items():
        if values.dtype != np.float64:
            raise TypeError(f"expected the scores {name!r} as float64, got {values.dtype}")
        if values.shape != (n_queries,):
            raise ValueError(
                f"expected the scores {name!r} of shape ({n_queries},), got {values.shape}"
            )
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite scores {name!r}, got NaN or infinity")


def raw_path(out: Path, key: str, suffix: str = ".npz") -> Path:
    """Where the raw results of a key are.

    Raises:
        ValueError: the key is no key. It may come from a file that somebody else wrote, and must
            not lead elsewhere.
    """
    if len(key) != KEY_DIGITS or set(key) - set("0123456789abcdef"):
        raise ValueError(f"expected a key of {KEY_DIGITS} hexadecimal digits, got {key!r}")
    return out / "raw" / f"{key}{suffix}"


def _named(arrays: Any, prefix: str) -> dict[str, DoubleArray]:
    """The arrays whose names start so, by the rest of their names."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}


def _write(path: Path, arrays: dict[str, npt.ArrayLike]) -> None:
    content = io.BytesIO()
    # A zip file by its own names: numpy's keyword arguments would take none called "file".
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    replace_bytes(path, content.getvalue())
