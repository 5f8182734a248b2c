"""The contrastive objective, held to loops over its formulas."""

import math

import numpy as np
import pytest
import torch
from blobs import SHAPE, images, timeless
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from faiss_pqvae.model.clustering import assign, look_up, split
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.training import TrainingConfig, Views, fit, new_model
from faiss_pqvae.training.objectives.contrastive import (
    Contrastive,
    contrastive_objective,
    nt_xent,
    soft_assignment,
    unevenness,
)
from faiss_pqvae.training.objectives.reconstruction import Reconstruction
from faiss_pqvae.training.objectives.view_task import ViewTask, _choices, _chosen


def make_model() -> PQVAE:
    torch.manual_seed(0)
    config = ModelConfig(encoder="linear", dsub=3)
    net = new_model((1, 4, 4), 2, 3, config, objective="contrastive")
    with torch.no_grad():
        net.quantizer.codewords.normal_()
    net.quantizer.project()
    return net


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    draws = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(draws, dim=-1)


@settings(max_examples=30)
@given(
    n=st.integers(1, 6), V=st.integers(2, 4), temperature=st.floats(0.05, 2), seed=st.integers(0, 9)
)
def test_nt_xent__is_its_formula(n: int, V: int, temperature: float, seed: int) -> None:
    z, q = unit(V * n, 5, seed=seed), unit(V * n, 5, seed=seed + 100)
    s = (z.double() @ q.double().T / temperature).numpy()

    def loss(i: int, j: int) -> float:
        others = sum(math.exp(s[i, k]) for k in range(V * n) if k % n != i % n)
        return -math.log(math.exp(s[i, j]) / (math.exp(s[i, j]) + others))

    pairs = [(i, j) for i in range(V * n) for j in range(i % n, V * n, n) if i != j]
    found = nt_xent(z, q, n_items=n, temperature=temperature)
    assert found.item() == pytest.approx(
        np.mean([loss(*pair) for pair in pairs]), rel=1e-4, abs=1e-6
    )


def test_nt_xent__leaves_pairs_of_items_out_that_are_alike() -> None:
    n, V = 5, 3
    z, q = unit(V * n, 5), unit(V * n, 5, seed=1)
    classes = torch.tensor([0, 1, 0, 2, 1])
    alike = classes.unsqueeze(0) == classes.unsqueeze(1)
    s = (z.double() @ q.double().T / 0.5).numpy()
    losses = []
    for i in range(V * n):
        others = [k for k in range(V * n) if classes[k % n] != classes[i % n]]
        total = sum(math.exp(s[i, k]) for k in others)
        own = [j for j in range(i % n, V * n, n) if j != i]
        losses += [math.log(math.exp(s[i, j]) + total) - s[i, j] for j in own]
    found = nt_xent(z, q, n_items=n, temperature=0.5, alike=alike)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-4)
    apart = nt_xent(z, q, n_items=n, temperature=0.5, alike=torch.eye(n, dtype=torch.bool))
    assert apart.item() == pytest.approx(nt_xent(z, q, n_items=n, temperature=0.5).item())


def test_nt_xent__is_low_for_views_that_agree() -> None:
    z = unit(8, 16)
    agreeing = nt_xent(z.repeat(2, 1), z.repeat(2, 1), n_items=8, temperature=0.1)
    strangers = nt_xent(unit(16, 16), unit(16, 16, seed=1), n_items=8, temperature=0.1)
    collapsed = nt_xent(z[:1].expand(16, -1), z[:1].expand(16, -1), n_items=8, temperature=0.1)
    assert agreeing < 0.1 < strangers
    assert collapsed.item() == pytest.approx(math.log(15), rel=1e-5)  # 1 of 1 + 14


def test_soft_assignment__of_a_high_softness_is_the_nearest_codeword() -> None:
    z_m, codewords = unit(2, 20, 3) / 2**0.5, unit(2, 8, 3, seed=1) / 2**0.5
    soft, p = soft_assignment(z_m, codewords, 1e4)
    ids = assign(z_m, codewords)
    torch.testing.assert_close(soft, look_up(codewords, ids))
    torch.testing.assert_close(p.argmax(-1).T, ids)


