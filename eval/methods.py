"""Methods to compare: rows of data, a name and a FAISS factory string for each baseline.

Every baseline sees the same floats: pixels / 255, flattened, in float32. Sources are read in
chunks, so that a data set on disk is never copied whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from faiss_pqvae.native import faiss
from faiss_pqvae.sources import Source, chunks

M = 8  # sub-quantizers unless another number is asked for: 32, 48 and 64 bits are 4, 6, 8 bits each
PCA_DIM = 256  # OPQ takes a singular value decomposition of d x d in every one of its iterations
TRAIN_LIMIT = 50_000
CHUNK_BYTES = 64 << 20  # of float32 in one chunk

Shape = tuple[int, ...]
FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]


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
    """

    name: str
    bits: int
    build: Callable[[Shape], Searchable]
    config: dict[str, Any] = field(default_factory=dict)
    searches: tuple[str, ...] = ("adc",)
    reference: bool = False
    seed: int = 0


class FlatPixels:
    """A native FAISS index that takes images (or vectors) and flattens them.

    Results come as FAISS ranks them; the runner puts tied items in the order of their ids.

    Args:
        index: an untrained faiss.Index of dimension d.
        train_limit: training takes at most this many items, chosen by the seed.
        seed: of that choice.
    """

    def __init__(self, index: Any, *, train_limit: int = TRAIN_LIMIT, seed: int = 0) -> None:
        self.faiss_index = index
        self.train_limit = train_limit
        self.seed = seed

    def train(self, x: Source, /) -> None:
        """Trains on x: (n, *item_shape) uint8 or float."""
        if self.faiss_index.is_trained:  # exact search learns nothing: read nothing
            return
        _train(self.faiss_index, _subsample(x, self.faiss_index.d, self.train_limit, self.seed))

    def add(self, x: Source, /) -> None:
        """Adds x: (n, *item_shape) uint8 or float, chunk by chunk."""
        for chunk in _flat_chunks(x, self.faiss_index.d):
            self.faiss_index.add(chunk)

    def search(self, xq: npt.NDArray[Any], k: int, /) -> tuple[FloatArray, IdArray]:
        """Finds the k nearest of every query.

        Args:
            xq: (nq, *item_shape) uint8 or float.
            k: results per query.

        Returns:
            D: (nq, k) float32, squared L2 or Hamming distances; I: (nq, k) int64.
        """
        D, I = self.faiss_index.search(flatten(xq, self.faiss_index.d), k)  # noqa: E741
        return D, I

    def sa_code_size(self) -> int:
        """Bytes per vector of the native index."""
        return int(self.faiss_index.sa_code_size())


def exact(d: int) -> Method:
    """Exact L2 search: 4 bytes a value, a yardstick and not a competitor."""
    return from_factory("Exact L2", 32 * d, d, "Flat", search="exact", reference=True)


def baselines(bits: int, d: int, *, M: int = M, seed: int = 0) -> list[Method]:
    """The rows that a learned code is compared with, at one code length.

    Exact L2 comes first (a reference with its own bytes), then LSH (random rotated hyperplanes),
    ITQ (PCA to `bits` dimensions, a learned rotation, signs), PQ on the raw values, and PQ and
    OPQ with M sub-quantizers. With d > 256 all but exact L2 and the raw PQ start with a PCA to
    256 dimensions and say so in their names; with d <= 256 nothing does, and there is one PQ.
    ITQ is left out when `bits` is more than the dimensions it starts from.

    PQ is always `np`: polysemous training permutes codes, costs time and gains nothing here.

    Args:
        bits: bits per vector, a multiple of 8 and of M, at most 16 M.
        d: values per item.
        M: sub-quantizers of the product quantizers.
        seed: of every random choice but exact L2's, which has none.

    Raises:
        ValueError: `bits` or `d` is out of range.
    """
    if d < 1 or M < 1:
        raise ValueError(f"expected d >= 1 and M >= 1, got d = {d} and M = {M}")
    step = math.lcm(M, 8)
    if bits % step or not step <= bits <= 16 * M:
        raise ValueError(
            f"expected bits as a multiple of {step} from {step} to {16 * M}, got {bits}"
        )
    pq = f"PQ{M}x{bits // M}np"
    reduced = d > PCA_DIM
    pca, label = (f"PCA{PCA_DIM},", "PCA+") if reduced else ("", "")
    inner = min(d, PCA_DIM)
    # PCA centres the values. Without it hyperplanes through the origin would have all pixels,
    # which are never negative, on similar sides: then the thresholds are trained ("t").
    rows = [(f"{label}LSH", f"{pca}LSH{bits}{'r' if reduced else 'rt'}", "hamming")]
    if bits <= inner:
        rows.append((f"{label}ITQ", f"{pca}ITQ{bits},LSH", "hamming"))
    # PQ needs a multiple of M values: zeros make up for what is missing.
    rows.append(("PQ", f"Pad{_padded(d, M)},{pq}" if d % M else pq, "adc"))
    if reduced:
        rows.append((f"{label}PQ", f"{pca}{pq}", "adc"))
    rows.append((f"{label}OPQ", f"{pca}OPQ{M}_{_padded(inner, M)},{pq}", "adc"))
    return [
        exact(d),
        *(
            from_factory(name, bits, d, factory, search=search, seed=seed)
            for name, factory, search in rows
        ),
    ]


