"""An index that exists, as a row: a bundle of this package, or a native FAISS file."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae import ModelConfig
from faiss_pqvae.data.source import Source, missing
from faiss_pqvae.types import FloatArray, IdArray

from ..faiss_library import faiss
from .among import native_among, parameters
from .flat import check_size, flat_chunks, flatten
from .learned_index import kept_bytes
from .method import Method, Shape
from .native_training import native_bytes
from .settings import read_bundle

_log = logging.getLogger(__name__)
_LOOKED_AT = 100  # items of an index that is filled, to see whether they are the database's
_EMPTY = "give it empty, as a training writes it, and it is filled with them"


class GivenIndex:
    """A trained index as the runner wants one: filled with the database, if it is empty.

    Args:
        index: a `LatentIndex`, or a native index over flattened items.
        name: what messages call it.

    Attributes:
        faiss_index: what search parameters are set on.
    """

    train_s = 0.0
    learns = False  # here, and nobody knows from what it did

    def __init__(self, index: Any, name: str) -> None:
        self.index, self.name = index, name
        self.native = isinstance(index, faiss.Index)
        self.faiss_index: Any = index if self.native else index.faiss_index

    @property
    def search_type(self) -> str:
        """How tables are made of queries, where it can be chosen."""
        return str(getattr(self.index, "search_type", "adc"))

    @search_type.setter
    def search_type(self, value: str) -> None:
        self.index.search_type = value

    def check(self, n: int) -> None:
        """Checks, before anything is measured, that it is trained and can be filled with n items.

        Raises:
            ValueError: it is not, or holds another number of items.
        """
        if not self.index.is_trained:
            raise ValueError(f"expected a trained index in {self.name}")
        if self.index.ntotal not in (0, n):
            raise ValueError(
                f"expected {self.name} empty, or with the {n:,} items of the database, got "
                f"{self.index.ntotal:,} items in it: {_EMPTY}"
            )

    def train(self, x: Source, /) -> None:
        """Nothing: it is trained."""

    def add(self, x: Source, /) -> None:
        """Fills the index with x: (n, *item_shape), unless it holds them, under their places.

        Raises:
            ValueError: it holds another number of items, or other ones, or under other ids.
        """
        self.check(len(x))
        if self.index.ntotal:
            self._check_places(x)
            return
        if self.native:
            for chunk in flat_chunks(x, self.index.d):
                self.index.add(chunk)
        elif isinstance(self.index.faiss_index, faiss.IndexIDMap):
            self.index.add_with_ids(x, np.arange(len(x)))
        else:
            self.index.add(x)

    def _check_places(self, x: Source) -> None:
        """Whether item i of the database is what the id i stands for: results are places in it."""
        places = np.unique(np.linspace(0, len(x) - 1, _LOOKED_AT).astype(np.int64))
        expected = f"expected {self.name} with the items of the database, under the ids 0 to"
        rows = flatten(x[places], self.index.d) if self.native else x[places]
        try:
            stored = self.index.reconstruct_batch(places)
            coded = self.index.sa_decode(self.index.sa_encode(rows))
        except ValueError as error:
            raise ValueError(f"{expected} {len(x) - 1:,}: {error}; {_EMPTY}") from error
        except RuntimeError as error:  # of a native index that gives nothing back
            _log.warning("%s may hold other items: %s", self.name, error)
            return
        same = np.isclose(stored, coded, rtol=1e-4, atol=1e-5).all(axis=1)
        if 2 * same.sum() < len(places):  # on another machine some are rounded to another code
            raise ValueError(
                f"{expected} {len(x) - 1:,}, got {len(places) - same.sum()} others among "
                f"{len(places)} of them: {_EMPTY}"
            )

    def model_bytes(self) -> int | None:
        """Bytes that it keeps besides codes; None where it holds some: FAISS counts all as one."""
        if self.index.ntotal:
            return None
        return self.stored_bytes()

    def stored_bytes(self) -> int:
        """Bytes of the index as it is, and of its model."""
        return native_bytes(self.index) if self.native else kept_bytes(self.index)

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """D (nq, k) float32 and I (nq, k) int64 of queries (nq, *item_shape), best first."""
        x = flatten(xq, self.index.d) if self.native else xq
        D, I = self.index.search(x, k)  # noqa: E741
        return D, I

    def search_among(self, xq: npt.NDArray[Any], k: int, sel: Any, /) -> tuple[FloatArray, IdArray]:
        """The same of the items that a faiss.IDSelector has; -1 behind them where they are few."""
        if self.native:
            return native_among(self.index, flatten(xq, self.index.d), k, sel)
        found: tuple[FloatArray, IdArray] = self.index.search(
            xq, k, params=parameters(self.faiss_index, sel)
        )
        return found

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""
        return code_size(self.index)


def code_size(index: Any) -> int:
    """Bytes per stored vector; of a graph those of what it links.

    Raises:
        ValueError: FAISS does not say.
    """
    stored = getattr(index, "storage", None)
    try:
        return int((index if stored is None else stored).sa_code_size())
    except RuntimeError as error:
        kind = type(index).__name__
        raise ValueError(f"expected an index with bytes per vector, got {kind}: {error}") from error


def opened(path: Path, *, model: ModelConfig = ModelConfig()) -> Any:  # noqa: B008 - frozen
    """An index on disk: a `LatentIndex`, or a native index.

    Args:
        path: the folder of a bundle, or a file that `faiss.read_index` reads.
        model: names somebody's network, where the bundle needs one.

    Raises:
        ValueError: it is neither.
        FileNotFoundError: there is nothing.
    """
    if not path.exists():
        raise missing(path, "a bundle or a FAISS file")
    if path.is_dir():
        return read_bundle(path, model)
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        raise ValueError(f"cannot read {path} as a FAISS index: {error}") from error


def given(index: Any, path: Path, item_shape: Shape, n: int) -> Method:
    """The row of an index on disk, which says in its name what it is.

    Args:
        index: as `opened` returns it. A native index is searched with flattened items, pixels as
            they are given to the baselines.
        path: where it is.
        item_shape: of one item.
        n: items in the database.

    Raises:
        ValueError: it takes other items, holds another number of them, or is not trained.
    """
    if path.is_dir():
        kind, native = "bundle", index.faiss_index
        if tuple(index.input_shape) != item_shape:
            raise ValueError(
                f"expected items of shape {tuple(index.input_shape)} for {path}, got {item_shape}"
            )
        what = index.description or "LatentIndex"
        content = path / "config.json"  # which has the hash of every other file
    else:
        kind, native = "FAISS file", index
        check_size(item_shape, index.d)
        what, content = type(index).__name__, path
    name = f"{what} ({kind} {path.name})"
    row = GivenIndex(index, name)
    row.check(n)
    return Method(
        name=name,
        bits=8 * code_size(index),
        build=lambda shape: row,
        config={
            "index": what,
            "kind": kind,
            "content": hashlib.sha256(content.read_bytes()).hexdigest(),
            "ntotal": int(index.ntotal),
        },
        searches=_searches(native, bundle=path.is_dir()),
        marked=True,
    )


def _searches(native: Any, *, bundle: bool) -> tuple[str, ...]:
    """What is searched with: of what visits a part of the items, as far as it says itself."""
    ivf = faiss.try_extract_index_ivf(native)
    hnsw = getattr(native, "hnsw", None)
    if ivf is not None:
        return (f"nprobe={ivf.nprobe}",)
    if hnsw is not None:
        return (f"efSearch={hnsw.efSearch}",)
    return ("adc", "sdc") if bundle else ("as stored",)