def test_soft_assignment__by_hand() -> None:
    z_m = torch.tensor([[[1.0, 0.0]]])
    codewords = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    soft, p = soft_assignment(z_m, codewords, 2.0)
    weight = math.exp(2) / (math.exp(2) + 1)
    np.testing.assert_allclose(p[0, 0], [weight, 1 - weight], rtol=1e-5)
    mean = np.array([weight, 1 - weight])
    np.testing.assert_allclose(soft[0, 0], mean / np.linalg.norm(mean), rtol=1e-5)


def test_unevenness__is_0_for_even_use_and_1_for_collapse() -> None:
    even = torch.eye(8).expand(3, 8, 8)
    same = torch.eye(8)[:1].expand(3, 20, 8)
    assert unevenness(even).item() == pytest.approx(0, abs=1e-6)
    assert unevenness(same).item() == pytest.approx(1, abs=1e-6)
    assert 0 < unevenness(torch.cat([even, same[:, :8]], 1)).item() < 1


def test_objective__adds_up() -> None:
    net = make_model().eval()
    settings = Contrastive(diversity=0.7, temperature=0.3, softness=4.0)
    views, clean = torch.rand(10, 1, 4, 4), torch.rand(5, 1, 4, 4)
    terms = contrastive_objective(net, views, clean, settings)
    z = net.encode(views)
    soft, p = soft_assignment(split(z, 2), net.quantizer.codewords, 4.0)
    q = torch.cat([soft[0], soft[1]], 1)
    contrast = nt_xent(z, q, n_items=5, temperature=0.3)
    assert terms.parts["contrast"].item() == pytest.approx(contrast.item(), rel=1e-5)
    assert terms.parts["unevenness"].item() == pytest.approx(unevenness(p).item(), rel=1e-4)
    expected = contrast + 0.7 * unevenness(p)
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert "reconstruction" not in terms.parts
    torch.testing.assert_close(terms.latents, z.detach())


def test_objective__adds_the_weighted_reconstruction_of_the_first_view() -> None:
    weight, lambda_, beta = 2.0, 0.1, 0.25
    net = make_model().eval()
    reconstruction = Reconstruction(lambda_=lambda_, beta=beta)
    both = Contrastive(reconstruction_weight=weight, reconstruction=reconstruction)
    views, clean = torch.rand(10, 1, 4, 4), torch.rand(5, 1, 4, 4)
    terms, without = (contrastive_objective(net, views, clean, s) for s in (both, Contrastive()))
    error = (net(views[:5]).x - net.normalize(clean)).square().mean()
    assert terms.parts["reconstruction"].item() == pytest.approx(error.item(), rel=1e-5)
    quantization = terms.parts["quantization"]
    added = weight * (error + lambda_ * 6 * (1 + beta) * quantization)
    assert terms.loss.item() == pytest.approx((without.loss + added).item(), rel=1e-5)


