import functools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from faiss_pqvae.model.clustering import look_up
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.training import TrainingConfig, Views, fit
from faiss_pqvae.training.data.views import PRESETS
from faiss_pqvae.training.device import choose_device, faster_precision, reset_parameters
from faiss_pqvae.training.latents import initialize_codewords
from faiss_pqvae.training.loop import Trainer, schedule

SHAPE = (1, 8, 8)
MODEL = ModelConfig(width=4, dsub=2)
TRAINING = TrainingConfig(epochs=4, batch_size=16, precision="float32", warmup_steps=5)


def images(n=120, seed=0):
    """Blobs at four places: something that a small code can learn."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 40, (n, *SHAPE)).astype(np.uint8)
    for image, place in zip(x, rng.integers(0, 4, n), strict=True):
        row, column = 4 * (place // 2), 4 * (place % 2)
        image[0, row : row + 4, column : column + 4] += 200
    return x


def model(**changes):
    return PQVAE(SHAPE, 2, 3, ModelConfig(**{**vars(MODEL), **changes}))


def config(**changes):
    return TrainingConfig(**{**vars(TRAINING), **changes})


def timeless(history):
    return [{k: v for k, v in event.items() if k != "elapsed_s"} for event in history]


def test_fit__learns_more_than_the_mean():
    trained = model()
    history = fit(trained, images(400), config(epochs=20, whitening=0.0, views=Views()))
    epochs = [event for event in history if event["event"] == "epoch"]
    x = torch.from_numpy(images(100, seed=1))
    target = trained.normalize(x)
    with torch.no_grad():
        error = float((trained(x).x - target).square().mean())
    assert error < 0.5 * float(target.square().mean())
    assert epochs[-1]["validation_reconstruction"] < epochs[0]["validation_reconstruction"]
    assert trained.is_trained


def test_fit__same_seed_same_result_other_seed_another():
    runs = []
    for seed in (3, 3, 4):
        trained = model()
        history = fit(trained, images(), config(seed=seed))
        runs.append((timeless(history), trained.codebooks()))
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


def test_fit__forgets_what_the_model_learned_before():
    fresh, used = model(), model()
    fit(used, images(seed=5), config(seed=9))
    fit(used, images(), config())
    fit(fresh, images(), config())
    assert used.codebooks() == fresh.codebooks()


def test_fit__leaves_the_global_randomness_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    trained = model()
    torch.manual_seed(0)
    fit(trained, images(), config(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_fit__writes_its_history_as_jsonl(tmp_path):
    history = fit(model(), images(), config(), folder=tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    assert [event["event"] for event in history] == ["start", *["epoch"] * 4, "end"]
    assert len(history[1]["perplexity"]) == len(history[1]["usage"]) == 2
    assert 0 <= history[-2]["distance_ratio"] <= 1


def test_fit__finished_training_is_read_not_repeated(tmp_path):
    first, again = model(), model()
    history = fit(first, images(), config(), folder=tmp_path)
    assert fit(again, images(), config(), folder=tmp_path) == history
    assert again.codebooks() == first.codebooks()
    assert again.is_trained


CHILD = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_loop import config, fit, images, model
fit(model(), images(), config(epochs=60, checkpoint_every=3), folder=sys.argv[2])
"""


def test_fit__resumes_to_the_same_bits_after_kill_9(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = config(epochs=60, checkpoint_every=3)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, os.path.dirname(__file__), str(tmp_path / "killed")]  # noqa: PTH120
    )
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    try:
        while not checkpoint.exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.2)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert torch.load(checkpoint, weights_only=True)["step"] < 60 * 7
    (tmp_path / "killed" / ".checkpoint.pt.123.new").write_bytes(b"half of it")
    resumed, straight = model(), model()
    history = fit(resumed, images(), settings, folder=tmp_path / "killed")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
    ]
    expected = fit(straight, images(), settings)
    torch.set_num_threads(threads)
    assert timeless(history) == timeless(expected)
    assert resumed.codebooks() == straight.codebooks()
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_fit__interruption_anywhere_resumes_to_the_same_bits(tmp_path):
    class Stops:
        """Images that Ctrl-C interrupts when they are read for the nth time."""

        def __init__(self, left):
            self.x, self.left = images(), left
            self.shape, self.dtype = self.x.shape, self.x.dtype

        def __len__(self):
            return len(self.x)

        def __getitem__(self, rows):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self.x[rows]

    straight = model()
    settings = config(checkpoint_every=2)
    fit(straight, images(), settings)
    for reads in (1, 6, 13, 20, 27):
        folder, resumed = tmp_path / str(reads), model()
        with pytest.raises(KeyboardInterrupt):
            fit(resumed, Stops(reads), settings, folder=folder)
        assert not resumed.is_trained
        fit(resumed, images(), settings, folder=folder)
        assert resumed.codebooks() == straight.codebooks()


