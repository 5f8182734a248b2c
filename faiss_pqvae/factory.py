"""The grammar: one string to an index."""

from __future__ import annotations

import functools
import operator
import re

from faiss_pqvae.index import LatentIndex
from faiss_pqvae.model import PQVAE, ModelConfig
from faiss_pqvae.native import faiss
from faiss_pqvae.training import TrainingConfig, fit

_CODE = re.compile(r"PQVAE(?P<M>[0-9]+)(?:x(?P<nbits>[0-9]+))?")


def index_factory(
    input_shape: int | tuple[int, ...],
    description: str,
    metric_type: int = faiss.METRIC_L2,
    *,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
) -> LatentIndex:
    """Makes an untrained index from a string, as faiss.index_factory does.

    Args:
        input_shape: dimension d of vectors, or (c, h, w) of images.
        description: "PQVAE{M}[x{nbits}]", for example "PQVAE8x8"; nbits is 8 by default.
        metric_type: faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT, between latents.
        model: networks and bottleneck.
        training: how `train` trains.

    Returns:
        An index to `train`, `add` to and `search`.

    Raises:
        TypeError: a shape or a description of another type.
        ValueError: a description that does not parse, a parameter out of its range.
    """
    if not isinstance(description, str):
        raise TypeError(f"expected a description string, got {type(description).__name__}")
    M, nbits = parse(description)
    dims = input_shape if isinstance(input_shape, tuple) else (input_shape,)
    shape = tuple(operator.index(size) for size in dims)
    return LatentIndex(
        PQVAE(shape, M, nbits, model),
        metric_type,
        fit=functools.partial(fit, config=training),
    )


def parse(description: str) -> tuple[int, int]:
    """Reads "PQVAE{M}[x{nbits}]".

    Returns:
        M and nbits.

    Raises:
        ValueError: anything else.
    """
    match = _CODE.fullmatch(description)
    if match:
        return int(match["M"]), int(match["nbits"] or 8)
    if "PQVAE" not in description:
        raise ValueError(
            f"expected a description such as 'PQVAE8x8', got {description!r}; for indexes without "
            "a learned encoder use faiss.index_factory"
        )
    raise ValueError(
        f"expected 'PQVAE{{M}}[x{{nbits}}]' and nothing around it, got {description!r}"
    )
