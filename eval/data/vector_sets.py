"""Vector data sets: by name, as ann-benchmarks writes them, or in the TEXMEX layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.data.flat import FLAT_SUFFIXES, read_ids
from faiss_pqvae.data.open import Source, open_source
from faiss_pqvae.data.tables import HDF5_SUFFIXES, HDF5Vectors
from faiss_pqvae.types import FloatArray, IdArray

from .load import DATA_VARIABLE, LOADERS, SEED, data_folder
from .neighbours import VectorData
from .truth import Metric, digest, ground_truth

HELD_BYTES = 1 << 30  # sources up to this many bytes of float32 are read into memory once
ID_SUFFIXES = (".ivecs", ".ibin")

# The distance that ann-benchmarks names, our metric, and whether vectors get unit length.
_DISTANCES: dict[str, tuple[Metric, bool]] = {
    "euclidean": ("l2", False),
    "angular": ("l2", True),
    "ip": ("inner_product", False),
}


@dataclass(frozen=True, eq=False)
class _Parts:
    """A vector data set as it lies on the disk.

    Attributes:
        name: of the set.
        description: what to print beside its numbers.
        database: (n, d) vectors.
        queries: (nq, d) vectors.
        train: (nt, d) vectors, or None: the database.
        shipped: (nq, depth) ids of neighbours that came with it, or None.
        metric: what the neighbours are nearest by.
        unit: whether all vectors are scaled to unit length first.
    """

    name: str
    description: str
    database: Source
    queries: Source
    train: Source | None = None
    shipped: IdArray | None = None
    metric: Metric = "l2"
    unit: bool = False


class UnitRows:
    """Another source of vectors, scaled to unit length on access; zeros stay zeros.

    Attributes:
        shape: that of the source.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(self, source: Source) -> None:
        self.source = source
        self.shape = tuple(source.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> FloatArray:
        x = np.asarray(self.source[rows], np.float32)
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        scaled: FloatArray = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
        return scaled


def is_vector_set(name_or_path: str) -> bool:
    """Whether `load_vectors` is meant: a key of `VECTOR_SETS`, an HDF5 file, or TEXMEX files."""
    if name_or_path in VECTOR_SETS:
        return True
    if name_or_path in LOADERS:
        return False
    path = Path(name_or_path)
    return path.suffix.lower() in HDF5_SUFFIXES or bool(_texmex_files(path, "base"))


def load_vectors(
    name_or_path: str | Path,
    *,
    n_database: int | None = None,
    n_queries: int | None = None,
    cache: Path | None = None,
) -> VectorData:
    """Loads vectors and finds, or remembers, the true nearest neighbours of the queries.

    What has at most 1 GiB is read into memory; the rest stays on the disk.

    Args:
        name_or_path: a key of `VECTOR_SETS`; an HDF5 file of ann-benchmarks; a folder, or a path
            that file names start with, with NAME_base, NAME_query and, where there are,
            NAME_learn and NAME_groundtruth in fvecs, bvecs, fbin, u8bin or i8bin (the truth in
            ivecs). Without learn, the database is trained on.
        n_database: take a random subset of this many database vectors (seed 0).
        n_queries: take a random subset of this many queries.
        cache: folder for ground truths; by default in the user's cache folder.

    Raises:
        ValueError: the name is unknown, a subset is not between 1 and all vectors, a file is
            corrupt, holds NaN or infinity, or names a distance that is none of ours; dimensions
            differ; or FAISS_PQVAE_DATA is needed and not set.
        FileNotFoundError: a file is missing; the message says which.
        ImportError: an extra is not installed.
    """
    parts, notes = _subset(_open(str(name_or_path)), n_database, n_queries)
    sources = (
        parts.database,
        parts.queries,
        parts.database if parts.train is None else parts.train,
    )
    if len({source.shape[1:] for source in sources}) > 1:
        shapes = ", ".join(str(source.shape) for source in sources)
        raise ValueError(
            f"expected database, queries and training vectors of one dimension, got {shapes}"
        )
    database = _held(parts.database, parts.unit)
    queries = _held(parts.queries, parts.unit)
    train = database if parts.train is None else _held(parts.train, parts.unit)
    truth = ground_truth(
        np.asarray(queries[:]),
        database,
        parts.metric,
        digest(database, "database vectors") + digest(queries, "queries"),
        shipped=parts.shipped,
        cache=cache,
    )
    return VectorData(
        name=parts.name,
        protocol=_protocol(parts, notes),
        description=parts.description,
        train=train,
        database=database,
        queries=queries,
        metric=parts.metric,
        truth=truth,
    )


def _subset(
    parts: _Parts, n_database: int | None, n_queries: int | None
) -> tuple[_Parts, list[str]]:
    """The set with random parts of database and queries, and a note on each."""
    notes = []
    if n_database is not None:
        n = len(parts.database)
        rows = _draw("n_database", n, n_database)
        notes.append(f"{n_database:,} of {n:,} database vectors")
        # The neighbours that came with the set are those in the whole database.
        parts = replace(parts, database=parts.database[rows], shipped=None)
    if n_queries is not None:
        n = len(parts.queries)
        rows = _draw("n_queries", n, n_queries)
        notes.append(f"{n_queries:,} of {n:,} queries")
        shipped = parts.shipped
        if shipped is not None:  # of another length it is found wrong later, with a warning
            shipped = shipped[rows] if len(shipped) == n else None
        parts = replace(parts, queries=parts.queries[rows], shipped=shipped)
    return parts, notes


def _draw(name: str, n: int, size: int) -> IdArray:
    """Rising row numbers, the same for every call."""
    if not 1 <= size <= n:
        raise ValueError(f"expected {name} from 1 to {n}, got {size}")
    return np.sort(np.random.default_rng(SEED).choice(n, size=size, replace=False)).astype(np.int64)


def _held(source: Source, unit: bool) -> Source:
    """The source as float32 in memory, where it is small enough."""
    if unit:
        source = UnitRows(source)
    n, d = source.shape
    return np.ascontiguousarray(source[:]) if 4 * n * d <= HELD_BYTES else source


def _protocol(parts: _Parts, notes: list[str]) -> str:
    """Which vectors play which part, and what nearest means."""
    train = "the database" if parts.train is None else f"{len(parts.train):,} other vectors"
    metric = {"l2": "L2", "inner_product": "inner product"}[parts.metric]
    unit = " between vectors scaled to unit length (angular)" if parts.unit else ""
    subset = f", random subset: {', '.join(notes)} (seed {SEED})" if notes else ""
    return f"{parts.name}: exact {metric} neighbours{unit}, trained on {train}{subset}"


def _open(name_or_path: str) -> _Parts:
    if name_or_path in VECTOR_SETS:
        return VECTOR_SETS[name_or_path]()
    path = Path(name_or_path)
    if path.suffix.lower() in HDF5_SUFFIXES:
        return _open_hdf5(path)
    if _texmex_files(path, "base"):
        return _open_texmex(path)
    raise ValueError(
        f"expected a vector data set of {sorted(VECTOR_SETS)}, an HDF5 file of ann-benchmarks, or "
        f"a folder or prefix of files such as NAME_base.fvecs and NAME_query.fvecs, got "
        f"{name_or_path!r}"
    )


def _open_bsds_sift() -> _Parts:
    """SIFT of BSDS500's photographs: test is base, train is learn, validation is query."""
    folder = data_folder() / "bsds-sift"
    if not _texmex_files(folder / "bsds_sift", "base"):
        raise FileNotFoundError(
            "bsds-sift is not there: put bsds_sift_{base,learn,query}.bvecs and "
            f"bsds_sift_groundtruth.ivecs into {folder}, the subfolder bsds-sift of {DATA_VARIABLE}"
        )
    parts = _open_texmex(folder / "bsds_sift")
    return replace(parts, name="bsds-sift", description="BSDS-SIFT (SIFT of BSDS500 photographs)")


def _open_hdf5(path: Path) -> _Parts:
    """The layout of ann-benchmarks: train is the database, test the queries."""
    database = HDF5Vectors(path, "train")
    distance = database.attributes.get("distance")
    distance = distance.decode() if isinstance(distance, bytes) else distance
    if distance not in _DISTANCES:
        raise ValueError(
            f"expected the attribute distance of {path} as one of {sorted(_DISTANCES)}, got "
            f"{distance!r}"
        )
    metric, unit = _DISTANCES[distance]
    shipped = None
    if "neighbors" in database.names:
        shipped = HDF5Vectors(path, "neighbors").read(slice(None)).astype(np.int64)
    return _Parts(
        name=path.stem,
        description=f"{path.stem} ({distance})",
        database=database,
        queries=HDF5Vectors(path, "test"),
        shipped=shipped,
        metric=metric,
        unit=unit,
    )


def _open_texmex(path: Path) -> _Parts:
    files = {role: _texmex_files(path, role) for role in ("base", "query", "learn", "groundtruth")}
    for role, found in files.items():
        if len(found) > 1 or (role in ("base", "query") and not found):
            raise FileNotFoundError(
                f"expected one {role} file at {path}, got {[file.name for file in found]}"
            )
    learn, truth = files["learn"], files["groundtruth"]
    name = files["base"][0].stem.removesuffix("base").rstrip("_") or path.name
    return _Parts(
        name=name,
        description=name,
        database=open_source(files["base"][0]),
        queries=open_source(files["query"][0]),
        train=open_source(learn[0]) if learn else None,
        shipped=read_ids(truth[0]) if truth else None,
    )


def _texmex_files(path: Path, role: str) -> list[Path]:
    """NAME_role in a folder, or behind a prefix; ids for the truth, vectors for the others."""
    suffixes = {*ID_SUFFIXES} if role == "groundtruth" else FLAT_SUFFIXES - {*ID_SUFFIXES}
    if path.is_dir():
        candidates = [*path.glob(f"*_{role}.*"), *path.glob(f"{role}.*")]
    elif path.parent.is_dir():
        candidates = [path.with_name(f"{path.name}_{role}{suffix}") for suffix in suffixes]
    else:
        candidates = []
    return sorted(file for file in candidates if file.suffix in suffixes and file.is_file())


VECTOR_SETS: dict[str, Callable[[], _Parts]] = {"bsds-sift": _open_bsds_sift}
