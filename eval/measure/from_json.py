"""Dataclasses out of JSON that another program may have written: every value is checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any


def made(kind: Any, content: Any, where: str, rows: Sequence[type] = ()) -> Any:
    """An object of a dataclass from a JSON object, by the types of its fields.

    Args:
        kind: the dataclass; keys that it has no field for are left out.
        content: what was read.
        where: what an error calls it.
        rows: other dataclasses that there are tuples of in its fields.

    Raises:
        ValueError: no object, a missing key, or a value of a wrong type.
    """
    whole, values = _object(content, where), {}
    for one in fields(kind):
        if one.name in whole or (one.default is MISSING and one.default_factory is MISSING):
            found = required(whole, one.name, object, where)
            length = one.metadata.get("length")
            values[one.name] = _checked(str(one.type), found, one.name, where, length, rows)
    return kind(**values)


def _checked(
    kind: str,
    found: Any,
    key: str,
    where: str,
    length: int | None = None,
    rows: Sequence[type] = (),
) -> Any:
    """A value of a field's type: one of JSON's, or a list or an object of such."""
    if kind.endswith(" | None"):
        return None if found is None else _checked(kind.removesuffix(" | None"), found, key, where)
    if kind.startswith("tuple["):
        name = kind.removeprefix("tuple[").removesuffix(", ...]")
        (row,) = (row for row in rows if row.__name__ == name)
        values = _of_kind(found, list, key, where)
        return tuple(made(row, x, f"{name.lower()} {i}") for i, x in enumerate(values))
    if kind.startswith("list["):
        values = _of_kind(found, list, key, where)
        if length is not None and len(values) != length:
            raise ValueError(f"expected {length} numbers as {key!r} in {where}, got {len(values)}")
        return [_checked(kind[5:-1], value, key, where) for value in values]
    if kind.startswith("dict[str, ") and kind != "dict[str, Any]":
        parts, inside = _of_kind(found, dict, key, where), f"the {key} of {where}"
        return {name: _checked(kind[10:-1], x, name, inside, length) for name, x in parts.items()}
    if kind == "float":
        return _number(found, key, where)
    return _of_kind(found, {"int": int, "str": str, "bool": bool}.get(kind, dict), key, where)


def _number(found: Any, key: str, where: str) -> float:
    """A finite number, whole or not."""
    number = float(_of_kind(found, int if isinstance(found, int) else float, key, where))
    if not math.isfinite(number):
        raise ValueError(f"expected {key!r} in {where} to be finite, got {number}")
    return number


def _object(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"expected {where} to be an object, got {type(content).__name__}")
    return content


def required(content: Any, key: str, kind: type, where: str) -> Any:
    """The value of a key that must be there.

    Raises:
        ValueError: no object, no such key, or a value of another type.
    """
    whole = _object(content, where)
    if key not in whole:
        raise ValueError(f"expected a key {key!r} in {where}, got {sorted(whole)}")
    return _of_kind(whole[key], kind, key, where)


def _of_kind(found: Any, kind: type, key: str, where: str) -> Any:
    # JSON's true is an int in Python.
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise ValueError(
            f"expected {key!r} in {where} as {kind.__name__}, got {type(found).__name__}"
        )
    return found
