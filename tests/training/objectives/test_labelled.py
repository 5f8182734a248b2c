"""Trainings with labels: what they learn, what they refuse, and what survives an interruption."""

import numpy as np
import pytest
import torch

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import DPQ, DQN, LabelTraining, TrainingConfig, Views, fit, new_model
from faiss_pqvae.training.build import resolved_objective
from faiss_pqvae.training.loop import Trainer
from faiss_pqvae.training.objectives.labelled import mean_average_precision

D, C = 12, 4
OBJECTIVES = ("dqn", "dpq")


def data(n=400):
    """Vectors of which only a small part tells the class, and the classes."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, C, n)
    x = 2 * rng.standard_normal((n, D))
    x[:, :3] = 0.2 * x[:, :3] + 1.5 * rng.standard_normal((C, 3))[y]
    return x.astype(np.float32), y


def model(objective="dpq", **changes):
    settings = {"width": 16, "dsub": 8, **changes}
    return new_model((D,), 2, 3, ModelConfig(**settings), objective=objective)


def config(**changes):
    settings = {"epochs": 8, "batch_size": 32, "precision": "float32", "lr": 0.01, **changes}
    return TrainingConfig(**settings)


def learned(objective, **settings):
    """An objective, by name, with settings."""
    return type(resolved_objective(objective))(**settings)


def trained(objective="dpq", labels=None, x=None, settings=None, **changes):
    vectors, y = data()
    net = model(objective)
    history = fit(
        net,
        vectors if x is None else x,
        config(**changes),
        objective=learned(objective, labels=settings or LabelTraining()),
        labels=y if labels is None else labels,
        progress=False,
    )
    return net, history


def trainer_of(settings, labels, folder=None, **changes):
    """A training of n items that has not begun."""
    x = data(len(labels))[0]
    given = {"labels": labels}
    return Trainer(model(settings), x, config(**changes), settings, folder=folder, given=given)


def precision(net, y, x):
    """Share of the 20 nearest codes that are of a vector's class."""
    with torch.no_grad():
        z = net.eval().encode(torch.from_numpy(x))
        scores = z @ net.quantizer(z).z_q.T
    near = scores.fill_diagonal_(-torch.inf).topk(20).indices.numpy()
    return float((y[near] == y[:, None]).mean())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit__codes_know_the_class(objective):
    net, history = trained(objective)
    x, y = data()
    raw = torch.cdist(torch.from_numpy(x), torch.from_numpy(x)).fill_diagonal_(torch.inf)
    before = float((y[raw.topk(20, largest=False).indices.numpy()] == y[:, None]).mean())
    assert precision(net, y, x) > before + 0.1
    assert net.is_trained
    end, epoch = history[-1], history[-2]
    assert end["validation_loss"] == min(
        e["validation_loss"] for e in history if e["event"] == "epoch"
    )
    assert ("pairs" if objective == "dqn" else "classes") in epoch
    assert history[0]["classes"] == C
    assert np.mean(epoch["usage"]) > 0.5


