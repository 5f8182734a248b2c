"""One string to an index: what the grammar's items are made of."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import replace
from typing import Any, Literal

from faiss_pqvae.grammar import Description, Item, error, parse
from faiss_pqvae.index import LatentIndex
from faiss_pqvae.model import PQVAE, ModelConfig
from faiss_pqvae.native import faiss
from faiss_pqvae.training import TrainingConfig, fit
from faiss_pqvae.transforms import Transforms

_faiss_index_factory = faiss.index_factory  # FAISS's own, whatever `register` does


def index_factory(
    input_shape: int | tuple[int, ...],
    description: str,
    metric_type: int | Literal["cosine"] = faiss.METRIC_L2,
    *,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
) -> LatentIndex:
    """Makes an untrained index from a string, as faiss.index_factory does.

    Examples: "PQVAE8x8", "PQVAE16x4fs", "IVF1024,PQVAE16", "HNSW32,PQVAE8", "IDMap2,PQVAE8x6",
    "L2norm,PCA256,PQVAE16", "PQVAE8,RFlat", "PQVAE8,Refine(SQfp16)", "PQVAE8,RDecoder". Inverted
    lists and graphs are over the latents, transforms before the encoder and refinement over the
    items.

    Args:
        input_shape: dimension d of vectors, or (c, h, w) of images.
        description: [IDMap,|IDMap2,] [transforms,] [IVF...,|HNSW{m},] PQVAE{M}[x{nbits}][fs]
            [,RFlat|,Refine(...)|,RDecoder]; nbits is 8 by default.
        metric_type: faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT, between latents; "cosine" is
            the inner product between latents of length 1 (`ModelConfig.unit_latents`).
        model: networks and bottleneck.
        training: how `train` trains.

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
    model = model or ModelConfig()
    if metric_type == "cosine":
        metric_type, model = faiss.METRIC_INNER_PRODUCT, replace(model, unit_latents=True)
    transforms = _transforms(parsed, shape)
    network = PQVAE(
        shape if transforms is None else (transforms.d_out,), parsed.M, parsed.nbits, model
    )
    index = LatentIndex(
        network,
        metric_type,
        fit=functools.partial(fit, config=training),
        faiss_index=_native(parsed, network.latent_dim, metric_type),
        transforms=transforms,
        refine_index=_refine_index(parsed, shape, metric_type),
    )
    index.description = description
    return index


def register() -> None:
    """Lets faiss.index_factory understand PQVAE, too; `unregister` undoes it.

    `faiss.index_factory(d, "IVF1024,PQVAE16")` is then what `index_factory` makes; every other
    string goes where it went before. Registering twice is the same as once.
    """
    faiss.index_factory = _with_pqvae


def unregister() -> None:
    """Gives faiss.index_factory back as FAISS has it."""
    faiss.index_factory = _faiss_index_factory


@functools.wraps(_faiss_index_factory)
def _with_pqvae(d: Any, description: str, *args: Any, **options: Any) -> Any:
    if isinstance(description, str) and "PQVAE" in description:
        return index_factory(d, description, *args, **options)
    return _faiss_index_factory(d, description, *args, **options)


def _native(parsed: Description, d: int, metric_type: int) -> Any:
    """The empty native index over latents of d dimensions."""
    coarse, M, nbits = parsed.coarse, parsed.M, parsed.nbits
    if coarse is None:
        kind = faiss.IndexPQFastScan if parsed.fast_scan else faiss.IndexPQ
        index = kind(d, M, nbits, metric_type)
    elif coarse.text.startswith("HNSW"):
        # FAISS's own factory forgets the metric here.
        links = coarse.text.removeprefix("HNSW")
        if not (links.isascii() and links.isdigit() and int(links) >= 2):
            raise error(parsed.text, coarse.start, "expected HNSW{m} with m >= 2, as in HNSW32")
        index = faiss.IndexHNSWPQ(d, M, int(links), nbits, metric_type)
    else:
        code = f"PQ{M}x4fs" if parsed.fast_scan else f"PQ{M}x{nbits}np"
        index = _from_faiss(parsed, coarse, d, f"{coarse.text},{code}", metric_type)
        if index.nlist < 1:
            raise error(parsed.text, coarse.start, "expected at least one inverted list")
        # The codebooks are those of latents, not of what a coarse centroid leaves over.
        index.by_residual = False
    if parsed.id_map:
        index = getattr(faiss, f"Index{parsed.id_map}")(index)
    return index


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
        transform = _from_faiss(parsed, item, d, f"{item.text},Flat", faiss.METRIC_L2)
        if not isinstance(transform, faiss.IndexPreTransform):
            raise error(parsed.text, item.start, f"expected a transform, got {item.text}")
        d_in, d = d, transform.index.d
        grows = isinstance(transform.chain.at(0), faiss.PCAMatrix | faiss.ITQTransform)
        if d < 1 or (grows and d > d_in):
            raise error(parsed.text, item.start, f"expected 1 to {d_in} dimensions, got {d}")
    chain = ",".join(item.text for item in parsed.transforms)
    return Transforms(_faiss_index_factory(shape[0], f"{chain},Flat"))


def _refine_index(parsed: Description, shape: tuple[int, ...], metric_type: int) -> Any:
    """What LatentIndex takes as `refine_index`."""
    if parsed.decoder:
        return "decoder"
    if parsed.refine is None:
        return None
    index = _from_faiss(parsed, parsed.refine, math.prod(shape), parsed.refine.text, metric_type)
    # An inverted file keeps ids that are no places.
    is_ivf = parsed.coarse is not None and not parsed.coarse.text.startswith("HNSW")
    return faiss.IndexIDMap2(index) if is_ivf else index


def _from_faiss(parsed: Description, item: Item, d: int, text: str, metric_type: int) -> Any:
    try:
        return _faiss_index_factory(d, text, metric_type)
    except RuntimeError as refusal:
        raise error(
            parsed.text, item.start, f"FAISS does not understand {item.text!r}"
        ) from refusal
