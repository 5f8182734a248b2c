"""Codes of 8 bytes for embeddings, beside FAISS's own at as many bytes.

pip install "faiss-pqvae[cpu]"
python examples/embeddings.py emb.npy --minutes 10
"""

from pathlib import Path

import faiss
import numpy as np
import tyro

import faiss_pqvae as fpq


def made_up(n: int) -> np.ndarray:
    """Vectors (n, 96) float32 that have something in common, as embeddings do."""
    rng = np.random.default_rng(0)
    inner = rng.standard_normal((n, 24)) * np.linspace(2, 0.3, 24)
    return np.tanh(inner @ rng.standard_normal((24, 96)) / 3).astype("float32")


def main(
    vectors: tyro.conf.Positional[Path | None] = None,
    /,
    bytes_each: int = 8,
    minutes: float = 2,
    n: int = 20_000,
) -> None:
    """Learns from one half of the vectors, searches in the other."""
    x = made_up(n) if vectors is None else np.load(vectors).astype("float32")
    d, half = x.shape[1], len(x) // 2
    learn, stored, queries = x[:half], x[half:-500], x[-500:]
    exact = faiss.IndexFlatL2(d)
    exact.add(stored)
    nearest = exact.search(queries, 1)[1]

    training = fpq.TrainingConfig(budget_minutes=minutes)
    ours = fpq.index_factory(d, f"PQVAE{bytes_each}", training=training)
    opq = faiss.index_factory(d, f"OPQ{bytes_each},PQ{bytes_each}")
    pq = faiss.index_factory(d, f"PQ{bytes_each}")
    for name, index in (("PQVAE", ours), ("OPQ", opq), ("PQ", pq)):
        index.train(learn)
        index.add(stored)
        found = index.search(queries, 10)[1] == nearest
        first, ten = 100 * found[:, :1].any(1).mean(), 100 * found.any(1).mean()
        print(f"{name:>6}, {bytes_each} bytes: nearest first {first:.1f} %, among 10 {ten:.1f} %")
    fpq.write_index(ours, "embeddings.pqvae")


if __name__ == "__main__":
    tyro.cli(main)
