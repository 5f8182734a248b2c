"""One index of a method: built, trained, filled, and searched by the clock."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.types import FloatArray, IdArray

from ..data.protocol import Evaluated, trained_on
from ..data.selections import Selection
from ..faiss_library import faiss
from ..methods.among import NoSelectorError, oversampled, selector
from ..methods.method import Method, Searchable
from .memory import PeakMemory

SELECTOR, OVERSAMPLING = "selector", "oversampling"  # how searches are filtered


@dataclass(frozen=True, eq=False)
class Built:
    """A trained and filled index, and what that took.

    Attributes:
        index: itself.
        train_s: seconds.
        add_s: seconds, for the whole database.
        trained_on: what it learned from; empty for what learned nothing here.
        model_bytes: what it keeps besides codes; None where it does not say.
        index_bytes: what it is on a disk, items and all; likewise.
        peak_bytes: memory that "train" and "add" needed at most, beyond what was held before.
    """

    index: Searchable
    train_s: float
    add_s: float
    trained_on: str
    model_bytes: int | None
    index_bytes: int | None
    peak_bytes: dict[str, int]


def built(data: Evaluated, method: Method) -> Built:
    """An index of a method, trained and filled with the database."""
    index: Any = method.build(tuple(data.database.shape[1:]))
    _check_bytes(method, index)  # before the hours, and again after: bytes are the built index's
    learns = getattr(index, "learns", True)  # before it has
    with PeakMemory() as training:
        started = time.perf_counter()
        train(data, method, index)
        trained = time.perf_counter()
    model_bytes = index.model_bytes() if hasattr(index, "model_bytes") else None
    with PeakMemory() as adding:
        filling = time.perf_counter()
        index.add(data.database)
        added = time.perf_counter()
    _check_bytes(method, index)
    # A training that went on after an interruption knows better than this clock what it took, and
    # so does an index that shares its training or its codes with others.
    return Built(
        index,
        getattr(index, "train_s", trained - started),
        getattr(index, "add_s", added - filling),
        trained_on(data, getattr(index, "train_limit", None)) if learns else "",
        model_bytes,
        index.stored_bytes() if hasattr(index, "stored_bytes") else None,
        peaks(train=training, add=adding),
    )


def peaks(**phases: PeakMemory) -> dict[str, int]:
    """Bytes by phase, of those that the system tells."""
    found = {name: phase.peak_bytes for name, phase in phases.items()}
    return {name: size for name, size in found.items() if size is not None}


def train(data: Evaluated, method: Method, index: Any) -> None:
    """Trains an index of a method on what the data have for that."""
    given = [data.labels_to_train] if method.supervised else []
    index.train(data.train, *given)


def set_search(index: Any, search: str, *, of_several: bool = False) -> None:
    """Sets up an index for a search setting.

    Args:
        index: a `Searchable`.
        search: a search type such as "adc", or parameters such as "nprobe=16" or
            "nprobe=16,ht=20" as faiss.ParameterSpace reads them; both at once: "sdc,nprobe=16".
            A parameter that the index has as an attribute is set there, any other on its native
            index.
        of_several: the method has several search settings: then the type is set as
            `index.search_type`; else it only says what the index does.

    Raises:
        ValueError: the index does not have the parameter, or its value is no number.
    """
    for part in search.split(","):
        name, equals, value = part.partition("=")
        if not equals:
            if of_several:
                index.search_type = part
            continue
        try:
            if hasattr(index, name):
                setattr(index, name, type(getattr(index, name))(value))
            else:
                faiss.ParameterSpace().set_index_parameter(index.faiss_index, name, float(value))
        except (ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(f"cannot set {part!r} of {search!r}: {error}") from error


def _check_bytes(method: Method, index: Searchable) -> None:
    expected, got = math.ceil(method.bits / 8), index.sa_code_size()
    if got != expected:
        raise ValueError(
            f"expected {expected} bytes per vector for the {method.bits} bits of {method.name}, "
            f"got {got}: methods are compared at equal bytes"
        )


def searched(
    data: Evaluated, index: Searchable, k: int, batch_size: int
) -> tuple[FloatArray, IdArray, list[tuple[int, float]]]:
    """D and I of all queries, and rows and seconds of each call, without the reading of queries.

    Raises:
        TypeError: a search does not return two arrays, of numbers and of integers.
        ValueError: they are not of shape (rows, k).
    """
    n, batches = len(data.queries), []
    D, I = np.empty((n, k), np.float32), np.empty((n, k), np.int64)  # noqa: E741
    for start in range(0, n, batch_size):
        rows = slice(start, min(start + batch_size, n))
        xq = data.queries[rows]
        started = time.perf_counter()
        found = index.search(xq, k)
        batches.append((len(xq), time.perf_counter() - started))
        D[rows], I[rows] = _checked(found, (len(xq), k))
    return D, I, batches


def searched_among(
    data: Evaluated, index: Searchable, selection: Selection, k: int, batch_size: int
) -> tuple[FloatArray, IdArray, float, str]:
    """The same among some of the items, and the seconds; ids of -1 where these are fewer than k.

    With a selector where the index takes one, else by oversampling; the last value says which.

    Raises:
        TypeError, ValueError: as `searched`; an id that the filter leaves out.
    """
    n, seconds = len(data.queries), 0.0
    how = SELECTOR if hasattr(index, "search_among") else OVERSAMPLING
    D, I = np.empty((n, k), np.float32), np.empty((n, k), np.int64)  # noqa: E741
    for group in selection.groups:
        allowed = np.zeros(len(data.database), bool)
        allowed[group.items] = True
        sel = selector(allowed)
        for start in range(0, len(group.queries), batch_size):
            rows = group.queries[start : start + batch_size]
            xq = data.queries[rows]
            started = time.perf_counter()
            if how == SELECTOR:
                try:
                    found: Any = index.search_among(xq, k, sel)  # type: ignore[attr-defined]
                except NoSelectorError:
                    how = OVERSAMPLING
            if how == OVERSAMPLING:
                found = oversampled(index, xq, k, allowed)
            seconds += time.perf_counter() - started
            D[rows], I[rows] = _checked(found, (len(xq), k))
        ids = I[group.queries]
        outside = ids[(ids >= 0) & ~np.isin(ids, group.items)]
        if outside.size:
            raise ValueError(
                f"expected results among {selection.name}, got item {outside[0]}: the filter is "
                "ignored"
            )
    return D, I, seconds, how


def _checked(found: Any, shape: tuple[int, int]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """What a search returned, as arrays of numbers and of ids."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(f"expected D and I from search, got {type(found).__name__}")
    D, I = map(np.asarray, found)  # noqa: E741
    if D.dtype.kind not in "fiu" or I.dtype.kind not in "iu":
        raise TypeError(f"expected D of numbers and I of integers, got {D.dtype} and {I.dtype}")
    if D.shape != shape or I.shape != shape:
        raise ValueError(f"expected D and I of shape {shape}, got {D.shape} and {I.shape}")
    return D, I
