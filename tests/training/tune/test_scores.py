import numpy as np
import pytest
import torch

from faiss_pqvae.training import Views
from faiss_pqvae.training.tune.scores import neighbour_recall, view_recall


def test_view_recall__everything_is_found_among_all(make_model, make_items):
    model = make_model((1, 8, 8), M=4, nbits=8)
    assert view_recall(model, make_items(200), views=Views(shift=0.4), k=200) == 1


def test_view_recall__equals_brute_force(make_model, make_items):
    model = make_model((1, 8, 8), M=2, nbits=4).eval()
    x = make_items(60)
    with torch.no_grad():
        z = model.encode(torch.from_numpy(x))
        stored = model.codebooks().decode(model.quantizer(z).ids.numpy()).astype(np.float64)
    distances = ((z.double().numpy()[:, None] - stored) ** 2).sum(-1)
    for k in (1, 5):
        own = np.diag(distances)[:30, None]
        nearer, tied = (distances[:30] < own).sum(1), (distances[:30] == own).sum(1)
        expected = np.clip((k - nearer) / tied, 0, 1).mean()
        found = view_recall(model, x, views=Views(), k=k, n_queries=30)
        assert found == pytest.approx(expected, abs=1e-6)


def test_recalls__take_lists_of_items(make_model, make_items):
    model, x = make_model((1, 8, 8), M=2, nbits=4), make_items(60)
    found, expected = (view_recall(model, items, views=Views(), k=3) for items in ([*x], x))
    assert found == expected
    found, expected = (neighbour_recall(model, [*x], x[:5]), neighbour_recall(model, x, [*x[:5]]))
    assert found == expected
    with pytest.raises(ValueError, match=r"queries of shape \(n, 1, 8, 8\), got \(5, 8, 8\)"):
        neighbour_recall(model, x, x[:5, 0])


def test_view_recall__an_index_of_one_code_finds_nothing(make_model, make_items):
    model = make_model((1, 8, 8), M=2, nbits=4)
    model.quantizer.codewords.zero_()
    assert view_recall(model, make_items(100), views=Views()) == pytest.approx(0.01)


def test_view_recall__falls_with_the_strength_of_the_views(make_model, make_items):
    model = make_model((1, 8, 8), M=4, nbits=8)
    x = make_items(200)
    weak = view_recall(model, x, views=Views(shift=0.01), k=5)
    assert weak > view_recall(model, x, views=Views(shift=0.4), k=5)
