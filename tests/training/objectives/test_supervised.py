"""The objectives with labels, held to loops over their formulas, and the batches they see."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from faiss_pqvae.data.labels import check_labels
from faiss_pqvae.training.data.sampler import Sampler, share_class
from faiss_pqvae.training.objectives.supervised import (
    Classes,
    class_loss,
    mean_average_precision,
    pair_loss,
    prefix_losses,
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    draws = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(draws, dim=-1)


def classes_of(n: int, C: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    y = rng.random((n, C)) < 0.4
    y[np.arange(n), rng.integers(0, C, n)] = True
    return torch.from_numpy(y).float()


@settings(max_examples=30)
@given(n=st.integers(1, 6), C=st.integers(2, 5), seed=st.integers(0, 99))
def test_class_loss__is_its_formula(n: int, C: int, seed: int):
    z, v, y = 0.7 * unit(n, 4, seed=seed), unit(C, 4, seed=seed + 100), classes_of(n, C, seed)
    products = (z.double() @ v.double().T).numpy()
    margins = (1 - v.double() @ v.double().T).numpy()
    total = 0.0
    for i in range(n):
        own = [c for c in range(C) if y[i, c]]
        others = [c for c in range(C) if not y[i, c]]
        log_sum = math.log(sum(math.exp(5 * value) for value in products[i]))
        total += np.mean([log_sum - 5 * products[i, c] for c in own])
        total += np.mean(
            [max(0, margins[a, b] - products[i, a] + products[i, b]) for a in own for b in others]
            or [0]
        )
    assert class_loss(z, y, v).item() == pytest.approx(total / n, rel=1e-4, abs=1e-5)


def test_class_loss__margins_get_no_gradient_but_prototypes_do():
    z, v = unit(3, 4), unit(2, 4, seed=1).requires_grad_(True)
    y = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    class_loss(z, y, v).backward()
    assert v.grad.abs().sum() > 0
    same = unit(1, 4).repeat(2, 1).requires_grad_(True)  # no margin: only the products pull
    class_loss(z, y, same).backward()
    assert torch.isfinite(same.grad).all()


@settings(max_examples=30)
@given(n=st.integers(2, 7), C=st.integers(2, 5), seed=st.integers(0, 99))
def test_pair_loss__is_its_formula(n: int, C: int, seed: int):
    z, y = unit(n, 4, seed=seed), classes_of(n, C, seed)
    cos = (z.double() @ z.double().T).numpy()
    errors = [
        ((1 if (y[i] * y[j]).any() else -1) - cos[i, j]) ** 2
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    assert pair_loss(z, y).item() == pytest.approx(np.mean(errors), rel=1e-4, abs=1e-5)


def test_prefix_losses__are_means_over_prefixes_and_items():
    z, soft, hard = unit(5, 4), unit(3, 5, 4, seed=1), unit(3, 5, 4, seed=2)
    pairs = [(z, soft), (z, hard), (soft, hard)]
    for found, (a, b) in zip(prefix_losses(z, soft, hard), pairs, strict=True):
        expected = np.mean(((a - b).numpy().astype(float) ** 2).sum(-1))
        assert found.item() == pytest.approx(expected, rel=1e-5)


def test_mean_average_precision__by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.7], [0.1, 0.2, 0.3, 0.4], [1.0, 2, 3, 4]])
    relevant = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]).bool()
    # ranks of the relevant: 3, 4 of the first; 1, 4 of the second; the third has none
    expected = ((1 / 3 + 2 / 4) / 2 + (1 / 1 + 2 / 4) / 2) / 2
    assert mean_average_precision(scores, relevant) == pytest.approx(expected)
    assert mean_average_precision(scores[2:], relevant[2:]) is None


def test_classes__word_vectors_stay_and_prototypes_learn():
    vectors = unit(3, 7).numpy()
    generator = torch.Generator().manual_seed(0)
    head = Classes(4, 3, word_vectors=vectors, generator=generator)
    assert [name for name, _ in head.named_parameters()] == ["map.weight"]
    z, y = unit(6, 4), torch.eye(3).repeat(2, 1)
    expected = class_loss(z @ head.map.weight.T, y, torch.from_numpy(vectors))
    torch.testing.assert_close(head(z, y), expected)
    learned = Classes(4, 3, word_vectors=None, generator=generator)
    assert [name for name, _ in learned.named_parameters()] == ["vectors"]


def test_classes__the_seed_decides():
    heads = [
        Classes(4, 3, word_vectors=None, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(heads[0].vectors, heads[1].vectors)
    assert not torch.equal(heads[0].vectors, heads[2].vectors)


def test_share_class__of_several_classes():
    y = torch.tensor([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert share_class(y, y).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


@settings(max_examples=40)
@given(
    n_classes=st.integers(2, 3000), n=st.integers(2, 64), items=st.integers(2, 500),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_sampler__draws_labelled_rows_and_pairs_of_a_class(n_classes, n, items, seed):
    rng = np.random.default_rng(seed)
    given_labels = rng.integers(-1, n_classes, items)
    given_labels[:2] = [0, 1]
    labels = check_labels(given_labels, items)
    rows = np.flatnonzero(rng.random(items) < 0.7)
    rows = np.union1d(rows, [0, 1])
    drawn = Sampler(labels, rows).draw(n, torch.Generator().manual_seed(seed))
    assert drawn.shape == (n,)
    assert set(drawn) <= set(rows)
    assert (given_labels[drawn] >= 0).all()
    counts = np.unique(given_labels[drawn], return_counts=True)[1]
    there = len(np.unique(given_labels[rows][given_labels[rows] >= 0]))
    assert len(counts) == min(there, max(2, n // 4))
    assert counts.max() - counts.min() <= 1


def test_sampler__every_item_of_a_class_has_its_turn():
    labels = check_labels(np.array([0] * 5 + [1] * 50 + [-1] * 5), 60)
    sampler = Sampler(labels, np.arange(60))
    generator = torch.Generator().manual_seed(0)
    drawn = np.concatenate([sampler.draw(16, generator) for _ in range(100)])
    assert set(drawn) == set(range(55))
    assert np.mean(drawn < 5) == pytest.approx(0.5)  # classes alike, however large


def test_sampler__items_of_several_classes():
    y = np.zeros((4, 3), bool)
    y[0, :2], y[1, 1], y[2, 2] = True, True, True
    drawn = Sampler(check_labels(y, 4), np.arange(4)).draw(300, torch.Generator().manual_seed(0))
    assert set(drawn) == {0, 1, 2}
