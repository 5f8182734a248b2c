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
