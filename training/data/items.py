"""What a training reads: its items, split once, and randomness that a number gives back."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faiss_pqvae.data.batches import check_items, read_rows

Rows = npt.NDArray[np.int64]

WHAT = "training data"  # the name of the items in messages
PART = 1024  # items that are read and encoded at a time
_MAX_HELD_OUT = 5000
_MAX_LENGTH = 1e18


class Items:
    """Training and validation part of a training's items.

    Args:
        x: (n, *shape) uint8 or float: an array, a memory map, a tensor or a source; n >= 4.
        shape: of an item.
        validation_fraction: share that is held out, at most 5,000 items.
        most: items of the training part; the others are in neither part. None takes all.
        labelled: (n,) bool; the validation part then takes its share of those and of the others.
        seed: of everything random.
        device: where items are read to.

    Attributes:
        train_rows: (n_train,) int64, in rising order.
        validation_rows: (n_held,) int64 likewise.

    Raises:
        TypeError, ValueError: items of another shape or dtype, or too few.
    """

    def __init__(
        self,
        x: Any,
        shape: tuple[int, ...],
        *,
        validation_fraction: float,
        most: int | None = None,
        labelled: npt.NDArray[np.bool_] | None = None,
        seed: int,
        device: torch.device,
    ) -> None:
        x = check_items(x, shape, WHAT)
        if len(x) < 4:
            raise ValueError(f"expected at least 4 training items, got {len(x)}")
        self.x, self.seed, self.device = x, seed, device
        rows = torch.randperm(len(x), generator=self.generator("split")).numpy()
        held_out = max(1, round(len(rows) * validation_fraction))
        held_out = min(held_out, _MAX_HELD_OUT, len(rows) - 2)
        if labelled is not None:
            rows = _spread_out(rows, labelled[rows], held_out)
        self.validation_rows: Rows = np.sort(rows[:held_out])
        self.train_rows: Rows = np.sort(rows[held_out:][:most])

    def __len__(self) -> int:
        return len(self.x)

    def generator(self, purpose: str, number: int = 0) -> torch.Generator:
        """A source of randomness that a purpose and the number of a step or an epoch give back."""
        name = f"{self.seed}/{purpose}/{number}".encode()
        return torch.Generator().manual_seed(zlib.crc32(name))

    def read(self, rows: Rows) -> Tensor:
        """Items (len(rows), *shape) on the device."""
        return read_rows(self.x, rows, WHAT).to(self.device)

    def vectors(self, rows: Rows) -> Tensor:
        """Vectors (len(rows), d) float32 on the device, all of which fit into memory.

        Raises:
            ValueError: some so long that float32 does not hold distances between them, without
                which FAISS ends the process.
        """
        x = torch.cat([self.read(part).float() for part in parts(rows)])
        too_long = ~(x.norm(dim=1) < _MAX_LENGTH)
        if too_long.any():
            raise ValueError(
                f"expected {WHAT} of vectors shorter than {_MAX_LENGTH:g}, whose distances float32 "
                f"holds, got longer ones, such as row {rows[int(too_long.nonzero()[0])]}: divide "
                "them by a number"
            )
        return x

    def spread(self, most: int) -> Rows:
        """About so many rows of the training part, at even distances."""
        return self.train_rows[:: max(1, len(self.train_rows) // most)]


def parts(rows: Rows, size: int = PART) -> list[Rows]:
    """Rows in pieces of a size; the last may be smaller."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _spread_out(rows: Rows, labelled: npt.NDArray[np.bool_], held_out: int) -> Rows:
    """The rows in an order whose first `held_out` have their share of the labelled ones."""
    known, others = rows[labelled], rows[~labelled]
    n = max(1, round(held_out * len(known) / len(rows)), held_out - len(others))
    rest = held_out - n
    return np.concatenate([known[:n], others[:rest], known[n:], others[rest:]])
