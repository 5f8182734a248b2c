"""PQ-VAE as a row of an evaluation."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from faiss_pqvae.bundle import read_index, write_index
from faiss_pqvae.eval.data import Evaluated
from faiss_pqvae.eval.methods import Method
from faiss_pqvae.eval.sweeps import NPROBES, list_bytes
from faiss_pqvae.factory import index_factory
from faiss_pqvae.index import LatentIndex
from faiss_pqvae.model import PQVAE, ModelConfig
from faiss_pqvae.training import TrainingConfig
from faiss_pqvae.training.setup import fingerprint_of


class LearnedCode:
    """PQ-VAE at one code length, as the runner wants it; its files are in a folder of its own.

    Args:
        M: sub-quantizers.
        nbits: bits of each.
        model: networks and bottleneck.
        training: the loop, its seed included.
        folder: for the bundle, with the training's log and checkpoint below it.
        name: of the method.
        pretrained: whose encoder the training starts from.
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
    ) -> None:
        self.M, self.code, self.bits = M, f"PQVAE{M}x{nbits}", M * nbits
        self.model, self.training = model, training
        self.folder, self.name = folder, name
        self.pretrained = pretrained
        self.label = f"{name}, {self.bits} bits" + (
            f", seed {training.seed}" if training.seed else ""
        )
        self.log = folder / "training" / "log.jsonl"
        self._built: LatentIndex | None = None

    def method(self) -> Method:
        """The row for the runner: every item is scanned, by both kinds of table."""
        return self._method(self.name, self.bits, self.code, ("adc", "sdc"))

    def inverted_file(self, nlist: int) -> Method:
        """The row of an inverted file over the same trained codes, with several nprobe."""
        return self._method(
            f"IVF{nlist},{self.name}",
            self.bits + 8 * list_bytes(nlist),
            f"IVF{nlist},{self.code}",
            tuple(f"nprobe={nprobe}" for nprobe in NPROBES if nprobe <= nlist),
        )

    def _method(self, name: str, bits: int, factory: str, searches: tuple[str, ...]) -> Method:
        return Method(
            name=name,
            bits=bits,
            build=functools.partial(self._build, factory=factory),
            config={
                "factory": factory,
                "model": dataclasses.asdict(self.model),
                "training": dataclasses.asdict(self.training),
                **({"pretrained": fingerprint_of(self.pretrained)} if self.pretrained else {}),
            },
            searches=searches,
            seed=self.training.seed,
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

    def index(self, data: Evaluated) -> LatentIndex:
        """The filled index, written to the folder; read from there when nothing was built."""
        if self._built is None and (self.folder / "config.json").exists():
            found = read_index(self.folder)
            if found.ntotal == len(data.database):
                return found
        index = self._built
        if index is None:  # interrupted between the raw results and the bundle
            index = self._build(tuple(data.database.shape[1:]), factory=self.code)
            index.train(data.train)  # finished: its checkpoint is read
            index.add(data.database)
        index.search_type = "adc"
        write_index(index, self.folder)
        return index
