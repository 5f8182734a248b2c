"""The command `tune`: the search for lambda."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from faiss_pqvae.cli.options import Learning, options_of
from faiss_pqvae.cli.reading import Data, Images, Labelled, image_arguments, open_labelled
from faiss_pqvae.data.content import key_of_parts
from faiss_pqvae.data.images.cache import decoded
from faiss_pqvae.data.open import ImageOptions
from faiss_pqvae.files import check_folder
from faiss_pqvae.index.factory import index_factory
from faiss_pqvae.index.grammar import parse
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.index.transforms import Transformed
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.registry import objectives
from faiss_pqvae.training import Ranking, Reconstruction, TrainingConfig
from faiss_pqvae.training.tune.scores import QUERIES
from faiss_pqvae.training.tune.search import (
    Part,
    Point,
    Score,
    SearchConfig,
    Tuning,
    default_score,
    full_steps,
    plan,
)
from faiss_pqvae.training.tune.search import tune as search_lambda

_MAP_K = 1000


def tune(
    data: Data,
    /,
    *,
    out: Path,
    factory: str = "PQVAE8x8",
    score: Literal["auto", "view-recall", "recall", "map"] = "auto",
    images: Images = ImageOptions(),  # noqa: B008 - frozen
    search: Annotated[SearchConfig, tyro.conf.arg(name="")] = SearchConfig(),  # noqa: B008 - frozen
    model: ModelConfig = ModelConfig(),  # noqa: B008 - frozen
    training: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen
    learning: Learning = Learning({}),  # noqa: B008 - replaced by the options of objectives
) -> None:
    """Search for lambda, the strength of the quantizer, on held-out items; needs no labels.

    Every lambda is trained for a short time; where the reconstruction error is still near its
    lowest, the best few are trained for longer. OUT/tune.json gets every measurement, also of what
    was stopped. The same command goes on after an interruption.

    Args:
        data: what to train and to measure on; of a data set its database, never its queries.
        out: folder for tune.json and the training logs.
        factory: the index to search for, as in `train`; transforms, M and nbits count.
        score: view-recall (images: how often a changed one finds its original), recall (how often
            the true nearest neighbour is among the 10 nearest codes), map (mean average precision
            at 1,000: reads the labels); auto takes view-recall for images and recall for vectors.
        images: how images in a folder or in Parquet are read.
        search: candidates and budget.
        model: networks and bottleneck; --encoder and --decoder are short for --model.encoder and
            --model.decoder.
        training: the loop; its epochs are the full length, of which the budget is a multiple.
        learning: the objective; its lambda is what is searched for.
    """
    check_folder(out)
    parsed = parse(factory)
    if parsed.kind != Reconstruction.code:
        raise ValueError(
            f"expected PQVAE in the factory to search for a lambda, got {factory!r}: lambda has no "
            "part in what other codes learn"
        )
    items = open_labelled(data, images)
    shape = tuple(items.items.shape[1:])
    objective = learning.objective(parsed.kind, model, shape)
    if isinstance(objective, Ranking):
        raise ValueError(
            "expected a network whose training has a lambda, got vectors with a matrix each way, "
            "whose codes are learned without one. Train them as they are, or give --model.encoder "
            "mlp"
        )
    if not isinstance(objective, Reconstruction):
        raise ValueError(
            "expected the reconstruction objective to search for a lambda, got "
            f"{model.objective!r}: lambda has no part in what its codes learn"
        )
    scoring = _score(score, shape, training, items)
    print(_announcement(len(items.items), training, search, scoring.name), flush=True)
    with decoded(items.items, out) as x:
        result = search_lambda(
            _transformed(x, factory),
            parsed.M,
            parsed.nbits,
            out,
            model=model,
            objective=objective,
            training=training,
            search=search,
            score=scoring,
            facts=_facts(),
        )
    print(_table(result, scoring.name))
    print(_summary(result, search))
    found = dataclasses.replace(objective, lambda_=result.lambda_)
    following = _next(data, factory, images, model, training, found)
    print(f"record  {out / 'tune.json'}\nnext    {following}")


def _transformed(x: Any, factory: str) -> Any:
    """What the encoder gets: the items behind the factory's transforms, fitted to all of them."""
    index = index_factory(tuple(x.shape[1:]), factory)
    if index.transforms is None:
        return x
    return Transformed(x, index.transforms.trained(x, "training data"), "training data")


