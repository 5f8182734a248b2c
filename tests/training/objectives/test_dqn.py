"""DQN's pairs, held to a loop over their formula."""

import numpy as np
import pytest
from draws import classes_of, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.spec import CodeSpec
from faiss_pqvae.training import new_model
from faiss_pqvae.training.objectives.dqn import DQN, pair_loss


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


def test_model__is_a_product_over_latents_of_length_1():
    model = new_model((3, 32, 32), 4, 8, ModelConfig(width=4), objective="dqn")
    config = model.config
    assert (config.encoder, config.dsub, config.update) == ("resnet", 16, "ema")
    assert model.spec == CodeSpec(name="DQN", structure="product", latents="unit", metric="l2")
    by_products = DQN().spec(unit=False, metric="inner_product")
    assert (by_products.latents, by_products.metric) == ("unit", "inner_product")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"update": "gradient"}, "'ema'"), ({"decoder": "conv"}, "linear decoder")],
    ids=str,
)
def test_networks__reject_what_does_not_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        DQN().networks(ModelConfig(**changes), (5,))


def test_check__takes_labels_alone():
    labels = DQN().check(3, {"labels": [0, 1, 5]})["labels"]
    assert labels.n_classes == 3
    with pytest.raises(ValueError, match="expected labels for the objective 'dqn', got none"):
        DQN().check(3, {"labels": None})
