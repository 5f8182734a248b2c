"""Random codes find what chance finds."""

import numpy as np

from faiss_pqvae.eval import load
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.choice import rows_of


def test_random__has_the_precision_of_chance(tmp_path):
    x = np.zeros((2200, 4), np.float32)
    labels = np.arange(2200) % 4
    data = load(lambda: (x[:2000], labels[:2000], x[2000:], labels[2000:]))
    rows = rows_of(data, names=["Random"], lengths=[16], seeds=(0, 1))
    (row,) = run(data, rows, tmp_path, k=100).rows
    assert (row.method, row.bytes_per_vector, len(row.keys)) == ("Random", 2, 2)
    assert abs(row.metrics["precision@100"] - 0.25) < 0.01
