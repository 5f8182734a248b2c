"""The rows that a learned code is compared with, at one code length."""

from __future__ import annotations

import math
from collections.abc import Collection

from faiss_pqvae.registry import methods

from .method import Method, Request, Shape

M = 8  # sub-quantizers unless another number is asked for: 32, 48 and 64 bits are 4, 6, 8 bits each
# Rows that are learned in seconds on a few thousand items; the others take up to minutes.
FAST = (
    *("Exact L2", "LSH", "Spectral Hashing", "Spherical Hashing", "ITQ", "Deep Hashing"),
    *("PQ", "OPQ"),
)
# Enough beside codes that read labels, which others are no match for; and where every row stores
# the whole database in the order of every query.
YARDSTICKS = ("Exact L2", "ITQ", "PQ", "OPQ", "RQ")


def baselines(
    bits: int, shape: Shape, *, M: int = M, seed: int = 0, only: Collection[str] | None = None
) -> list[Method]:
    """The rows of every method that is registered, at one code length; none of learned codes.

    Of images of more than 256 values all but exact L2 and the raw PQ start with a PCA to 256
    dimensions and say so in their names, except Spectral Hashing: it is a PCA to at most `bits`
    dimensions, and the same one after the first. Of vectors nothing does. Of codes that are no
    whole bytes there are exact L2, LSH, ITQ, and PQ and OPQ of M sub-quantizers.

    Args:
        bits: bits per vector, a multiple of 4 and of M, at most 16 M.
        shape: of one item.
        M: sub-quantizers of the product quantizers.
        seed: of every random choice but exact L2's, which has none. Seed 0 keeps FAISS's own seeds.
        only: names of rows to take, without "PCA+" in front (see FAST for those that are learned in
            seconds); names of rows that there are not here have no effect. None takes all.

    Raises:
        ValueError: `bits`, the values of an item or `M` are out of range, or `only` leaves nothing.
    """
    request = Request(bits, shape, M=M, seed=seed)
    check_request(request)
    rows = [row for name in registered_names() for row in methods.get(name)(request)]
    taken = [row for row in rows if only is None or row.name.removeprefix("PCA+") in only]
    if not taken:
        raise ValueError(f"expected some of {[row.name for row in rows]}, got only {only}")
    return taken


def registered_names() -> list[str]:
    """Names of methods that are registered; what packages merely offer is asked for by name."""
    return [name for name in methods.names() if methods.registered(name) is not None]


def check_request(request: Request) -> None:
    """Checks the sizes of a request.

    Raises:
        ValueError: bits that are no multiple of 4 and of M or more than 16 M; M or d below 1.
    """
    bits, d, M = request.bits, request.d, request.M
    if d < 1 or M < 1:
        raise ValueError(f"expected d >= 1 and M >= 1, got d = {d} and M = {M}")
    step = math.lcm(M, 4)
    if bits % step or not step <= bits <= 16 * M:
        raise ValueError(
            f"expected bits as a multiple of {step} from {step} to {16 * M}, got {bits}"
        )
