"""Data sets of every kind: by name, from other packages, or from a path."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from faiss_pqvae.data.open import ACCEPTED
from faiss_pqvae.messages import listed, suggestion
from faiss_pqvae.registry import datasets

from .arrays import from_arrays
from .labelled import LabelledData, subset
from .neighbours import VectorData
from .own import OwnData, open_own
from .protocol import TrainOn, split_named
from .sets.ann_benchmarks import is_hdf5, open_hdf5
from .sets.image_lists import has_lists, open_lists
from .sets.public import PUBLIC
from .sets.texmex import is_texmex, open_texmex
from .splits import LabelledItems, few_labels
from .vectors import VectorParts, with_neighbours

# Whether a path is meant so, and what opens it.
_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path], VectorParts]], ...] = (
    (is_hdf5, open_hdf5),
    (is_texmex, open_texmex),
)


def load(
    data: str | Path | Callable[[], Any],
    *,
    protocol: str = "pqvae",
    n_database: int | None = None,
    n_queries: int | None = None,
    train_on: TrainOn | None = None,
    filters: Sequence[float] = (),
    own: OwnData = OwnData(),  # noqa: B008 - frozen
    cache: Path | None = None,
) -> LabelledData | VectorData:
    """Loads data with what is relevant in them: by labels, or by exact nearest neighbours.

    Vectors have their true neighbours found, or remembered; what has at most 1 GiB is read into
    memory.

    Args:
        data: one of

            - the name of a data set, ours or another package's (`faiss_pqvae.registry.datasets`),
              or "package.module:attribute": a function without arguments;
            - a path: an HDF5 file of ann-benchmarks; a folder, or what file names start with, of
              NAME_base, NAME_query and, where there are, NAME_learn and NAME_groundtruth (fvecs,
              bvecs, fbin, u8bin or i8bin, the truth in ivecs); a folder with lists of images, see
              `sets.image_lists`; or your own, see `own.open_own`;
            - such a function itself.

            A function returns `LabelledData`, `VectorData`, or arrays as `arrays.from_arrays` takes
            them.
        protocol: of labelled data. "pqvae": as they come, training images are the database and
            test images the queries; "few-labels" (once "dqn"): see `splits.few_labels`.
        n_database: take a random subset of this many database items (seed 0), for quick runs;
            what is trained on shrinks with it, where it is the database.
        n_queries: take a random subset of this many queries; where queries are drawn, draw so many.
        train_on: of vectors without labels, what methods learn from: "learn", "base" or "half", see
            `with_neighbours`.
        filters: of vectors without labels, shares of the items that searches are measured among
            besides, drawn at random (seed 0).
        own: what to read of a path.
        cache: folder for true neighbours; by default in the user's cache folder.

    Returns:
        The data; images are (n, channels, height, width) uint8.

    Raises:
        ValueError: the name or the protocol is unknown, a subset is not between 1 and all items,
            a class has too few items for the protocol, there is nothing to train on, a file is
            corrupt, or FAISS_PQVAE_DATA is needed and not set.
        FileNotFoundError: a file is missing and cannot be downloaded; the message says which file
            goes where.
        TypeError: a function returned something else.
        ImportError: an extra is not installed.
    """
    split = split_named(protocol)
    name = data if isinstance(data, str) else str(getattr(data, "__name__", data))
    found = _found(data, own)
    if isinstance(found, Mapping | tuple):
        found = from_arrays(found, name)
    if isinstance(found, LabelledItems):
        found, n_queries = found.drawn(n_queries), None
    if isinstance(found, LabelledData):
        if filters:
            raise ValueError(f"expected vectors without labels to filter, got {name}")
        if train_on is not None:
            raise ValueError(
                f"expected vectors without labels to train on {train_on!r}, got {name}: what is "
                "trained on of labelled data is their protocol's"
            )
        return subset(few_labels(found) if split == "few-labels" else found, n_database, n_queries)
    if isinstance(found, VectorData) and (n_database or n_queries or train_on or filters):
        found = _parts(found)
    if not isinstance(found, VectorParts | VectorData):
        raise TypeError(
            f"expected the data set {name!r} to return LabelledData, VectorData, a tuple or a "
            f"mapping of arrays, got {type(found).__name__}"
        )
    if split != "pqvae":
        raise ValueError(f"expected labelled data with the protocol {split!r}, got vectors: {name}")
    if isinstance(found, VectorData):
        return found
    return with_neighbours(
        found, n_database, n_queries, train_on=train_on, filters=filters, cache=cache
    )


def _found(data: str | Path | Callable[[], Any], own: OwnData) -> Any:
    """What the function of a name returns, or what lies at a path."""
    known = isinstance(data, str) and data in datasets.names()
    if callable(data) or known:
        if own != OwnData():
            raise ValueError(f"expected a path to read {own} of, got {data}")
        made: Callable[[], Any] = datasets.get(data)  # type: ignore[arg-type]
        return made()
    path = Path(str(data))
    for is_meant, opened in _LAYOUTS:
        if is_meant(path) and own == OwnData():
            return opened(path)
    if has_lists(path):
        plain = OwnData(size=own.size, crop=own.crop, mode=own.mode, orient=own.orient)
        if own != plain:
            raise ValueError(
                f"expected --size, --crop and --mode alone for the lists in {path}, got {own}"
            )
        return open_lists(path, own.images)
    if path.exists() or any(folder.is_file() for folder in path.parents):  # or a part of a file
        return open_own(path, own)
    if isinstance(data, str) and ":" in data:
        return datasets.get(data)()
    names = sorted(datasets.names(), key=lambda name: (name in PUBLIC, name))
    raise ValueError(
        f"expected a data set of {listed(names, 8)}, 'package.module:attribute', an HDF5 file of "
        "ann-benchmarks, a folder or prefix of files such as NAME_base.fvecs and "
        f"NAME_query.fvecs, or {ACCEPTED}, got {str(data)!r}, which does not exist"
        f"{suggestion(str(data), names)}"
    )


def _parts(data: VectorData) -> VectorParts:
    """Data whose neighbours are known, to take a part of."""
    return VectorParts(
        name=data.name,
        description=data.description,
        database=data.database,
        queries=data.queries,
        train=None if data.train is data.database else data.train,
        shipped=data.truth.I,
        metric=data.metric,
        qrels=data.qrels,
        texts=data.texts,
        query_texts=data.query_texts,
        trained_on=data.trained_on,
    )