@pytest.mark.parametrize(("objective", "contrast"), [("dqn", 1.0), ("dpq", 1.0), ("dpq", 0.0)])
def test_fit__some_labels_missing(objective, contrast):
    x, y = data()
    few = y.copy()
    few[80:] = -1
    net, history = trained(objective, labels=few, settings=LabelTraining(contrast=contrast))
    assert history[0]["labelled_items"] == 76  # of 80, 5 % are held out
    assert ("contrast" in history[1]) == (contrast > 0)
    assert precision(net, y, x) > 0.4


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit__several_classes_an_item(objective):
    _, y = data()
    matrix = np.eye(C, dtype=bool)[y]
    matrix[::7, 0] = True
    matrix[::5] = False
    _, history = trained(objective, labels=matrix)
    assert np.isfinite(history[-1]["validation_loss"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit__thousands_of_classes(objective):
    x, _ = data(6000)
    y = np.arange(6000) % 3000
    _, history = trained(objective, labels=y, x=x, epochs=1, batch_size=256)
    assert 0 < history[-1]["validation_loss"] < 1  # the other item of a class is searched among
    assert history[0]["classes"] == 3000


def test_fit__every_item_of_another_class():
    """No held-out item has a like: nothing is measured, and the last weights stay."""
    x, _ = data(80)
    net, history = trained(labels=np.arange(80), x=x, epochs=2)
    assert history[-2]["validation_loss"] == 1
    assert history[-1]["best_epoch"] == -1
    assert net.is_trained


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit__few_labels_are_enough_or_refused(objective):
    x, _ = data(60)
    y = np.full(60, -1)
    y[:4] = [0, 0, 1, 1]
    _, history = trained(objective, labels=y, x=x, epochs=1)
    assert history[0]["labelled_items"] == 3
    y[[1, 3]] = -1
    with pytest.raises(ValueError, match="besides those that are held out, got 1 items of 1"):
        trained(objective, labels=y, x=x, epochs=1)


def test_fit__word_vectors_replace_the_prototypes():
    x, y = data()
    vectors = np.random.default_rng(0).standard_normal((C, 5)).astype(np.float32)
    net = model()
    history = fit(net, x, config(), labels=y, word_vectors=vectors, progress=False)
    assert precision(net, y, x) > 0.5
    assert history[-2]["classes"] < history[1]["classes"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit__two_steps_without_the_quantization_loss(objective):
    x, y = data()
    net = model(objective)
    settings = learned(objective, quantization=0)
    fit(net, x, config(), objective=settings, labels=y, progress=False)
    z = net.encode(torch.from_numpy(x))
    error = net.quantizer(z).commitment_loss.item()
    assert error < 0.9 * float(z.detach().square().sum(1).mean())


@pytest.mark.parametrize("changes", [{"soft": 0.0}, {"hard": 0.0}, {"joint": 0.0}], ids=str)
def test_terms__weights_leave_parts_out(changes):
    losses = []
    for settings in ({}, changes):
        trainer = trainer_of(DPQ(**settings), data()[1])
        generator = torch.Generator().manual_seed(0)
        terms = trainer.task.terms(trainer.task.examples[:32], 0, trainer._way, generator)
        losses.append(terms.loss.item())
    assert losses[1] < losses[0]


def test_terms__dqn_ramps_its_quantization_up():
    trainer = trainer_of(DQN(), data()[1])
    found = []
    for at in (0, 1, trainer.total_steps // 2, trainer.total_steps):
        trainer.step = at
        generator = torch.Generator().manual_seed(0)
        terms = trainer.task.terms(trainer.task.examples[:32], 0, trainer._way, generator)
        found.append(((terms.loss - terms.parts["pairs"]) / terms.parts["quantization"]).item())
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert 0 < found[1] < found[2]
    assert found[2:] == pytest.approx([0.1, 0.1], rel=1e-3)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit__goes_on_after_an_interruption_bit_for_bit(objective, tmp_path):
    x, y = data(200)
    y[100:] = -1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = model(objective)
        fit(whole, x, config(), labels=y, progress=False)
        trainer = trainer_of(learned(objective), y, tmp_path, checkpoint_every=1)
        while trainer.step < trainer.steps_per_epoch + 2:
            trainer._step()
            if trainer.step % trainer.steps_per_epoch == 0:
                trainer._end_epoch(0)
        trainer.save()
        resumed = model(objective)
        fit(resumed, x, config(checkpoint_every=1), folder=tmp_path, labels=y, progress=False)
    finally:
        torch.set_num_threads(threads)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("change", ["labels", "word_vectors"])
def test_fit__another_training_s_checkpoint_is_refused(change, tmp_path):
    x, y = data(200)
    vectors = np.eye(C, dtype=np.float32)
    given = {"labels": y, "word_vectors": vectors}
    fit(model(), x, config(epochs=1), folder=tmp_path, progress=False, **given)
    given[change] = given[change][::-1].copy()
    with pytest.raises(ValueError, match="other settings or data"):
        fit(model(), x, config(epochs=1), folder=tmp_path, progress=False, **given)


@pytest.mark.parametrize(
    ("objective", "given", "message"),
    [
        ("dpq", {}, "expected labels for the objective 'dpq', got none"),
        ("dpq", {"labels": [0, 1]}, "for 400 items"),
        ("dpq", {"labels": np.zeros(400, int)}, "two classes"),
        ("dqn", {"labels": data()[1], "word_vectors": np.eye(4)}, "word vectors"),
        ("dpq", {"labels": data()[1], "word_vectors": np.eye(3)}, "word vectors of shape"),
        ("reconstruction", {"labels": data()[1]}, "no labels"),
    ],
)
def test_fit__wrong_labels_are_found_before_any_training(objective, given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(model(objective), data()[0], config(), folder=tmp_path, progress=False, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("objective", "weight"), [("dpq", 0.3), ("dqn", 0.1)])
def test_settled__keeps_what_is_chosen_and_has_each_its_own_weight(objective, weight):
    net = model(objective)
    found, _ = learned(objective).settled(net, config())
    assert found.quantization == weight
    assert found.labels == LabelTraining(small_views=0.0)
    chosen = learned(
        objective, quantization=2.0, labels=LabelTraining(contrast=0.5, small_views=0.0)
    )
    assert chosen.settled(net, config())[0] == chosen


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_settled__views_differ_and_a_contrast_needs_them(objective):
    _, settings = learned(objective).settled(model(objective), config())
    assert settings.views != Views()
    contrast = learned(objective, labels=LabelTraining(contrast=1.0))
    with pytest.raises(ValueError, match="views that change something"):
        contrast.settled(model(objective), config(views=Views()))


def test_fit__labels_for_another_objective_raise():
    net = new_model((D,), 2, 3, ModelConfig(encoder="mlp"))
    with pytest.raises(ValueError, match="no labels for the objective 'reconstruction'"):
        fit(net, data()[0], config(), labels=data()[1], progress=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"labelled": 0.0},
        {"labelled": 1.5},
        {"contrast": -1.0},
        {"n_views": 1},
        {"temperature": 0.0},
        {"small_views": 1.5},
    ],
    ids=str,
)
def test_label_training__rejects_numbers_out_of_range(changes):
    with pytest.raises(ValueError, match="expected"):
        LabelTraining(**changes)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("quantization", [-1.0, float("nan")])
def test_objectives__reject_a_weight_out_of_range(objective, quantization):
    with pytest.raises(ValueError, match="expected quantization >= 0"):
        learned(objective, quantization=quantization)


def test_mean_average_precision__by_hand():
    scores = torch.tensor([[0.9, 0.1, 0.5, 0.7], [0.1, 0.2, 0.3, 0.4], [1.0, 2, 3, 4]])
    relevant = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]).bool()
    # ranks of the relevant: 3, 4 of the first; 1, 4 of the second; the third has none
    expected = ((1 / 3 + 2 / 4) / 2 + (1 / 1 + 2 / 4) / 2) / 2
    assert mean_average_precision(scores, relevant) == pytest.approx(expected)
    assert mean_average_precision(scores[2:], relevant[2:]) is None
