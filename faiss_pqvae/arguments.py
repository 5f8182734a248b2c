"""Checks of arguments that many functions have."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from faiss_pqvae.messages import suggestion

MetricName = Literal["l2", "inner_product", "cosine"]

_INT64 = np.iinfo(np.int64)
_FAR = 2**31 - 1  # a limit that nobody has in mind who writes too little
# As people write them, in any case; the numbers are faiss.METRIC_L2 and METRIC_INNER_PRODUCT.
_METRICS: dict[Any, MetricName] = {
    "l2": "l2",
    "inner_product": "inner_product",
    "ip": "inner_product",
    "cosine": "cosine",
    0: "inner_product",
    1: "l2",
}


def what_is_set(settings: Any) -> str:
    """The fields of a dataclass that are not as usual, for messages: size=(64, 64), mode='L'."""
    values = ((f.name, getattr(settings, f.name), f.default) for f in dataclasses.fields(settings))
    return ", ".join(f"{name}={value!r}" for name, value, usual in values if value != usual)


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


def integer(name: str, value: Any, least: int = _INT64.min, most: int = _INT64.max) -> int:
    """A number as an int.

    Args:
        name: what it is called in messages.
        value: an int, or an integer of numpy or torch.
        least: the smallest that it may be.
        most: the largest; both are int64's where nothing else is said.

    Raises:
        TypeError: no integer; a bool.
        ValueError: out of range.
    """
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = int(operator.index(value))
    except TypeError:
        raise TypeError(
            f"expected an integer as {name}, got {value!r} of type {type(value).__name__}"
        ) from None
    if not least <= number <= most:
        if least != _INT64.min and number < least and most >= _FAR:
            raise ValueError(f"expected {name} >= {least}, got {number}")
        raise ValueError(f"expected {name} from {least} to {most}, got {number}")
    return number


def at_least_1(name: str, value: Any) -> int:
    """A positive number as an int; raises as `integer` does."""
    return integer(name, value, 1)


def item_shape(given: Any) -> tuple[int, ...]:
    """The shape of an item as a tuple: of one number, or of any sequence of them.

    Raises:
        TypeError: no integers.
    """
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return tuple(integer("input shape", size) for size in (given if several else (given,)))


def number(name: str, value: Any, least: float = -np.inf, most: float = np.inf) -> float:
    """A finite number as a float.

    Raises:
        TypeError: no number; a bool or text.
        ValueError: NaN, infinity, or out of range.
    """
    try:
        if isinstance(value, bool | np.bool_ | str | bytes):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        kind = type(value).__name__
        raise TypeError(f"expected a number as {name}, got {value!r} of type {kind}") from None
    if not (np.isfinite(found) and least <= found <= most):
        limits = f" >= {least:g}" if np.isfinite(least) and most == np.inf else ""
        limits = limits or (f" from {least:g} to {most:g}" if most < np.inf else "")
        raise ValueError(f"expected a finite {name}{limits}, got {found:g}")
    return found


def instance(name: str, value: Any, kind: type, hint: str = "") -> None:
    """Refuses what is of another class.

    Args:
        name: what it is called in messages.
        value: what was given; None is for the caller to look at.
        kind: the class.
        hint: the next step, for the message.

    Raises:
        TypeError: of another class.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOaeio" else "a"
        raise TypeError(
            f"expected {name} as {article} {kind.__name__}, got {type(value).__name__}"
            f"{f': {hint}' if hint else ''}"
        )


def check_numbers(settings: Any) -> None:
    """Refuses fields of a dataclass that are no numbers where its annotations say so.

    Raises:
        TypeError: a float, a bool or text for an int; a bool or text for a float; no bool for one.
    """
    kind: type = type(settings)
    for name, kinds in _numeric_fields(kind).items():
        value = getattr(settings, name)
        if value is None and type(None) in kinds:
            continue
        if bool in kinds:
            instance(name, value, bool)
        elif float in kinds and isinstance(value, bool | np.bool_ | str):
            raise TypeError(f"expected a number as {name}, got {value!r}")
        elif float not in kinds:
            integer(name, value)


@functools.cache
def _numeric_fields(settings: type) -> dict[str, tuple[Any, ...]]:
    """Of a dataclass: the fields that are numbers or bools, and what they may be."""
    hints = get_type_hints(settings)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(settings)}
    several = {name: get_args(hint) or (hint,) for name, hint in kinds.items()}
    return {name: of for name, of in several.items() if set(of) <= {int, float, bool, type(None)}}


def check_fits(n_bytes: int, what: str) -> None:
    """Refuses what the machine has not the memory for, before anything is taken.

    Args:
        n_bytes: of what is to be made.
        what: its name in the message, with the next step.

    Raises:
        ValueError: more than all of the memory.
    """
    try:
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # a system that does not tell
        return
    if n_bytes > most:
        raise ValueError(
            f"expected results that fit into {most / 2**30:.0f} GiB of memory, got "
            f"{n_bytes / 2**30:,.0f} GiB: {what}"
        )


def metric_name(given: Any) -> MetricName:
    """The one name of a metric that people write in several ways.

    Args:
        given: "l2", "inner_product" or "ip", "cosine", in any case, as FAISS writes them in Python
            (the numbers faiss.METRIC_L2 and faiss.METRIC_INNER_PRODUCT) or as text ("METRIC_L2").

    Raises:
        TypeError: no text and no integer.
        ValueError: another metric.
    """
    key = given
    if isinstance(given, str):
        key = given.lower().replace("-", "_").replace(" ", "_")
        key = key.removeprefix("faiss.").removeprefix("metric_")
    else:
        key = integer("metric_type", given)
    if key not in _METRICS:
        names = [name for name in _METRICS if isinstance(name, str)]
        raise ValueError(
            f"expected a metric of {', '.join(map(repr, names))}, faiss.METRIC_L2 or "
            f"faiss.METRIC_INNER_PRODUCT, got {given!r}{suggestion(key, names)}"
        )
    return _METRICS[key]


def check_attribute(thing: Any, name: str) -> None:
    """Refuses to set an attribute that a thing does not have: a slip would change nothing.

    Args:
        thing: of a class that names its attributes in its body.
        name: of the attribute that is about to be set; what begins with "_" is its own affair.

    Raises:
        AttributeError: no such attribute.
    """
    kind = type(thing)
    if name.startswith("_") or name in kind.__annotations__ or hasattr(kind, name):
        return
    known = [*kind.__annotations__, *(key for key in dir(kind) if not key.startswith("_"))]
    raise AttributeError(
        f"{kind.__name__!r} object has no attribute {name!r}{suggestion(name, known)}"
    )
