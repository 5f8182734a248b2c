"""What stands in a column of labels of Parquet: numbers or names of classes, or nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.arrow import is_text, read_column, read_schema
from faiss_pqvae.extras import import_extra


class Classes(NamedTuple):
    """Labels of rows.

    Attributes:
        labels: (n,) int64, -1 where there is none.
        names: of the classes, or None where labels are numbers without names.
    """

    labels: npt.NDArray[np.int64]
    names: tuple[str, ...] | None


def read_classes(paths: Sequence[Path], column: str) -> Classes | None:
    """The labels in a column: numbers, or text, whose classes are sorted by name.

    Args:
        paths: Parquet files, in order.
        column: integers, whose names Hugging Face's metadata may give; floats that are whole; or
            text, also as categories. A null is no label.

    Returns:
        None when no file has the column.

    Raises:
        ValueError: another type, a number with a fraction, or without a name, or below -1; some
            files have no such column, or other names of classes.
    """
    columns, names = [], set()
    for path in paths:
        schema = read_schema(path)
        if column in schema.names:
            columns.append(read_column(path, column))
            names.add(_huggingface_names(schema.metadata, column))
    if not columns:
        return None
    if len(columns) < len(paths):
        raise ValueError(f"expected labels in all {len(paths)} files, got them in {len(columns)}")
    if len(names) > 1:
        raise ValueError(f"expected the same class names in every file, got {names}")
    parts = [plain(values) for values in columns]
    what = f"column {column!r} of {paths[0]}"
    numbers = [part for part in parts if not isinstance(part, list)]
    if len(numbers) < len(parts):
        return _of_text([value for part in parts for value in _text(part, what)])
    return _of_numbers(np.concatenate(numbers), names.pop(), what)


def _text(part: npt.NDArray[Any] | list[str | None], what: str) -> list[str | None]:
    if isinstance(part, list):
        return part
    if (part != -1).any():
        raise ValueError(f"expected text, or numbers, in the {what} and of all files, got both")
    return [None] * len(part)


def plain(column: Any) -> npt.NDArray[Any] | list[str | None]:
    """Numbers of an arrow column as int64, -1 for null, or its text, None for null.

    Raises:
        ValueError: it holds anything else, or fractions.
    """
    arrow, compute = import_extra("pyarrow"), import_extra("pyarrow.compute")
    types = arrow.types
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column, kind = without_nan(column), column.type
    if is_text(kind):
        text: list[str | None] = column.to_pylist()
        return text
    if types.is_null(kind):
        return np.full(len(column), -1, np.int64)
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise ValueError(
            f"expected labels as integers, whole floats or text, got {kind}: name another column, "
            "or give --labels FILE.npy"
        )
    try:
        numbers = compute.fill_null(column.cast(arrow.int64()), -1)
    except arrow.ArrowInvalid as error:
        raise ValueError(
            f"expected labels as whole numbers in 64 bits, got others ({error}): number the classes"
        ) from error
    found: npt.NDArray[np.int64] = numbers.to_numpy()
    return found


def without_nan(column: Any) -> Any:
    """An arrow column with nulls for NaN: pandas writes integers so where some are missing."""
    arrow, compute = import_extra("pyarrow"), import_extra("pyarrow.compute")
    if not arrow.types.is_floating(column.type):
        return column
    return compute.if_else(compute.is_nan(column), None, column)


def _of_text(values: list[str | None]) -> Classes:
    names = sorted({value for value in values if value is not None})
    numbers = {name: number for number, name in enumerate(names)}
    labels = [-1 if value is None else numbers[value] for value in values]
    return Classes(np.array(labels, np.int64), tuple(names))


def _of_numbers(labels: npt.NDArray[np.int64], names: tuple[str, ...] | None, what: str) -> Classes:
    # Hugging Face, too, marks an unlabelled item with -1.
    highest = None if names is None else len(names) - 1
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < -1 or (highest is not None and high > highest):
        upto = "on" if names is None else f"to {highest} for {len(names)} class names"
        raise ValueError(
            f"expected labels from -1 (none) {upto}, got {low} to {high} in the {what}"
        )
    return Classes(labels, names)


def _huggingface_names(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...] | None:
    """Class names in the schema's metadata; None when they are absent or not understood."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[column]["names"])
    except (KeyError, TypeError, ValueError):
        return None
