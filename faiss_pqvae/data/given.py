"""Items that callers hand in as something else than an array, as something with rows to read.

pandas, pyarrow and Pillow are never imported: who hands in one of their objects has them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.arguments import as_array, check_dense
from faiss_pqvae.data.columns import choose_columns, column_kinds, rows_of, vectors_of
from faiss_pqvae.data.flat import Float32Rows
from faiss_pqvae.data.source import Rows, row_ids

Shape = tuple[int, ...] | None


def as_rows(x: Any, item_shape: Shape, what: str) -> Any:
    """What is handed in, as an array, a tensor, or a source of rows.

    Args:
        x: these, as they are; vectors of integers, or floats of another byte order or more than 8
            bytes, are converted when they are read. Tables of numbers and columns of vectors (of
            pandas, polars, Arrow); lists of arrays, of tensors, of numbers or of PIL images; a
            map-style Dataset of torch, whose items are these, or pairs with a label, which is left
            out: read item by item.
        item_shape: expected shape of one item, (c, h, w) or (d,); None where it is not known.
        what: its name in messages.

    Raises:
        TypeError: what has no plain meaning; the message says how to convert it.
        ValueError: items of several shapes, missing values.
    """
    check_dense(x, what)
    if _is_from("pyarrow", x):
        x = _of_arrow(x, what)
        if x.shape == (0, 0):  # lists without a row
            return _none(item_shape)
    elif _is_from("pandas", x) and hasattr(x, "columns"):
        x = _of_frame(x, what)
    elif hasattr(x, "to_numpy"):
        x = x.to_numpy()
    if isinstance(x, np.ma.MaskedArray | memoryview):
        x = np.array(x, copy=None)
    if isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1:
        x = list(x)
    if isinstance(x, list | tuple):
        return _of_list(x, item_shape, what)
    if all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__")):
        return _converted(x)
    if isinstance(x, str | bytes | Mapping) or _is_image(x):
        raise _no_items(x, item_shape, what)
    if hasattr(x, "__arrow_c_stream__") or hasattr(x, "__arrow_c_array__"):
        return _of_arrow(_imported_by_arrow(x), what)
    if hasattr(x, "__array__"):
        return _converted(np.asarray(x))
    if hasattr(x, "__getitem__") and hasattr(x, "__len__"):
        return _Each(x, item_shape, what) if len(x) else _none(item_shape)
    raise _no_items(x, item_shape, what)


def _is_from(package: str, x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == package


def _is_image(x: Any) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(x, pillow.Image)


def _none(item_shape: Shape) -> npt.NDArray[Any]:
    return np.empty((0, *(item_shape or ())), np.float32)


def _no_items(x: Any, item_shape: Shape, what: str) -> TypeError:
    shape = ", ".join(map(str, item_shape or ("...",)))
    how = ""
    if _is_image(x):
        how = ": write [image] for one item"
    elif isinstance(x, Mapping):
        how = ": give the value that holds the items"
    elif hasattr(x, "__iter__") and not isinstance(x, str | bytes):
        how = ": write numpy.concatenate(list(x)) of batches, numpy.stack(list(x)) of items"
    return TypeError(
        f"expected {what} as an array (n, {shape}) of uint8 or floats, got {type(x).__name__}{how}"
    )


def _converted(x: Any) -> Any:
    """Vectors of integers and foreign floats as float32; a tensor's are converted when read."""
    try:
        dtype = np.dtype(x.dtype)
    except TypeError:  # torch's, or of another library
        return x if hasattr(x, "detach") else np.asarray(x)
    vectors = len(x.shape) == 2 and dtype.kind in "iu" and dtype != np.uint8
    foreign = dtype.kind == "f" and (dtype.itemsize > 8 or not dtype.isnative)
    return Float32Rows(x) if vectors or foreign else x


# Tables ------------------------------------------------------------------------------------------


def _of_arrow(x: Any, what: str) -> Any:
    if hasattr(x, "schema"):  # a table or a record batch
        names = choose_columns(
            x.schema, None, None, 'table["COLUMN"]', 'table.select(["dim_0", "dim_1", ...])'
        )
        return rows_of(x, names)
    if hasattr(x, "type"):
        schema = sys.modules["pyarrow"].schema([("x", x.type)])
        if column_kinds(schema)["x"] == "vectors":
            return vectors_of(x)
        if column_kinds(schema)["x"] not in ("float", "integer"):
            raise TypeError(
                f"expected {what} as a column of lists of numbers, got one of {x.type}: write "
                "numpy.stack(...) of what its rows stand for"
            )
    return x.to_numpy()


def _imported_by_arrow(x: Any) -> Any:
    import pyarrow  # what speaks its protocol is read by it

    return pyarrow.array(x) if hasattr(x, "__arrow_c_array__") else pyarrow.table(x)


def _of_frame(frame: Any, what: str) -> Any:
    """A DataFrame: its numbers (n, columns) float32, or the arrays in its only column."""
    other = [name for name, dtype in frame.dtypes.items() if dtype.kind not in "iuf"]
    if not other:
        return frame.to_numpy(dtype=np.float32, na_value=np.nan)
    if len(frame.columns) == 1:
        return frame[frame.columns[0]].to_numpy()
    raise TypeError(
        f"expected {what} as a table with columns of numbers alone, one a dimension, got others, "
        f"too, {other[:5]}: write x.drop(columns=[...]) for the numbers, or x[COLUMN] for a column "
        "of vectors"
    )


# Items one by one --------------------------------------------------------------------------------


def _of_list(x: Any, item_shape: Shape, what: str) -> Any:
    if len(x) == 0:
        return _none(item_shape)
    if _is_image(x[0]) or _is_pair(x[0]):  # decoded when they are read
        return _Each(x, item_shape, what)
    return _converted(
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
        item and (_is_image(item[0]) or getattr(item[0], "ndim", 0))
    )


def _plain(item: Any, item_shape: Shape, what: str, i: int) -> npt.NDArray[Any]:
    """One item as an array."""
    if _is_pair(item):
        label = item[1] if len(item) == 2 else None
        floats = getattr(label, "ndim", 0) and "float" in str(getattr(label, "dtype", ""))
        if len(item) > 2 or floats or _is_image(label):
            raise TypeError(
                f"expected {what} as arrays, or pairs of an array and a label, got {len(item)} "
                f"values in item {i}: give a list of those that are the items"
            )
        item = item[0]
    if isinstance(item, Mapping):
        raise TypeError(
            f"expected {what} as arrays, got {type(item).__name__} with {[*item][:5]} in item {i}: "
            "give the column of the items, as x[COLUMN]"
        )
    if _is_image(item):
        return _pixels(item, item_shape, what, i)
    if isinstance(item, str | bytes) or item is None:
        raise TypeError(f"expected {what} as arrays, got {type(item).__name__} in item {i}")
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


class _Each:
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
    return isinstance(_converted(x), Float32Rows)