def from_factory(
    name: str,
    bits: int,
    d: int,
    factory: str,
    *,
    search: str = "adc",
    reference: bool = False,
    train_limit: int = TRAIN_LIMIT,
    seed: int = 0,
) -> Method:
    """The Method of a FAISS factory string over flattened items of d values.

    The string is read when the index is built; FAISS's RuntimeError comes then.
    """
    return Method(
        name=name,
        bits=bits,
        build=partial(_build, d=d, factory=factory, train_limit=train_limit, seed=seed),
        config={"factory": factory, "d": d, "train_limit": train_limit, "seed": seed},
        searches=(search,),
        reference=reference,
        seed=seed,
    )


def flatten(x: npt.NDArray[Any], d: int) -> FloatArray:
    """Makes contiguous float32 rows.

    Args:
        x: (n, *item_shape). uint8 is divided by 255, floats are taken as they are.
        d: values per item.

    Returns:
        (n, d) float32, x itself where it is that already.

    Raises:
        ValueError: an item has not d values.
        TypeError: the dtype is neither uint8 nor a float.
    """
    _check_size(x.shape[1:], d)
    rows = x.reshape(len(x), d)
    if x.dtype == np.uint8:
        scaled: FloatArray = np.divide(rows, np.float32(255), dtype=np.float32)
        return scaled
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"expected uint8 or floating point items, got {x.dtype}")
    return np.ascontiguousarray(rows, dtype=np.float32)


def _flat_chunks(source: Source, d: int) -> Iterator[FloatArray]:
    """The source in order, as (rows, d) float32 chunks of at most CHUNK_BYTES."""
    for chunk in chunks(source, max(1, CHUNK_BYTES // (4 * d))):
        yield flatten(chunk, d)


def _subsample(source: Source, d: int, limit: int, seed: int) -> FloatArray:
    """At most `limit` items, drawn without replacement, in the source's order: (rows, d)."""
    n = len(source)
    chosen = np.ones(n, bool)
    if n > limit:
        chosen[:] = False
        chosen[np.random.default_rng(seed).choice(n, limit, replace=False)] = True
    out = np.empty((min(n, limit), d), np.float32)
    read = kept = 0
    for chunk in _flat_chunks(source, d):
        rows = chunk[chosen[read : read + len(chunk)]]
        out[kept : kept + len(rows)] = rows
        read, kept = read + len(chunk), kept + len(rows)
    return out


def _train(index: Any, xt: FloatArray) -> None:
    """Trains a native index on (n, d), with OPQ optimal for the code that follows it.

    FAISS's factory learns OPQ's rotation for 8 bits per sub-quantizer whatever the code has. For
    the code's own nbits it is the better baseline: at 4 bits on MNIST the squared error falls by
    a fifth.
    """
    transforms, base = _parts(index)
    if isinstance(base, faiss.IndexPQ):
        # Below 39 points a centroid FAISS prints a warning per sub-quantizer, and does the same.
        base.pq.cp.min_points_per_centroid = 1
    opq = transforms[-1] if transforms and isinstance(transforms[-1], faiss.OPQMatrix) else None
    if opq is None:
        index.train(xt)
        return
    quantizer = faiss.ProductQuantizer(base.pq.d, base.pq.M, base.pq.nbits)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.cp.seed = base.pq.cp.seed
    opq.pq = quantizer
    try:
        index.train(xt)
    finally:
        opq.pq = None  # a bare pointer, to what dies with this call


def _set_seed(index: Any, seed: int) -> None:
    """Gives everything random in an untrained native index a seed of its own."""
    transforms, base = _parts(index)
    for transform in transforms:
        if isinstance(transform, faiss.OPQMatrix):
            d = max(transform.d_in, transform.d_out)  # fewer inputs are filled up with zeros
            start = faiss.RandomRotationMatrix(d, transform.d_out)
            start.init(seed)
            faiss.copy_array_to_vector(faiss.vector_to_array(start.A), transform.A)
        elif isinstance(transform, faiss.ITQTransform):
            transform.itq.seed = seed
        elif isinstance(transform, faiss.RandomRotationMatrix):
            transform.init(seed)
    if isinstance(base, faiss.IndexPQ):
        base.pq.cp.seed = seed
    elif isinstance(base, faiss.IndexLSH) and base.rotate_data:
        base.rrot.init(seed)


def _parts(index: Any) -> tuple[list[Any], Any]:
    """The transforms before an index, and the index behind them."""
    if not isinstance(index, faiss.IndexPreTransform):
        return [], index
    chain: Any = index.chain
    transforms = [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]
    return transforms, faiss.downcast_index(index.index)


def _build(item_shape: Shape, *, d: int, factory: str, train_limit: int, seed: int) -> FlatPixels:
    _check_size(item_shape, d)
    index = faiss.index_factory(d, factory)
    if seed:  # FAISS's own seeds stay what they are: seed 0 is what its users get
        _set_seed(index, seed)
    return FlatPixels(index, train_limit=train_limit, seed=seed)


def _check_size(item_shape: Shape, d: int) -> None:
    size = math.prod(item_shape)
    if size != d:
        raise ValueError(f"expected items of {d} values, got shape {item_shape} ({size} values)")


def _padded(d: int, M: int) -> int:
    return math.ceil(d / M) * M
