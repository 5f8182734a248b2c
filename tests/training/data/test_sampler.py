"""The batches that trainings with labels see."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.data.labels import check_labels
from faiss_pqvae.training.data.sampler import Sampler, class_matrix, share_class


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


def test_class_matrix__of_rows_in_any_order():
    one = check_labels([7, -1, 3, 7], 4)
    assert class_matrix(one, np.array([0, 1, 2, 3])).tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]
    several = check_labels(np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]], bool), 3)
    assert class_matrix(several, np.array([2, 0, 1])).tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_class_matrix__of_thousands_of_classes():
    labels = check_labels(np.arange(100_000) % 50_000, 100_000)
    assert class_matrix(labels, np.array([0, 50_000])).argmax(1).tolist() == [0, 0]
