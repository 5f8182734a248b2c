"""Checks at the edge: what callers hand to `train`, `add` and `search`, batch by batch."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.data.content import key_of_parts
from faiss_pqvae.foreign import how_to_convert
from faiss_pqvae.progress import Progress

_TOLERANCE = 1e-3  # resizing and rounding may leave [0, 1] by a little
_PIECE_BYTES = 4 << 20  # of items that are read at a time for their key
_STEP = 16  # pictures that are read at a time at least, for the threads that decode them


def check_items(
    x: Any, item_shape: tuple[int, ...], what: str, *, may_be_empty: bool = False
) -> Any:
    """Checks type, dtype and shape of a set of items.

    Args:
        x: whatever `as_rows` takes: an array, a memory map, a tensor, a source from
            `faiss_pqvae.data.open`, a table, a list, a Dataset.
        item_shape: expected shape of one item, (c, h, w) or (d,).
        what: its name in messages.
        may_be_empty: take no items, too.

    Returns:
        What rows are read of, which has a shape, a dtype and rows by slice: x itself, unread, where
        it is such a thing.

    Raises:
        TypeError: no items, or a dtype that is neither uint8 nor a float; vectors may also be of
            other integers.
        ValueError: a wrong shape; no item, where there has to be one.
    """
    x = as_rows(x, item_shape, what)
    shape, dtype = tuple(x.shape), x.dtype
    if not _is_number(dtype, vectors=len(item_shape) == 1):
        raise TypeError(
            f"expected {what} of dtype uint8 or float, got {dtype}{_how_to_convert(dtype)}"
        )
    if shape[1:] != item_shape:
        raise ValueError(
            f"expected {what} of shape (n, {', '.join(map(str, item_shape))}), got {shape}"
            f"{_how_to_reshape(shape, item_shape)}"
        )
    if shape[0] == 0 and not may_be_empty:
        raise ValueError(f"expected at least one item in {what}, got shape {shape}")
    return x


def _is_number(dtype: Any, *, vectors: bool) -> bool:
    """Whether a dtype of torch or numpy is one of items."""
    if dtype in (torch.uint8, np.dtype(np.uint8)):
        return True
    if isinstance(dtype, torch.dtype):
        whole = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
        return dtype.is_floating_point or (vectors and whole)
    return np.issubdtype(dtype, np.floating) or (vectors and np.issubdtype(dtype, np.integer))


def _how_to_convert(dtype: Any) -> str:
    if isinstance(dtype, torch.dtype):
        how = "torch.cat([x.real, x.imag], 1)" if dtype.is_complex else "x.float()"
        whole = not (dtype.is_complex or dtype == torch.bool)
        return f": write {'x.to(torch.uint8) for pixels from 0 to 255' if whole else how}"
    if dtype.kind in "iu":
        return ": write x.astype(numpy.uint8) for pixels from 0 to 255"
    return how_to_convert(dtype, "x")


def _how_to_reshape(shape: tuple[int, ...], item_shape: tuple[int, ...]) -> str:
    """What to write where the items seem to be there in another form."""
    if shape == item_shape:
        return ": write x[None] for one item"
    if len(item_shape) == 3 and shape[1:] == (*item_shape[1:], item_shape[0]):
        return ": write x.transpose(0, 3, 1, 2), or x.permute(0, 3, 1, 2) of a tensor"
    if item_shape[0] == 1 and shape[1:] == item_shape[1:]:
        return ": write x[:, None]"
    if len(shape) > 2 and math.prod(shape[1:]) == item_shape[0] and len(item_shape) == 1:
        return f": write x.reshape(-1, {item_shape[0]})"
    if shape[2:] == item_shape:
        return ": write numpy.concatenate(x) of batches"
    return ""


def read_rows(x: Any, rows: Any, what: str) -> Tensor:
    """Reads rows into a tensor of uint8 or float32.

    Args:
        x: what `check_items` returned.
        rows: a slice or an int64 array.
        what: its name in messages.

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
        row = range(len(x))[rows][first] if isinstance(rows, slice) else int(rows[first])
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
        yield read_rows(x, slice(start, start + batch_size), what)
        _let_go(getattr(x, "source", x))


def rows_at_a_time(x: Any, most: int) -> int:
    """So many rows of x, at most `most`, that a bar moves: large pictures take long to decode.

    Args:
        x: what `check_items` returned.
        most: 1 or more.
    """
    item_bytes = int(math.prod(x.shape[1:]) * x.dtype.itemsize)
    return min(most, max(_STEP, _PIECE_BYTES // max(1, item_bytes)))


def read_any_rows(x: Any, rows: npt.NDArray[np.int64], what: str) -> Tensor:
    """As `read_rows`, in any order, also twice, of what may have rows in rising order alone."""
    rising, place = np.unique(rows, return_inverse=True)
    return read_rows(x, rising, what)[torch.from_numpy(place)]


def content_key(x: Any, what: str, *, progress: bool = True) -> str:
    """A key of all the content of items, see `key_of_parts`: equal values have the same one.

    All rows are read, once. Checks for NaN included, that is 2.0 GB/s without the key and 1.4 with
    it, from a memory map in the page cache with one thread.

    Args:
        x: what `check_items` accepted.
        what: its name in messages.
        progress: draw a bar, where standard error is a terminal.

    Raises:
        ValueError: as `read_rows`.
    """
    shape = tuple(x.shape)
    uint8 = x.dtype in (np.dtype(np.uint8), torch.uint8)
    rows = max(1, _PIECE_BYTES // max(1, math.prod(shape[1:]) * (1 if uint8 else 4)))

    def pieces() -> Iterator[npt.NDArray[Any]]:
        with Progress(f"reading {what}", len(x), unit="items", shown=progress) as bar:
            for batch in read_batches(x, rows, what):
                yield batch.cpu().contiguous().numpy()
                bar.update(len(batch))

    return key_of_parts(f"{'uint8' if uint8 else 'float32'} {shape}", pieces())


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
    for inner in getattr(x, "sources", None) or []:
        _let_go(inner)
    while isinstance(x, np.ndarray) and not isinstance(x, np.memmap):
        x = x.base
    # Only "r": with "c" this would throw the caller's changes away.
    if isinstance(x, np.memmap) and x.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        mapping: mmap.mmap | None = getattr(x, "_mmap", None)
        if mapping is not None:
            mapping.madvise(mmap.MADV_DONTNEED)
