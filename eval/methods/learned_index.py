"""Trained codes as the runner wants an index: rows of one code share its training."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import numpy.typing as npt

from faiss_pqvae import LatentIndex
from faiss_pqvae.data.source import Source
from faiss_pqvae.types import FloatArray, IdArray

from ..data.protocol import LabelArray
from .among import parameters
from .flowing import Flowing
from .method import LeftOutError, Shape
from .native_training import native_bytes


class TrainedCode(Protocol):
    """A learned code that trains and fills one index for all its rows, see `learned_code`."""

    M: int
    nbits: int
    train_s: float
    add_s: float
    model_bytes: int

    def new(self, item_shape: Shape, factory: str) -> LatentIndex:
        """An untrained index of the code, or of what a factory string makes of it."""
        ...

    def train(self, index: LatentIndex, x: Source, labels: LabelArray | None) -> None:
        """Trains an index in the code's folder."""
        ...

    def trained(self, item_shape: Shape, x: Source, labels: LabelArray | None) -> LatentIndex:
        """The code's own index, trained the first time."""
        ...

    def fill(self, x: Source, *, from_bundle: bool = True) -> LatentIndex:
        """The same with items in it."""
        ...


class Scanned:
    """A code, or its first levels, all of it scanned; trained and filled once for all rows.

    Args:
        code: which trains and fills the index.
        n_levels: how many count of residual codes; None takes the code as it is.
        item_shape: of one item.
    """

    def __init__(self, code: TrainedCode, n_levels: int | None, item_shape: Shape) -> None:
        self.code, self.n_levels, self.item_shape = code, n_levels, item_shape
        self.search_type = "adc"
        self._trained: LatentIndex | None = None
        self._index: LatentIndex | None = None

    @property
    def train_s(self) -> float:
        """Seconds of the one training."""
        return self.code.train_s

    @property
    def add_s(self) -> float:
        """Seconds in which the whole index was filled, or read."""
        return self.code.add_s

    @property
    def k_factor(self) -> float:
        """Candidates per result that the decoder ranks again."""
        return self._filled.k_factor

    @k_factor.setter
    def k_factor(self, value: float) -> None:
        self._filled.k_factor = value

    @property
    def _filled(self) -> LatentIndex:
        assert self._index is not None  # `add` comes before
        return self._index

    def model_bytes(self) -> int:
        """Bytes of the trained model, and of the index without codes."""
        return self.code.model_bytes

    def stored_bytes(self) -> int:
        """Bytes of the model and of the filled index."""
        return kept_bytes(self._filled)

    def train(self, x: Source, labels: LabelArray | None = None, /) -> None:
        """Trains the code, if no other row did: (n, *item_shape) items, and their labels."""
        self._trained = self.code.trained(self.item_shape, x, labels)

    def add(self, x: Source, /) -> None:
        """Fills the whole index, if no other row did, with (n, *item_shape) items."""
        if self.n_levels is None:  # the time of adding is wanted: no bundle is taken
            self._index = self.code.fill(x, from_bundle=False)
        else:
            self._index = self.code.fill(x).prefix(self.n_levels)

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """D (nq, k) float32 and I (nq, k) int64 of queries (nq, *item_shape), best first."""
        index = self._filled
        index.search_type = self.search_type  # type: ignore[assignment]
        return index.search(xq, k)

    def flowing(self) -> Flowing:
        """A copy of the trained index, empty, as one that items come into and go from."""
        if self.n_levels is not None:
            raise LeftOutError("rows of some levels of a code are not kept up to date")
        assert self._trained is not None  # `train` comes before
        self._index = copy.deepcopy(self._trained)
        self._index.reset()
        return Flowing(self._index, self.search)

    def search_among(self, xq: npt.NDArray[Any], k: int, sel: Any, /) -> tuple[FloatArray, IdArray]:
        """The same of the items that a faiss.IDSelector has; -1 behind them where they are few."""
        index = self._filled
        index.search_type = self.search_type  # type: ignore[assignment]
        return index.search(xq, k, params=parameters(index.faiss_index, sel))

    def sa_code_size(self) -> int:
        """Bytes per stored vector, known before there is an index."""
        if self._index is not None:
            return self._index.sa_code_size()
        n_levels = self.code.M if self.n_levels is None else self.n_levels
        return math.ceil(n_levels * self.code.nbits / 8)


class Behind:
    """An index of another kind over the same codes, trained in the code's folder.

    Args:
        code: whose training it goes on from, or finds finished.
        factory: what is made.
        item_shape: of one item.

    Attributes:
        index: trained by `train`.
    """

    def __init__(self, code: TrainedCode, factory: str, item_shape: Shape) -> None:
        self.code, self.index = code, code.new(item_shape, factory)

    @property
    def train_s(self) -> float:
        """Seconds of the training, its interrupted parts included."""
        return self.index.train_s

    @property
    def nprobe(self) -> int:
        """Inverted lists that a search visits."""
        return self.index.nprobe

    @nprobe.setter
    def nprobe(self, n: int) -> None:
        self.index.nprobe = n

    @property
    def k_factor(self) -> float:
        """Candidates per result that the decoder ranks again."""
        return self.index.k_factor

    @k_factor.setter
    def k_factor(self, value: float) -> None:
        self.index.k_factor = value

    def model_bytes(self) -> int:
        """Bytes of the trained model, and of the index without codes."""
        return kept_bytes(self.index)

    def stored_bytes(self) -> int:
        """Bytes of the model and of the filled index."""
        return kept_bytes(self.index)

    def train(self, x: Source, labels: LabelArray | None = None, /) -> None:
        """Trains with x: (n, *item_shape), and labels where the code reads some."""
        self.code.train(self.index, x, labels)

    def add(self, x: Source, /) -> None:
        """Appends x: (n, *item_shape)."""
        self.index.add(x)

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """D (nq, k) float32 and I (nq, k) int64 of queries (nq, *item_shape), best first."""
        return self.index.search(xq, k)

    def flowing(self) -> Flowing:
        """The trained index, emptied, as one that items come into and go from."""
        self.index.reset()
        return Flowing(self.index, self.search)

    def search_among(self, xq: npt.NDArray[Any], k: int, sel: Any, /) -> tuple[FloatArray, IdArray]:
        """The same of the items that a faiss.IDSelector has; -1 behind them where they are few."""
        return self.index.search(xq, k, params=parameters(self.index.faiss_index, sel))

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""
        return self.index.sa_code_size()


def kept_bytes(index: LatentIndex) -> int:
    """Bytes of the model's weights and of the index, with the items that it has by now.

    That is what a bundle has, but for its settings in text; the codewords are in both.
    """
    weights = sum(int(x.nbytes) for x in index.model.state_dict().values())
    return weights + native_bytes(index.faiss_index)
