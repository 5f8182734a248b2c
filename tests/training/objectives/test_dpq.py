"""DPQ's losses, held to loops over their formulas."""

import math

import numpy as np
import pytest
import torch
from draws import classes_of, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.spec import CodeSpec
from faiss_pqvae.training import new_model
from faiss_pqvae.training.objectives.dpq import DPQ, Classes, class_loss, prefix_losses


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


def test_prefix_losses__are_means_over_prefixes_and_items():
    z, soft, hard = unit(5, 4), unit(3, 5, 4, seed=1), unit(3, 5, 4, seed=2)
    pairs = [(z, soft), (z, hard), (soft, hard)]
    for found, (a, b) in zip(prefix_losses(z, soft, hard), pairs, strict=True):
        expected = np.mean(((a - b).numpy().astype(float) ** 2).sum(-1))
        assert found.item() == pytest.approx(expected, rel=1e-5)


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


@pytest.mark.parametrize(
    "changes", [{"soft": float("nan")}, {"hard": -1.0}, {"joint": -1.0}, {"softness": 0.0}], ids=str
)
def test_dpq__rejects_numbers_out_of_range(changes):
    with pytest.raises(ValueError, match=f"expected {next(iter(changes))} >"):
        DPQ(**changes)


def test_spec__is_of_residual_codes_by_inner_products():
    assert DPQ().spec(unit=False, metric=None) == CodeSpec(
        name="DPQ", structure="residual", latents="short", metric="inner_product"
    )
    assert DPQ().spec(unit=True, metric="inner_product").latents == "unit"
    with pytest.raises(ValueError, match="METRIC_INNER_PRODUCT for DPQ"):
        DPQ().spec(unit=False, metric="l2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"update": "ema"}, "'gradient'"), ({"decoder": "mlp"}, "linear decoder")],
    ids=str,
)
def test_networks__reject_what_does_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        DPQ().networks(ModelConfig(**changes), (5,))


@pytest.mark.parametrize(("shape", "encoder"), [((3, 32, 32), "resnet"), ((5,), "mlp")], ids=str)
def test_networks__have_codewords_that_learn_by_gradient(shape, encoder):
    config = new_model(shape, 4, 8, ModelConfig(width=4), objective="dpq").config
    assert (config.encoder, config.dsub, config.update) == (encoder, 128, "gradient")


def test_check__brings_labels_and_word_vectors_into_one_form():
    given = {"labels": [0, 1, 5], "word_vectors": 2 * np.eye(3)}
    found = DPQ().check(3, given)
    assert found["labels"].n_classes == 3
    np.testing.assert_array_equal(found["word_vectors"], np.eye(3))
    again = DPQ().check(3, found)
    assert again["labels"] is found["labels"]
    np.testing.assert_array_equal(again["word_vectors"], np.eye(3))
    assert list(DPQ().check(3, {"labels": [0, 1, 5]})) == ["labels"]
    with pytest.raises(ValueError, match="expected labels for the objective 'dpq', got none"):
        DPQ().check(3, {})
