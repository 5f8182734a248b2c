"""Commands that measure: `evaluate` and `demo`."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from faiss_pqvae.cli.indexes import codeword_counts
from faiss_pqvae.eval.data.load import LOADERS, Evaluated, Split, load
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.data.vector_sets import VECTOR_SETS, is_vector_set, load_vectors
from faiss_pqvae.eval.measure.results import Results
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.baselines import FAST, M, Method, baselines
from faiss_pqvae.eval.methods.learned import LearnedCode
from faiss_pqvae.eval.methods.sweeps import inverted_files
from faiss_pqvae.eval.report.page import write_report
from faiss_pqvae.eval.report.tables import comparison_table, sentences, table
from faiss_pqvae.index.bundle import read_index
from faiss_pqvae.model.config import ModelConfig, Objective
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.training import TrainingConfig

_CONTRASTIVE_NBITS = 4  # SPQ's; finds as much as 8 at equal length, and is scanned faster
_NAMES: dict[Objective, str] = {
    "reconstruction": "PQ-VAE",
    "contrastive": "PQ-VAE, contrastive",
    "dqn": "DQN",
    "dpq": "DPQ",
}
_SUPERVISED_BITS: dict[Objective, tuple[int, ...]] = {
    "dqn": (12, 24, 32, 48),
    "dpq": (8, 16, 24, 32),
}
# Beside codes that read labels, others are a yardstick; and every row of the protocol "dqn" stores
# the whole database in the order of every query.
_YARDSTICKS = ("Exact L2", "ITQ", "PQ", "OPQ", "RQ")
# Chosen on images held out of the 4,000: results/choice-mnist5k.json.
_DEMO_MODEL = ModelConfig(width=24, lambda_=0.01)
_DEMO_TRAINING = TrainingConfig(epochs=36, batch_size=128, precision="float32")
_QUICK_TRAINING = dataclasses.replace(_DEMO_TRAINING, epochs=4)
# Chosen in the same way, in trials of 25 to 45 s; at one length only, for the time.
_DEMO_CONTRASTIVE = ModelConfig(objective="contrastive", width=16)
_DEMO_CONTRASTIVE_TRAINING = TrainingConfig(epochs=12, batch_size=64, precision="bfloat16")


def evaluate(
    *,
    dataset: str,
    out: Path,
    protocol: Split = "pqvae",
    bits: tuple[int, ...] = (),
    k: int | None = None,
    also_lambdas: tuple[float, ...] = (),
    seeds: tuple[int, ...] = (0,),
    nlist: int | None = None,
    n_database: int | None = None,
    n_queries: int | None = None,
    pretrained: Path | None = None,
    model: ModelConfig = ModelConfig(),  # noqa: B008 - frozen
    training: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen
) -> None:
    """Measure learned codes, hashing methods, FAISS's quantizers and exact search on a data set.

    The learned code is PQ-VAE, or with the objectives dqn and dpq DQN and DPQ, which learn from the
    labels of images. Every method gets the same items and the same bytes per item. Images are
    judged by their labels (mAP), vectors by their exact nearest neighbours (recall). OUT gets
    results.json, report.html, the raw results, the training logs and a bundle for every training.
    The same command goes on after an interruption.

    Args:
        dataset: mnist5k, mnist, cifar10, cifar10-jpeg or bsds-sift (FAISS_PQVAE_DATA names their
            folder), an HDF5 file of ann-benchmarks, or a folder with base, query and learn files
            (fvecs, bvecs).
        out: folder for results and report.
        protocol: of images. pqvae: training images are the database, test images the queries, and
            dqn and dpq learn from all labels of the database. dqn: 1,000 test images are the
            queries, 5,000 training images have labels to learn from, and all others are the
            database; a row is then 300 MB of raw results. With that protocol, and beside dqn and
            dpq, the baselines are Exact L2, ITQ, PQ, OPQ and RQ.
        bits: code lengths, multiples of 8. Images: 8 sub-quantizers of bits / 8 bits each, and with
            the contrastive objective bits / 4 of 4 bits; 32 and 64 bits by default. Vectors:
            sub-quantizers of 8 bits, 64 and 128 bits by default. DPQ: levels of 8 bits, all lengths
            from one training of the longest; 8, 16, 24 and 32 bits by default. DQN: sub-quantizers
            of 8 bits, or for other multiples of 4 the most bits that divide them (12 bits: 2 of 6);
            12, 24, 32 and 48 bits by default.
        k: results per query; by default 1,000 for images (the whole database with protocol dqn) and
            100 for vectors.
        also_lambdas: trains PQ-VAE with each of these lambdas, too (1 is the paper's own start).
        seeds: repeats every training with each of these seeds.
        nlist: for vectors: adds inverted files of so many lists, for recall against speed.
        n_database: take that many database items only.
        n_queries: take that many queries only.
        pretrained: folder of a trained index whose encoder every training starts from.
        model: networks and bottleneck of the learned code.
        training: its loop.
    """
    vectors = is_vector_set(dataset)
    if nlist is not None and not vectors:
        raise ValueError("expected --nlist with vectors only: images are searched exhaustively")
    if also_lambdas and model.objective != "reconstruction":
        raise ValueError("expected --also-lambdas with the reconstruction objective only")
    if vectors and (model.supervised or protocol != "pqvae"):
        raise ValueError(
            f"expected labelled images for the objective {model.objective!r} with the protocol "
            f"{protocol!r}, got vectors: {dataset}"
        )
    if not vectors and dataset not in LOADERS:
        raise ValueError(
            f"expected one of {sorted({*LOADERS, *VECTOR_SETS})}, or an HDF5 file or a folder of "
            f"vectors that exists, got {dataset!r}"
        )
    data: Evaluated = (
        load_vectors(dataset, n_database=n_database, n_queries=n_queries)
        if vectors
        else load(dataset, protocol=protocol, n_database=n_database, n_queries=n_queries)
    )
    if isinstance(data, VectorData) and data.metric != "l2":
        raise ValueError(
            f"expected neighbours by L2 or by angle, got {dataset} with those of the largest inner "
            "product: no method of the comparison is built for it"
        )
    shape = tuple(data.database.shape[1:])
    training = training.for_shape(shape, contrastive=model.contrastive or model.supervised)
    lengths = bits or _SUPERVISED_BITS.get(model.objective, (64, 128) if vectors else (32, 64))
    trained = None if pretrained is None else read_index(pretrained).model
    # One training of DPQ has all lengths.
    groups = [lengths] if model.objective == "dpq" else [(length,) for length in lengths]
    ours = [
        code
        for group in groups
        for code in _codes(
            group,
            vectors,
            (model, training),
            also_lambdas,
            seeds,
            out,
            pretrained=trained,
        )
    ]
    whole = protocol == "dqn"
    only = _YARDSTICKS if whole or model.supervised else None
    methods = _methods(data, lengths, ours, vectors=vectors, seeds=seeds, nlist=nlist, only=only)
    if k is None:
        k = 100 if vectors else len(data.database) if whole else 1000
    _measure(data, methods, ours, k=k, out=out)


def demo(*, out: Path | None = None, quick: bool = False) -> None:
    """Train on 4,000 MNIST images, search with 1,000 others, compare, and write a report.

    Args:
        out: folder for results and report; by default runs/demo, or runs/demo-quick.
        quick: a few epochs and 32 bits only: shows that everything works, not how well.
    """
    out = out or Path("runs/demo-quick" if quick else "runs/demo")
    data = load("mnist5k")
    lengths = (32,) if quick else (32, 64)
    shape = data.database.shape[1:]
    training = (_QUICK_TRAINING if quick else _DEMO_TRAINING).for_shape(shape)
    settings = _DEMO_MODEL, training
    ours = [code for bits in lengths for code in _codes((bits,), False, settings, (), (0,), out)]
    contrastive = _DEMO_CONTRASTIVE_TRAINING.for_shape(shape, contrastive=True)
    if quick:
        contrastive = dataclasses.replace(contrastive, epochs=1)
    settings = _DEMO_CONTRASTIVE, contrastive
    ours += _codes(lengths[:1], False, settings, (), (0,), out / "contrastive")
    _measure(data, _methods(data, lengths, ours, only=FAST), ours, k=1000, out=out)


def _measure(
    data: Evaluated, methods: Sequence[Method], ours: Sequence[LearnedCode], *, k: int, out: Path
) -> None:
    """Runs and prints the comparison, writes its files and the bundles of the first trainings."""
    results = run(data, methods, out, k=k, command=_command())
    _print(results)
    seed = ours[0].training.seed
    shown = [code for code in ours if code.name in _NAMES.values() and code.training.seed == seed]
    report = write_report(
        results,
        data,
        out,
        trainings={code.label: code.log for code in ours},
        usage={code.label: codeword_counts(code.index(data)) for code in shown},
    )
    print(f"\nresults  {out / 'results.json'}\nreport   {report}")
    for code in shown:
        print(f"index    {code.folder}")


def _codes(
    lengths: tuple[int, ...],
    vectors: bool,
    settings: tuple[ModelConfig, TrainingConfig],
    also_lambdas: Sequence[float],
    seeds: Sequence[int],
    out: Path,
    *,
    pretrained: PQVAE | None = None,
) -> Iterator[LearnedCode]:
    """The learned code of some lengths: the model's lambda and the others, each with every seed."""
    model, training = settings
    bits = max(lengths)
    # Each length is checked, also where one training has all: DPQ's levels are of the same size.
    M, nbits = max(_shape_of_code(length, vectors, model) for length in lengths)
    if model.contrastive and not vectors:
        M, nbits = bits // _CONTRASTIVE_NBITS, _CONTRASTIVE_NBITS
    plain = _NAMES[model.objective]
    folder = model.objective if model.supervised else "pqvae"
    for lambda_ in dict.fromkeys((model.lambda_, *also_lambdas)):
        own = lambda_ == model.lambda_
        suffix = "" if own else f"-lambda{lambda_:g}"
        for seed in seeds:
            suffixes = suffix + (f"-seed{seed}" if seed else "")
            yield LearnedCode(
                M,
                nbits,
                dataclasses.replace(model, lambda_=lambda_),
                dataclasses.replace(training, seed=seed),
                folder=out / f"{folder}-{bits}{suffixes}",
                name=plain if own else f"{plain}, lambda {lambda_:g}",
                pretrained=pretrained,
                lengths=lengths,
            )


def _shape_of_code(bits: int, vectors: bool, model: ModelConfig) -> tuple[int, int]:
    """M and nbits: the paper's 8 sub-quantizers for images, FAISS's usual 8 bits for vectors.

    With labels 8 bits, too, or the most below that divide the whole.
    """
    step = 4 if model.objective == "dqn" else 8
    if bits < step or bits % step:
        raise ValueError(f"expected bits as a multiple of {step}, got {bits}")
    if model.supervised:
        nbits = next(nbits for nbits in range(8, 0, -1) if bits % nbits == 0)
        return bits // nbits, nbits
    return (bits // 8, 8) if vectors else (M, bits // 8)


def _methods(
    data: Evaluated,
    lengths: Sequence[int],
    ours: Sequence[LearnedCode],
    *,
    vectors: bool = False,
    seeds: Sequence[int] = (0,),
    nlist: int | None = None,
    only: Collection[str] | None = None,
) -> list[Method]:
    d = math.prod(data.database.shape[1:])
    methods = []
    for bits in lengths:
        codes = [code for code in ours if bits in code.lengths]
        n_parts, _ = _shape_of_code(bits, vectors, codes[0].model)
        for seed in seeds:
            methods += baselines(bits, d, M=n_parts, seed=seed, only=only)
        methods += [code.method(bits) for code in codes]
        if nlist is not None:
            for seed in seeds:
                methods += inverted_files(n_parts, d, nlist, seed=seed)
            methods += [code.inverted_file(nlist) for code in codes]
    return methods


def _print(results: Results) -> None:
    print(
        f"{results.data}: {results.n_queries:,} queries in {results.n_database:,} items; "
        "* is the best at its bytes\n"
    )
    print(table(results))
    if results.comparisons:
        print("\n".join(["", comparison_table(results), "", *sentences(results)]))


def _command() -> str:
    return shlex.join(["faiss-pqvae", *sys.argv[1:]])
