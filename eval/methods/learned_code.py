"""A learned code and its files: the face of this package, as anyone would use it."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae import (
    PQVAE,
    LatentIndex,
    ModelConfig,
    TrainingConfig,
    index_factory,
    write_index,
)
from faiss_pqvae.data.batches import content_key
from faiss_pqvae.data.source import Source
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.registry import decoders, encoders, objectives
from faiss_pqvae.types import CodeArray, IdArray

from ..data.brute_force import Metric
from ..data.protocol import Evaluated, LabelArray
from ..faiss_library import faiss
from .code_shape import is_residual, reads_labels
from .inverted import NPROBES, list_bytes
from .learned_index import Behind, Scanned, kept_bytes
from .method import Finished, Method, Shape, check_enough
from .settings import Before, Tuned, is_foreign, read_bundle

LEAST_ITEMS = 4  # that a training takes: some are held out


class LearnedCode:
    """A learned code; its files are in a folder of its own.

    Product codes are trained for one length. Of residual codes every prefix is a code: one
    training, and one index that is filled once, serve several lengths.

    Args:
        M: sub-quantizers, or levels.
        nbits: bits of each.
        model: networks and bottleneck.
        training: the loop, its seed included.
        objective: what is learned, with its settings; None takes the model's.
        folder: for the bundle, with the training's log and checkpoint below it.
        name: of the method; the objective's title by default.
        pretrained: whose encoder the training starts from.
        queries: real ones to learn from besides, see `LatentIndex.train`.
        views: of the training items, made before, likewise.
        tuned: the encoder, and the items as it gets them.
        before: what made the items, behind which bundles are written.
        lengths: in bits; what there are rows of. Of residual codes multiples of nbits up to
            M * nbits, of others M * nbits alone, which is the default.
        shown: whether the index is kept, and how often it has its codewords goes into the report.
        reranked: whether the decoder ranks candidates again.
        coded: the code without that, of the same training, whose codes are taken where there are
            some. What encoding took is then what it took there.
        metric: of distances between vectors.

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
        objective: Any = None,
        name: str | None = None,
        pretrained: PQVAE | None = None,
        queries: Any = None,
        views: Any = None,
        tuned: Tuned | None = None,
        before: Before | None = None,
        lengths: tuple[int, ...] = (),
        shown: bool = True,
        reranked: bool = False,
        coded: LearnedCode | None = None,
        metric: Metric = "l2",
    ) -> None:
        self.objective = _settings_of(model.objective if objective is None else objective)
        self.M, self.nbits, self.bits = M, nbits, M * nbits
        self.reranked = reranked
        self.code = f"{self.objective.code}{M}x{nbits}{',RDecoder' if reranked else ''}"
        self.lengths = lengths or (self.bits,)
        self.has_prefixes = is_residual(self.objective)
        possible = range(nbits, self.bits + 1, nbits) if self.has_prefixes else (self.bits,)
        if not set(self.lengths) <= set(possible):
            raise ValueError(
                f"expected lengths of {self.code} of {[*possible]} bits, got {self.lengths}"
            )
        self.model, self.training, self.pretrained = model, training, pretrained
        self.queries, self.views, self.tuned = queries, views, tuned
        self.before = before
        self.metric: Metric = metric
        self.folder, self.shown = folder, shown
        self.name = (name or self.objective.title) + (", re-ranked" if reranked else "")
        seed = f", seed {training.seed}" if training.seed else ""
        self.label = f"{self.name}, {self.bits} bits{seed}"
        self.log = folder / "training" / "log.jsonl"
        self.foreign = foreign_parts(model, self.objective)
        self._coded = coded
        self._built: LatentIndex | None = None
        self._is_written = False  # whether that is the bundle in the folder
        self.train_s = self.add_s = 0.0
        self.model_bytes = 0

    def method(self, bits: int, item_shape: Shape) -> Method:
        """The row of a length for the runner: every item is scanned, by both kinds of table.

        With the decoder it is scanned by one, and there is a row with as many candidates as results
        (of 100 results the first 10 are what 10 results with a k_factor of 10 are), and one with as
        many as the index has by itself.
        """
        n_levels = bits // self.nbits if self.has_prefixes else None
        config = {"factory": self.code} | ({} if n_levels is None else {"prefix": n_levels})
        build = functools.partial(Scanned, self, n_levels)
        searches: tuple[str, ...] = ("adc", "sdc")
        if self.reranked:
            own = self.new(item_shape, self.code).k_factor
            searches = tuple(f"k_factor={value:g}" for value in sorted({1.0, own}))
        return self._method(self.name, bits, build, config, searches, item_shape)

    def inverted_file(self, nlist: int, item_shape: Shape) -> Method:
        """The row of an inverted file over the same trained codes, with several nprobe.

        The decoder ranks as many candidates as there are results.
        """
        factory = f"IVF{nlist},{self.code}"
        also = ",k_factor=1" if self.reranked else ""
        return self._method(
            f"IVF{nlist},{self.name}",
            self.bits + 8 * list_bytes(nlist),
            functools.partial(Behind, self, factory),
            {"factory": factory},
            tuple(f"nprobe={nprobe}{also}" for nprobe in NPROBES if nprobe <= nlist),
            item_shape,
        )

    def _method(
        self,
        name: str,
        bits: int,
        build: Any,
        config: dict[str, Any],
        searches: tuple[str, ...],
        item_shape: Shape,
    ) -> Method:
        model = self.new(item_shape, self.code).model  # with everything filled in
        objective, training = self.objective.settled(model, self.training)
        return Method(
            name=name,
            bits=bits,
            build=build,
            config={
                **config,
                "model": dataclasses.asdict(model.config),
                "training": dataclasses.asdict(training),
                "objective": {
                    "name": objectives.name_of(type(objective)),
                    **dataclasses.asdict(objective),
                },
                **({"pretrained": self.pretrained.fingerprint()} if self.pretrained else {}),
                **({"items": self.tuned.key} if self.tuned else {}),
                **{
                    what: _key_of_given(given, what)
                    for what, given in (("queries", self.queries), ("views", self.views))
                    if given is not None
                },
            },
            searches=searches,
            seed=self.training.seed,
            supervised=reads_labels(self.objective),
            finish=self.finish,
            marked=True,
            code=self.foreign,
            data=None if self.tuned is None else self.tuned.data,
        )

    def new(self, item_shape: Shape, factory: str) -> LatentIndex:
        """An untrained index."""
        return index_factory(
            item_shape,
            factory,
            model=self.model,
            training=self.training,
            objective=self.objective,
            pretrained=self.pretrained,
            encoder=None if self.tuned is None else self.tuned.encoder,
            metric_type=None if self.metric == "l2" else self.metric,
        )

    def train(
        self, index: LatentIndex, x: Source, labels: LabelArray | None, *, whole: bool = False
    ) -> None:
        """Trains an index with x: (n, *item_shape); log and checkpoint are in the folder.

        Raises:
            TooFewItemsError: for any training, or for k-means of inverted lists.
        """
        check_enough(len(x), LEAST_ITEMS, "a training")
        lists = faiss.try_extract_index_ivf(index.faiss_index)
        if lists is not None:
            check_enough(len(x), lists.nlist, f"k-means of {lists.nlist} inverted lists")
        folder = self.log.parent
        if lists is not None and lists.by_residual:  # another model: of what centroids leave over
            folder = folder.with_name(f"{folder.name}-ivf{lists.nlist}")
        index.train(x, labels, queries=self.queries, views=self.views, folder=folder)
        if whole:
            self._built, self.train_s = index, index.train_s
            self.model_bytes = kept_bytes(index)

    def trained(self, item_shape: Shape, x: Source, labels: LabelArray | None) -> LatentIndex:
        """The index over all items; trains it the first time."""
        if self._built is None:
            self.train(self.new(item_shape, self.code), x, labels, whole=True)
        assert self._built is not None
        return self._built

    def fill(self, x: Source, *, from_bundle: bool = True) -> LatentIndex:
        """The trained index with x in it: (n, *item_shape), the same at every call.

        The first call adds them, or takes the bundle in the folder, if it may, and if it is that of
        this training and complete.
        """
        assert self._built is not None  # `trained` comes before
        if not self._built.ntotal:
            started = time.perf_counter()
            found = self._bundle(x) if from_bundle else None
            if found is not None and _are_same(found, self._built):
                self._built, self._is_written = found, True
            elif self._coded is not None and self._coded.has_coded(x, self._built):
                self._built.add_sa_codes(_codes(self._coded.fill(x)))
                self.add_s = self._coded.add_s
                return self._built
            else:
                self._built.add(x)
            self.add_s = time.perf_counter() - started
        return self._built

    def has_coded(self, x: Source, index: LatentIndex) -> bool:
        """Whether this code's index has the codes that another one would give to x."""
        mine = self._built
        return mine is not None and mine.ntotal == len(x) and _are_same(mine, index)

    def index(self, data: Evaluated) -> LatentIndex:
        """The filled index, written to the folder; from there where it is that of this training."""
        # Of a finished training the weights are read, and nothing is trained again.
        labels = data.labels_to_train if reads_labels(self.objective) else None
        self.trained(tuple(data.database.shape[1:]), data.train, labels)
        index = self.fill(data.database)
        index.search_type = "adc"
        if self._is_written:
            return index
        self._held.unlink(missing_ok=True)  # it is of the bundle before
        self._write(index)
        replace_bytes(self._held, json.dumps({"items": _key_of(data.database)}).encode())
        return index

    def _write(self, index: LatentIndex) -> None:
        """Writes the bundle: behind what made the items, where something did."""
        if self.tuned is not None:
            config = index.model.config
            index.model.config = dataclasses.replace(config, fine_tuned=self.tuned.n_parts)
        front = index.front
        if self.before is not None:
            index.front = self.before.front
        try:
            write_index(index, self.folder)
        finally:
            index.front = front

    def finish(self, data: Evaluated) -> Finished:
        """Writes the index, where it is shown, and counts its codewords."""
        if not self.shown:
            return Finished(self.label, self.log)
        data = data if self.tuned is None else self.tuned.data
        usage = codeword_counts(self.index(data), self.M, self.nbits)
        return Finished(self.label, self.log, usage, self.folder)

    @property
    def _held(self) -> Path:
        """The file that says what the items in the bundle are."""
        return self.folder / "held.json"

    def _bundle(self, x: Source) -> LatentIndex | None:
        """The bundle in the folder, if its items are those of x."""
        try:
            held = json.loads(self._held.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if held != {"items": _key_of(x)}:
            return None
        encoder = None if self.before is None else self.before.encoder
        found = read_bundle(self.folder, self.model, encoder=encoder)
        if self.before is not None:
            found.front = None  # the items are there as it made them
        return found if found.ntotal == len(x) else None


def _key_of(x: Source) -> str:
    return content_key(x, "items of the database")


def _key_of_given(x: Source, what: str) -> str:
    return content_key(x, f"training {what}", progress=False)


def foreign_parts(model: ModelConfig, objective: Any) -> tuple[Any, ...]:
    """The networks and the objective of a code that are not ours: what their names stand for."""
    named = [(encoders, model.encoder), (decoders, model.decoder)]
    parts = [registry.get(name) for registry, name in named if name is not None]
    return tuple(part for part in (*parts, type(objective)) if is_foreign(part))


def _are_same(a: LatentIndex, b: LatentIndex) -> bool:
    """Whether two trained indexes, of one description but for a decoder, give the same codes."""
    return (a.model.fingerprint(), a.effort) == (b.model.fingerprint(), b.effort)


def _codes(index: LatentIndex) -> CodeArray:
    """The codes (ntotal, sa_code_size()) uint8 of an index that scans all of them."""
    codes: CodeArray = faiss.vector_to_array(index.faiss_index.codes)
    return codes.reshape(-1, index.sa_code_size())


def codeword_counts(index: LatentIndex, M: int, nbits: int) -> IdArray:
    """How often the items of an index have each codeword: (M, ksub) int64."""
    ids = faiss.unpack_bitstrings(_codes(index), M, nbits)
    return np.stack([np.bincount(of_one, minlength=2**nbits) for of_one in ids.T])


def _settings_of(objective: Any) -> Any:
    """An objective with its settings, of a name, a reference, a class or itself."""
    found: Any = objectives.get(objective)
    return found() if isinstance(found, type) else found
