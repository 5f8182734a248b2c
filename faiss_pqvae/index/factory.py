"""One string to an index: what the grammar's items are made of."""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

from faiss_pqvae.index.grammar import CODES, MAX_M, Description, Item, error, parse
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.index.opq import linear_starts
from faiss_pqvae.index.refine import StoredVectors
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.config import ModelConfig, Objective
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import new_residual_index
from faiss_pqvae.training import TrainingConfig, fit
from faiss_pqvae.training.loop import History
from faiss_pqvae.training.objectives.ranking import Metric

_MAX_GROWTH = 2**16  # dimensions that a transform may make out of fewer
_faiss_index_factory = faiss.index_factory  # FAISS's own, whatever `register` does


def index_factory(
    input_shape: int | tuple[int, ...],
    description: str,
    metric_type: int | Literal["cosine"] | None = None,
    *,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    pretrained: PQVAE | None = None,
) -> LatentIndex:
    """Makes an untrained index from a string, as faiss.index_factory does.

    Examples: "PQVAE8x8", "PQVAE16x4fs", "IVF1024,PQVAE16", "HNSW32,PQVAE8", "IDMap2,PQVAE8x6",
    "L2norm,PCA256,PQVAE16", "PQVAE8,RFlat", "PQVAE8,Refine(SQfp16)", "PQVAE8,RDecoder". Inverted
    lists and graphs are over the latents, transforms before the encoder and refinement over the
    items. "DQN4x8" and "DPQ4x8" are codes that are trained with labels.

    Args:
        input_shape: dimension d of vectors, or (c, h, w) of images.
        description: [IDMap,|IDMap2,] [transforms,] [IVF...,|HNSW{m},] PQVAE{M}[x{nbits}][fs]
            [,RFlat|,Refine(...)|,RDecoder]; nbits is 8 by default. DQN{M}[x{nbits}][fs] may
            take PQVAE's place, and DPQ{blocks}[x{nbits}] without inverted lists or graph.
        metric_type: faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT, between latents; "cosine" is
            the inner product between latents of length 1 (`ModelConfig.unit_latents`). None takes
            L2, and for DPQ inner products, which its codes are made for.
        model: networks and bottleneck; its objective is that of DQN and DPQ where they are asked
            for.
        training: how `train` trains. Vectors with a linear encoder and decoder, the default, start
            at the better of OPQ and PQ on a validation split, and never end below it there.
        pretrained: a trained model, such as another index's, whose encoder `train` starts from.

    Returns:
        An index to `train`, `add` to and `search`.

    Raises:
        TypeError: a shape or a description of another type.
        ValueError: a description that does not parse (the message points at the character), a
            parameter out of its range.
    """
    parsed = parse(description)
    dims = input_shape if isinstance(input_shape, tuple) else (input_shape,)
    shape = tuple(operator.index(size) for size in dims)
    model = _with_objective(model or ModelConfig(), parsed)
    if metric_type == "cosine":
        model = replace(model, unit_latents=True)
    metric = _metric(metric_type, parsed.kind)
    transforms = _transforms(parsed, shape)
    network = PQVAE(
        shape if transforms is None else (transforms.d_out,), parsed.M, parsed.nbits, model
    )
    index = LatentIndex(
        network,
        metric,
        fit=functools.partial(
            _fit,
            config=training,
            metric="l2" if metric == faiss.METRIC_L2 else "inner_product",
            pretrained=pretrained,
        ),
        faiss_index=_native(parsed, network.latent_dim, metric),
        transforms=transforms,
        refine_index=_refine_index(parsed, shape, metric),
    )
    index.description = description
    return index


def _with_objective(model: ModelConfig, parsed: Description) -> ModelConfig:
    """The settings with the objective that the code's name asks for."""
    own = {"DQN": "dqn", "DPQ": "dpq"}.get(parsed.kind)
    if own is None and model.supervised:
        raise ValueError(
            f"expected {model.objective.upper()}{{M}}[x{{nbits}}] in the description for the "
            f"objective {model.objective!r}, got {parsed.text!r}"
        )
    if own is None or model.objective == own:
        return model
    if model.objective != "reconstruction":  # which is the default
        raise ValueError(
            f"expected the objective {own!r} for {parsed.text!r}, got {model.objective!r}"
        )
    return replace(model, objective=cast(Objective, own))


