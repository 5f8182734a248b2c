"""Vectors in the columns of an Arrow table: which ones they are, and as arrays.

pyarrow is imported only where a table is at hand.
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.arrow import has_bytes, is_binary, is_list
from faiss_pqvae.extras import import_extra
from faiss_pqvae.messages import listed

_INDEX_OF_PANDAS = "__index_level_"

ColumnKind = Literal["vectors", "images", "float", "integer", "other"]


def column_kinds(schema: Any) -> dict[str, ColumnKind]:
    """What every column holds, by name.

    "vectors" are lists or fixed-shape tensors of numbers; "images" binary, alone or in a struct
    with a field `bytes`; "float" and "integer" one number a row.
    """
    types = import_extra("pyarrow").types
    return {field.name: _kind(types, field.type) for field in schema}


def _kind(types: Any, column: Any) -> ColumnKind:
    column = getattr(column, "storage_type", column)  # of an extension type, such as a tensor
    if has_bytes(column) or is_binary(column):
        return "images"
    if types.is_floating(column):
        return "float"
    if types.is_integer(column):
        return "integer"
    numbers = is_list(column) and _kind(types, column.value_type) in ("float", "integer")
    return "vectors" if numbers else "other"


def choose_columns(
    schema: Any, pattern: str | None, without: str | None, name_one: str, name_several: str
) -> list[str]:
    """The column of vectors, or the columns of numbers that are one dimension each.

    Without a pattern the only column of vectors. Where there is none: the columns that differ by a
    number alone (dim_0, dim_1, ...) in its order, beside which integers may stand, which are ids or
    labels; or else all columns of floats, if no other number is there.

    Args:
        schema: of the table.
        pattern: the name of a column of vectors, or a pattern such as "dim_*" that columns of
            numbers match.
        without: a column that is not among them.
        name_one: what to write where a column of vectors is meant, for messages.
        name_several: likewise, where dim_0, dim_1, ... are.

    Raises:
        ValueError: no such columns, or several that may be meant.
    """
    kinds = {name: kind for name, kind in column_kinds(schema).items() if name != without}
    vectors = [name for name, kind in kinds.items() if kind == "vectors"]
    numbers = [
        name
        for name, kind in kinds.items()
        if kind in ("float", "integer") and not name.startswith(_INDEX_OF_PANDAS)
    ]
    if pattern is not None:
        if pattern in vectors:
            return [pattern]
        wide = [] if pattern in kinds else fnmatch.filter(numbers, pattern)
        if wide:
            return sorted(wide, key=_by_number)
        raise ValueError(
            f"expected a column {pattern!r} of lists of numbers, got {vectors} among "
            f"{_said(schema)}"
        )
    if len(vectors) == 1:
        return vectors
    if vectors:
        raise ValueError(f"expected one column of vectors, got {vectors}; name one as {name_one}")
    if wide := _dimensions(numbers, [name for name in numbers if kinds[name] == "float"]):
        return wide
    raise ValueError(
        "expected a column 'image', one of vectors (lists of numbers), or a column of numbers for "
        f"every dimension, got {_said(schema)}; name a column as {name_one}, several as "
        f"{name_several}"
    )


def _said(schema: Any) -> str:
    return "the columns " + listed((f"{field.name} ({field.type})" for field in schema), 12)


def _dimensions(numbers: list[str], floats: list[str]) -> list[str]:
    """The columns of numbers that are plainly one dimension each, in order; else none."""
    families = _families(numbers)
    if len(families) == 1 and not set(floats) - set(families[0]) and _is_gapless(families[0]):
        return families[0]
    return floats if not families and len(floats) == len(numbers) else []


def _families(names: list[str]) -> list[list[str]]:
    """Those of the names that differ by a number at their end alone, in its order."""
    families: dict[str, list[str]] = {}
    for name in sorted(names, key=_by_number):
        if re.search("[0-9]$", name):
            families.setdefault(name.rstrip("0123456789"), []).append(name)
    return [family for family in families.values() if len(family) > 1]


def _is_gapless(family: list[str]) -> bool:
    numbers = [_by_number(name)[0] for name in family]
    return numbers[0] in (0, 1) and numbers == [*range(numbers[0], numbers[0] + len(numbers))]


def _by_number(name: str) -> tuple[int, str]:
    digits = re.search("[0-9]+$", name)
    return int(digits[0]) if digits else -1, name


def check_columns(schema: Any, names: list[str], first: Path) -> None:
    """Whether another file has the columns that were chosen in the first.

    Raises:
        ValueError: one is missing, or holds something else.
    """
    kinds = column_kinds(schema)
    wanted = {"vectors"} if len(names) == 1 and kinds.get(names[0]) == "vectors" else None
    missing = [name for name in names if kinds.get(name) not in (wanted or {"float", "integer"})]
    if missing:
        raise ValueError(
            f"expected the columns {missing[:5]} of numbers, as in {first}, got {_said(schema)}"
        )


def rows_of(table: Any, names: list[str]) -> npt.NDArray[Any]:
    """Columns of a table or record batch as (n, d) float32; tensors of bytes as uint8 (n, ...).

    Raises:
        ValueError: missing values, or vectors of several dimensions.
    """
    columns = [table.column(table.schema.get_field_index(name)) for name in names]
    if len(names) == 1 and column_kinds(table.schema)[names[0]] == "vectors":
        return vectors_of(columns[0])
    rows = np.empty((table.num_rows, len(names)), np.float32)
    for position, column in enumerate(columns):
        if column.null_count:
            raise ValueError(
                f"expected a number in every row of {names[position]}, got {column.null_count} "
                "nulls"
            )
        rows[:, position] = column.to_numpy(**_copying(column))
    return rows


def _copying(column: Any) -> dict[str, bool]:
    return {} if hasattr(column, "chunks") else {"zero_copy_only": False}


def vectors_of(column: Any) -> npt.NDArray[Any]:
    """An Arrow column of lists or tensors, in one piece or in chunks; see `rows_of`.

    Returns:
        (n, d) float32, (0, 0) where there is no row; (n, ...) of tensors.
    """
    if hasattr(column, "chunks"):
        return join_rows([vectors_of(chunk) for chunk in column.chunks])
    if column.null_count:
        raise ValueError(f"expected a vector in every row, got {column.null_count} nulls")
    if hasattr(column, "to_numpy_ndarray"):
        return _tensors(column)
    column = getattr(column, "storage", column)
    if len(column) == 0:
        return np.empty((0, 0), np.float32)
    lengths = import_extra("pyarrow.compute").list_value_length(column).to_numpy()
    d = int(lengths[0])
    if d == 0 or (lengths != d).any():
        raise ValueError(
            f"expected vectors of one dimension, {d or 'at least 1'} as in the first row, got "
            f"dimensions from {lengths.min()} to {lengths.max()}"
        )
    return _numbers(column).reshape(-1, d).astype(np.float32)


def _tensors(column: Any) -> npt.NDArray[Any]:
    """Tensors of a fixed shape: bytes in three dimensions are images and stay as they are."""
    kind = column.type
    tensors = _numbers(column.storage).reshape(-1, *kind.shape)
    if kind.permutation is not None:  # pyarrow's own to_numpy_ndarray turns some the wrong way
        tensors = tensors.transpose(0, *(1 + axis for axis in kind.permutation))
    as_bytes = tensors.dtype == np.uint8 and tensors.ndim == 4
    return tensors if as_bytes else tensors.astype(np.float32)


def _numbers(column: Any) -> npt.NDArray[Any]:
    values = column.flatten()  # unlike .values, this respects a slice's offset
    if values.null_count:
        raise ValueError(f"expected numbers in every vector, got {values.null_count} nulls")
    numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers


def join_rows(blocks: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Blocks of vectors as one array; each is let go once it is copied: never two copies of all.

    Raises:
        ValueError: blocks of several dimensions.
    """
    blocks = [block for block in blocks if len(block)] or blocks[:1]
    if len(blocks) < 2:
        return blocks.pop() if blocks else np.empty((0, 0), np.float32)
    shapes = {block.shape[1:] for block in blocks}
    if len(shapes) > 1:
        raise ValueError(f"expected vectors of one dimension, got {sorted(shapes)}")
    out = np.empty((sum(map(len, blocks)), *blocks[0].shape[1:]), blocks[0].dtype)
    end = len(out)
    while blocks:
        block = blocks.pop()
        out[end - len(block) : end] = block
        end -= len(block)
    return out
