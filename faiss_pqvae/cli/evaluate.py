"""Commands that measure: `evaluate` and `demo`."""

from __future__ import annotations

import dataclasses
import functools
import math
import shlex
import sys
from pathlib import Path

from faiss_pqvae.bundle import read_index, write_index
from faiss_pqvae.cli.indexes import codeword_counts
from faiss_pqvae.eval.data import LabelledData, load
from faiss_pqvae.eval.methods import M, Method, baselines
from faiss_pqvae.eval.report import write_report
from faiss_pqvae.eval.runner import run
from faiss_pqvae.eval.tables import table
from faiss_pqvae.factory import index_factory
from faiss_pqvae.index import LatentIndex
from faiss_pqvae.model import ModelConfig
from faiss_pqvae.training import TrainingConfig

# Chosen on images held out of the 4,000: results/choice-mnist5k.json.
_DEMO_MODEL = ModelConfig(width=24, lambda_=0.01)
_DEMO_TRAINING = TrainingConfig(epochs=50, batch_size=128, precision="float32")
_QUICK_TRAINING = dataclasses.replace(_DEMO_TRAINING, epochs=4)


def evaluate(
    *,
    dataset: str,
    out: Path,
    bits: tuple[int, ...] = (32, 64),
    k: int = 1000,
    n_database: int | None = None,
    n_queries: int | None = None,
    model: ModelConfig = ModelConfig(),  # noqa: B008 - frozen
    training: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen
) -> None:
    """Measure PQ-VAE, LSH, ITQ, PQ, OPQ and exact search on a labelled data set.

    Every method gets the same pixels and the same bytes per item. OUT gets results.json,
    report.html, the raw results, the training logs and a bundle for every code length. The same
    command goes on after an interruption.

    Args:
        dataset: mnist5k, mnist, cifar10 or cifar10-jpeg; FAISS_PQVAE_DATA names their folder.
        out: folder for results and report.
        bits: code lengths, multiples of 8: 8 sub-quantizers of bits / 8 bits each.
        k: results per query.
        n_database: take that many database items only.
        n_queries: take that many queries only.
        model: networks and bottleneck of PQ-VAE.
        training: its loop.
    """
    data = load(dataset, n_database=n_database, n_queries=n_queries)
    item_shape = tuple(data.database.shape[1:])
    training = training.for_shape(item_shape)
    codes = {
        length: LearnedCode(length, model, training, out / f"pqvae-{length}") for length in bits
    }
    methods = []
    for length, code in codes.items():
        methods += [*baselines(length, math.prod(item_shape)), code.method()]
    results = run(data, methods, out, k=k, command=_command())
    print(
        f"{data.description}: {results.n_queries:,} queries in {results.n_database:,} images; "
        "* is the best at its bytes\n"
    )
    print(table(results))
    report = write_report(
        results,
        data,
        out,
        trainings={code.label: code.log for code in codes.values()},
        usage={code.label: codeword_counts(code.index(data)) for code in codes.values()},
    )
    print(f"\nresults  {out / 'results.json'}\nreport   {report}")
    for code in codes.values():
        print(f"index    {code.folder}")


def demo(*, out: Path | None = None, quick: bool = False) -> None:
    """Train on 4,000 MNIST images, search with 1,000 others, compare, and write a report.

    Args:
        out: folder for results and report; by default runs/demo, or runs/demo-quick.
        quick: a few epochs and 32 bits only: shows that everything works, not how well.
    """
    evaluate(
        dataset="mnist5k",
        out=out or Path("runs/demo-quick" if quick else "runs/demo"),
        bits=(32,) if quick else (32, 64),
        model=_DEMO_MODEL,
        training=_QUICK_TRAINING if quick else _DEMO_TRAINING,
    )


class LearnedCode:
    """PQ-VAE at one code length, as the runner wants it; its files are in a folder of its own.

    Args:
        bits: code length.
        model: networks and bottleneck.
        training: the loop.
        folder: for the bundle, with the training's log and checkpoint below it.
    """

    def __init__(
        self, bits: int, model: ModelConfig, training: TrainingConfig, folder: Path
    ) -> None:
        self.bits, self.model, self.training, self.folder = bits, model, training, folder
        self.factory = f"PQVAE{M}x{bits // M}"
        self.label = f"PQ-VAE, {bits} bits"
        self.log = folder / "training" / "log.jsonl"
        self._built: LatentIndex | None = None

    def method(self) -> Method:
        """The row for the runner."""
        return Method(
            name="PQ-VAE",
            bits=self.bits,
            build=self._build,
            config={
                "factory": self.factory,
                "model": dataclasses.asdict(self.model),
                "training": dataclasses.asdict(self.training),
            },
            searches=("adc", "sdc"),
        )

    def _build(self, item_shape: tuple[int, ...]) -> LatentIndex:
        index = index_factory(item_shape, self.factory, model=self.model, training=self.training)
        assert index.fit is not None
        index.fit = functools.partial(index.fit, folder=self.log.parent)
        self._built = index
        return index

    def index(self, data: LabelledData) -> LatentIndex:
        """The filled index, written to the folder; read from there when nothing was built."""
        if self._built is None and (self.folder / "config.json").exists():
            found = read_index(self.folder)
            if found.ntotal == len(data.database):
                return found
        index = self._built
        if index is None:  # interrupted between the raw results and the bundle
            index = self._build(tuple(data.database.shape[1:]))
            index.train(data.train)  # finished: its checkpoint is read
            index.add(data.database)
        index.search_type = "adc"
        write_index(index, self.folder)
        return index


def _command() -> str:
    return shlex.join(["faiss-pqvae", *sys.argv[1:]])