def _metric(metric_type: int | str | None, kind: str) -> int:
    """FAISS's number of a metric.

    Raises:
        ValueError: another metric, or one that the kind of code is not searched by.
    """
    metrics: dict[Any, Any] = {"cosine": faiss.METRIC_INNER_PRODUCT}
    metrics[None] = faiss.METRIC_INNER_PRODUCT if kind == "DPQ" else faiss.METRIC_L2
    metric = metrics.get(metric_type, metric_type)
    if metric not in (faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT):
        raise ValueError(
            "expected metric_type faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT or 'cosine', got "
            f"{metric_type!r}"
        )
    if kind == "DPQ" and metric != faiss.METRIC_INNER_PRODUCT:
        raise ValueError("expected faiss.METRIC_INNER_PRODUCT for DPQ, got faiss.METRIC_L2")
    return int(metric)


def _fit(
    model: PQVAE,
    x: Any,
    *,
    config: TrainingConfig | None,
    metric: Metric,
    **options: Any,
) -> History:
    """`training.fit`; a linear code of vectors starts at OPQ."""
    if not starts_at_opq(model.config, model.input_shape):
        return fit(model, x, config, **options)
    starts = functools.partial(
        linear_starts,
        M=model.M,
        nbits=model.nbits,
        d_out=model.latent_dim,
        progress=options.get("progress", True),
    )
    return fit(model, x, config, starts=starts, metric=metric, **options)


def starts_at_opq(config: ModelConfig, input_shape: tuple[int, ...]) -> bool:
    """Whether an index trains such a model from OPQ on: vectors to reconstruct, a matrix each way.

    It is trained for the order of distances; the weights of its reconstruction, lambda among them,
    have no effect.

    Args:
        config: with what depends on the items filled in, see `ModelConfig.for_items`.
        input_shape: of the items.
    """
    linear = (config.encoder, config.decoder) == ("linear", "linear")
    return len(input_shape) == 1 and linear and config.objective == "reconstruction"


def register() -> None:
    """Lets faiss.index_factory understand PQVAE, DQN and DPQ, too; `unregister` undoes it.

    `faiss.index_factory(d, "IVF1024,PQVAE16")` is then what `index_factory` makes; every other
    string goes where it went before. Registering twice is the same as once.
    """
    if not isinstance(faiss.index_factory, _WithPQVAE):
        faiss.index_factory = _WithPQVAE(faiss.index_factory)


def unregister() -> None:
    """Puts back the very faiss.index_factory that was there before `register`."""
    if isinstance(faiss.index_factory, _WithPQVAE):
        faiss.index_factory = faiss.index_factory.before


class _WithPQVAE:
    """A faiss.index_factory that also makes what `index_factory` does.

    Args:
        before: the one that takes every other string.
    """

    def __init__(self, before: Callable[..., Any]) -> None:
        self.before = before
        functools.update_wrapper(self, before)

    def __call__(self, d: Any, description: Any, *args: Any, **options: Any) -> Any:
        if isinstance(description, str) and any(kind in description for kind in CODES):
            return index_factory(d, description, *args, **options)
        return self.before(d, description, *args, **options)


