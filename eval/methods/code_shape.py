"""How many sub-quantizers a learned code has, of how many bits: asked of its objective."""

from __future__ import annotations

import dataclasses
from typing import Any

from .method import Shape

M_OF_IMAGES = 8  # the paper's: 32, 48 and 64 bits are 4, 6 and 8 bits each
NBITS_OF_VECTORS = 8  # FAISS's usual
NBITS_OF_UNIT_PARTS = 4  # SPQ's; finds as much as 8 at equal length, and is scanned faster
LENGTHS_OF_IMAGES, LENGTHS_OF_VECTORS = (32, 64), (64, 128)
# Those that DQN's and DPQ's papers print.
LENGTHS_WITH_LABELS = {"product": (12, 24, 32, 48), "residual": (8, 16, 24, 32)}


def reads_labels(objective: Any) -> bool:
    """Whether an objective learns from labels."""
    return "labels" in objective.learns_from


def is_residual(objective: Any) -> bool:
    """Whether every prefix of an objective's codes is a code."""
    return bool(_spec(objective).structure == "residual")


def has_lambda(objective: Any) -> bool:
    """Whether an objective has a strength of the quantizer among its settings."""
    return "lambda_" in {field.name for field in dataclasses.fields(objective)}


def usual_lengths(shape: Shape, objective: Any = None) -> tuple[int, ...]:
    """The bits that are compared when nobody says which.

    Args:
        shape: of one item.
        objective: what the learned code learns, or None.
    """
    if objective is not None and reads_labels(objective):
        return LENGTHS_WITH_LABELS[_spec(objective).structure]
    return LENGTHS_OF_VECTORS if len(shape) == 1 else LENGTHS_OF_IMAGES


def shape_of_codes(bits: int, shape: Shape, objective: Any = None) -> tuple[int, int]:
    """M and nbits of the product codes of a comparison.

    With labels nbits is 8, or the most below that divide the whole, which must be of whole bytes if
    residual, of half bytes if not. Else the paper's 8 sub-quantizers for images, and 8 bits each
    for vectors.

    Raises:
        ValueError: bits that no such code has.
    """
    labels = objective is not None and reads_labels(objective)
    step = 4 if labels and not is_residual(objective) else 8
    if bits < step or bits % step:
        raise ValueError(f"expected bits as a multiple of {step}, got {bits}")
    if labels:
        nbits = next(nbits for nbits in range(8, 0, -1) if bits % nbits == 0)
        return bits // nbits, nbits
    if len(shape) == 1:
        return bits // NBITS_OF_VECTORS, NBITS_OF_VECTORS
    return M_OF_IMAGES, bits // M_OF_IMAGES


def shape_of_learned_code(bits: int, shape: Shape, objective: Any) -> tuple[int, int]:
    """M and nbits of a learned code, which may be another product than those it is compared with.

    Raises:
        ValueError: bits that no such code has.
    """
    M, nbits = shape_of_codes(bits, shape, objective)
    if len(shape) > 1 and _spec(objective).latents == "unit parts":
        return bits // NBITS_OF_UNIT_PARTS, NBITS_OF_UNIT_PARTS
    return M, nbits


def _spec(objective: Any) -> Any:
    return objective.spec(unit=False, metric=None)
