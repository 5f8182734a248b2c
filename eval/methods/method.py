"""A method to compare: a name, its bits, and what builds its index; and what it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from faiss_pqvae.data.source import Source
from faiss_pqvae.types import FloatArray, IdArray

from ..data.brute_force import Metric
from ..data.protocol import Evaluated

if TYPE_CHECKING:
    from .settings import CodeSettings

Shape = tuple[int, ...]


class Searchable(Protocol):
    """What the runner asks of an index; `search_type` too, when a method names several.

    An index may also say what it knows better: `train_s` and `add_s`, seconds; `learns`, False for
    what `train` does not change; `train_limit`, where it draws some items; `model_bytes()`, what a
    trained one keeps besides its codes.
    """

    def train(self, x: Source, /) -> object:
        """Learns from x: (n, *item_shape)."""

    def add(self, x: Source, /) -> object:
        """Appends x: (n, *item_shape); ids count from 0."""

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """Returns D: (nq, k) float32 and I: (nq, k) int64, best first."""

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""


class LeftOutError(ValueError):
    """A method cannot be measured here, for a reason that is no fault of it, which it says.

    The runner then leaves out its rows, with the reason, and measures the others.
    """


class TooFewItemsError(LeftOutError):
    """There are fewer items to learn from than a method needs; it says how many that is."""


def check_enough(n: int, least: int, what: str) -> None:
    """Checks the number of items to learn from.

    Args:
        n: how many there are.
        least: how many are needed.
        what: needs them.

    Raises:
        TooFewItemsError: there are fewer.
    """
    if n < least:
        raise TooFewItemsError(f"{what} needs at least {least:,} training items, got {n:,}")


@dataclass(frozen=True, eq=False)
class Finished:
    """A training behind some rows, as the report shows it.

    Attributes:
        label: what it is called.
        log: a file with a JSON object a line, of which "event": "epoch" are drawn.
        usage: (M, ksub) int64, how often the database has each codeword.
        folder: where the index is.
    """

    label: str
    log: Path | None = None
    usage: IdArray | None = None
    folder: Path | None = None


@dataclass(frozen=True)
class Method:
    """One row of a comparison.

    Attributes:
        name: as printed.
        bits: bits per vector that the method claims; the runner compares them with the index.
        build: gets the shape of one item, returns an untrained index.
        config: everything that decides the result, as JSON values: part of the raw file's key.
        searches: search types to run; each is set as `index.search_type` when there are several.
        reference: a yardstick with its own bytes, outside the comparison at equal bytes.
        seed: of everything random in the training; `config` has it too. Rows that differ in it
            alone are trainings of one method.
        supervised: its index is trained with the labels of the training items, too:
            `train(x, labels)`, (nt,) int64 with -1 for no label, or (nt, classes) bool.
        finish: called once after the run with the data, for all rows that have the same one: keeps
            what was trained, and says what the report may show of it.
        marked: reports mark its rows: what the others are there to be compared with.
        data: the same items, queries and relevance as this method gets them, where it does not get
            what all others do: `config` has to say how these differ.
        code: classes and functions besides `build` whose source decides the result: where one of
            them or `build` changes, stored results are not used again.

    Raises:
        TypeError: a field of another kind, or a `config` that JSON does not have.
        ValueError: no search.
    """

    name: str
    bits: int
    build: Callable[[Shape], Searchable]
    config: dict[str, Any] = field(default_factory=dict)
    searches: tuple[str, ...] = ("adc",)
    reference: bool = False
    seed: int = 0
    supervised: bool = False
    finish: Callable[[Evaluated], Finished] | None = None
    marked: bool = False
    data: Evaluated | None = None
    code: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        kinds = {"name": str, "bits": int, "config": dict, "searches": tuple, "seed": int}
        for name, kind in kinds.items():
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(
                    f"expected {name} of the method {self.name!r} as {kind.__name__}, got {value!r}"
                )
        if not callable(self.build):
            raise TypeError(f"expected build of {self.name} to be callable, got {self.build!r}")
        if not all(isinstance(search, str) for search in self.searches) or not self.searches:
            raise ValueError(f"expected texts as searches of {self.name}, got {self.searches}")
        try:
            json.dumps(self.config, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"expected config of {self.name} as JSON values: {error}") from error


@dataclass(frozen=True)
class Request:
    """What a method is asked for: rows of one code length, learned with one seed.

    What is registered under a method's name takes a request and returns a `Method` or several, and
    none where it has no code of such a length.

    Attributes:
        bits: bits per vector.
        shape: of one item.
        M: sub-quantizers of product codes, so that all have the same: bits / M bits each.
        seed: of every random choice.
        metric: of distances, by which items are the nearest: "l2" or "inner_product".
        nlist: for rows that visit some of so many inverted lists; None scans every item.
        seeds: of all rows of the evaluation, `seed` among them.
        lengths: the bits of all rows of the evaluation, `bits` among them.
        learned: how codes are learned; None leaves them out.
        shared: what rows of one evaluation share, by keys of their own: one training, say.
    """

    bits: int
    shape: Shape
    M: int = 8
    seed: int = 0
    metric: Metric = "l2"
    nlist: int | None = None
    seeds: tuple[int, ...] = (0,)
    lengths: tuple[int, ...] = ()
    learned: CodeSettings | None = None
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def d(self) -> int:
        """Values of one item."""
        return math.prod(self.shape)