@pytest.mark.parametrize(
    "change", [{"training": {"lr": 0.1}}, {"model": {"lambda_": 0.5}}, {"data": images(seed=7)}]
)
def test_fit__refuses_another_trainings_checkpoint(tmp_path, change):
    fit(model(), images(), config(epochs=1), folder=tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(ValueError, match="other settings or data"):
        fit(
            model(**change.get("model", {})),
            change.get("data", images()),
            config(epochs=1, **change.get("training", {})),
            folder=tmp_path,
        )
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_fit__stops_early_and_keeps_the_best():
    trained = model()
    history = fit(trained, images(), config(epochs=200, patience=3, lr=0.05))
    end = history[-1]
    epochs = [event for event in history if event["event"] == "epoch"]
    assert end["stopped_early"]
    assert len(epochs) - 1 - end["best_epoch"] == 3
    eligible = [event["validation_loss"] for event in epochs if event["step"] > 5]
    assert end["validation_loss"] == min(eligible)


def test_fit__go_on_stops_after_an_epoch_and_that_is_the_end(tmp_path):
    asked = []

    def go_on(event):
        asked.append(event["epoch"])
        return event["epoch"] < 1

    history = fit(model(), images(), config(), folder=tmp_path, go_on=go_on)
    assert [event["event"] for event in history] == ["start", "epoch", "epoch", "end"]
    assert history[-1]["stopped_early"]
    assert asked == [0, 1]
    assert fit(model(), images(), config(), folder=tmp_path, go_on=go_on) == history
    assert asked == [0, 1]


def test_fit__gradient_updates_learn_codewords():
    trained = model(update="gradient", lambda_=0.05)
    history = fit(trained, images(400), config(epochs=10))
    assert history[-2]["validation_quantization"] < history[2]["validation_quantization"]
    assert max(history[-2]["perplexity"]) > 2


def test_fit__takes_vectors():
    x = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    trained = PQVAE((12,), 2, 3, ModelConfig(width=8, dsub=3))
    history = fit(trained, x, config())
    assert history[0]["training"]["whitening"] == 0
    assert trained.codebooks().d == 6


def test_fit__vectors_have_no_views():
    x = np.zeros((50, 12), np.float32)
    with pytest.raises(ValueError, match="views of vectors"):
        fit(PQVAE((12,), 2, 3, ModelConfig(dsub=3)), x, config(views=Views(flip=0.5)))


def test_fit__diverging_loss_raises():
    with pytest.raises(ValueError, match="not finite at step"):
        fit(model(), images(), config(lr=1e30))


def test_fit__constant_images_give_finite_codebooks():
    trained = model()
    fit(trained, np.full((50, *SHAPE), 7, np.uint8), config())
    assert np.isfinite(trained.codebooks().centroids).all()


@pytest.mark.parametrize("n", [0, 3])
def test_fit__too_few_items_raise(n):
    with pytest.raises(ValueError, match="at least"):
        fit(model(), images(10)[:n], config())


def test_fit__nan_raises():
    x = images().astype(np.float32) / 255
    x[17, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit(model(), x, config())


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"lr": float("nan")},
        {"validation_fraction": 1.0},
        {"whitening": 2.0},
        {"precision": "half"},
        {"patience": -1},
    ],
)
def test_config__rejects(wrong):
    with pytest.raises(ValueError, match="expected"):
        config(**wrong)


def test_schedule__rises_then_falls_to_zero():
    values = [schedule(step, 1000) for step in range(1000)]
    assert np.argmax(values) in (49, 50)
    assert np.all(np.diff(values[50:]) < 0)
    assert values[-1] < 1e-4


