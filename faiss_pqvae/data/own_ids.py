"""Ids of one's own beside the items: integers or strings, one an item. numpy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from faiss_pqvae.data.arrow import read_column
from faiss_pqvae.types import IdArray

OwnIds: TypeAlias = IdArray | list[str]

_EXPECTED = "integers or texts, one an item, as .npy, as a list in .json, or as lines of .txt"


def read_own_ids(path: str | Path) -> OwnIds:
    """Reads the ids in a file.

    Args:
        path: a .npy file (n,) of integers or of texts; a .json file with a list of either; or a
            .txt file with one a line, which are integers where all are written as such ("007" is a
            text).

    Returns:
        (n,) int64, or n strings, in order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another format; ids of several kinds, or beyond int64; an empty text.
    """
    path = Path(path)
    readers = {".npy": _from_npy, ".json": _from_json, ".txt": _from_text}
    if path.suffix.lower() not in readers:
        raise ValueError(f"expected ids as {_EXPECTED}, got {path}")
    try:
        return as_own_ids(readers[path.suffix.lower()](path))
    except (ValueError, TypeError, EOFError, RecursionError) as error:
        raise ValueError(f"cannot read {path} as ids: {error}") from error


def read_id_column(paths: Sequence[Path], column: str) -> OwnIds:
    """Reads the ids of all rows of Parquet files.

    Raises:
        ValueError: no such column, nulls in it, or neither integers nor texts.
        ImportError: pyarrow is not installed.
    """
    values = [value for path in paths for value in read_column(path, column).to_pylist()]
    try:
        return as_own_ids(values)
    except ValueError as error:
        raise ValueError(f"cannot take the column {column!r} as ids: {error}") from error


def as_own_ids(values: Any) -> OwnIds:
    """Ids of one kind: (n,) int64, or strings.

    Raises:
        ValueError: ids of several kinds or of another one; beyond int64; -1; an empty text.
    """
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise ValueError(f"expected ids of shape (n,), got {values.shape}")
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        values = values.tolist()
    if isinstance(values, list):
        odd = [at for at, value in enumerate(values) if type(value) is not type(values[0])]
        if odd or (values and type(values[0]) not in (int, str)):
            at = odd[0] if odd else 0
            raise ValueError(f"expected {_EXPECTED}, got {values[at]!r:.50} in place {at}")
        if not values or isinstance(values[0], str):
            return _checked(values, "")
    if len(values) and not (min(values) >= -(2**63) and max(values) < 2**63):
        raise ValueError("expected integers of 64 bits, from -2**63 to 2**63 - 1")
    return _checked(np.asarray(values, np.int64), -1)


def check_once(values: Any, what: str) -> None:
    """Refuses what is there twice.

    Raises:
        ValueError: the first value that is there again, and where.
    """
    array = np.asarray(values)
    first = np.unique(array, return_index=True)[1]
    if len(first) < len(array):
        again = np.ones(len(array), bool)
        again[first] = False
        at = int(again.argmax())
        before = int(np.flatnonzero(array == array[at])[0])
        raise ValueError(
            f"expected {what} of which every item has its own, got {array[at].item()!r} in places "
            f"{before} and {at}" + (f", and {again.sum() - 1} more" if again.sum() > 1 else "")
        )


def _checked(ids: OwnIds, nothing: int | str) -> OwnIds:
    """Ids none of which means that nothing is there."""
    places = [at for at, value in enumerate(ids) if value == nothing] if nothing in ids else []
    if places:
        raise ValueError(
            f"expected ids other than {nothing!r}, which stands for nothing, got it in place "
            f"{places[0]}"
        )
    return ids


def _from_npy(path: Path) -> Any:
    with path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)  # never unpickles
    if array.dtype.kind not in "iuU":
        raise ValueError(f"expected {_EXPECTED}, got an array of {array.dtype}")
    return array


def _from_json(path: Path) -> Any:
    values = json.loads(path.read_bytes())
    if not isinstance(values, list):
        raise ValueError(f"expected a list, got {type(values).__name__}")
    return values


def _from_text(path: Path) -> Any:
    lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    # By how they are written: a post code is no number.
    return [int(line) for line in lines] if all(map(_is_integer, lines)) else lines


def _is_integer(line: str) -> bool:
    return line.removeprefix("-").isdecimal() and len(line) < 21 and str(int(line)) == line
