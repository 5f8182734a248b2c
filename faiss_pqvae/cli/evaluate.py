"""Commands that measure: `evaluate` and `demo`."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from faiss_pqvae.cli.behind import Wanted, behind, crop_for, in_some_size
from faiss_pqvae.cli.options import Learning
from faiss_pqvae.cli.recipes import DATASET, QUICK, demo_recipes, note_on_seeds
from faiss_pqvae.data.batches import check_items, read_batches
from faiss_pqvae.data.open import open_source
from faiss_pqvae.data.source import Source
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.data.own import OwnData
from faiss_pqvae.eval.data.protocol import Evaluated, GivenSplit, TrainOn
from faiss_pqvae.eval.data.runbook import WINDOW, read_runbook, window
from faiss_pqvae.eval.measure.failures import FailedMethodsError
from faiss_pqvae.eval.measure.results import Results
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.measure.stream import FILE_NAME as STREAM
from faiss_pqvae.eval.measure.stream import K as STREAM_K
from faiss_pqvae.eval.measure.stream import run_stream
from faiss_pqvae.eval.methods.baselines import FAST
from faiss_pqvae.eval.methods.choice import LEARNED, reference, rows_of
from faiss_pqvae.eval.methods.given import given, opened
from faiss_pqvae.eval.methods.method import Method
from faiss_pqvae.eval.methods.settings import CodeSettings, Tuned, read_bundle
from faiss_pqvae.files import check_folder
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import TrainingConfig
from faiss_pqvae.training.build import resolved_objective

ONE_SEED = (
    "One training each: intervals and p-values are over the queries, and say nothing of other "
    "seeds; --seeds 0 1 2 does."
)
_CODE = "PQVAE"  # unless the objective has codes of its own


def evaluate(
    *,
    dataset: str,
    out: Path,
    protocol: GivenSplit = "pqvae",
    methods: tuple[str, ...] = (),
    index: Path | None = None,
    bits: tuple[int, ...] = (),
    k: int | None = None,
    also_lambdas: tuple[float, ...] = (),
    seeds: tuple[int, ...] = (0,),
    fresh: bool = False,
    nlist: int | None = None,
    n_database: int | None = None,
    n_queries: int | None = None,
    train_on: TrainOn | None = None,
    filters: tuple[float, ...] = (),
    runbook: str | None = None,
    own: Annotated[OwnData, tyro.conf.arg(name="")] = OwnData(),  # noqa: B008 - frozen
    features: str | None = None,
    kept_views: int = 0,
    pretrained: Path | None = None,
    train_queries: Path | None = None,
    model: ModelConfig = ModelConfig(),  # noqa: B008 - frozen
    training: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen
    learning: Learning = Learning({}),  # noqa: B008 - replaced by the options of objectives
) -> None:
    """Measure learned codes, hashing methods, FAISS's quantizers and exact search on a data set.

    The learned code is PQ-VAE, or what the objective makes: dqn and dpq learn from labels. Vectors
    have three rows: what PQVAE8 makes, product codes, and codes that a decoder ranks again. Every
    method gets the same items and the same bytes per item. Items with labels are judged by them
    (mAP), vectors without by their exact nearest neighbours (recall). OUT gets results.json,
    report.html, the raw results, the training logs and a bundle for every training. The same
    command goes on after an interruption. Results that OUT has of the same data, settings and code
    are used again, and it says so; --fresh measures again.

    Args:
        dataset: the name of a data set (mnist5k, mnist, cifar10, cifar10-jpeg, nus-wide, coco,
            flickr25k, imagenet100, bsds-sift, debian-text, and those of ann-benchmarks, TEXMEX and
            VIBE, such as sift1m or yahoo-minilm-384-normalized: where one is missing, the message
            says what goes where; FAISS_PQVAE_DATA names their folder), package.module:attribute, an
            HDF5 file, a folder with base, query and learn files (fvecs, bvecs), a folder with lists
            of images (database.txt, test.txt, train.txt), or data of your own: a folder of images
            per class, Parquet with a column of labels, a .npy file with --labels, or a folder with
            items.npy and labels.npy, or queries.npy and, where real relevance is known, qrels.tsv.
        out: folder for results and report.
        protocol: of items with labels. pqvae: training images are the database, test images the
            queries, and what reads labels reads all of the database. few-labels (dqn is its former
            name): 1,000 test images are the queries, 5,000 training images have labels to learn
            from, and all others are the database; a row is then 300 MB of raw results.
        methods: names of methods, "learned" for the learned code, or package.module:attribute; by
            default all. With few-labels, and beside what reads labels, Exact L2, ITQ, PQ, OPQ, RQ
            and learned.
        index: measure an index that exists: a bundle, or a file of FAISS's, filled with the
            database if it is empty. Nothing is trained beside it but --methods, at its bits.
        bits: code lengths, multiples of 8. Images: 8 sub-quantizers of bits / 8 bits each, and with
            the contrastive objective bits / 4 of 4 bits; 32 and 64 bits by default. Vectors:
            sub-quantizers of 8 bits, 64 and 128 bits by default. DPQ: levels of 8 bits, all lengths
            from one training of the longest; 8, 16, 24 and 32 bits by default. DQN: sub-quantizers
            of 8 bits, or for other multiples of 4 the most bits that divide them (12 bits: 2 of 6);
            12, 24, 32 and 48 bits by default.
        k: results per query; by default 1,000 with labels (the whole database with few-labels) and
            100 for vectors.
        also_lambdas: trains PQ-VAE with each of these lambdas, too (1 is the paper's own start).
        seeds: repeats every training with each of these seeds; the table then has means, and how
            far apart the seeds are.
        fresh: measure again what OUT has results of; a training that is finished is not repeated
            (remove its folder for that).
        nlist: for vectors: adds inverted files of so many lists, for recall against speed.
        n_database: take that many database items only.
        n_queries: take that many queries only; draw so many, where they are drawn.
        train_on: of vectors, what methods learn from: the learn vectors of the set, the base that
            is searched, or half: the first half of the base, and the other half is searched. By
            default the learn vectors where there are some, else the base.
        filters: for vectors: shares of the items, such as 0.01 0.1 0.5, that searches are measured
            among besides, with FAISS's selectors; the nearest are then those among them.
        runbook: for vectors: measure recall while items come and go instead: a .json or .yaml file
            of steps, as big-ann-benchmarks has them, or "window": tenths of the items come one
            after the other, and from the sixth on the oldest goes. Of 10 results unless --k says
            otherwise; every seed has its row. OUT gets stream.json.
        own: data of your own.
        features: of images with labels: a frozen network, such as efficientnet-lite0 or
            package.module:attribute, whose features all methods get in their place, exact search
            among them. They are computed once and kept in OUT/features.
        kept_views: with --features and --model.objective contrastive, dqn or dpq: so many augmented
            views of every training image go through the network, too, and the learned code learns
            from them.
        pretrained: folder of a trained index whose encoder every training starts from.
        train_queries: for vectors: a file of real queries that the learned code learns from, as
            `train --queries` does; none of those that measure.
        model: networks and bottleneck of the learned code; --encoder and --decoder are short for
            --model.encoder and --model.decoder.
        training: its loop.
        learning: the objective.
    """
    _check_end(out)
    learns = LEARNED in methods or (not methods and index is None)
    if train_queries is not None and not learns:
        raise ValueError("expected --train-queries with a learned code to train, got no such row")
    if runbook is not None and (index is not None or filters):
        raise ValueError("expected neither --index nor --filters with a run-book")
    stored = None if index is None else opened(index, model=model)
    if kept_views:
        _check_kept_views(features, model, learns)

    if own.size is not None and features is not None:
        own = replace(own, crop=crop_for(features, own.size, own.mode, own.crop))
    elif own.size is not None and own.crop is None and getattr(stored, "crops", False):
        own = replace(own, crop=True)

    def opened_in(wanted: Wanted | None) -> Evaluated:
        return load(
            dataset,
            protocol=protocol,
            n_database=n_database,
            n_queries=n_queries,
            train_on=train_on,
            filters=filters,
            own=own if wanted is None else replace(own, **wanted._asdict()),
        )

    data = in_some_size(opened_in, Path(dataset), None if own.size else features)
    made = tuned = before = None
    if features is not None:
        data, before, tuned, made, model, training = behind(
            data, features, out / "features", kept_views, model, training
        )
    shape = tuple(data.database.shape[1:])
    wanted, k = k, data.default_k if k is None else k
    rows = [] if index is None else [given(stored, index, shape, len(data.database))]
    if index is not None and not methods:
        measure(data, [*rows, *reference(data)], k=k, out=out, fresh=fresh)
        return
    learned = None
    if not methods or LEARNED in methods:
        objective, product, reranked = _objectives(learning, model, shape, tuned)
        learned = CodeSettings(
            objective=objective,
            product=product,
            reranked=reranked,
            folder=out,
            model=model,
            training=training,
            also_lambdas=also_lambdas,
            pretrained=None if pretrained is None else read_bundle(pretrained, model).model,
            queries=None if train_queries is None else _train_queries(train_queries, data),
            views=made,
            tuned=tuned,
            before=before,
        )
    lengths = bits or tuple(row.bits for row in rows)
    rows += rows_of(data, names=methods, lengths=lengths, seeds=seeds, nlist=nlist, learned=learned)
    if runbook is not None:
        _measure_stream(data, rows, runbook, out, k=wanted or STREAM_K, fresh=fresh)
        return
    measure(data, rows, k=k, out=out, fresh=fresh)


def demo(
    *,
    out: Path | None = None,
    quick: bool = False,
    seeds: tuple[int, ...] = (0,),
    fresh: bool = False,
) -> None:
    """Train on 4,000 MNIST images, search with 1,000 others, compare, and write a report.

    Args:
        out: folder for results and report; by default runs/demo, or runs/demo-quick.
        quick: a few epochs and 32 bits only: shows that everything works, not how well.
        seeds: repeats every training with each of these seeds; the table then has means, and how
            far apart the seeds are. Every seed takes two minutes.
        fresh: measure again what OUT has results of; a training that is finished is not repeated.
    """
    out = out or Path("runs/demo-quick" if quick else "runs/demo")
    _check_end(out)
    data = load(DATASET)
    rows: list[Method] = []
    for recipe in demo_recipes(quick=quick):
        learned = CodeSettings(
            objective=recipe.objective,
            folder=out / recipe.folder,
            model=recipe.model,
            training=recipe.training,
        )
        names = (LEARNED,) if rows else (*FAST, LEARNED)
        rows += rows_of(data, names=names, lengths=recipe.lengths, seeds=seeds, learned=learned)
    note = QUICK if quick else note_on_seeds() if len(seeds) == 1 else ""
    measure(data, rows, k=data.default_k, out=out, note=note, fresh=fresh)


def _check_kept_views(features: str | None, model: ModelConfig, learns: bool) -> None:
    """Refuses views that nothing would learn from, before they are made."""
    if features is None:
        raise ValueError("expected --kept-views with --features, got it without")
    if not learns:
        raise ValueError("expected --kept-views with a learned code to train, got no such row")
    if model.objective is None or "views" not in resolved_objective(model.objective).learns_from:
        raise ValueError(
            "expected --kept-views with --model.objective contrastive, dqn or dpq, got "
            f"{model.objective or 'none'}"
        )


def _objectives(
    learning: Learning, model: ModelConfig, shape: tuple[int, ...], tuned: Tuned | None
) -> tuple[Any, Any, Any]:
    """What is learned, and, of vectors, what product codes learn, and where a decoder ranks."""
    if tuned is not None:  # it is no matrix that learns
        model = replace(model, encoder=tuned.encoder.reference)
    if len(shape) > 1 or tuned is not None:
        return learning.objective(_CODE, model, shape), None, None
    return learning.of_vectors(_CODE, model, shape)


def _train_queries(path: Path, data: Evaluated) -> Source:
    """Queries to learn from.

    Raises:
        TypeError, ValueError: no vectors like the items; some of those that measure.
    """
    what = "training queries"
    found = open_source(path)
    check_items(found, tuple(data.database.shape[1:]), what)
    measuring = set(_rows(data.queries, "queries"))
    for place, row in enumerate(_rows(found, what)):
        if row in measuring:
            raise ValueError(
                f"expected {what} that do not measure, got one of the queries of {data.name} in "
                f"row {place} of {path}"
            )
    return found


def _rows(x: Source, what: str) -> Iterator[bytes]:
    for batch in read_batches(x, 1024, what):
        yield from (row.tobytes() for row in batch.float().numpy())


def _check_end(out: Path) -> None:
    """Asks at the beginning for what the end needs: the libraries of the report, and a folder."""
    importlib.import_module("faiss_pqvae.eval.report")
    check_folder(out)


def measure(
    data: Evaluated, rows: Sequence[Method], *, k: int, out: Path, note: str = "", fresh: bool
) -> None:
    """Runs and prints a comparison, writes its files and what its trainings leave behind.

    Raises:
        FailedMethodsError: methods failed; it is raised when the others are measured and shown.
    """
    command = shlex.join(["faiss-pqvae", *sys.argv[1:]])
    failed = None
    try:
        results = run(data, rows, out, k=k, command=command, note=note, fresh=fresh)
    except FailedMethodsError as error:
        results, failed = error.results, error
    if results.rows:
        _show(results, data, rows, out)
    if failed is not None:
        raise failed


def _measure_stream(
    data: Evaluated, rows: Sequence[Method], runbook: str, out: Path, *, k: int, fresh: bool
) -> None:
    """Runs and prints a comparison under a run-book.

    Raises:
        ValueError: no vectors, or another run-book; methods failed.
    """
    from faiss_pqvae.eval.report.text import stream_table

    if not isinstance(data, VectorData):
        raise ValueError(f"expected vectors without labels for a run-book, got {data.name}")
    n = len(data.database)
    steps = window(n) if runbook == WINDOW else read_runbook(Path(runbook), n, data.name)
    command = shlex.join(["faiss-pqvae", *sys.argv[1:]])
    found = run_stream(data, rows, steps, out, k=k, command=command, fresh=fresh)
    print(stream_table(found))
    print(f"\nresults  {out / STREAM}")
    failed = [one for one in found.left_out if one.failed]
    if failed:
        raise ValueError(f"methods failed: {'; '.join(f'{x.method}: {x.reason}' for x in failed)}")


def _show(results: Results, data: Evaluated, rows: Sequence[Method], out: Path) -> None:
    """Prints results, writes their page, and finishes the trainings behind rows that there are."""
    # Here, so that --help does not draw.
    from faiss_pqvae.eval.report.page import write_report

    print_results(results)
    missing = {(one.method, one.bits, one.seed) for one in results.left_out}
    there = [row for row in rows if (row.name, row.bits, row.seed) not in missing]
    ends = dict.fromkeys(row.finish for row in there if row.finish is not None)
    finished = [end(data) for end in ends]
    report = write_report(
        results,
        data,
        out,
        trainings={one.label: one.log for one in finished if one.log is not None},
        usage={one.label: one.usage for one in finished if one.usage is not None},
    )
    print(f"\nresults  {out / 'results.json'}\nreport   {report}")
    for one in finished:
        if one.folder is not None:
            print(f"index    {one.folder}")


def print_results(results: Results) -> None:
    """Prints the tables of an evaluation, and what a reader has to know of it."""
    from faiss_pqvae.eval.report.text import (
        comparison_table,
        filtered_table,
        levels_table,
        seeds_table,
        sentences,
        table,
    )

    print(
        f"{results.data}: {results.n_queries:,} queries in {results.n_database:,} items; "
        "* is the best at its bytes, > what the others are compared with\n"
    )
    seeds = seeds_table(results)
    marked = any(row.marked for row in results.rows)
    one_seed = "" if seeds or results.note or not marked else ONE_SEED
    compared = "\n".join([comparison_table(results), "", *sentences(results)])
    parts = [table(results), levels_table(results), filtered_table(results), seeds]
    parts += [compared if results.comparisons else "", one_seed, results.note]
    print("\n\n".join(filter(None, parts)))
