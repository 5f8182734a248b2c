"""Where PQ-VAE for vectors starts: at OPQ or PQ, learned by FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from faiss_pqvae.native import faiss
from faiss_pqvae.training.objectives.linear_start import Start
from faiss_pqvae.types import FloatArray

_ITERATIONS = 50  # FAISS's own number, in parts: for the progress bar, and for Ctrl-C between them
_PARTS = 10


def linear_starts(
    x: FloatArray, *, M: int, nbits: int, d_out: int, progress: bool = True
) -> list[Start]:
    """OPQ (Ge et al., CVPR 2013) as FAISS learns it, OPQ from the identity on, and plain PQ.

    OPQ finds the nearest local optimum. FAISS looks for it from a random rotation; where the order
    of the dimensions means something, as in SIFT, the one near the identity is far better. The
    rotations are learned for the code's own nbits, which FAISS's factory does not.

    Args:
        x: (n, d) float32, n >= 1.
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
    matrices = {}
    with tqdm(total=len(first) * _PARTS, desc="OPQ", disable=None if progress else True) as bar:
        for name, matrix in first.items():
            matrices[name] = _rotation(x, M, nbits, d_out, matrix, bar)
    if d_out >= d:
        matrices["PQ"] = identity
    return [
        Start(name, np.ascontiguousarray(matrix[:, :d]), _codewords(x @ matrix.T, M, nbits))
        for name, matrix in matrices.items()
    ]


def _rotation(
    x: FloatArray, M: int, nbits: int, d_out: int, first: FloatArray | None, bar: Any
) -> FloatArray:
    """OPQ's matrix (d_out, d), from a random one or from `first` on."""
    opq = faiss.OPQMatrix(x.shape[1], M, d_out)
    quantizer = _quantizer(d_out, M, nbits)
    opq.pq = quantizer
    opq.niter = _ITERATIONS // _PARTS
    if first is not None:
        faiss.copy_array_to_vector(first.ravel(), opq.A)
    try:
        for _ in range(_PARTS):
            opq.train(x)
            # The next part goes on from this one's matrix and codebooks.
            quantizer.train_type = faiss.ProductQuantizer.Train_hot_start
            opq.niter_pq_0 = opq.niter_pq
            bar.update()
    finally:
        opq.pq = None  # a bare pointer, to what dies with this call
    matrix: FloatArray = faiss.vector_to_array(opq.A).reshape(d_out, x.shape[1])
    return matrix


def _codewords(z: FloatArray, M: int, nbits: int) -> FloatArray:
    """PQ's centroids (M, ksub, dsub) of rotated vectors; those that OPQ ends with are centred."""
    quantizer = _quantizer(z.shape[1], M, nbits)
    quantizer.train(np.ascontiguousarray(z))
    centroids: FloatArray = faiss.vector_to_array(quantizer.centroids)
    return centroids.reshape(M, quantizer.ksub, quantizer.dsub)


def _quantizer(d: int, M: int, nbits: int) -> Any:
    quantizer = faiss.ProductQuantizer(d, M, nbits)
    # Below 39 points a centroid FAISS prints a warning per sub-quantizer, and does the same.
    quantizer.cp.min_points_per_centroid = 1
    return quantizer