def test_objective__teaches_encoder_and_codewords_and_not_the_decoder() -> None:
    net = make_model()
    views, clean = torch.rand(10, 1, 4, 4), torch.rand(5, 1, 4, 4)
    contrastive_objective(net, views, clean, Contrastive()).loss.backward()
    learning = {name for name, p in net.named_parameters() if p.grad is not None}
    assert "quantizer.codewords" in learning
    assert {name.split(".")[0] for name in learning} == {"quantizer", "encoder"}
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_objective__of_equal_items_is_finite() -> None:
    net = make_model()
    views, clean = torch.zeros(8, 1, 4, 4), torch.zeros(4, 1, 4, 4)
    terms = contrastive_objective(net, views, clean, Contrastive())
    terms.loss.backward()
    assert torch.isfinite(terms.loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update": "ema"}, "expected update 'gradient'"),
        ({"decoder": "conv"}, "expected a linear decoder .* a reconstruction_weight > 0"),
    ],
    ids=str,
)
def test_networks__reject_what_does_not_go_together(changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        Contrastive().networks(ModelConfig(**changes), (3, 8, 8))


def test_networks__any_decoder_is_trained_along() -> None:
    config = ModelConfig(decoder="conv")
    assert Contrastive(reconstruction_weight=0.1).networks(config, (3, 8, 8)).decoder == "conv"


@pytest.mark.parametrize(("shape", "encoder"), [((3, 8, 8), "resnet"), ((12,), "mlp")], ids=str)
def test_networks__have_codewords_that_learn_by_gradient(shape, encoder) -> None:
    config = new_model(shape, 4, 8, objective="contrastive").config
    assert (config.encoder, config.dsub, config.update) == (encoder, 16, "gradient")


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"softness": -1},
        {"softness": float("inf")},
        {"diversity": -1.0},
        {"reconstruction_weight": float("nan")},
        {"n_views": 1},
        {"neighbours": -1},
        {"small_views": 1.5},
    ],
    ids=str,
)
def test_contrastive__rejects(wrong) -> None:
    with pytest.raises(ValueError, match=f"expected {next(iter(wrong))} "):
        Contrastive(**wrong)


# -- the training


def model(objective="contrastive") -> PQVAE:
    config = ModelConfig(encoder="mlp", width=16, dsub=4)
    return new_model(SHAPE, 2, 3, config, objective=objective)


def config(**changes) -> TrainingConfig:
    settings = {"epochs": 4, "batch_size": 16, "precision": "float32", "lr": 0.01}
    return TrainingConfig(**{**settings, "views": Views(shift=0.1, color=0.3), **changes})


def hits(net, n=200):
    """How often an image finds another blob of its place, by ADC."""
    rng = np.random.default_rng(0)
    x = images(n)
    places = rng.integers(0, 40, (n, *SHAPE)), rng.integers(0, 4, n)
    with torch.no_grad():
        z = net.eval().encode(torch.from_numpy(x))
        e = look_up(net.quantizer.codewords, net.quantizer(z).ids).transpose(0, 1).flatten(1)
    distances = torch.cdist(z, e).fill_diagonal_(torch.inf)
    return float(np.mean(places[1][distances.argmin(1).numpy()] == places[1]))


def test_fit__finds_what_is_in_the_picture():
    trained = model()
    history = fit(trained, images(400), config(epochs=20))
    epochs = [event for event in history if event["event"] == "epoch"]
    assert epochs[-1]["validation_contrast"] < epochs[0]["validation_contrast"]
    assert min(epochs[-1]["usage"]) > 0.9
    assert hits(trained) > 0.9


def test_fit__latents_and_codewords_are_on_spheres():
    trained = model()
    fit(trained, images(), config(revive_every=3, revive_below=0.5))
    z = trained.encode(torch.from_numpy(images(10))).detach().view(10, 2, 4)
    codewords = trained.codebooks().centroids
    np.testing.assert_allclose(z.norm(dim=-1), 0.5**0.5, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(codewords, axis=-1), 0.5**0.5, rtol=1e-5)


def test_fit__decoder_is_that_of_least_squares():
    trained, x = model(), images(400)
    fit(trained, x, config(epochs=10))
    rows = torch.from_numpy(x)
    with torch.no_grad():
        error = (trained(rows).x - trained.normalize(rows)).square().mean()
    assert error < 0.5  # of a variance near 1


def test_fit__resumes_to_the_same_bits(tmp_path):
    straight, resumed = model(), model()
    settings = {"config": config(checkpoint_every=2), "objective": Contrastive(n_views=3)}
    expected = fit(straight, images(), **settings)

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(resumed, images(), **settings, folder=tmp_path, go_on=stop)
    history = fit(resumed, images(), **settings, folder=tmp_path)
    assert timeless(history) == timeless(expected)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    again = model()
    assert fit(again, images(), **settings, folder=tmp_path) == history
    assert torch.equal(again.decoder.map.weight, straight.decoder.map.weight)


