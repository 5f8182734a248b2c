"""Values out of a JSON object that another program may have written: each is checked.

`where` says in an error which object it was.
"""

from __future__ import annotations

import math
from typing import Any


def as_object(content: Any, where: str) -> dict[str, Any]:
    """The content itself, when it is a JSON object; else a ValueError."""
    if not isinstance(content, dict):
        raise ValueError(f"expected {where} to be an object, got {type(content).__name__}")
    return content


def value(content: dict[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    """The value of a key; without a default the key must be there."""
    if key not in content:
        if default is None:
            raise ValueError(f"expected a key {key!r} in {where}, got {sorted(content)}")
        return default
    found = content[key]
    # JSON's true is an int in Python.
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise ValueError(
            f"expected {key!r} in {where} as {kind.__name__}, got {type(found).__name__}"
        )
    return found


def number(content: dict[str, Any], key: str, where: str) -> float:
    """A finite number, whole or not."""
    kind = int if isinstance(content.get(key), int) else float
    found = float(value(content, key, kind, where))
    if not math.isfinite(found):
        raise ValueError(f"expected {key!r} in {where} to be finite, got {found}")
    return found


def numbers(content: dict[str, Any], where: str) -> dict[str, float]:
    """An object of finite numbers."""
    return {key: number(content, key, where) for key in content}


def number_list(
    content: dict[str, Any], key: str, where: str, length: int | None = None
) -> list[float]:
    """A list of finite numbers, of a length where one is asked for."""
    values = value(content, key, list, where)
    if length is not None and len(values) != length:
        raise ValueError(f"expected {length} numbers as {key!r} in {where}, got {len(values)}")
    return [number({key: one}, key, where) for one in values]


def number_lists(
    content: dict[str, Any], key: str, where: str, length: int | None = None
) -> dict[str, list[float]]:
    """An object of lists of numbers; an empty one where the key is not there."""
    lists = value(content, key, dict, where, {})
    return {name: number_list(lists, name, f"the {key} of {where}", length) for name in lists}


def strings(content: dict[str, Any], key: str, where: str) -> list[str]:
    """A list of strings; an empty one where the key is not there."""
    values = value(content, key, list, where, [])
    return [value({key: one}, key, str, where) for one in values]
