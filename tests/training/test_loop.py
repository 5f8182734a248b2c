import contextlib
import functools
import itertools
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import SHAPE, images, timeless

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import (
    DPQ,
    DQN,
    Contrastive,
    Reconstruction,
    TrainingConfig,
    Views,
    new_model,
)
from faiss_pqvae.training import fit as fit_any
from faiss_pqvae.training.data.views import PRESETS
from faiss_pqvae.training.loop import DivergedError, Trainer, schedule

MODEL = ModelConfig(width=4, dsub=2)
RECONSTRUCTION = Reconstruction(warmup_steps=5)
TRAINING = TrainingConfig(epochs=4, batch_size=16, precision="float32")


def model(objective=RECONSTRUCTION, shape=SHAPE, **changes):
    settings = ModelConfig(**{**vars(MODEL), **changes})
    return new_model(shape, 2, 3, settings, objective=objective)


def config(**changes):
    return TrainingConfig(**{**vars(TRAINING), **changes})


def fit(net, x, settings, objective=RECONSTRUCTION, **options):
    return fit_any(net, x, settings, objective=objective, **options)


def ticking(tick=1.0):
    """A clock whose seconds pass whenever somebody looks."""
    return functools.partial(next, itertools.count(tick, tick))


def test_fit__learns_more_than_the_mean():
    trained = model()
    history = fit(trained, images(400), config(epochs=20, views=Views()))
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
fit(model(), images(), config(epochs=20, checkpoint_every=3), folder=sys.argv[2])
"""


def test_fit__resumes_to_the_same_bits_after_kill_9(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = config(epochs=20, checkpoint_every=3)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, os.path.dirname(__file__), str(tmp_path / "killed")]  # noqa: PTH120
    )
    checkpoint = tmp_path / "killed" / "checkpoint.pt"
    deadline, seen = time.monotonic() + 60, set()
    try:
        while len(seen) < 3:  # checkpoints
            assert child.poll() is None
            assert time.monotonic() < deadline
            seen |= {checkpoint.stat().st_mtime_ns} if checkpoint.exists() else set()
            time.sleep(0.001)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert torch.load(checkpoint, weights_only=True)["step"] < 20 * 7
    (tmp_path / "killed" / ".checkpoint.pt.123.new").write_bytes(b"half of it")
    resumed, straight = model(), model()
    history = fit(resumed, images(), settings, folder=tmp_path / "killed")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["log.jsonl", "trained.pt"]
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


def stop(event):
    raise KeyboardInterrupt


def with_one_pixel_changed():
    x = images()
    x[61, 0, 3, 3] ^= 1
    return x


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": config(epochs=1, lr=0.1)}, "the settings of the loop"),
        ({"objective": replace(RECONSTRUCTION, lambda_=0.5)}, "the objective"),
        (
            {"objective": Contrastive(reconstruction_weight=1.0)},
            "the model, the settings of the loop, the objective",
        ),
        ({"x": images(seed=7)}, "the content of the items"),
        ({"x": with_one_pixel_changed()}, "the content of the items"),
        ({"x": images(121)}, "the content of the items, their number"),
    ],
    ids=["lr", "lambda", "objective", "items", "one pixel", "number"],
)
def test_fit__refuses_another_trainings_folder(tmp_path, change, named, finished):
    same = {"x": images(), "settings": config(epochs=1), "folder": tmp_path}
    with contextlib.suppress(KeyboardInterrupt):
        fit(model(), **same, go_on=None if finished else stop)
    kept = tmp_path / ("trained.pt" if finished else "checkpoint.pt")
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=f"{kept.name} belongs to .*{named}"):
        fit(**{**same, "net": model(change.get("objective", RECONSTRUCTION)), **change})
    assert kept.read_bytes() == before


def test_fit__refuses_other_weights_of_a_network_that_was_handed_in(tmp_path):
    def with_backbone(seed):
        torch.manual_seed(seed)
        return new_model(SHAPE, 2, 3, MODEL, encoder=torch.nn.Sequential(torch.nn.Conv2d(1, 2, 4)))

    settings = config(epochs=1)
    trained = with_backbone(0)
    history = fit(trained, images(), settings, folder=tmp_path)
    assert fit(with_backbone(0), images(), settings, folder=tmp_path) == history
    assert fit(trained, images(), settings, folder=tmp_path) == history  # its weights have moved
    with pytest.raises(ValueError, match="the weights of a network that was handed in"):
        fit(with_backbone(1), images(), settings, folder=tmp_path)


def test_fit__a_finished_training_keeps_its_weights_alone(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(model(), images(), config(), folder=tmp_path, go_on=stop)
    (tmp_path / "mine.pt").write_bytes(b"of somebody else")
    fit(model(), images(), config(), folder=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log.jsonl", "mine.pt", "trained.pt"]
    kept = torch.load(tmp_path / "trained.pt", weights_only=True)
    assert not {"optimizer", "best", "task"} & kept.keys()
    assert kept["model"].keys() == model().state_dict().keys()


@pytest.mark.parametrize(
    ("epochs", "options", "expected"),
    [
        (0, {}, "keeps the training up to step 0 of 28; 7 later steps are done again"),
        (2, {}, "keeps the training up to step 14 of 28; 7 later steps are done again"),
        (0, {"checkpoint_every": 3}, "keeps the training up to step 6 of 28; 1 later"),
    ],
)
def test_fit__ctrl_c_says_what_is_kept(tmp_path, epochs, options, expected):
    def stop_after(event):
        if event["epoch"] == epochs:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(model(), images(), config(**options), folder=tmp_path, go_on=stop_after)
    assert stopped.value.__notes__[0].startswith(f"{tmp_path} {expected}")
    with pytest.raises(KeyboardInterrupt) as stopped:
        fit(model(), images(), config(), go_on=stop_after)
    assert stopped.value.__notes__ == ["nothing of the training is kept: it had no folder"]


def test_trainer__saves_once_a_minute_within_long_epochs():
    trainer = Trainer(model(), images(), config(), RECONSTRUCTION, given={})
    trainer._step()
    for seconds, saves in ((59, False), (61, True)):
        trainer.saved_at = time.monotonic() - seconds
        assert trainer._is_time_to_save() == saves
    trainer.save()
    assert not trainer._is_time_to_save()


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
    trained = model(update="gradient")
    settings = replace(RECONSTRUCTION, lambda_=0.05)
    history = fit(trained, images(400), config(epochs=10), settings)
    assert history[-2]["validation_quantization"] < history[2]["validation_quantization"]
    assert max(history[-2]["perplexity"]) > 2


def test_fit__takes_vectors():
    x = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    trained = model(shape=(12,), width=8, dsub=3)
    history = fit(trained, x, config())
    assert history[0]["objective"]["whitening"] == 0
    assert trained.codebooks().d == 6


def test_fit__vectors_have_no_views():
    x = np.zeros((50, 12), np.float32)
    with pytest.raises(ValueError, match="views of vectors"):
        fit(model(shape=(12,), dsub=3), x, config(views=Views(flip=0.5)))


def test_fit__diverging_loss_raises():
    with pytest.raises(ValueError, match="not finite at step"):
        fit(model(), images(), config(lr=1e30))


OF_LABELS = {"labels": np.arange(120) % 2}
DIVERGING = [
    (RECONSTRUCTION, {}),
    (Contrastive(), {}),
    (DQN(), OF_LABELS),
    (DPQ(), OF_LABELS),
]


@pytest.mark.parametrize(
    ("objective", "given"), DIVERGING, ids=[type(objective).__name__ for objective, _ in DIVERGING]
)
def test_fit__diverging_in_the_last_step_raises(objective, given, monkeypatch, tmp_path):
    """Whatever is measured of weights that are not finite, they are no result."""
    update = Trainer._update

    def last_one_diverges(trainer, examples):
        update(trainer, examples)
        if trainer.step == trainer.total_steps - 1:
            with torch.no_grad():
                for weight in trainer.model.parameters():
                    weight.fill_(math.nan)

    monkeypatch.setattr(Trainer, "_update", last_one_diverges)
    networks = {"encoder": "mlp", "width": 8, "dsub": 4}
    settings = config(epochs=1)
    for _ in range(2):  # and so does the same call
        net = model(objective, **networks)
        with pytest.raises(DivergedError, match="not finite after the last step, 7: try a smaller"):
            fit(net, images(), settings, objective, folder=tmp_path, **given)
        assert not net.is_trained


def test_fit__diverging_in_the_last_step_leaves_the_best(monkeypatch):
    end_epoch = Trainer._end_epoch

    def last_one_diverges(trainer, epoch):
        if epoch == 3:
            next(trainer.model.parameters()).data.fill_(math.inf)
        return end_epoch(trainer, epoch)

    monkeypatch.setattr(Trainer, "_end_epoch", last_one_diverges)
    net = model()
    history = fit(net, images(), config())
    assert 0 <= history[-1]["best_epoch"] < 3
    assert all(value.isfinite().all() for value in net.state_dict().values())


@pytest.mark.parametrize(
    ("objective", "given"), DIVERGING, ids=[type(objective).__name__ for objective, _ in DIVERGING]
)
def test_fit__weights_that_make_latents_too_large_raise(objective, given, monkeypatch):
    """They are finite, and what is measured may be; no index would take an item."""
    end_epoch = Trainer._end_epoch

    def then_grows(trainer, epoch):
        event = end_epoch(trainer, epoch)
        trainer.best_state = {}
        with torch.no_grad():
            for weight in trainer.model.encoder.parameters():
                weight.mul_(1e15)
        return event

    monkeypatch.setattr(Trainer, "_end_epoch", then_grows)
    net = model(objective, encoder="mlp", width=8, dsub=4)
    with pytest.raises(DivergedError, match="latents are not below 1e18 after the last step, 7"):
        fit(net, images(), config(epochs=1), objective, **given)
    assert not net.is_trained


def test_fit__a_training_whose_epochs_do_not_count_says_its_last_loss():
    objective = Contrastive(small_views=1.0, n_views=2)
    net = model(objective, encoder="resnet", dsub=4)
    *_, epoch, end = fit(net, images(20), config(epochs=1), objective)
    assert end["best_epoch"] == -1
    assert end["validation_loss"] == epoch["validation_loss"]


@pytest.mark.parametrize(
    ("objective", "given"), DIVERGING, ids=[type(objective).__name__ for objective, _ in DIVERGING]
)
@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (images(120), ["114 training items for 8 codewords in a codebook are few: it goes on, "
                       "and finds more with 312 or more"]),
        (np.tile(images(2), (240, 1, 1, 1)), [
            "training items are much the same: 33 looked at, 2 different, for 8 codewords in a "
            "codebook; some codewords will stay unused"]),
        (images(480), []),
    ],
    ids=["few", "equal", "enough"],
)  # fmt: skip
def test_trainer__warns_of_too_little(objective, given, x, expected, caplog):
    labels = {name: np.resize(value, len(x)) for name, value in given.items()}
    net = model(objective, encoder="mlp", width=8, dsub=4)
    Trainer(net, x, config(), objective, given=labels)
    assert caplog.messages == expected


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
        {"precision": "half"},
        {"patience": -1},
        {"budget_minutes": 0.0},
        {"budget_minutes": float("inf")},
        {"augment": "night"},
        {"augment": "digits", "views": Views()},
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


CONTRASTIVE = {"objective": Contrastive(), "encoder": "mlp", "width": 16, "dsub": 4}


@pytest.mark.parametrize(
    "learned", [{"objective": RECONSTRUCTION}, CONTRASTIVE], ids=["reconstruction", "contrastive"]
)
def test_fit__a_budget_ends_the_training_and_shapes_the_schedule(learned):
    settings = config(epochs=1, budget_minutes=0.5, patience=1, views=Views(shift=0.1))
    options = {"objective": learned["objective"], "clock": ticking()}
    history = fit(model(**learned), images(), settings, **options)
    epochs = [event for event in history if event["event"] == "epoch"]
    end = history[-1]
    assert 30 <= end["elapsed_s"] <= 33  # the validation after the last step comes on top
    assert end["step"] > 2 * history[0]["steps_per_epoch"]  # `epochs` has no say
    assert not end["stopped_early"]
    assert epochs[-1]["step"] == end["step"]  # the part of an epoch is measured, too
    assert epochs[0]["lr"] > epochs[-1]["lr"]
    assert epochs[-1]["lr"] < 0.05 * config().lr


@pytest.mark.parametrize(("minutes", "warns"), [(0.05, True), (0.5, False)])
def test_fit__says_that_a_budget_was_over_before_anything_was_learned(minutes, warns, caplog):
    settings = config(budget_minutes=minutes, views=Views(shift=0.1))
    options = {"objective": CONTRASTIVE["objective"], "clock": ticking()}
    history = fit(model(**CONTRASTIVE), images(), settings, **options)
    assert (history[-1]["step"] < history[0]["steps_per_epoch"]) == warns
    said = f"the budget of {minutes:g} minutes was over after {history[-1]['step']} of the"
    assert (said in caplog.text) == warns


def test_fit__a_budget_goes_on_with_what_is_left(tmp_path):
    settings = config(budget_minutes=0.5, views=Views(shift=0.1), checkpoint_every=1)
    options = {"objective": CONTRASTIVE["objective"], "folder": tmp_path}

    def stop(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model(**CONTRASTIVE), images(), settings, **options, go_on=stop, clock=ticking())
    another_process = ticking()
    history = fit(model(**CONTRASTIVE), images(), settings, **options, clock=another_process)
    assert 30 <= history[-1]["elapsed_s"] <= 33


def test_config__augment_names_views():
    named = config(augment="natural", views=None).for_shape((1, 8, 8))
    assert named.views == PRESETS["natural"]
    assert named.for_shape((1, 8, 8)) == named


def test_fit__equal_settings_resume_whatever_their_type(tmp_path):
    settings = config(epochs=1, lr=1e-3)
    history, again = (
        fit(
            model(), images(), settings, replace(RECONSTRUCTION, whitening=whitening),
            folder=tmp_path,
        )
        for whitening in (1, 1.0)
    )  # fmt: skip
    assert again == history


@pytest.mark.parametrize(
    ("objective", "given"), DIVERGING, ids=[type(objective).__name__ for objective, _ in DIVERGING]
)
def test_fit__every_phase_says_what_it_is_in_a_log(objective, given, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "faiss_pqvae.progress")
    monkeypatch.setattr(time, "monotonic", ticking(40.0))
    net = model(objective, encoder="mlp", width=8, dsub=4)
    fit(net, images(), config(epochs=1), objective, **given)
    records = [record for record in caplog.records if record.name == "faiss_pqvae.progress"]
    said = {record.getMessage().partition(":")[0] for record in records}
    expected = {"normalization and precision", "encoding", "k-means of codewords", "training"}
    refined = {"refining codewords"} if isinstance(objective, DQN) else set()
    decoder = set() if objective == RECONSTRUCTION else {"decoder"}
    assert said == expected | refined | decoder | {"validation"}
    caplog.clear()
    fit(net, images(), config(epochs=1), objective, progress=False, **given)
    assert not [record for record in caplog.records if record.name == "faiss_pqvae.progress"]
