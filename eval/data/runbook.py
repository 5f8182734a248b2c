"""Run-books: what is inserted and deleted, and when is searched."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

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


def read_runbook(path: Path, n: int) -> list[Step]:
    """Reads the steps in a file, as big-ann-benchmarks' streaming track writes them.

    Args:
        path: .json, or .yaml where PyYAML is installed: a list of steps, or an object of them by
            their numbers, which may lie below the name of a data set; a step has "operation" and,
            but for searches, "start" and "end".
        n: items that there are.

    Raises:
        FileNotFoundError: there is none.
        ImportError: PyYAML is needed.
        ValueError: it is no such file, or a step is not possible.
    """
    steps = [_step(found, at) for at, found in enumerate(_found(path), 1)]
    check_runbook(steps, n)
    return steps


def check_runbook(steps: list[Step], n: int) -> None:
    """Checks that every step is possible in its turn.

    Raises:
        ValueError: items that are not there come or go, one comes twice, or nothing is searched.
    """
    held: set[int] = set()
    for at, step in enumerate(steps, 1):
        items = range(step.start, step.end)
        if step.operation == "search":
            if not held:
                raise ValueError(f"expected items before the search in step {at}, got none")
            continue
        if not 0 <= step.start < step.end <= n:
            raise ValueError(
                f"expected items from 0 to {n - 1:,} in step {at}, got {step.start} to {step.end}"
            )
        if step.operation == "insert":
            if not held.isdisjoint(items):
                raise ValueError(f"expected new items in step {at}, got some that are there")
            held.update(items)
        else:
            if not held.issuperset(items):
                raise ValueError(f"expected items that are there to go in step {at}, got others")
            held.difference_update(items)
    if all(step.operation != "search" for step in steps):
        raise ValueError("expected a search among the steps, got none")


def _found(path: Path) -> list[Any]:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix.lower() in (".yaml", ".yml"):
            content = _yaml().safe_load(text)
        else:
            content = json.loads(text)
    except ImportError:
        raise
    except Exception as error:  # of either library
        raise ValueError(f"cannot read {path} as a run-book: {error}") from error
    while isinstance(content, dict) and len(content) == 1 and not _is_step_number(content):
        (content,) = content.values()  # below the name of a data set
    if isinstance(content, dict):
        steps = {int(key): step for key, step in content.items() if str(key).isdecimal()}
        content = [steps[key] for key in sorted(steps)]
    if not isinstance(content, list):
        raise ValueError(f"expected a list of steps in {path}, got {type(content).__name__}")
    return content


def _is_step_number(content: dict[Any, Any]) -> bool:
    return all(str(key).isdecimal() for key in content)


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
