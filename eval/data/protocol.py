"""What an evaluation asks of data, whatever they are and wherever they come from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias, get_args

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.messages import suggestion
from faiss_pqvae.types import BoolArray, DoubleArray, IdArray

DATA_VARIABLE = "FAISS_PQVAE_DATA"
SEED = 0
CURVE_KS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)

Split: TypeAlias = Literal["pqvae", "few-labels"]
GivenSplit: TypeAlias = Literal["pqvae", "few-labels", "dqn"]  # the last has another name now
FORMER_SPLITS: dict[str, Split] = {"dqn": "few-labels"}  # as older results files have them

TrainOn: TypeAlias = Literal["learn", "base", "half"]  # what methods learn from, of vectors

# One class an item, (n,) int64, or several, (n, classes) bool.
LabelArray: TypeAlias = IdArray | BoolArray


class Scores(NamedTuple):
    """What the answers to all queries are worth; a metric is the mean of its scores.

    Attributes:
        per_query: by metric, (nq,) float64, shares from 0 to 1.
        curves: means over the queries by k: "k" and quantities of the same length.
    """

    per_query: dict[str, DoubleArray]
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
    def labels_to_train(self) -> LabelArray | None:
        """Of the training items, -1 or no class where there is none to learn from; or None."""

    @property
    def default_k(self) -> int:
        """How many results a query gets, where nobody asks for another number."""

    def scores(self, I: IdArray, k: int) -> Scores:  # noqa: E741
        """Scores I: (nq, at least k) int64, positions in the database, best first."""


def trained_on(data: Evaluated, most: int | None = None) -> str:
    """What a method learns from: its name, as `TrainOn` has it, and how many items.

    Args:
        data: to train on.
        most: how many of them the method draws at most, where it does.
    """
    usual = "base" if _is_same(data.train, data.database) else "learn"
    name = getattr(data, "trained_on", None) or usual  # which only vectors of ours say
    n = len(data.train)
    drawn = f"{most:,} of " if most is not None and most < n else ""
    return f"{name}: {drawn}{n:,} items"


def relevance_key(data: Evaluated) -> str:
    """Sha256 of what is relevant to the queries of ours; "" of somebody else's data.

    Items alone do not say it: neighbours are by a metric, and judgements and labels lie beside.
    """
    hashed = hashlib.sha256()
    arrays = [getattr(data, name, None) for name in ("database_labels", "query_labels")]
    truth, qrels = getattr(data, "truth", None), getattr(data, "qrels", None)
    if truth is None and arrays[0] is None:
        return ""
    hashed.update(str(getattr(data, "metric", "")).encode())
    arrays += [] if truth is None else [truth.I]
    arrays += [] if qrels is None else [qrels.queries, qrels.items, qrels.grades]
    for array in arrays:
        hashed.update(b"-" if array is None else f"{array.shape}".encode())
        hashed.update(b"" if array is None else np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def roles_of(data: Evaluated) -> str:
    """What the items of some data are there for, in words."""
    own = _is_same(data.train, data.database)
    learned = "the database itself" if own else f"{len(data.train):,} other items"
    text = (
        f"{len(data.queries):,} queries are searched for in a database of "
        f"{len(data.database):,} items; trained on: {learned}"
    )
    relevant = getattr(data, "relevant", "")  # which only ours say
    return f"{text}; relevant to a query: {relevant}." if relevant else f"{text}."


def _is_same(a: Source, b: Source) -> bool:
    """Whether two sources are one, or views of the same numbers."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return a is b
    return (a.ctypes.data, a.shape, a.strides) == (b.ctypes.data, b.shape, b.strides)


def split_named(name: str) -> Split:
    """The split of a name, or of the name that it had before.

    Raises:
        ValueError: there is none.
    """
    known: tuple[Split, ...] = get_args(Split)
    for split in known:
        if FORMER_SPLITS.get(name, name) == split:
            return split
    raise ValueError(f"expected a protocol of {known}, got {name!r}{suggestion(name, known)}")


def current_protocol(text: str) -> str:
    """What a results file says about its protocol, with the present name of its split."""
    first, comma, rest = text.partition(",")
    return FORMER_SPLITS.get(first, first) + comma + rest


def curve_ks(k: int) -> list[int]:
    """The ranks at which curves are drawn: 1, 2, 5, 10, ... and k."""
    return [value for value in CURVE_KS if value < k] + [k]


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


def folder_for(name: str, address: str) -> Path:
    """The folder that FAISS_PQVAE_DATA names; an error says where a set comes from.

    Raises:
        ValueError, FileNotFoundError: see `data_folder`.
    """
    try:
        return data_folder()
    except ValueError as error:
        raise ValueError(f"{error}; {name} comes from {address}") from error
