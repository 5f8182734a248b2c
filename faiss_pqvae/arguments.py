"""Checks of arguments that many functions have."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt


def output(
    given: Any, shape: tuple[int, ...], dtype: type[np.generic], what: str
) -> npt.NDArray[Any]:
    """The array to write results to: the given one, or a new one.

    Raises:
        TypeError: no array of that dtype.
        ValueError: another shape, or an array that cannot be written to in place.
    """
    if given is None:
        return np.empty(shape, dtype)
    if not isinstance(given, np.ndarray) or given.dtype != dtype:
        found = getattr(given, "dtype", type(given).__name__)
        raise TypeError(f"expected {what} as an array of {np.dtype(dtype)}, got {found}")
    if given.shape != shape or not given.flags.writeable:
        kind = "" if given.flags.writeable else " read-only"
        raise ValueError(f"expected a writable {what} of shape {shape}, got{kind} {given.shape}")
    return given


def at_least_1(name: str, value: Any) -> int:
    """A positive number as an int.

    Raises:
        TypeError: no integer.
        ValueError: below 1.
    """
    if isinstance(value, bool):
        raise TypeError(f"expected an integer {name} >= 1, got a bool")
    value = operator.index(value)
    if value < 1:
        raise ValueError(f"expected {name} >= 1, got {value}")
    return int(value)


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