def test_choose_device__rejects_what_is_not_there():
    with pytest.raises(ValueError, match="expected a device"):
        choose_device("toaster")
    if not torch.cuda.is_available():
        assert choose_device("auto") == torch.device("cpu")
        with pytest.raises(ValueError, match="no CUDA"):
            choose_device("cuda")


def test_faster_precision__measures_and_changes_nothing():
    net = model()
    reset_parameters(net, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert faster_precision(net, torch.from_numpy(images(16))) in ("float32", "bfloat16")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_initialize__does_not_depend_on_the_order_of_the_data(monkeypatch):
    """Sorted data, as by class: k-means must not see batches of one class each."""
    sorted_x = np.sort(images(3000).reshape(3000, -1).mean(1))
    x = np.broadcast_to(sorted_x[:, None, None, None], (3000, *SHAPE)).astype(np.uint8).copy()
    x[:, 0, 0] = np.random.default_rng(0).integers(0, 255, (3000, 8))
    trainer = Trainer(model(), x, config(), None)
    seen = []
    monkeypatch.setattr(trainer.model, "encode", lambda part: seen.append(part) or part.flatten(1))
    monkeypatch.setattr(trainer.model.quantizer, "initialize", lambda *_, **__: None)
    initialize_codewords(trainer.model, trainer.items, batch_size=8)
    means = [float(part.float().mean()) for part in seen[:2]]
    assert abs(means[0] - means[1]) < 0.5


CONTRASTIVE = {"objective": "contrastive", "encoder": "mlp", "width": 16, "dsub": 4}
SHIFTS = {"views": Views(shift=0.1, color=0.3), "lr": 0.01}


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


def test_fit__contrastive_finds_what_is_in_the_picture():
    trained = model(**CONTRASTIVE)
    history = fit(trained, images(400), config(epochs=20, **SHIFTS))
    epochs = [event for event in history if event["event"] == "epoch"]
    assert epochs[-1]["validation_contrast"] < epochs[0]["validation_contrast"]
    assert min(epochs[-1]["usage"]) > 0.9
    assert hits(trained) > 0.9


def test_fit__contrastive_latents_and_codewords_are_on_spheres():
    trained = model(**CONTRASTIVE)
    fit(trained, images(), config(revive_every=3, revive_below=0.5, **SHIFTS))
    z = trained.encode(torch.from_numpy(images(10))).detach().view(10, 2, 4)
    codewords = trained.codebooks().centroids
    np.testing.assert_allclose(z.norm(dim=-1), 0.5**0.5, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(codewords, axis=-1), 0.5**0.5, rtol=1e-5)


def test_fit__contrastive_decoder_is_that_of_least_squares():
    trained, x = model(**CONTRASTIVE), images(400)
    fit(trained, x, config(epochs=10, **SHIFTS))
    rows = torch.from_numpy(x)
    with torch.no_grad():
        error = (trained(rows).x - trained.normalize(rows)).square().mean()
    assert error < 0.5  # of a variance near 1


def test_fit__contrastive_resumes_to_the_same_bits(tmp_path):
    straight, resumed = model(**CONTRASTIVE), model(**CONTRASTIVE)
    settings = config(checkpoint_every=2, n_views=3, **SHIFTS)
    expected = fit(straight, images(), settings)

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(resumed, images(), settings, folder=tmp_path, go_on=stop)
    history = fit(resumed, images(), settings, folder=tmp_path)
    assert timeless(history) == timeless(expected)
    for name, value in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    again = model(**CONTRASTIVE)
    assert fit(again, images(), settings, folder=tmp_path) == history
    assert torch.equal(again.decoder.map.weight, straight.decoder.map.weight)


def test_fit__contrastive_with_reconstruction_trains_the_decoder():
    trained = model(**CONTRASTIVE, reconstruction_weight=1.0)
    history = fit(trained, images(400), config(epochs=10, **SHIFTS))
    first, last = history[1], history[-2]
    assert last["validation_reconstruction"] < first["validation_reconstruction"]
    assert last["validation_contrast"] < first["validation_contrast"]


def test_fit__contrastive_takes_vectors():
    rng = np.random.default_rng(0)
    centers = 3 * rng.standard_normal((10, 12))
    x = (centers[rng.integers(0, 10, 400)] + rng.standard_normal((400, 12))).astype(np.float32)
    trained = PQVAE((12,), 2, 3, ModelConfig(objective="contrastive", width=16, dsub=3))
    assert trained.config.encoder == "mlp"
    history = fit(trained, x, config(epochs=10))
    assert history[0]["training"]["views"]["noise"] > 0
    assert history[-2]["validation_contrast"] < history[1]["validation_contrast"]


def test_fit__contrastive_needs_views_that_change_something():
    with pytest.raises(ValueError, match="expected views that change something"):
        fit(model(**CONTRASTIVE), images(), config(views=Views()))


def test_fit__linear_starts_have_no_views_and_no_other_objective():
    x = np.zeros((50, 12), np.float32)
    for settings, chosen in (
        (ModelConfig(encoder="linear", dsub=6), config(views=Views(noise=0.1))),
        (ModelConfig(encoder="linear", dsub=6, objective="contrastive"), config()),
    ):
        with pytest.raises(ValueError, match="expected a reconstruction objective without views"):
            fit(PQVAE((12,), 2, 3, settings), x, chosen, starts=lambda sample: [])


class Clock:
    """Seconds that pass whenever somebody looks."""

    def __init__(self, tick):
        self.now, self.tick = 0.0, tick

    def perf_counter(self):
        self.now += self.tick
        return self.now


@pytest.mark.parametrize("changes", [{}, CONTRASTIVE], ids=["reconstruction", "contrastive"])
def test_fit__a_budget_ends_the_training_and_shapes_the_schedule(monkeypatch, changes):
    monkeypatch.setattr("faiss_pqvae.training.loop.time", Clock(1.0))
    settings = config(epochs=1, budget_minutes=0.5, patience=1, views=Views(shift=0.1))
    history = fit(model(**changes), images(), settings)
    epochs = [event for event in history if event["event"] == "epoch"]
    end = history[-1]
    assert 30 <= end["elapsed_s"] <= 33  # the validation after the last step comes on top
    assert end["step"] > 2 * history[0]["steps_per_epoch"]  # `epochs` has no say
    assert not end["stopped_early"]
    assert epochs[-1]["step"] == end["step"]  # the part of an epoch is measured, too
    assert epochs[0]["lr"] > epochs[-1]["lr"]
    assert epochs[-1]["lr"] < 0.05 * config().lr


def test_fit__a_budget_goes_on_with_what_is_left(monkeypatch, tmp_path):
    settings = config(budget_minutes=0.5, views=Views(shift=0.1), checkpoint_every=1)

    def stop(event):
        raise KeyboardInterrupt

    monkeypatch.setattr("faiss_pqvae.training.loop.time", Clock(1.0))
    with pytest.raises(KeyboardInterrupt):
        fit(model(**CONTRASTIVE), images(), settings, folder=tmp_path, go_on=stop)
    monkeypatch.setattr("faiss_pqvae.training.loop.time", Clock(1.0))  # of another process
    history = fit(model(**CONTRASTIVE), images(), settings, folder=tmp_path)
    assert 30 <= history[-1]["elapsed_s"] <= 33


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget_minutes": 0.0},
        {"budget_minutes": float("inf")},
        {"n_views": 1},
        {"small_views": 1.5},
        {"augment": "night"},
        {"augment": "digits", "views": Views()},
    ],
)
def test_config__rejects_what_contrasts_nothing(wrong):
    with pytest.raises(ValueError, match="expected"):
        config(**wrong)


