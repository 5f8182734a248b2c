"""Classes by number, whatever labels were written as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from faiss_pqvae.foreign import as_array

from .protocol import LabelArray


def classes_of(
    parts: Sequence[Any], names: Sequence[tuple[str, ...] | None] | None = None
) -> tuple[list[LabelArray], tuple[str, ...]]:
    """The labels of a data set's parts, in one numbering.

    Args:
        parts: of each part (n,) integers or text, one class an item; or several, as bool
            (n, classes), or as n lists of integers or text.
        names: of each part those of the classes that its integers stand for, or that its columns
            are; None where classes are named by what stands there.

    Returns:
        Of each part (n,) int64 from 0 on, or (n, classes) bool; and the classes' names.

    Raises:
        TypeError: labels of another kind, or of two kinds.
        ValueError: a negative number, numbers without a name, or another number of columns.
    """
    given = [_array(part) for part in parts]
    known = [None] * len(given) if names is None else [*names]
    kinds = {_kind(part) for part in given}
    if len(kinds) > 1:
        raise TypeError(f"expected labels of one kind in all parts, got {sorted(kinds)}")
    (kind,) = kinds
    if kind == "bool":
        return _columns(given, known[0])
    given = [_named(part, of_part) for part, of_part in zip(given, known, strict=True)]
    if kind == "one" and len(set(known)) == 1 and known[0] is not None:
        order = np.array(known[0])  # in the order that the data give them
    else:
        flat = [np.concatenate([*part, []]) if kind == "lists" else part for part in given]
        order = np.unique(np.concatenate([part.astype(_common(flat)) for part in flat]))
    numbers = {value: number for number, value in enumerate(order.tolist())}
    class_names = tuple(map(str, order.tolist()))
    if kind == "one":
        found = [np.array([numbers[value] for value in part.tolist()]) for part in given]
        return [part.astype(np.int64) for part in found], class_names
    return [_matrix(part, numbers) for part in given], class_names


def _array(labels: Any) -> Any:
    found = _of_list(labels) if isinstance(labels, list) else as_array(labels, "labels")
    if found.dtype == np.uint64 and found.size and found.max() > np.iinfo(np.int64).max:
        raise ValueError(f"expected labels below 2**63, got {found.max()}: number the classes")
    if found.dtype == object and all(isinstance(one, str) for one in found.flat):
        return found.astype(str)  # a column of text
    return found


def _of_list(labels: list[Any]) -> Any:
    if any(isinstance(one, list | tuple | np.ndarray) for one in labels):
        found = np.empty(len(labels), object)
        found[:] = [list(one) for one in labels]
        return found
    return np.array(labels)


def _kind(labels: Any) -> str:
    if labels.dtype == np.bool_ and labels.ndim == 2:
        return "bool"
    if labels.ndim == 1 and labels.dtype.kind in "iuU":
        return "one"
    if labels.ndim == 1 and labels.dtype.kind == "O" and all(map(_is_list, labels)):
        return "lists"
    raise TypeError(
        "expected labels as integers or text (n,), bool (n, classes), or lists of integers or "
        f"text, got {labels.dtype} of shape {labels.shape}"
        + (": write labels.astype(int)" if labels.dtype.kind == "f" else "")
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray)


def _columns(
    given: list[Any], names: tuple[str, ...] | None
) -> tuple[list[LabelArray], tuple[str, ...]]:
    widths = {part.shape[1] for part in given}
    if len(widths) > 1:
        raise ValueError(f"expected labels of as many classes in all parts, got {sorted(widths)}")
    return given, names or tuple(map(str, range(given[0].shape[1])))


def _named(labels: Any, names: tuple[str, ...] | None) -> Any:
    """Integers as the names that they stand for; a number below 0 is no class."""
    if labels.dtype.kind not in "iu":
        return labels
    if labels.size and labels.min() < 0:
        raise ValueError(f"expected a label for every item, from 0 on, got {labels.min()}")
    if names is None:
        return labels
    if labels.size and labels.max() >= len(names):
        raise ValueError(f"expected labels up to {len(names) - 1}, got {labels.max()}")
    return np.array(names)[labels]


def _common(parts: list[Any]) -> Any:
    text = any(part.dtype.kind in "UO" for part in parts)
    return str if text else np.int64


def _matrix(lists: Any, numbers: dict[Any, int]) -> LabelArray:
    lengths = {len(values) for values in lists}
    if set(numbers) == {0, 1} and len(lengths) == 1 and max(lengths) > 1:
        raise ValueError(
            "expected lists of the classes that an item is of, got lists of one length of 0 and 1 "
            "alone: give bool (n, classes) where these stand for no and yes"
        )
    found = np.zeros((len(lists), len(numbers)), np.bool_)
    for row, values in enumerate(lists):
        for value in values:
            found[row, numbers[value]] = True
    return found