def _native(parsed: Description, d: int, metric_type: int) -> Any:
    """The empty native index over latents of d dimensions."""
    coarse, M, nbits = parsed.coarse, parsed.M, parsed.nbits
    if parsed.kind == "DPQ":
        index = new_residual_index(d, M, nbits)
    elif coarse is None:
        kind = faiss.IndexPQFastScan if parsed.fast_scan else faiss.IndexPQ
        index = kind(d, M, nbits, metric_type)
    elif coarse.text.startswith("HNSW"):
        # FAISS's own factory forgets the metric here.
        if not re.fullmatch("HNSW[0-9]+", coarse.text):
            raise error(parsed.text, coarse.start, "expected HNSW{m}, as in HNSW32")
        links = _links(parsed, coarse)[0]
        index = faiss.IndexHNSWPQ(d, M, links, nbits, metric_type)
    else:
        _links(parsed, coarse)
        code = f"PQ{M}x4fs" if parsed.fast_scan else f"PQ{M}x{nbits}np"
        text = f"{coarse.text},{code}"
        index = _from_faiss(parsed, coarse, d, text, metric_type, "inverted lists")
        if index.nlist < 1:
            raise error(parsed.text, coarse.start, "expected at least one inverted list")
        # The codebooks are those of latents, not of what a coarse centroid leaves over.
        index.by_residual = False
    if parsed.id_map:
        index = getattr(faiss, f"Index{parsed.id_map}")(index)
    return index


def _links(parsed: Description, coarse: Item) -> list[int]:
    """The links of every graph in an item; FAISS crashes with fewer than two."""
    links = []
    for match in re.finditer("HNSW([0-9]+)", coarse.text):
        digits = match[1]
        links.append(int(digits) if len(digits) < 20 else MAX_M + 1)
        if not 2 <= links[-1] <= MAX_M:
            at = coarse.start + match.start(1)
            raise error(parsed.text, at, f"expected HNSW{{m}} with m from 2 to {MAX_M}")
    return links


def _transforms(parsed: Description, shape: tuple[int, ...]) -> Transforms | None:
    if not parsed.transforms:
        return None
    first = parsed.transforms[0]
    if len(shape) != 1:
        raise error(
            parsed.text,
            first.start,
            f"expected items that are vectors for {first.text}, got {shape}",
        )
    d = shape[0]
    for item in parsed.transforms:  # one by one, to know which one is wrong
        text = f"{item.text},Flat"
        index = _from_faiss(parsed, item, d, text, faiss.METRIC_L2, "a transform")
        if not isinstance(index, faiss.IndexPreTransform):
            raise error(parsed.text, item.start, f"expected a transform, got {item.text!r}")
        _check_transform(parsed, item, faiss.downcast_VectorTransform(index.chain.at(0)))
        d = index.index.d
    return Transforms.from_description(shape[0], ",".join(item.text for item in parsed.transforms))


def _check_transform(parsed: Description, item: Item, transform: Any) -> None:
    """Refuses what FAISS could not train."""
    d_in, d_out = transform.d_in, transform.d_out
    shrinks = isinstance(transform, faiss.PCAMatrix | faiss.ITQTransform)
    most = d_in if shrinks else max(d_in, _MAX_GROWTH)
    if not 1 <= d_out <= most:
        raise error(parsed.text, item.start, f"expected 1 to {most} dimensions, got {d_out}")
    if isinstance(transform, faiss.OPQMatrix) and (transform.M < 1 or d_out % transform.M):
        message = f"expected a number that divides {d_out} dimensions, got {transform.M}"
        raise error(parsed.text, item.start, message)


def _refine_index(parsed: Description, shape: tuple[int, ...], metric_type: int) -> Any:
    """What LatentIndex takes as `refine_index`."""
    if parsed.decoder:
        return "decoder"
    if parsed.refine is None:
        return None
    text = parsed.refine.text
    what = "an index to refine with"
    index = _from_faiss(parsed, parsed.refine, math.prod(shape), text, metric_type, what)
    try:
        StoredVectors(index)
    except ValueError as refusal:
        raise error(parsed.text, parsed.refine.start, str(refusal)) from refusal
    return index


def _from_faiss(
    parsed: Description, item: Item, d: int, text: str, metric_type: int, expected: str
) -> Any:
    try:
        return _faiss_index_factory(d, text, metric_type)
    except (RuntimeError, MemoryError) as refusal:
        message = f"expected {expected} that FAISS understands, got {item.text!r}"
        raise error(parsed.text, item.start, message) from refusal