def test_fit__with_reconstruction_trains_the_decoder():
    both = Contrastive(reconstruction_weight=1.0, reconstruction=Reconstruction(warmup_steps=5))
    trained = model(both)
    history = fit(trained, images(400), config(epochs=10), objective=both)
    first, last = history[1], history[-2]
    assert last["validation_reconstruction"] < first["validation_reconstruction"]
    assert last["validation_contrast"] < first["validation_contrast"]


def test_fit__takes_vectors():
    rng = np.random.default_rng(0)
    centers = 3 * rng.standard_normal((10, 12))
    x = (centers[rng.integers(0, 10, 400)] + rng.standard_normal((400, 12))).astype(np.float32)
    config = ModelConfig(width=16, dsub=3)
    trained = new_model((12,), 2, 3, config, objective="contrastive")
    assert trained.config.encoder == "mlp"
    history = fit(trained, x, TrainingConfig(epochs=10, batch_size=16, precision="float32"))
    assert history[0]["training"]["views"]["noise"] > 0
    assert history[-2]["validation_contrast"] < history[1]["validation_contrast"]


def test_fit__needs_views_that_change_something():
    with pytest.raises(ValueError, match="expected views that change something"):
        fit(model(), images(), config(views=Views()))


# -- neighbours


def vectors(n: int = 600, d: int = 12):
    """Of ten kinds, in four of the dimensions; the others are of the item alone. With the kinds."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 10, n)
    x = rng.standard_normal((n, d))
    x[:, :4] = 2 * rng.standard_normal((10, 4))[kinds] + 0.6 * x[:, :4]
    return x.astype(np.float32), kinds


def learned(objective, folder=None, go_on=None, *, epochs=8):
    """A model of the vectors, and the history of its training."""
    net = new_model((12,), 2, 3, ModelConfig(width=32, dsub=4), objective=objective)
    settings = TrainingConfig(
        epochs=epochs, batch_size=32, precision="float32", lr=0.01, checkpoint_every=20
    )
    how = {} if go_on is None else {"go_on": go_on}
    return net, fit(net, vectors()[0], settings, objective=objective, folder=folder, **how)


def same_kind(net) -> float:
    """How many of the 20 items whose codes are nearest to an item are of its kind."""
    x, kinds = vectors()
    with torch.no_grad():
        z = net.eval().encode(torch.from_numpy(x))
        e = look_up(net.quantizer.codewords, net.quantizer(z).ids).transpose(0, 1).flatten(1)
    found = torch.cdist(z, e).fill_diagonal_(torch.inf).topk(20, largest=False).indices.numpy()
    return float((kinds[found] == kinds[:, None]).mean())


def test_neighbours__bring_what_is_alike_together():
    alone, beside = (learned(Contrastive(neighbours=k))[0] for k in (0, 10))
    assert same_kind(beside) > same_kind(alone) + 0.05


def test_neighbours__are_the_nearest_of_the_training_part(monkeypatch):
    tasks = []
    found = ViewTask._found_nearest

    def watched(task):
        tasks.append(task)
        return found(task)

    monkeypatch.setattr(ViewTask, "_found_nearest", watched)
    learned(Contrastive(neighbours=3), epochs=1)
    (task,) = tasks
    x, train = vectors()[0].astype(np.float64), task.items.train_rows
    x -= x[train].mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x[train].T
    cosines[train, np.arange(len(train))] = -2
    expected = train[np.argsort(-cosines, axis=1)[:, :3]]
    np.testing.assert_array_equal(task._nearest, expected)


def test_neighbours__are_kept_for_a_training_that_goes_on(tmp_path, monkeypatch):
    objective = Contrastive(neighbours=4)
    straight, expected = learned(objective)

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learned(objective, tmp_path, stop)
    monkeypatch.setattr(ViewTask, "_found_nearest", None)  # not found again
    resumed, history = learned(objective, tmp_path)
    assert timeless(history) == timeless(expected)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_neighbours__make_up_for_views_that_change_nothing():
    same = TrainingConfig(epochs=1, precision="float32", views=Views())
    net = new_model((12,), 2, 3, ModelConfig(width=8, dsub=4), objective="contrastive")
    assert fit(net, vectors()[0], same, objective=Contrastive(neighbours=2))


def test_neighbours__of_images_are_refused():
    with pytest.raises(ValueError, match="expected neighbours with vectors, such as features of"):
        fit(model(), images(), config(), objective=Contrastive(neighbours=2))


# -- views that were made before


def made(n_views: int = 3):
    """Views of the vectors in which all is the item's own, but for what its kind has."""
    x, _ = vectors()
    rng = np.random.default_rng(1)
    views = np.repeat(x[:, None], n_views, axis=1)
    views[:, :, 4:] = rng.standard_normal((len(x), n_views, 8))
    return views


