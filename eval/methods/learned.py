"""PQ-VAE, DQN and DPQ as rows of an evaluation."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any

import numpy.typing as npt

from faiss_pqvae import TrainingConfig
from faiss_pqvae.data.open import Source
from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.index.factory import index_factory
from faiss_pqvae.index.latent_index import LatentIndex, SearchType
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.types import FloatArray, IdArray

from ..data.load import Evaluated
from .baselines import Method
from .sweeps import NPROBES, list_bytes

_CODES = {"dqn": "DQN", "dpq": "DPQ"}  # by objective, in the grammar


class LearnedCode:
    """A learned code as the runner wants it; its files are in a folder of its own.

    PQ-VAE and DQN are trained for one code length. Of DPQ every prefix of the codes is a code: one
    training, and one index that is filled once, serve several lengths.

    Args:
        M: sub-quantizers; of DPQ levels.
        nbits: bits of each.
        model: networks and bottleneck; the objective tells which code it is.
        training: the loop, its seed included.
        folder: for the bundle, with the training's log and checkpoint below it.
        name: of the method.
        pretrained: whose encoder the training starts from.
        lengths: in bits; what there are rows of. Of DPQ multiples of nbits up to M * nbits, of
            others M * nbits alone, which is the default.

    Raises:
        ValueError: lengths that the code does not have.
    """

    def __init__(
        self,
        M: int,
        nbits: int,
        model: ModelConfig,
        training: TrainingConfig,
        *,
        folder: Path,
        name: str = "PQ-VAE",
        pretrained: PQVAE | None = None,
        lengths: tuple[int, ...] = (),
    ) -> None:
        self.M, self.nbits, self.bits = M, nbits, M * nbits
        self.code = f"{_CODES.get(model.objective, 'PQVAE')}{M}x{nbits}"
        self.lengths = lengths or (self.bits,)
        self.has_prefixes = model.objective == "dpq"
        possible = range(nbits, self.bits + 1, nbits) if self.has_prefixes else (self.bits,)
        if not set(self.lengths) <= set(possible):
            raise ValueError(
                f"expected lengths of {self.code} of {[*possible]} bits, got {self.lengths}"
            )
        self.model, self.training = model, training
        self.folder, self.name = folder, name
        self.pretrained = pretrained
        self.label = f"{name}, {self.bits} bits" + (
            f", seed {training.seed}" if training.seed else ""
        )
        self.log = folder / "training" / "log.jsonl"
        self._built: LatentIndex | None = None
        self.train_s = self.add_s = 0.0

    def method(self, bits: int) -> Method:
        """The row of a length for the runner: every item is scanned, by both kinds of table."""
        searches = ("adc", "sdc")
        if not self.has_prefixes:
            return self._method(self.name, bits, self.code, searches)
        n_levels = bits // self.nbits
        return dataclasses.replace(
            self._method(self.name, bits, self.code, searches, prefix=n_levels),
            build=functools.partial(Prefix, self, n_levels),
        )

    def inverted_file(self, nlist: int) -> Method:
        """The row of an inverted file over the same trained codes, with several nprobe."""
        return self._method(
            f"IVF{nlist},{self.name}",
            self.bits + 8 * list_bytes(nlist),
            f"IVF{nlist},{self.code}",
            tuple(f"nprobe={nprobe}" for nprobe in NPROBES if nprobe <= nlist),
        )

    def _method(
        self, name: str, bits: int, factory: str, searches: tuple[str, ...], **config: Any
    ) -> Method:
        return Method(
            name=name,
            bits=bits,
            build=functools.partial(self._build, factory=factory),
            config={
                "factory": factory,
                "model": dataclasses.asdict(self.model),
                "training": dataclasses.asdict(self.training),
                **({"pretrained": self.pretrained.fingerprint()} if self.pretrained else {}),
                **config,
            },
            searches=searches,
            seed=self.training.seed,
            supervised=self.model.supervised,
        )

    def _build(self, item_shape: tuple[int, ...], *, factory: str) -> LatentIndex:
        index = index_factory(
            item_shape,
            factory,
            model=self.model,
            training=self.training,
            pretrained=self.pretrained,
        )
        assert index.fit is not None
        index.fit = functools.partial(index.fit, folder=self.log.parent)
        if factory == self.code:
            self._built = index
        return index

    def train(
        self, item_shape: tuple[int, ...], x: Source, labels: npt.NDArray[Any] | None
    ) -> LatentIndex:
        """The trained index; trains it the first time.

        Args:
            item_shape: of one item.
            x: (n, *item_shape) items.
            labels: (n,) int64 for a supervised objective, else None.
        """
        if self._built is None or not self._built.is_trained:
            index = self._build(item_shape, factory=self.code)
            index.train(x) if labels is None else index.train(x, labels)
            self.train_s = index.train_s
        assert self._built is not None
        return self._built

    def fill(self, x: Source) -> LatentIndex:
        """The trained index with x in it: (n, *item_shape), the same at every call.

        The first call adds them, or takes the bundle in the folder, if it is that of this training
        and complete.
        """
        assert self._built is not None  # `train` comes before
        if not self._built.ntotal:
            started = time.perf_counter()
            found = self._bundle(len(x))
            if found is None or found.model.fingerprint() != self._built.model.fingerprint():
                self._built.add(x)
            else:
                self._built = found
            self.add_s = time.perf_counter() - started
        return self._built

    def index(self, data: Evaluated) -> LatentIndex:
        """The filled index, written to the folder; read from there when nothing was built."""
        found = None if self._built is not None else self._bundle(len(data.database))
        if found is not None:
            return found
        # Interrupted between the raw results and the bundle, a finished training is read.
        labels = data.labels_to_train if self.model.supervised else None
        self.train(tuple(data.database.shape[1:]), data.train, labels)
        index = self.fill(data.database)
        index.search_type = "adc"
        write_index(index, self.folder)
        return index

    def _bundle(self, n: int) -> LatentIndex | None:
        """The bundle in the folder, if it holds n items."""
        if not (self.folder / "config.json").exists():
            return None
        found = read_index(self.folder)
        return found if found.ntotal == n else None


class Prefix:
    """The first levels of a DPQ code as the runner wants an index; all lengths share one training.

    Args:
        code: which trains and fills the whole index.
        n_levels: how many count.
        item_shape: of one item.
    """

    def __init__(self, code: LearnedCode, n_levels: int, item_shape: tuple[int, ...]) -> None:
        self.code, self.n_levels, self.item_shape = code, n_levels, item_shape
        self.search_type: SearchType = "adc"
        self._index: LatentIndex | None = None

    @property
    def train_s(self) -> float:
        """Seconds of the one training, of all levels."""
        return self.code.train_s

    @property
    def add_s(self) -> float:
        """Seconds in which the whole index was filled, or read."""
        return self.code.add_s

    def train(self, x: Source, labels: npt.NDArray[Any] | None = None, /) -> None:
        """Trains the whole code, if no other prefix did: (n, *item_shape) items, (n,) labels."""
        self.code.train(self.item_shape, x, labels)

    def add(self, x: Source, /) -> None:
        """Fills the whole index, if no other prefix did, with (n, *item_shape) items."""
        self._index = self.code.fill(x).prefix(self.n_levels)

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """D (nq, k) float32 and I (nq, k) int64 of queries (nq, *item_shape), best first."""
        assert self._index is not None  # `add` comes before
        self._index.search_type = self.search_type
        return self._index.search(xq, k)

    def sa_code_size(self) -> int:
        """Bytes per stored vector, known before there is an index."""
        if self._index is not None:
            return self._index.sa_code_size()
        return math.ceil(self.n_levels * self.code.nbits / 8)
