"""Where the first relevant item is, by hand."""

import numpy as np
import pytest

from faiss_pqvae.eval.metrics.first_hit import hit_at_k, reciprocal_rank_at_k

RELEVANT = np.array([[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], bool)


def test_reciprocal_rank_at_k__by_hand():
    assert reciprocal_rank_at_k(RELEVANT, 4).tolist() == [1 / 3, 1, 0, 1 / 4]
    assert reciprocal_rank_at_k(RELEVANT, 3).tolist() == [1 / 3, 1, 0, 0]
    assert reciprocal_rank_at_k(RELEVANT, 1).tolist() == [0, 1, 0, 0]


def test_hit_at_k__by_hand():
    assert hit_at_k(RELEVANT, 4).tolist() == [1, 1, 0, 1]
    assert hit_at_k(RELEVANT, 2).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("metric", [reciprocal_rank_at_k, hit_at_k])
def test_first_hit__rejects_what_does_not_fit(metric):
    with pytest.raises(ValueError, match="k from 1 to the 4 columns, got 5"):
        metric(RELEVANT, 5)
    with pytest.raises(TypeError, match="relevant as an array of bool"):
        metric(RELEVANT.astype(float), 2)
