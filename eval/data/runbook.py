"""Run-books: what is inserted and deleted, and when is searched."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from faiss_pqvae.messages import listed

Operation: TypeAlias = Literal["insert", "delete", "search"]

WINDOW = "window"  # the one that needs no file
_PARTS, _HELD = 10, 5


@dataclass(frozen=True)
class Step:
    """One step of a run-book.

    Attributes:
        operation: "insert", "delete" or "search".
        start: the first item that comes or goes, by its place in the database.
        end: behind the last.
    """

    operation: Operation
    start: int = 0
    end: int = 0


def window(n: int) -> list[Step]:
    """Tenths of n items come one after the other, and from the sixth on the oldest goes.

    Raises:
        ValueError: fewer than 10 items.
    """
    if n < _PARTS:
        raise ValueError(f"expected at least {_PARTS} items for the run-book, got {n}")
    ends = [n * i // _PARTS for i in range(_PARTS + 1)]
    steps = []
    for part in range(_PARTS):
        steps.append(Step("insert", ends[part], ends[part + 1]))
        if part >= _HELD:
            steps.append(Step("delete", ends[part - _HELD], ends[part - _HELD + 1]))
        steps.append(Step("search"))
    return steps


def read_runbook(path: Path, n: int, name: str = "") -> list[Step]:
    """Reads the steps in a file, as big-ann-benchmarks' streaming track writes them.

    Args:
        path: .json, or .yaml where PyYAML is installed: a list of steps, or an object of them by
            their numbers, which may lie below names of data sets; a step has "operation" and, but
            for searches, "start" and "end".
        n: items that there are.
        name: of the data set, where the file has several.

    Raises:
        FileNotFoundError: there is none.
        ImportError: PyYAML is needed.
        ValueError: it is no such file, has other data sets, or a step is not possible.
    """
    steps = [_step(found, at) for at, found in enumerate(_found(path, name), 1)]
    check_runbook(steps, n)
    return steps


def check_runbook(steps: list[Step], n: int) -> None:
    """Checks that every step is possible in its turn.

    Raises:
        ValueError: items that are not there come or go, one comes twice, or nothing is searched.
    """
    held = np.zeros(n, bool)
    for at, step in enumerate(steps, 1):
        items = held[step.start : step.end]
        if step.operation == "search":
            if not held.any():
                raise ValueError(f"expected items before the search in step {at}, got none")
            continue
        if not 0 <= step.start < step.end <= n:
            raise ValueError(
                f"expected items from 0 to {n - 1:,} in step {at}, got {step.start} to {step.end}"
            )
        if step.operation == "insert":
            if items.any():
                raise ValueError(f"expected new items in step {at}, got some that are there")
        elif not items.all():
            raise ValueError(f"expected items that are there to go in step {at}, got others")
        items[:] = step.operation == "insert"
    if all(step.operation != "search" for step in steps):
        raise ValueError("expected a search among the steps, got none")


def _found(path: Path, name: str) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        is_yaml = path.suffix.lower() in (".yaml", ".yml")
        content = _yaml().safe_load(text) if is_yaml else json.loads(text)
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:  # of either library, or of UTF-8
        raise ValueError(f"cannot read {path} as a run-book: {error}") from error
    if isinstance(content, dict) and not _numbered(content):  # below names of data sets
        if len(content) > 1 and name not in content:
            raise ValueError(
                f"expected steps for {name} in {path}, got those of {listed(content, 8)}"
            )
        content = content[name] if name in content else next(iter(content.values()))
    if isinstance(content, dict):
        steps = _numbered(content)
        content = [steps[key] for key in sorted(steps)]
    if not isinstance(content, list):
        raise ValueError(f"expected a list of steps in {path}, got {type(content).__name__}")
    return content


def _numbered(content: dict[Any, Any]) -> dict[int, Any]:
    """The steps of an object by their numbers; other keys, such as max_pts, are passed over."""
    return {int(key): step for key, step in content.items() if str(key).isdecimal()}


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ModuleNotFoundError as error:
        raise ImportError("PyYAML is needed to read this: pip install pyyaml") from error


def _step(found: Any, at: int) -> Step:
    operations = get_args(Operation)
    if not isinstance(found, dict) or found.get("operation") not in operations:
        raise ValueError(f"expected an operation of {operations} in step {at}, got {found!r}")
    ends = [found.get(key, 0) for key in ("start", "end")]
    if not all(type(end) is int for end in ends):
        raise ValueError(f"expected integers as start and end of step {at}, got {found!r}")
    return Step(found["operation"], *ends)
