"""What is told of methods that are missing from the results."""

from __future__ import annotations

from collections.abc import Sequence

from .results import LeftOut, Results


class FailedMethodsError(ValueError):
    """Methods raised errors, or returned what cannot be right; the others were measured.

    Attributes:
        results: of the others; without rows, where there is nothing else.
    """

    def __init__(self, message: str, results: Results) -> None:
        super().__init__(message)
        self.results = results


def lines_of(left_out: Sequence[LeftOut]) -> list[str]:
    """A line a method; where every seed has the same reason, once."""
    return [*dict.fromkeys(f"{one.method}, {one.bits} bits: {one.reason}" for one in left_out)]
