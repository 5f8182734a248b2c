"""The rows of a comparison: a name and a factory string for each baseline."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import partial

from faiss_pqvae.types import FloatArray, IdArray

from .deep_hashing import DeepHashing
from .flat import FlatPixels, flatten
from .method import PCA_DIM, Method, Searchable, from_class, from_factory
from .spectral import SpectralHashing
from .spherical import SphericalHashing

__all__ = [
    "FAST",
    "FlatPixels",
    "FloatArray",
    "IdArray",
    "M",
    "Method",
    "Searchable",
    "baselines",
    "exact",
    "flatten",
    "from_factory",
]

M = 8  # sub-quantizers unless another number is asked for: 32, 48 and 64 bits are 4, 6, 8 bits each
RABITQ_BYTES = 8  # of two factors that IndexRaBitQ stores beside one bit per dimension
# Rows that are learned in seconds on a few thousand items; the others take up to minutes.
FAST = (
    *("Exact L2", "LSH", "Spectral Hashing", "Spherical Hashing", "ITQ", "Deep Hashing"),
    *("PQ", "OPQ"),
)


def exact(d: int) -> Method:
    """Exact L2 search: 4 bytes a value, a yardstick and not a competitor."""
    return from_factory("Exact L2", 32 * d, d, "Flat", search="exact", reference=True)


def baselines(
    bits: int, d: int, *, M: int = M, seed: int = 0, only: Collection[str] | None = None
) -> list[Method]:
    """The rows that a learned code is compared with, at one code length.

    Exact L2 comes first (a reference with its own bytes). Then codes that are compared by Hamming
    distance: LSH (random rotated hyperplanes), Spectral Hashing, Spherical Hashing (a distance of
    its own), ITQ (PCA to `bits` dimensions, a learned rotation, signs), Deep Hashing. Then codes of
    codewords: PQ and OPQ with M sub-quantizers and, where that is something else, with 8-bit ones;
    the additive ones, which have 8-bit codewords only and store no norm: RQ, LSQ and
    product-residual (two parts). With d > 256 all but exact L2 and the raw PQ start with a PCA to
    256 dimensions and say so in their names, except Spectral Hashing: it is a PCA to at most
    `bits` dimensions, and the same one after the first. With d <= 256 nothing does.

    Left out are: ITQ where `bits` is more than the dimensions it starts from; additive codes of
    one byte, which are PQ, and product-residual ones where `bits` / 16 is not 2 or more;
    RaBitQ, a bit per dimension and 8 bytes, up to 64 bits and where there are fewer dimensions;
    of codes that are no whole bytes all but exact L2, LSH, ITQ, and PQ and OPQ of M sub-quantizers.

    PQ is always `np`: polysemous training permutes codes, costs time and gains nothing here.

    Args:
        bits: bits per vector, a multiple of 4 and of M, at most 16 M.
        d: values per item.
        M: sub-quantizers of the product quantizers.
        seed: of every random choice but exact L2's, which has none. Seed 0 keeps FAISS's own seeds.
        only: names of rows to take, without "PCA+" in front (see FAST for those that are learned in
            seconds); names of rows that there are not here have no effect. None takes all.

    Raises:
        ValueError: `bits`, `d` or `M` is out of range, or `only` leaves nothing.
    """
    if d < 1 or M < 1:
        raise ValueError(f"expected d >= 1 and M >= 1, got d = {d} and M = {M}")
    step = math.lcm(M, 4)
    if bits % step or not step <= bits <= 16 * M:
        raise ValueError(
            f"expected bits as a multiple of {step} from {step} to {16 * M}, got {bits}"
        )
    reduced, whole_bytes = d > PCA_DIM, bits % 8 == 0
    pca, label = (f"PCA{PCA_DIM},", "PCA+") if reduced else ("", "")
    native = partial(from_factory, bits=bits, d=d, seed=seed)
    own = partial(from_class, bits=bits, d=d, seed=seed)
    rows = [
        exact(d),
        # PCA centres the values. Without it hyperplanes through the origin would have all pixels,
        # which are never negative, on similar sides: then the thresholds are trained ("t").
        native(
            f"{label}LSH", factory=f"{pca}LSH{bits}{'r' if reduced else 'rt'}", search="hamming"
        ),
    ]
    if whole_bytes:
        rows += [
            own("Spectral Hashing", SpectralHashing),
            own(f"{label}Spherical Hashing", SphericalHashing, search="spherical"),
        ]
    if bits <= min(d, PCA_DIM):
        rows.append(native(f"{label}ITQ", factory=f"{pca}ITQ{bits},LSH", search="hamming"))
    if whole_bytes:
        rows.append(own(f"{label}Deep Hashing", DeepHashing))
    codewords = [
        *([("PQ", _pq("", d, M, bits // M))] if reduced else []),
        *_product(pca, label, d, M, bits // M),
        *(
            _product(pca, label, d, bits // 8, 8, note=True)
            if whole_bytes and bits != 8 * M
            else []
        ),
        *(_additive(pca, label, d, bits) if whole_bytes else []),
        *_rabitq(pca, label, d, bits),
    ]
    rows += [native(name, factory=factory) for name, factory in codewords]
    taken = [row for row in rows if only is None or row.name.removeprefix("PCA+") in only]
    if not taken:
        raise ValueError(f"expected some of {[row.name for row in rows]}, got only {only}")
    return taken


def _product(
    pca: str, label: str, d: int, M: int, nbits: int, *, note: bool = False
) -> list[tuple[str, str]]:
    """Names and factory strings of PQ and OPQ."""
    inner = min(d, PCA_DIM)
    note_text = f" ({M}x{nbits})" if note else ""
    opq = f"{pca}OPQ{M}_{_padded(inner, M)},PQ{M}x{nbits}np"
    return [
        (f"{label}PQ{note_text}", _pq(pca, inner, M, nbits)),
        (f"{label}OPQ{note_text}", opq),
    ]


def _pq(pca: str, d: int, M: int, nbits: int) -> str:
    """PQ needs a multiple of M values: zeros make up for what is missing."""
    return f"{pca}{_pad(d, M)}PQ{M}x{nbits}np"


def _additive(pca: str, label: str, d: int, bits: int) -> list[tuple[str, str]]:
    """Names and factory strings of RQ, LSQ and product-residual quantizers of whole bytes."""
    count = bits // 8
    if count < 2:
        return []
    rows = [(f"{label}{kind}", f"{pca}{kind}{count}x8") for kind in ("RQ", "LSQ")]
    if count % 2 == 0 and count > 2:
        pad = _pad(min(d, PCA_DIM), 2)
        rows.append((f"{label}Product-residual", f"{pca}{pad}PRQ2x{count // 2}x8"))
    return rows


def _rabitq(pca: str, label: str, d: int, bits: int) -> list[tuple[str, str]]:
    """The name and factory string of RaBitQ, whose bits stand for dimensions randomly rotated."""
    inner, dimensions = min(d, PCA_DIM), bits - 8 * RABITQ_BYTES
    if not 0 < dimensions <= inner:
        return []
    fewer = f"PCA{dimensions}," if dimensions < inner else ""
    name = f"{label}RaBitQ" if label or not fewer else "PCA+RaBitQ"
    return [(name, f"{pca}{fewer}RR{dimensions},RaBitQ")]


def _pad(d: int, M: int) -> str:
    return f"Pad{_padded(d, M)}," if d % M else ""


def _padded(d: int, M: int) -> int:
    return math.ceil(d / M) * M
