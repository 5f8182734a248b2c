"""How the rows of a comparison are built: from FAISS's factory strings, or from classes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ..data.brute_force import FAISS_METRICS, Metric
from ..faiss_library import faiss
from .flat import TRAIN_LIMIT, FlatPixels, check_size
from .method import Method, Shape
from .native_training import DecodedSearch, set_additive, set_seed

# OPQ takes a singular value decomposition of d x d in every one of its iterations, and 3,072 pixels
# have little in the dimensions beyond; embeddings are given as they are.
PCA_DIM = 256

# RQ's beam goes by tables, which gives the same codes sooner. Local search is slow: FAISS's own 25
# rounds of training and 16 of encoding, with which codes are clearly better, take as long as
# all other baselines together, and it learns from fewer items than these. Of images, where additive
# codes do not matter so much, it gets fewer rounds.
RQ_SETTINGS = {"use_beam_LUT": 1}
FEW_ROUNDS = {"train_iters": 8, "encode_ils_iters": 8}
LSQ_TRAIN_LIMIT = 20_000


class Start(NamedTuple):
    """What stands before a code: a PCA, or nothing.

    Attributes:
        d: dimensions that the code gets.
        factory: of its factory string.
        label: of its name.
    """

    d: int
    factory: str
    label: str


def reduced_by_pca(shape: Shape) -> Start:
    """A PCA to 256 dimensions for images of more values; vectors stay as they are."""
    d = math.prod(shape)
    if len(shape) > 1 and d > PCA_DIM:
        return Start(PCA_DIM, f"PCA{PCA_DIM},", "PCA+")
    return Start(d, "", "")


def pq_code(start: str, d: int, M: int, nbits: int) -> str:
    """The factory string of a PQ, where zeros fill up what M does not divide.

    It is always `np`: polysemous training permutes codes, costs time and gains nothing here.
    """
    return f"{start}{pad(d, M)}PQ{M}x{nbits}np"


def pad(d: int, M: int) -> str:
    """The step that fills up d values to a multiple of M, where they are none."""
    return f"Pad{padded(d, M)}," if d % M else ""


def padded(d: int, M: int) -> int:
    """The multiple of M that is next to d."""
    return -(-d // M) * M


def from_factory(
    name: str,
    bits: int,
    d: int,
    factory: str,
    *,
    search: str = "adc",
    reference: bool = False,
    decoded: bool = False,
    few_rounds: bool = False,
    train_limit: int | None = None,
    seed: int = 0,
    metric: Metric = "l2",
) -> Method:
    """The Method of a FAISS factory string over flattened items of d values.

    The string is read when the index is built; FAISS's RuntimeError comes then. Additive codes
    get the settings of this module, local search those of `FEW_ROUNDS` if wanted; `decoded`
    searches them as DecodedSearch does.
    """
    code = factory.rpartition(",")[2]
    settings = RQ_SETTINGS if code.startswith(("RQ", "PRQ")) else {}
    if code.startswith("LSQ"):
        settings = FEW_ROUNDS if few_rounds else {}
    if train_limit is None:
        train_limit = LSQ_TRAIN_LIMIT if code.startswith("LSQ") else TRAIN_LIMIT
    return Method(
        name=name,
        bits=bits,
        build=partial(
            _build,
            d=d,
            factory=factory,
            train_limit=train_limit,
            seed=seed,
            settings=settings,
            decoded=decoded,
            metric=metric,
        ),
        config={
            "factory": factory,
            "d": d,
            "train_limit": train_limit,
            "seed": seed,
            **({"additive": settings} if settings else {}),
            **({"decoded": True} if decoded else {}),
            **({} if metric == "l2" else {"metric": metric}),
        },
        searches=(search,),
        reference=reference,
        seed=seed,
    )


def from_class(
    name: str,
    make: Callable[..., Any],
    *,
    bits: int,
    shape: Shape,
    seed: int,
    search: str = "hamming",
) -> Method:
    """The Method of an index of our own, after the PCA that such items get."""
    d, start = math.prod(shape), reduced_by_pca(shape)
    new = partial(make, start.d, bits, seed=seed)
    return Method(
        name=name,
        bits=bits,
        build=partial(_build_own, d=d, new=new, seed=seed),
        config={
            "factory": f"{start.factory}{make.__name__}{bits}",
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
    decoded: bool,
    metric: Metric,
) -> FlatPixels:
    check_size(item_shape, d)
    inner, code = _split(factory)
    index = faiss.index_factory(inner or d, code, FAISS_METRICS[metric])
    set_additive(index, settings)
    if seed:  # FAISS's own seeds stay what they are: seed 0 is what its users get
        set_seed(index, seed)
    if decoded:
        index = DecodedSearch(index)
    return FlatPixels(index, d=d, train_limit=train_limit, seed=seed)


def _build_own(item_shape: Shape, *, d: int, new: Callable[[], Any], seed: int) -> FlatPixels:
    check_size(item_shape, d)
    return FlatPixels(new(), d=d, seed=seed)


def _split(factory: str) -> tuple[int | None, str]:
    """The dimensions of the PCA that comes first, if one does, and what follows it."""
    first, _, rest = factory.partition(",")
    number = first.removeprefix("PCA")
    return (int(number), rest) if number.isdecimal() and rest else (None, factory)
