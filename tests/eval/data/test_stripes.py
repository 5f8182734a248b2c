"""Stripes: four classes that exact search can tell apart."""

import numpy as np

from faiss_pqvae.eval import load


def test_load__stripes():
    data = load("stripes")
    assert (data.name, data.description) == ("stripes", "stripes in noise")
    assert data.database.shape == (1000, 1, 16, 16)
    assert np.bincount(data.query_labels).tolist() == [25] * 4
    x, q = (part.reshape(len(part), -1).astype(float) for part in (data.database, data.queries))
    nearest = ((q[:, None] - x) ** 2).sum(-1).argmin(axis=1)
    assert (data.database_labels[nearest] == data.query_labels).mean() > 0.95
