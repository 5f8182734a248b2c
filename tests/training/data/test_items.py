"""Training and validation part of items."""

import numpy as np
import pytest
import torch

from faiss_pqvae.training.data.items import Items


def split_items(labelled):
    return Items(
        np.zeros((len(labelled), 2), np.float32),
        (2,),
        validation_fraction=0.05,
        labelled=labelled,
        seed=0,
        device=torch.device("cpu"),
    )


def test_items__validation_has_its_share_of_the_labelled():
    labelled = np.zeros(1000, bool)
    labelled[:100] = True
    items = split_items(labelled)
    assert len(items.validation_rows) == 50
    assert labelled[items.validation_rows].sum() == 5
    both = np.concatenate([items.train_rows, items.validation_rows])
    assert np.array_equal(np.sort(both), np.arange(1000))


@pytest.mark.parametrize("n_labelled", [1, 2, 998, 999])
def test_items__extreme_shares(n_labelled):
    labelled = np.zeros(1000, bool)
    labelled[:n_labelled] = True
    items = split_items(labelled)
    assert labelled[items.validation_rows].sum() >= 1
    assert len(items.validation_rows) == 50


@pytest.mark.parametrize("form", [list, torch.from_numpy, lambda x: x.astype(">i2")])
def test_items__of_every_form_are_read_alike(form):
    x = np.arange(40).reshape(20, 2)
    settings = {"validation_fraction": 0.2, "seed": 0, "device": torch.device("cpu")}
    items = Items(form(x), (2,), **settings)
    assert len(items) == 20
    np.testing.assert_array_equal(items.read(np.array([7, 0])), x[[7, 0]])


@pytest.mark.parametrize(("length", "is_held"), [(9e17, True), (1.1e18, False), (3e38, False)])
def test_vectors__lengths_whose_distances_float32_holds(length, is_held):
    x = np.ones((20, 2), np.float32)
    x[7] = length / np.sqrt(2)
    items = Items(x, (2,), validation_fraction=0.1, seed=0, device=torch.device("cpu"))
    if is_held:
        np.testing.assert_array_equal(items.vectors(np.arange(3, 9)).numpy(), x[3:9])
        return
    with pytest.raises(ValueError, match=r"shorter than 1e\+18, .* such as row 7: divide"):
        items.vectors(np.arange(20))
