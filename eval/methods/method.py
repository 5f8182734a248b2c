"""A method to compare: a name, its bits, and what builds its index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy.typing as npt

from faiss_pqvae.data.open import Source
from faiss_pqvae.native import faiss
from faiss_pqvae.types import FloatArray, IdArray

from .deep_hashing import DeepHashing
from .flat import TRAIN_LIMIT, FlatPixels, check_size
from .native_training import DecodedSearch, set_additive, set_seed
from .spectral import SpectralHashing
from .spherical import SphericalHashing

PCA_DIM = 256  # OPQ takes a singular value decomposition of d x d in every one of its iterations

# Local search is slow: FAISS's own 25 rounds of training and 16 of encoding would take as long as
# all other baselines together. RQ's beam goes by tables, which gives the same codes sooner.
LSQ_SETTINGS = {"train_iters": 8, "encode_ils_iters": 8}
RQ_SETTINGS = {"use_beam_LUT": 1}
ADDITIVE_TRAIN_LIMIT = 20_000

Shape = tuple[int, ...]


class Searchable(Protocol):
    """What the runner asks of an index; `search_type` too, when a method names several."""

    def train(self, x: Source, /) -> object:
        """Learns from x: (n, *item_shape)."""

    def add(self, x: Source, /) -> object:
        """Appends x: (n, *item_shape); ids count from 0."""

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """Returns D: (nq, k) float32 and I: (nq, k) int64, best first."""

    def sa_code_size(self) -> int:
        """Bytes per stored vector."""


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
            `train(x, labels)`, (nt,) int64 with -1 for no label.
    """

    name: str
    bits: int
    build: Callable[[Shape], Searchable]
    config: dict[str, Any] = field(default_factory=dict)
    searches: tuple[str, ...] = ("adc",)
    reference: bool = False
    seed: int = 0
    supervised: bool = False


def from_factory(
    name: str,
    bits: int,
    d: int,
    factory: str,
    *,
    search: str = "adc",
    reference: bool = False,
    train_limit: int | None = None,
    seed: int = 0,
) -> Method:
    """The Method of a FAISS factory string over flattened items of d values.

    The string is read when the index is built; FAISS's RuntimeError comes then. Additive codes
    get the settings of this module, and are searched as DecodedSearch does.
    """
    settings = _settings(factory)
    if train_limit is None:
        train_limit = ADDITIVE_TRAIN_LIMIT if settings else TRAIN_LIMIT
    return Method(
        name=name,
        bits=bits,
        build=partial(
            _build, d=d, factory=factory, train_limit=train_limit, seed=seed, settings=settings
        ),
        config={
            "factory": factory,
            "d": d,
            "train_limit": train_limit,
            "seed": seed,
            **({"additive": settings} if settings else {}),
        },
        searches=(search,),
        reference=reference,
        seed=seed,
    )


def from_class(
    name: str,
    make: type[SpectralHashing] | type[SphericalHashing] | type[DeepHashing],
    *,
    bits: int,
    d: int,
    seed: int,
    search: str = "hamming",
) -> Method:
    """The Method of an index of our own, after a PCA to 256 dimensions where d is more."""
    inner = min(d, PCA_DIM)
    new = partial(make, inner, bits, seed=seed)
    pca = f"PCA{inner}," if d > inner else ""
    return Method(
        name=name,
        bits=bits,
        build=partial(_build_own, d=d, new=new, seed=seed),
        config={
            "factory": f"{pca}{make.__name__}{bits}",
            "d": d,
            "train_limit": TRAIN_LIMIT,
            "seed": seed,
            "settings": new().settings,
        },
        searches=(search,),
        seed=seed,
    )


def _build(
    item_shape: Shape,
    *,
    d: int,
    factory: str,
    train_limit: int,
    seed: int,
    settings: dict[str, int],
) -> FlatPixels:
    check_size(item_shape, d)
    inner, code = _split(factory)
    index = faiss.index_factory(inner or d, code)
    set_additive(index, settings)
    if seed:  # FAISS's own seeds stay what they are: seed 0 is what its users get
        set_seed(index, seed)
    if settings:
        index = DecodedSearch(index)
    return FlatPixels(index, d=d, train_limit=train_limit, seed=seed)


def _build_own(item_shape: Shape, *, d: int, new: Callable[[], Any], seed: int) -> FlatPixels:
    check_size(item_shape, d)
    return FlatPixels(new(), d=d, seed=seed)


def _settings(factory: str) -> dict[str, int]:
    """What is set in the quantizers of additive codes; nothing in others."""
    _, _, code = factory.rpartition(",")
    if code.startswith("LSQ"):
        return LSQ_SETTINGS
    return RQ_SETTINGS if code.startswith(("RQ", "PRQ")) else {}


def _split(factory: str) -> tuple[int | None, str]:
    """The dimensions of the PCA that comes first, if one does, and what follows it."""
    first, _, rest = factory.partition(",")
    number = first.removeprefix("PCA")
    return (int(number), rest) if number.isdecimal() and rest else (None, factory)
