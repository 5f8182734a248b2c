"""Where PQ-VAE for vectors starts: at OPQ or PQ, learned by FAISS."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from faiss_pqvae.native import faiss
from faiss_pqvae.progress import Progress
from faiss_pqvae.training.kept import Kept
from faiss_pqvae.training.objectives.linear_start import Start
from faiss_pqvae.types import FloatArray

_ITERATIONS = 50  # FAISS's own number, in parts: for the bar, and for what an interruption leaves
_PARTS = 10


def linear_starts(
    x: FloatArray,
    kept: Kept | None = None,
    *,
    M: int,
    nbits: int,
    d_out: int,
    progress: bool = True,
) -> list[Start]:
    """OPQ (Ge et al., CVPR 2013) as FAISS learns it, OPQ from the identity on, and plain PQ.

    OPQ finds the nearest local optimum. FAISS looks for it from a random rotation; where the order
    of the dimensions means something, as in SIFT, the one near the identity is far better. The
    rotations are learned for the code's own nbits, which FAISS's factory does not.

    Args:
        x: (n, d) float32, n >= 1.
        kept: gets every part's result, and has those of a call that was interrupted.
        M: number of sub-quantizers.
        nbits: bits per sub-quantizer.
        d_out: dimension of the latents, divisible by M. Above d zeros are appended before the
            rotation; below d OPQ alone is returned, which chooses the subspace.
        progress: draw a bar, where standard error is a terminal.

    Returns:
        The starts; the first one is OPQ.
    """
    d, ksub = x.shape[1], 2**nbits
    # k-means wants as many points as centroids, and FAISS's OPQ writes beyond its memory where
    # there are fewer points than dimensions: they come more than once.
    least = max(ksub, d, d_out)
    if len(x) < least:
        x = x[np.resize(np.arange(len(x)), least)]
    x = np.ascontiguousarray(x, np.float32)
    if d < d_out:
        x = np.pad(x, ((0, 0), (0, d_out - d)))
    identity = np.eye(d_out, dtype=np.float32)
    first = {"OPQ": None} if d_out < d else {"OPQ": None, "OPQ from the identity": identity}
    code, kept = _Code(M, nbits, d_out), kept or Kept()
    matrices = {}
    with Progress("OPQ", len(first) * _PARTS, unit="parts", shown=progress) as bar:
        for name, matrix in first.items():
            matrices[name] = _rotation(x, code, name, matrix, kept, bar)
    if d_out >= d:
        matrices["PQ"] = identity
    starts = []
    with Progress("PQ", len(matrices), unit="codes", shown=progress) as bar:
        for name, matrix in matrices.items():
            codewords = _codewords(x @ matrix.T, code, name, kept)
            starts.append(Start(name, np.ascontiguousarray(matrix[:, :d]), codewords))
            bar.update()
    return starts


class _Code(NamedTuple):
    """The sizes of a product code, see `linear_starts`."""

    M: int
    nbits: int
    d: int

    def quantizer(self) -> Any:
        quantizer = faiss.ProductQuantizer(self.d, self.M, self.nbits)
        # Below 39 points a centroid FAISS prints a warning per sub-quantizer, and does the same.
        quantizer.cp.min_points_per_centroid = 1
        return quantizer


def _rotation(
    x: FloatArray,
    code: _Code,
    name: str,
    first: FloatArray | None,
    kept: Kept,
    bar: Progress,
) -> FloatArray:
    """OPQ's matrix (d_out, d), from a random one or from `first` on."""
    opq, quantizer = faiss.OPQMatrix(x.shape[1], code.M, code.d), code.quantizer()
    opq.pq, opq.niter = quantizer, _ITERATIONS // _PARTS
    phase, done = _phase("rotation", name), 0
    if (state := kept.take(phase)) is not None:
        first, done = state["matrix"].numpy(), state["parts"]
        faiss.copy_array_to_vector(state["centroids"].numpy(), quantizer.centroids)
        _go_on(opq, quantizer)
        bar.update(done)
    if first is not None:
        faiss.copy_array_to_vector(first.ravel(), opq.A)
    try:
        for part in range(done, _PARTS):
            opq.train(x)
            _go_on(opq, quantizer)
            arrays = {"matrix": _matrix(opq), "centroids": _centroids(quantizer)}
            tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
            kept.put(phase, {"parts": part + 1, **tensors})
            bar.update()
    finally:
        opq.pq = None  # a bare pointer, to what dies with this call
    return _matrix(opq)


def _go_on(opq: Any, quantizer: Any) -> None:
    """The next part goes on from this one's matrix and codebooks."""
    quantizer.train_type = faiss.ProductQuantizer.Train_hot_start
    opq.niter_pq_0 = opq.niter_pq


def _matrix(opq: Any) -> FloatArray:
    matrix: FloatArray = faiss.vector_to_array(opq.A).reshape(opq.d_out, opq.d_in)
    return matrix


def _centroids(quantizer: Any) -> FloatArray:
    centroids: FloatArray = faiss.vector_to_array(quantizer.centroids)
    return centroids


def _codewords(z: FloatArray, code: _Code, name: str, kept: Kept) -> FloatArray:
    """PQ's centroids (M, ksub, dsub) of rotated vectors; those that OPQ ends with are centred."""

    def made() -> dict[str, Any]:
        quantizer = code.quantizer()
        quantizer.train(np.ascontiguousarray(z))
        return {"centroids": torch.from_numpy(_centroids(quantizer))}

    found: FloatArray = kept.made(_phase("codebooks", name), made)["centroids"].numpy()
    return found.reshape(code.M, 2**code.nbits, -1)


def _phase(what: str, name: str) -> str:
    """What it is kept as."""
    return f"{what}-of-{name}".replace(" ", "-")