def test_config__augment_names_views():
    named = config(augment="natural", views=None).for_shape((1, 8, 8))
    assert named.views == PRESETS["natural"]
    assert named.for_shape((1, 8, 8)) == named


def test_fit__small_views_first_and_the_images_size_after(monkeypatch):
    seen = []
    encode = PQVAE.encode

    def spy(self, x):
        if self.training and torch.is_grad_enabled():
            seen.append(tuple(x.shape[2:]))
        return encode(self, x)

    monkeypatch.setattr(PQVAE, "encode", spy)
    settings = config(small_views=0.5, **SHIFTS)
    trained = model(**{**CONTRASTIVE, "encoder": "resnet", "width": 4})
    history = fit(trained, images(), settings)
    assert seen == [(5, 5)] * (len(seen) // 2) + [(8, 8)] * (len(seen) // 2)
    assert history[0]["training"]["small_views"] == 0.5
    assert history[-1]["best_epoch"] >= 2  # of the four; the first two saw small views


@pytest.mark.parametrize(
    ("encoder", "expected"), [("resnet", 0.7), ("resnet18", 0.7), ("mlp", 0.0), ("conv", 0.0)]
)
def test_trainer__small_views_are_for_residual_encoders(encoder, expected):
    net = model(**{**CONTRASTIVE, "encoder": encoder, "width": 4})
    assert Trainer(net, images(), config(views=None), None).config.small_views == expected
    if not expected:
        with pytest.raises(ValueError, match="expected small_views with"):
            Trainer(net, images(), config(views=None, small_views=0.5), None)
    assert Trainer(model(encoder="resnet"), images(), config(), None).config.small_views == 0


@functools.cache
def trained_encoder(**changes):
    """A model that no test may change."""
    net = model(**{**CONTRASTIVE, **changes})
    fit(net, images(400), config(epochs=10, **SHIFTS))
    return net


def test_fit__pretrained_encoder_is_where_another_code_length_begins():
    before = trained_encoder()
    longer = PQVAE(SHAPE, 4, 3, before.config)
    still = config(epochs=1, lr=0.0, weight_decay=0.0, views=Views(shift=0.1))
    fit(longer, images(400), still, pretrained=before)
    for name, value in before.encoder.state_dict().items():
        same = torch.equal(longer.encoder.state_dict()[name], value)
        last = name.startswith("layers.5")
        assert same != last, name
    assert longer.is_trained


def test_fit__pretrained_learns_faster():
    before, settings = trained_encoder(), config(epochs=1, **SHIFTS)
    fresh, begun = model(**CONTRASTIVE), model(**CONTRASTIVE)
    losses = [
        fit(net, images(400), settings, pretrained=pretrained)[1]["validation_loss"]
        for net, pretrained in ((fresh, None), (begun, before))
    ]
    assert losses[1] < losses[0]


def test_fit__equal_settings_resume_whatever_their_type(tmp_path):
    history = fit(model(), images(), config(epochs=1, lr=1e-3, whitening=1), folder=tmp_path)
    again = fit(model(), images(), config(epochs=1, lr=1e-3, whitening=1.0), folder=tmp_path)
    assert again == history


def test_fit__another_pretrained_model_is_another_training(tmp_path):
    first, second = trained_encoder(), trained_encoder(temperature=0.3)
    settings = config(epochs=1, **SHIFTS)
    history = fit(model(**CONTRASTIVE), images(), settings, folder=tmp_path, pretrained=first)
    again = fit(model(**CONTRASTIVE), images(), settings, folder=tmp_path, pretrained=first)
    assert again == history
    for other in (second, None):
        with pytest.raises(ValueError, match="other settings or data"):
            fit(model(**CONTRASTIVE), images(), settings, folder=tmp_path, pretrained=other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 8}, "expected a model with width=16 to start from, got 8"),
        ({"encoder": "linear"}, "expected a model with encoder='mlp'"),
        ({"standardize": False}, "expected a model with standardize=True"),
    ],
)
def test_fit__rejects_a_pretrained_model_that_does_not_fit(changes, message):
    other = model(**{**CONTRASTIVE, **changes})
    other.fitted.fill_(True)
    with pytest.raises(ValueError, match=message):
        fit(model(**CONTRASTIVE), images(), config(**SHIFTS), pretrained=other)


def test_fit__rejects_a_pretrained_model_of_other_items_or_none():
    with pytest.raises(ValueError, match="untrained"):
        fit(model(**CONTRASTIVE), images(), config(**SHIFTS), pretrained=model(**CONTRASTIVE))
    other = PQVAE((1, 9, 9), 2, 3, model(**CONTRASTIVE).config)
    other.fitted.fill_(True)
    with pytest.raises(ValueError, match=r"items of shape \(1, 8, 8\) to start from"):
        fit(model(**CONTRASTIVE), images(), config(**SHIFTS), pretrained=other)
