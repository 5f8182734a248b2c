"""Items that are handed in one by one: lists, and what hands out an item a number.

Pillow is never imported for those who have no image of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.flat import Float32Rows, comes_as_float32
from faiss_pqvae.data.source import Rows, row_ids
from faiss_pqvae.foreign import as_array

Shape = tuple[int, ...] | None
# What reads a path: folders and files are not opened unasked.
PATH_HINT = ": faiss_pqvae.data.open.open_source(path) reads what lies at a path"


def is_image(x: Any) -> bool:
    """Whether something is an image of Pillow."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(x, pillow.Image)


def no_items(item_shape: Shape) -> npt.NDArray[Any]:
    """No items of a shape: (0, ...)."""
    return np.empty((0, *(item_shape or ())), np.float32)


def converted(x: Any) -> Any:
    """Vectors of integers and foreign floats as float32; a tensor's are converted when read."""
    if not isinstance(x.dtype, np.dtype):  # of torch, or of another library
        return x if hasattr(x, "detach") else np.asarray(x)
    return Float32Rows(x) if comes_as_float32(x) and x.dtype != np.uint8 else x


def of_list(x: Any, item_shape: Shape, what: str) -> Any:
    """A list of items: in memory, or images that are decoded when they are read; see `as_rows`."""
    if len(x) == 0:
        return no_items(item_shape)
    if is_image(x[0]) or _is_pair(x[0]):  # decoded when they are read
        return Each(x, item_shape, what)
    return converted(
        _stacked([_plain(item, item_shape, what, i) for i, item in enumerate(x)], what)
    )


def _stacked(items: list[npt.NDArray[Any]], what: str) -> npt.NDArray[Any]:
    first = items[0]
    for i, item in enumerate(items):
        if item.shape != first.shape:
            raise ValueError(
                f"expected {what} of one shape, {first.shape} as the first, got {item.shape} in "
                f"item {i}: write numpy.concatenate(x) where these are batches of items"
            )
        if (item.dtype == np.uint8) != (first.dtype == np.uint8) and item.ndim > 1:
            raise ValueError(
                f"expected {what} of one dtype, {first.dtype} as the first, got {item.dtype} in "
                f"item {i}: bytes go to 255, floats to 1"
            )
    return np.stack(items)


def _is_pair(item: Any) -> bool:
    """An item with a label, and not numbers."""
    return isinstance(item, tuple) and bool(
        item and (is_image(item[0]) or getattr(item[0], "ndim", 0))
    )


def _without_label(item: tuple[Any, ...], what: str, i: int) -> Any:
    label = item[1] if len(item) == 2 else None
    floats = getattr(label, "ndim", 0) and "float" in str(getattr(label, "dtype", ""))
    if len(item) > 2 or floats or is_image(label):
        raise TypeError(
            f"expected {what} as arrays, or pairs of an array and a label, got {len(item)} values "
            f"in item {i}: give a list of those that are the items"
        )
    return item[0]


def _plain(item: Any, item_shape: Shape, what: str, i: int) -> npt.NDArray[Any]:
    """One item as an array."""
    if _is_pair(item):
        item = _without_label(item, what, i)
    if isinstance(item, Mapping):
        raise TypeError(
            f"expected {what} as arrays, got {type(item).__name__} with {[*item][:5]} in item {i}: "
            "give the column of the items, as x[COLUMN]"
        )
    if is_image(item):
        return _pixels(item, item_shape, what, i)
    if isinstance(item, str | bytes | os.PathLike) or item is None:
        how = PATH_HINT if isinstance(item, str | os.PathLike) else ""
        raise TypeError(f"expected {what} as arrays, got {type(item).__name__} in item {i}{how}")
    try:
        return as_array(item, what)
    except ValueError as error:  # a list of lists of several lengths
        raise ValueError(f"expected {what} as arrays of numbers, got item {i}: {error}") from error


def _pixels(image: Any, item_shape: Shape, what: str, i: int) -> npt.NDArray[np.uint8]:
    """A PIL image (c, h, w) uint8, turned as its EXIF says; grey or three channels, as wanted."""
    if image.mode not in ("L", "RGB"):
        raise TypeError(
            f"expected {what} as images of mode RGB or L, got {image.mode} in item {i}: write "
            "image.convert('RGB')"
        )
    from PIL import ImageOps  # who has an image has Pillow

    image = ImageOps.exif_transpose(image)
    channels = item_shape[0] if item_shape else len(image.getbands())
    if channels in (1, 3):
        image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image)
    pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
    if item_shape is not None and pixels.shape != item_shape:
        how = f": write image.resize(({item_shape[2]}, {item_shape[1]}))" if item_shape[2:] else ""
        raise ValueError(
            f"expected {what} of shape {item_shape}, got an image {pixels.shape} in item {i}{how}"
        )
    return pixels


class Each:
    """Items that are handed out one by one, read on access.

    Attributes:
        shape: (n, ...), as the first item has it.
        dtype: of the first.
    """

    def __init__(self, items: Any, item_shape: Shape, what: str) -> None:
        self._items: Sequence[Any] = items
        self._item_shape, self._what = item_shape, what
        first = _stacked([self._item(0)], what)
        self.shape: tuple[int, ...] = (len(items), *first.shape[1:])
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if _is_foreign(first) else first.dtype

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        ids = row_ids(np.asarray(rows) if not isinstance(rows, slice) else rows, len(self))
        out = np.empty((len(ids), *self.shape[1:]), self.dtype)
        for place, i in enumerate(ids.tolist()):
            item = self._item(i)
            if item.shape != self.shape[1:] or (item.dtype == np.uint8) != (self.dtype == np.uint8):
                raise ValueError(
                    f"expected {self._what} of shape {self.shape[1:]} and {self.dtype} as the "
                    f"first, got {item.shape} {item.dtype} in item {i}"
                )
            out[place] = item
        return out

    def _item(self, i: int) -> npt.NDArray[Any]:
        return _plain(self._items[i], self._item_shape, self._what, i)


def _is_foreign(x: npt.NDArray[Any]) -> bool:
    return isinstance(converted(x), Float32Rows)
