"""Items that callers hand in as something else than an array, as something with rows to read.

pandas, pyarrow and Pillow are never imported: who hands in one of their objects has them. Nor are
Hugging Face's datasets.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from faiss_pqvae.data.columns import choose_columns, column_kinds, rows_of, vectors_of
from faiss_pqvae.data.one_by_one import (
    PATH_HINT,
    Each,
    Shape,
    converted,
    is_image,
    no_items,
    of_list,
)
from faiss_pqvae.foreign import check_dense

_PLAIN = (np.dtype(np.float32), np.dtype(np.uint8))


def as_rows(x: Any, item_shape: Shape, what: str) -> Any:
    """What is handed in, as an array, a tensor, or a source of rows.

    Args:
        x: these, as they are; vectors of integers, or floats of another byte order or more than 8
            bytes, are converted when they are read. Tables of numbers and columns of vectors (of
            pandas, polars, Arrow, datasets); lists of arrays, of tensors, of numbers or of PIL
            images; a map-style Dataset of torch, whose items are these, or pairs with a label,
            which is left out: read item by item.
        item_shape: expected shape of one item, (c, h, w) or (d,); None where it is not known.
        what: its name in messages.

    Raises:
        TypeError: what has no plain meaning; the message says how to convert it.
        ValueError: items of several shapes, missing values.
    """
    if type(x) is np.ndarray and x.dtype in _PLAIN:  # of nearly every search
        return x
    check_dense(x, what)
    if _is_from("datasets", x):
        x = _of_datasets(x)
    if _is_from("pyarrow", x):
        x = _of_arrow(x, what)
        if x.shape == (0, 0):  # lists without a row
            return no_items(item_shape)
    elif _is_from("pandas", x) and hasattr(x, "columns"):
        x = _of_frame(x, what)
    elif hasattr(x, "to_numpy"):
        x = x.to_numpy()
    if isinstance(x, np.ma.MaskedArray | memoryview):
        x = np.array(x, copy=None)
    if isinstance(x, np.ndarray) and x.dtype == object and x.ndim == 1:
        x = list(x)
    if isinstance(x, list | tuple):
        return of_list(x, item_shape, what)
    if all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__")):
        return converted(x)
    if isinstance(x, str | bytes | Mapping) or is_image(x):
        raise _no_items(x, item_shape, what)
    if hasattr(x, "__arrow_c_stream__") or hasattr(x, "__arrow_c_array__"):
        return _of_arrow(_imported_by_arrow(x), what)
    if hasattr(x, "__array__"):
        return converted(np.asarray(x))
    if hasattr(x, "__getitem__") and hasattr(x, "__len__"):
        return Each(x, item_shape, what) if len(x) else no_items(item_shape)
    raise _no_items(x, item_shape, what)


def _is_from(package: str, x: Any) -> bool:
    return type(x).__module__.partition(".")[0] == package


def _no_items(x: Any, item_shape: Shape, what: str) -> TypeError:
    shape = ", ".join(map(str, item_shape or ("...",)))
    how = ""
    if is_image(x):
        how = ": write [image] for one item"
    elif isinstance(x, Mapping):
        how = ": give the value that holds the items"
    elif isinstance(x, str | os.PathLike):
        how = PATH_HINT
    elif hasattr(x, "__iter__") and not isinstance(x, bytes):
        how = ": write numpy.concatenate(list(x)) of batches, numpy.stack(list(x)) of items"
    return TypeError(
        f"expected {what} as an array (n, {shape}) of uint8 or floats, got {type(x).__name__}{how}"
    )


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


def _of_datasets(x: Any) -> Any:
    """A column of vectors as Arrow holds it: row by row it takes tens of times as long."""
    dataset: Any = getattr(x, "source", None)
    if not (hasattr(x, "column_name") and hasattr(dataset, "data")):
        return x  # no column; one within another; a stream
    if dataset.format["type"] == "custom":  # what a row is, a function says when it is read
        return x
    if column_kinds(dataset.data.schema)[x.column_name] != "vectors":
        return x
    return dataset.select_columns(x.column_name).with_format("arrow")[:]


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