def _score(
    name: str,
    shape: tuple[int, ...],
    training: TrainingConfig,
    items: Labelled,
) -> Score:
    if name == "map":
        labels = items.labels()
        if labels is None:
            raise ValueError(
                "expected labels for the score 'map': a labelled data set, a folder of images per "
                "class, or a Parquet file with a label column"
            )
        return Score(
            name,
            lambda model, stored, held: mean_precision(model, stored, held, labels),
            labels=key_of_parts(f"{labels.dtype} {labels.shape}", [np.ascontiguousarray(labels)]),
        )
    return default_score(shape, training, None if name == "auto" else name)


def mean_precision(model: PQVAE, stored: Part, held: Part, labels: npt.NDArray[np.int64]) -> float:
    """Mean average precision at 1,000 of held-out items (1,000 at most) among those stored."""
    # Here, because this score alone needs the evaluation.
    from faiss_pqvae.eval.metrics.precision import map_at_k, relevance

    index = LatentIndex(model)
    index.add(stored)
    k = min(_MAP_K, len(stored))
    rows = held.rows[:QUERIES]
    _, I = index.search(held[:QUERIES], k)  # noqa: E741 - FAISS's name
    return float(map_at_k(relevance(I, labels[stored.rows], labels[rows]), k))


def _facts() -> dict[str, Any]:
    from faiss_pqvae.eval.measure.environment import environment

    return {"command": shlex.join(["faiss-pqvae", *sys.argv[1:]]), "environment": environment()}


def _announcement(n: int, training: TrainingConfig, search: SearchConfig, score: str) -> str:
    rungs = plan(n, training, search)
    full, steps = full_steps(n, training), sum(rung.steps for rung in rungs)
    rounds = "; then ".join(
        f"{rung.n_lambdas} lambdas, {rung.epochs} epochs of {rung.items:,} items" for rung in rungs
    )
    return (
        f"searching by {score}: {rounds}\n"
        f"at most {steps:,} steps, {steps / full:.2f} times a training of {training.epochs} epochs"
    )


def _table(result: Tuning, score: str) -> str:
    lines = [
        f"{'rung':>4} {'lambda':>8} {'ratio':>6} {'error':>7} {score:>11} {'perplexity':>10} "
        f"{'epochs':>6}  status"
    ]
    for point in sorted(result.points, key=lambda point: (point.rung, -point.lambda_)):
        inside = point.rung == 0 and point.lambda_ in result.range.lambdas
        lines.append(
            f"{point.rung + 1:>4} {point.lambda_:>8g} {_number(point.distance_ratio):>6} "
            f"{_number(point.reconstruction, 4):>7} {_number(point.score, 4):>11} "
            f"{_number(point.perplexity, 1):>10} {point.epochs:>6}  {_status(point, inside)}"
        )
    return "\n".join(lines)


def _status(point: Point, inside: bool) -> str:
    if point.rung or point.status != "complete":
        return point.status
    return "permitted" if inside else "outside the permissible range"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _summary(result: Tuning, search: SearchConfig) -> str:
    found = result.range
    ends = [
        f"no {name} lambda was tried"
        for name, measured in (("larger", found.low_measured), ("smaller", found.high_measured))
        if not measured
    ]
    note = f" ({'; '.join(ends)})" if ends else ""
    lines = [
        f"permissible range: distance ratio {found.low:.3f} to {found.high:.3f}, where the error "
        f"is at most {found.limit:.4f}{note}",
        f"chosen: lambda = {result.lambda_:g}; {result.steps:,} steps, "
        f"{result.steps / result.full_steps:.2f} times a full training, in "
        f"{result.elapsed_s:.0f} s",
    ]
    if len(search.lambdas) > 1 and result.lambda_ in (min(search.lambdas), max(search.lambdas)):
        lines.append("that is the end of the candidates: try others beyond it")
    return "\n".join(lines)


def _next(
    data: str,
    factory: str,
    images: ImageOptions,
    model: ModelConfig,
    training: TrainingConfig,
    objective: Reconstruction,
) -> str:
    """The command that trains with the lambda that was found."""
    command = ["faiss-pqvae", "train", data, "BUNDLE", "--factory", factory]
    command += image_arguments(images)
    name = objectives.name_of(Reconstruction)
    command += [f"--{name}.lambda_", str(objective.lambda_)]
    usual = dataclasses.replace(Reconstruction(), lambda_=objective.lambda_)
    command += options_of(name, objective, usual)
    command += options_of("model", model, ModelConfig())
    return shlex.join([*command, *options_of("training", training, TrainingConfig())])
