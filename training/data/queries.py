"""Real queries, where they are not like the items: some to learn from, the others to judge by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.data.batches import check_items, content_key, read_rows, sample_rows

WHAT = "training queries"  # their name in messages
LEAST = 40  # a share of fewer tells nothing
_HELD_OUT = 0.3  # they are few, and decide what is kept
_MOST = 20_000


@dataclass(frozen=True)
class Queries:
    """Queries that a training is given, split once.

    Attributes:
        train: (n, d) float32, to learn from.
        held_out: (m, d) float32, to judge by.
        key: of the content of all, see `content_key`.
    """

    train: Tensor
    held_out: Tensor
    key: str


def check_queries(queries: Any) -> Any:
    """Whether there are enough queries to learn from; None for none.

    Raises:
        ValueError: too few.
    """
    if queries is not None and len(queries) < LEAST:
        raise ValueError(
            f"expected at least {LEAST} {WHAT}, of which some are held out to judge by, got "
            f"{len(queries)}"
        )
    return queries


def split_queries(
    x: Any,
    shape: tuple[int, ...],
    *,
    unit: bool,
    generator: torch.Generator,
    device: torch.device,
) -> Queries:
    """Reads and splits queries; of very many a sample.

    Args:
        x: (n, d) uint8 or float, what `check_queries` returned.
        shape: (d,) of an item.
        unit: bring them to length 1, as the items are.
        generator: of the split.
        device: where they go.

    Raises:
        TypeError, ValueError: queries of another shape or dtype than items; NaN or infinity.
    """
    x = check_items(x, shape, WHAT)
    key = content_key(x, WHAT, progress=False)
    found = read_rows(x, sample_rows(len(x), _MOST), WHAT).float().to(device)
    found = functional.normalize(found) if unit else found
    order = torch.randperm(len(found), generator=generator)
    n = int(_HELD_OUT * len(found))
    held_out, train = (rows.sort().values.to(device) for rows in (order[:n], order[n:]))
    return Queries(found[train], found[held_out], key)
