"""Where additive codes start: at residual quantization, learned by FAISS."""

from __future__ import annotations

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.types import FloatArray

_BEAM = 5  # FAISS's own


def residual_codebooks(x: FloatArray, *, M: int, nbits: int) -> FloatArray:
    """Codebooks of FAISS's residual quantizer (Chen et al., Sensors 2010).

    It clusters in few dimensions first and in more and more of them, which finds far better
    codebooks of many dimensions than k-means from random points does.

    Args:
        x: (n, d) float32, n >= 1.
        M: number of codebooks.
        nbits: bits of each.

    Returns:
        (M, ksub, d) float32.
    """
    d, ksub = x.shape[1], 2**nbits
    # k-means wants as many points as centroids, and the clustering by dimensions as many as these.
    least = max(ksub, d)
    if len(x) < least:
        x = x[np.resize(np.arange(len(x)), least)]
    quantizer = faiss.ResidualQuantizer(d, M, nbits)
    quantizer.max_beam_size, quantizer.use_beam_LUT = min(_BEAM, ksub), 1
    quantizer.cp.min_points_per_centroid = 1  # of too few it was warned
    faiss_method(quantizer, "train")(np.ascontiguousarray(x, np.float32))
    codebooks: FloatArray = faiss.vector_to_array(quantizer.codebooks)
    return codebooks.reshape(M, ksub, d)
