"""Classes for items without: what their nearest labelled items say, as far as they may."""

import numpy as np
import pytest
import torch

from faiss_pqvae.data.labels import check_labels
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import DPQ, DQN, LabelTraining, TrainingConfig, fit, new_model
from faiss_pqvae.training.objectives.pseudo_labels import (
    SHARPNESS,
    PseudoLabels,
    Vote,
    least_agreement,
    vote,
    with_classes,
)

D, CLASSES = 12, 4


def blobs(n: int, seed: int = 0, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(CLASSES, D))
    y = generator.integers(0, CLASSES, n)
    return (centres[y] + spread * generator.normal(size=(n, D))).astype(np.float32), y


def test_vote__is_that_of_the_nearest_by_cosine() -> None:
    labelled = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    z = torch.tensor([[5.0, 0.1], [0.1, 0.2]])
    found = vote(z, labelled, torch.eye(3))
    assert found.classes.tolist() == [0, 1]
    cosines = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(labelled).T
    expected = (SHARPNESS * cosines).softmax(1).max(1).values
    torch.testing.assert_close(found.agreement, expected.double(), rtol=1e-4, atol=1e-6)


def test_vote__tells_the_sure_from_the_less_sure_where_all_that_are_near_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3).repeat_interleave(100, 0)
    labelled = centres + 0.01 * torch.randn(300, 3, generator=generator)
    y = torch.eye(3).repeat_interleave(100, 0)
    z = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.3, 0.0], [1.0, 0.6, 0.0]])
    found = vote(z, labelled, y)
    assert found.classes.tolist() == [0, 0, 0]
    assert found.agreement[0] > found.agreement[1] > found.agreement[2]


def test_least_agreement__is_where_held_out_items_are_still_right_often_enough() -> None:
    # The 40 that agree most are right, of the next 20 a half, of the last 40 none.
    agreement = torch.linspace(1, 0.5, 100)
    right = torch.cat([torch.ones(40), torch.tensor([1, 0] * 10), torch.zeros(40)]).long()
    held = Vote(right, agreement)
    truth = torch.ones(100, dtype=torch.long)
    least, share, n = least_agreement(held, truth, 0.9)
    assert share >= 0.9
    assert n == 51  # 46 of them are right
    assert least == pytest.approx(float(agreement[n - 1]))
    assert least_agreement(held, truth, 0.0)[2] == 100
    assert least_agreement(held, 1 - truth, 0.99) == (float("inf"), 0.0, 0)
    few = Vote(right[:19], agreement[:19])
    assert least_agreement(few, truth[:19], 0.5)[0] == float("inf")
    # What agrees to the same degree is cut off or kept together.
    tied = Vote(right, torch.full((100,), 0.7))
    assert least_agreement(tied, truth, 0.9)[2] == 0
    assert least_agreement(tied, truth, 0.5)[2] == 100


def test_with_classes__adds_them_in_their_places() -> None:
    labels = check_labels(np.array([-1, 2, -1, 0, -1, 1]), 6)
    found = PseudoLabels(np.array([0, 4]), np.array([1, 2]), 1.0, 30)
    both = with_classes(labels, found)
    expected = check_labels(np.array([1, 2, -1, 0, 2, 1]), 6)
    np.testing.assert_array_equal(both.starts, expected.starts)
    np.testing.assert_array_equal(both.classes, expected.classes)
    assert both.n_classes == 3


def training(objective, folder=None, precision=0.9, spread=0.3, epochs=6, **changes):
    x, y = blobs(600, spread=spread)
    given = np.where(np.arange(600) % 4 == 0, y, -1)
    net = new_model((D,), 2, 3, ModelConfig(encoder="mlp", width=16, dsub=4), objective=objective)
    settings = {"epochs": epochs, "batch_size": 64, "validation_fraction": 0.3, **changes}
    config = TrainingConfig(precision="float32", patience=0, **settings)
    objective = type(objective)(labels=LabelTraining(pseudo_labels=precision))
    history = fit(net, x, config, objective=objective, labels=given, folder=folder, progress=False)
    return net, history


