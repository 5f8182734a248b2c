"""Arrays of other libraries, and of other kinds, as arrays of numpy in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import IdArray


def as_array(values: Any, what: str = "values") -> npt.NDArray[Any]:
    """An array in memory of whatever plainly is one, in the byte order of the machine.

    Tensors on any device, with or without a gradient, columns of pandas and Arrow, lists, masked
    arrays in which nothing is masked. bfloat16 becomes float32.

    Raises:
        TypeError: values that are not all there, or lie in no array: sparse, nested, masked, meta.
    """
    check_dense(values, what)
    if hasattr(values, "detach"):  # a tensor: torch is not known here
        values = values.detach().cpu()
        values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    array = np.asarray(values)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def as_ids(ids: Any, n: int | None = None) -> IdArray:
    """Ids as (n,) int64; none at all may have any dtype, as `[]` has.

    Raises:
        TypeError: no integers.
        ValueError: another number of them.
    """
    array = as_array(ids, "ids")
    if not array.size:
        array = array.astype(np.int64)
    if array.dtype == np.uint64:
        raise TypeError("expected ids of dtype int64, got uint64: give ids.view(numpy.int64)")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"expected ids of dtype int64, got {array.dtype}")
    if array.ndim != 1 or (n is not None and len(array) != n):
        expected = "(n,)" if n is None else f"({n},)"
        raise ValueError(f"expected ids of shape {expected}, got {array.shape}")
    return np.ascontiguousarray(array, np.int64)


def check_dense(x: Any, what: str) -> None:
    """Whether all values of an array or a tensor are there.

    Raises:
        TypeError: sparse, nested, masked or meta ones; the message has the conversion.
    """
    layout = str(getattr(x, "layout", ""))
    if getattr(x, "is_nested", False):
        how = "got a nested tensor: write torch.stack(x.unbind())"
    elif layout.startswith("torch.") and layout != "torch.strided":
        how = f"got a sparse tensor ({layout}): write x.to_dense()"
    elif hasattr(x, "todense") and not isinstance(x, np.ndarray):  # of scipy, say
        how = f"got {type(x).__name__}, which is sparse: write x.toarray()"
    elif getattr(x, "is_meta", False):
        how = "got a tensor on the device meta, which has no values: make it on another device"
    elif isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        how = "got a masked array with missing values: write x.filled(value)"
    else:
        return
    raise TypeError(f"expected {what} as a dense array, {how}")


def how_to_convert(dtype: Any, name: str) -> str:
    """What to write to make numbers of an array whose dtype has none that are plain.

    Args:
        dtype: of numpy.
        name: of the array in the code to write.

    Returns:
        The end of a message, from a colon on.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        return f": write {name}.real, or numpy.hstack([{name}.real, {name}.imag])"
    if dtype.fields is not None:
        return f": write numpy.lib.recfunctions.structured_to_unstructured({name})"
    if dtype.kind == "V":
        return f": write {name}.astype(numpy.float32) where its type is known, such as bfloat16"
    if dtype.kind in "mM":
        return f": write {name}.astype(numpy.int64).astype(numpy.float32)"
    return f": write {name}.astype(numpy.float32)"
