"""Checks at the edge: what callers hand to `train`, `add` and `search`, batch by batch."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_TOLERANCE = 1e-3  # resizing and rounding may leave [0, 1] by a little


def check_items(
    x: Any, item_shape: tuple[int, ...], what: str, *, may_be_empty: bool = False
) -> None:
    """Checks type, dtype and shape of a set of items; reads none of them.

    Args:
        x: anything with a shape, a dtype and rows by slice: an array, a memory map, a tensor, a
            source from `faiss_pqvae.data.open`.
        item_shape: expected shape of one item, (c, h, w) or (d,).
        what: its name in messages.
        may_be_empty: take no items, too.

    Raises:
        TypeError: no array, or a dtype that is neither uint8 nor a float.
        ValueError: a wrong shape; no item, where there has to be one.
    """
    shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
    if shape is None or dtype is None or not hasattr(x, "__getitem__"):
        raise TypeError(
            f"expected {what} as an array (n, {', '.join(map(str, item_shape))}) of uint8 or "
            f"floats, got {type(x).__name__}"
        )
    floating = (
        dtype.is_floating_point
        if isinstance(dtype, torch.dtype)
        else np.issubdtype(dtype, np.floating)
    )
    if not floating and dtype not in (torch.uint8, np.dtype(np.uint8)):
        raise TypeError(f"expected {what} of dtype uint8 or float, got {dtype}")
    if tuple(shape[1:]) != item_shape:
        raise ValueError(
            f"expected {what} of shape (n, {', '.join(map(str, item_shape))}), got {tuple(shape)}"
        )
    if shape[0] == 0 and not may_be_empty:
        raise ValueError(f"expected at least one item in {what}, got shape {tuple(shape)}")


def read_rows(x: Any, rows: Any, what: str, start: int = 0) -> Tensor:
    """Reads rows into a tensor of their own dtype (float64 and float16 become float32).

    Args:
        x: what `check_items` accepted.
        rows: a slice or an int64 array.
        what: its name in messages.
        start: number of the first row of a slice, for messages.

    Raises:
        ValueError: NaN or infinity (the message gives the first such row); float images that
            leave [0, 1].
    """
    chunk = x[rows]
    if isinstance(chunk, Tensor):
        batch = chunk.detach()
    else:
        array = np.asarray(chunk)
        # torch must not write through a read-only array, and takes no negative strides.
        batch = torch.from_numpy(array if array.flags.carray else array.copy())
    if batch.dtype == torch.uint8:
        return batch
    batch = batch.float()
    finite = batch.isfinite().flatten(1).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0, 0])
        row = start + first if isinstance(rows, slice) else int(rows[first])
        raise ValueError(f"expected finite {what}, got NaN or infinity in row {row}")
    if batch.ndim == 4 and len(batch):
        low, high = (float(value) for value in batch.aminmax())
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise ValueError(
                f"expected float images in [0, 1] for {what}, got values from {low:.4g} to "
                f"{high:.4g}: divide by 255, or give uint8"
            )
    return batch


def read_batches(x: Any, batch_size: int, what: str) -> Iterator[Tensor]:
    """Reads all rows in order, `batch_size` at a time; see `read_rows`."""
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, got {batch_size}")
    for start in range(0, len(x), batch_size):
        yield read_rows(x, slice(start, start + batch_size), what, start)
        _let_go(x)


def read_sample(x: Any, n: int, what: str) -> Tensor:
    """At most n rows, spread over all of them, in order and always the same; see `read_rows`."""
    return read_rows(x, sample_rows(len(x), n), what)


def sample_rows(total: int, n: int) -> npt.NDArray[np.int64]:
    """The numbers of at most n of `total` rows, in order and always the same: int64."""
    if total <= n:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, n, replace=False))


def _let_go(x: Any) -> None:
    """Unmaps what was read of a file mapped for reading; it stays in the page cache.

    Otherwise a process that reads a mapped file once ends up holding all of it as resident memory.
    """
    while isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        x = x.base
    # Only "r": with "c" this would throw the caller's changes away.
    if isinstance(x, np.memmap) and x.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        mapping: mmap.mmap | None = getattr(x, "_mmap", None)
        if mapping is not None:
            mapping.madvise(mmap.MADV_DONTNEED)