@pytest.mark.parametrize("objective", [DQN(), DPQ()], ids=["dqn", "dpq"])
def test_fit__takes_classes_half_way_that_held_out_items_bear_out(objective) -> None:
    _, history = training(objective)
    epochs = [event for event in history if event["event"] == "epoch"]
    with_some = [event for event in epochs if "pseudo_labels" in event]
    assert [event["epoch"] for event in with_some] == [2, 3, 4, 5]
    assert with_some[0]["pseudo_labels"] > 200  # of 315: blobs are easily told apart
    assert with_some[0]["pseudo_labels_right"]["share"] >= 0.9


@pytest.mark.parametrize(("epochs", "expected"), [(1, [0]), (2, [0, 1]), (3, [1, 2])])
def test_fit__takes_classes_that_there_are_steps_to_learn_from(epochs: int, expected) -> None:
    _, history = training(DQN(), epochs=epochs)
    assert [event["epoch"] for event in history if "pseudo_labels" in event] == expected


def test_fit__takes_none_where_held_out_items_do_not() -> None:
    _, history = training(DQN(), precision=1.0, spread=6.0)
    last = [event for event in history if event["event"] == "epoch"][-1]
    assert last["pseudo_labels"] == 0


def test_fit__goes_on_with_the_classes_that_it_had_taken(tmp_path) -> None:
    net, _ = training(DPQ())

    def stops(event) -> bool:
        if event["event"] == "epoch" and event["epoch"] == 4:
            raise KeyboardInterrupt
        return True

    x, y = blobs(600)
    given = np.where(np.arange(600) % 4 == 0, y, -1)
    objective = DPQ(labels=LabelTraining(pseudo_labels=0.9))
    config = TrainingConfig(
        precision="float32", patience=0, epochs=6, batch_size=64, validation_fraction=0.3
    )
    for go_on in (stops, None):
        other = new_model(
            (D,), 2, 3, ModelConfig(encoder="mlp", width=16, dsub=4), objective=objective
        )
        options = {"labels": given, "folder": tmp_path, "progress": False, "go_on": go_on}
        if go_on is None:
            fit(other, x, config, objective=objective, **options)
        else:
            with pytest.raises(KeyboardInterrupt):
                fit(other, x, config, objective=objective, **options)
    assert all(
        torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items()
    )


def test_pseudo_labels__of_items_with_several_classes_are_refused() -> None:
    x, _ = blobs(100)
    y = np.random.default_rng(0).random((100, CLASSES)) < 0.6
    net = new_model((D,), 2, 3, ModelConfig(encoder="mlp", width=8, dsub=4), objective=DQN())
    objective = DQN(labels=LabelTraining(pseudo_labels=0.9))
    with pytest.raises(ValueError, match="expected one class an item for pseudo-labels"):
        fit(net, x, TrainingConfig(epochs=1), objective=objective, labels=y, progress=False)
    with pytest.raises(ValueError, match=r"expected pseudo_labels in \[0, 1\], got 2"):
        LabelTraining(pseudo_labels=2)


@pytest.mark.parametrize(("share", "expected"), [(0.0, [0, 1, 2, 3]), (0.7, [2, 3])])
def test_fit__takes_classes_after_the_share_of_the_training_that_is_named(share, expected) -> None:
    x, y = blobs(600)
    given = np.where(np.arange(600) % 4 == 0, y, -1)
    settings = LabelTraining(pseudo_labels=0.9, pseudo_labels_from=share)
    net = new_model((D,), 2, 3, ModelConfig(encoder="mlp", width=16, dsub=4), objective=DPQ())
    config = TrainingConfig(precision="float32", patience=0, epochs=4, batch_size=64)
    history = fit(net, x, config, objective=DPQ(labels=settings), labels=given, progress=False)
    assert [event["epoch"] for event in history if "pseudo_labels" in event] == expected


@pytest.mark.parametrize("share", [-0.1, 1.0, np.nan])
def test_label_training__refuses_a_share_at_whose_end_nothing_is_left(share: float) -> None:
    with pytest.raises(ValueError, match="expected pseudo_labels_from"):
        LabelTraining(pseudo_labels_from=share)
