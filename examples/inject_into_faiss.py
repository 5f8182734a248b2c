"""Codebooks from anywhere into FAISS: here plain k-means, by sub-vector.

pip install "faiss-pqvae[cpu]"
python examples/inject_into_faiss.py
"""

import faiss
import numpy as np
import tyro

import faiss_pqvae as fpq


def main(n: int = 20_000, d: int = 32, M: int = 4, nbits: int = 6) -> None:
    """Gives an inverted file codebooks, searches it, and takes them out again."""
    x = np.random.default_rng(0).standard_normal((n, d), dtype="float32")
    coarse = faiss.Kmeans(d, 64, seed=1)
    coarse.train(x)
    left = x - coarse.centroids[coarse.assign(x)[1]]  # an inverted file codes residuals

    centroids = []
    for part in np.split(left, M, axis=1):
        kmeans = faiss.Kmeans(d // M, 2**nbits, seed=1)
        kmeans.train(np.ascontiguousarray(part))
        centroids.append(kmeans.centroids)
    codebooks = fpq.Codebooks(np.stack(centroids))  # (M, ksub, dsub)

    index = faiss.index_factory(d, f"IDMap2,IVF64,PQ{M}x{nbits}np")
    fpq.inject_codebooks(index, codebooks)
    index.train(x)  # the coarse quantizer alone: the codebooks are there
    index.add_with_ids(x, np.arange(n) + 1_000_000)
    faiss.extract_index_ivf(index).nprobe = 8
    print(index.search(x[:5], 3)[1])
    assert fpq.extract_codebooks(index) == codebooks


if __name__ == "__main__":
    tyro.cli(main)