def learned_from(views, **how):
    net = new_model((12,), 2, 3, ModelConfig(width=32, dsub=4), objective="contrastive")
    settings = TrainingConfig(epochs=8, batch_size=32, precision="float32", lr=0.01)
    history = fit(net, vectors()[0], settings, objective=Contrastive(), views=views, **how)
    return net, history


def test_made_views__teach_what_they_have_in_common():
    assert same_kind(learned_from(made())[0]) > same_kind(learned_from(None)[0]) + 0.05


def test_made_views__side_by_side_or_in_rows_are_the_same():
    x, y = (learned_from(views)[0] for views in (made(), made().reshape(-1, 12)))
    for name, value in x.state_dict().items():
        assert torch.equal(y.state_dict()[name], value), name


def test_made_views__of_another_training_are_noticed(tmp_path):
    views = made()
    learned_from(views, folder=tmp_path)
    assert learned_from(views, folder=tmp_path)  # finished
    views[0, 0, 0] += 1
    with pytest.raises(ValueError, match="belongs to a training with other settings or data"):
        learned_from(views, folder=tmp_path)


@pytest.mark.parametrize("objective", ["reconstruction", "ranking"])
def test_made_views__for_what_compares_none_are_refused(objective):
    net = new_model((12,), 2, 3, objective=objective)
    with pytest.raises(ValueError, match="expected no views for the objective"):
        fit(net, vectors()[0], objective=objective, views=made())


def test_made_views__of_other_items_are_refused():
    with pytest.raises(ValueError, match="expected as many views of each of 600 items, got 599"):
        learned_from(made(1)[:-1].reshape(-1, 12))


def test_chosen__takes_each_view_and_the_item_alike():
    x = torch.arange(4.0)[:, None]
    views = np.arange(12.0, dtype=np.float32)[:, None] + 100  # three of each
    rows, choice = np.array([2, 0, 3, 1]), np.array([0, 1, 3, 2])
    found = _chosen(x[rows], views, rows, choice, 3)
    assert found[:, 0].tolist() == [2, 100, 111, 104]
    drawn = _choices(500, 3, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(4), (500, 1)))
    assert (np.bincount(drawn[:, 0], minlength=4) > 90).all()


class Rising:
    """Rows that are read in rising order alone, as those of HDF5."""

    def __init__(self, x):
        self.x, self.shape, self.dtype = x, x.shape, x.dtype

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        assert isinstance(rows, slice) or (np.diff(rows) > 0).all()
        return self.x[rows]


def test_neighbours_and_made_views__of_rows_in_rising_order():
    settings = TrainingConfig(epochs=2, batch_size=32, precision="float32")
    nets = []
    for kind in (np.asarray, Rising):
        x, views = kind(vectors()[0]), kind(made().reshape(-1, 12))
        net = new_model((12,), 2, 3, ModelConfig(width=8, dsub=4), objective="contrastive")
        fit(net, x, settings, objective=Contrastive(neighbours=3), views=views)
        nets.append(net)
    first, second = (net.state_dict() for net in nets)
    for name, value in first.items():
        assert torch.equal(second[name], value), name


def test_made_views__are_not_changed_again(monkeypatch):
    monkeypatch.setattr("faiss_pqvae.training.objectives.view_task.random_views", None)
    assert learned_from(made())
