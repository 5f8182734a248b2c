"""PQ-VAE as a row of an evaluation."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from faiss_pqvae.bundle import read_index, write_index
from faiss_pqvae.eval.data import Evaluated
from faiss_pqvae.eval.methods import Method
from faiss_pqvae.eval.sweeps import NPROBES, list_bytes
from faiss_pqvae.factory import index_factory
from faiss_pqvae.index import LatentIndex
from faiss_pqvae.model import PQVAE, ModelConfig
from faiss_pqvae.training import TrainingConfig, fit
from faiss_pqvae.training.loop import History
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
        prefix_of: the longer code that this one is the beginning of, and with whose training it is
            trained: one of its `ModelConfig.prefixes` is M.
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
        prefix_of: LearnedCode | None = None,
        pretrained: PQVAE | None = None,
    ) -> None:
        self.M, self.code, self.bits = M, f"PQVAE{M}x{nbits}", M * nbits
        self.model, self.training = model, training
        self.folder, self.name, self.prefix_of = folder, name, prefix_of
        self.pretrained = pretrained
        self.label = f"{name}, {self.bits} bits" + (
            f", seed {training.seed}" if training.seed else ""
        )
        trained = self if prefix_of is None else prefix_of
        self.log = trained.folder / "training" / "log.jsonl"
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
                **({"prefix_of": self.prefix_of.code} if self.prefix_of else {}),
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
        if self.prefix_of is None:
            index.fit = functools.partial(index.fit, folder=self.log.parent)
        else:
            index.fit = self._fit_with_the_whole
        if factory == self.code:
            self._built = index
        return index

    def _fit_with_the_whole(self, model: PQVAE, x: Any, *, progress: bool = True) -> History:
        """Takes the prefix of the longer code's model; its training is read where it is there."""
        assert self.prefix_of is not None
        whole = PQVAE(model.input_shape, self.prefix_of.M, model.nbits, self.prefix_of.model)
        history = fit(
            whole,
            x,
            self.training,
            folder=self.log.parent,
            progress=progress,
            pretrained=self.pretrained,
        )
        model.load_state_dict(whole.prefix(model.M).state_dict())
        return history

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
