import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from blobs import SHAPE
from blobs import images as blobs
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.cli import main
from faiss_pqvae.cli.tune import mean_precision
from faiss_pqvae.model.clustering import look_up
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import Reconstruction, TrainingConfig, Views, new_model
from faiss_pqvae.training.loop import Trainer
from faiss_pqvae.training.tune.curve import rank
from faiss_pqvae.training.tune.plan import rung, rung_sizes, steps_per_epoch
from faiss_pqvae.training.tune.scores import neighbour_recall
from faiss_pqvae.training.tune.search import (
    Part,
    Point,
    Score,
    SearchConfig,
    default_score,
    full_steps,
    permissible_range,
    plan,
    read_points,
    tune,
)

MODEL = ModelConfig(encoder="linear", dsub=2)
OBJECTIVE = Reconstruction(warmup_steps=5)
TRAINING = TrainingConfig(
    epochs=4, batch_size=32, precision="float32", revive_every=3, views=Views()
)
TOO_LARGE = 1e39  # for a float32: the loss is infinite
SEARCH = SearchConfig(lambdas=(0.001, 0.01, 0.1, 1.0), reduction=2)
images = functools.partial(blobs, 150)


def nearness(folder, target):
    """A stub that knows the best lambda, and counts how often it is asked."""
    asked = []

    def measure(model, stored, held):
        log = max(folder.rglob("log.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        lambda_ = json.loads(log.read_text().splitlines()[0])["objective"]["lambda_"]
        asked.append((lambda_, len(stored), len(held)))
        return -abs(math.log10(lambda_ / target))

    return Score("nearness", measure), asked


def search(folder, *, x=None, score=None, training=TRAINING, **changes):
    return tune(
        images() if x is None else x,
        2,
        3,
        folder,
        model=changes.pop("model", MODEL),
        objective=changes.pop("objective", OBJECTIVE),
        training=training,
        search=replace(SEARCH, **{"share": 1.0, **changes}),
        score=score or nearness(folder, 0.1)[0],
    )


def curve(*pairs, statuses=()):
    """Points of falling lambda from (ratio, error)."""
    given = [*statuses, *["complete"] * (len(pairs) - len(statuses))]
    return [
        Point(10.0**-number, ratio, error, status=status)
        for number, ((ratio, error), status) in enumerate(zip(pairs, given, strict=True))
    ]


# -- the permissible range

FALLING_THEN_RISING = curve((0.5, 0.6), (0.6, 0.42), (0.7, 0.4), (0.8, 0.45), (0.9, 1.0))


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        (ModelConfig(objective="contrastive"), TRAINING, "reconstruction objective"),
        (MODEL, replace(TRAINING, budget_minutes=1.0), "expected no budget_minutes"),
    ],
    ids=["contrastive", "budget"],
)
def test_tune__refuses_what_has_no_lambda_or_no_length(tmp_path, model, training, message):
    with pytest.raises(ValueError, match=message):
        tune(images(), 2, 3, tmp_path / "out", model=model, training=training)
    assert not (tmp_path / "out").exists()


def test_permissible_range__by_hand():
    found = permissible_range(FALLING_THEN_RISING, share=0.1)
    # The limit is 1.1 * 0.4 = 0.44. It is crossed at 0.6 - 0.1 * 0.02 / 0.18 and at
    # 0.7 + 0.1 * 0.04 / 0.05.
    assert found.limit == pytest.approx(0.44)
    assert found.low == pytest.approx(0.6 - 0.1 * 2 / 18)
    assert found.high == pytest.approx(0.7 + 0.1 * 4 / 5)
    assert found.lambdas == (0.01, 0.1)
    assert found.low_measured
    assert found.high_measured


def test_permissible_range__order_does_not_matter():
    found = permissible_range(FALLING_THEN_RISING[::-1])
    assert found == permissible_range(FALLING_THEN_RISING)


def test_permissible_range__monotone_curves_end_where_the_measurements_end():
    falling = permissible_range(curve((0.5, 0.9), (0.6, 0.5), (0.7, 0.4)))
    assert falling.lambdas == (0.01,)
    assert (falling.high, falling.high_measured, falling.low_measured) == (0.7, False, True)
    rising = permissible_range(curve((0.5, 0.4), (0.6, 0.5), (0.7, 0.9)))
    assert rising.lambdas == (1.0,)
    assert (rising.low, rising.high_measured, rising.low_measured) == (0.5, True, False)


def test_permissible_range__small_noise_does_not_cut_it():
    noise = np.random.default_rng(0).uniform(-0.01, 0.01, 30)
    ratios = np.linspace(0.5, 0.9, 30)
    errors = 0.5 + 2 * (ratios - 0.7) ** 2 + noise
    found = permissible_range(curve(*zip(ratios, errors, strict=True)))
    inside = abs(ratios - 0.7) < math.sqrt(0.02 / 2)  # 0.05 less what the noise can take
    assert found.low < ratios[inside][0]
    assert found.high > ratios[inside][-1]
    assert len(found.lambdas) >= inside.sum()


def test_permissible_range__failed_runs_are_beyond_it_not_on_it():
    points = curve(
        (math.nan, math.nan),
        (0.6, 0.42),
        (0.7, 0.4),
        (0.65, 0.9),
        statuses=["diverged: at step 3", "complete", "complete", "hopeless: after epoch 1"],
    )
    found = permissible_range(points)
    assert found.lambdas == (0.01, 0.1)
    assert (found.low, found.high) == (0.6, 0.7)
    assert found.low_measured
    assert found.high_measured


def test_permissible_range__one_point_and_ties():
    found = permissible_range(curve((0.7, 0.4)))
    assert (found.low, found.high, found.limit) == (0.7, 0.7, pytest.approx(0.44))
    assert not found.low_measured
    assert not found.high_measured
    tied = permissible_range(curve((0.7, 0.4), (0.7, 0.4), (0.7, 0.9)))
    assert (tied.low, tied.high, len(tied.lambdas)) == (0.7, 0.7, 2)


@pytest.mark.parametrize("points", [[], curve((math.nan, 1.0)), curve((0.5, math.inf))])
def test_permissible_range__nothing_converged_raises(points):
    with pytest.raises(ValueError, match="converged"):
        permissible_range(points)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_permissible_range__rejects_shares(share):
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        permissible_range(FALLING_THEN_RISING, share=share)


@settings(max_examples=50)
@given(
    pairs=st.lists(
        st.tuples(st.floats(0, 1), st.one_of(st.floats(0, 2), st.just(math.nan))),
        min_size=1,
        max_size=9,
    ),
    share=st.floats(0, 1),
)
def test_permissible_range__properties(pairs, share):
    points = curve(*pairs)
    measured = [point for point in points if math.isfinite(point.reconstruction)]
    if not measured:
        return
    found = permissible_range(points, share=share)
    best = min(measured, key=lambda p: (p.reconstruction, p.distance_ratio))
    inside = [point for point in points if point.lambda_ in found.lambdas]
    assert best in inside
    assert all(point.reconstruction <= found.limit for point in inside)
    ratios = [point.distance_ratio for point in inside]
    assert found.low <= min(ratios) <= max(ratios) <= found.high
    # Between its ends there is nothing that does not belong to it.
    between = [p for p in measured if min(ratios) < p.distance_ratio < max(ratios)]
    assert all(point in inside for point in between)


# -- ranks, rungs and costs


def test_rank__by_score_and_what_noise_cannot_tell_apart_by_lambda():
    # 100 queries: the standard error of 0.9 is 0.03, that of 0.5 is 0.05.
    scores = {1.0: 0.86, 0.1: 0.88, 0.01: 0.9, 0.001: 0.5, 0.0001: math.nan}
    points = [Point(lambda_, 0.7, 0.4, score) for lambda_, score in scores.items()]
    assert [p.lambda_ for p in rank(points, queries=100)] == [0.1, 0.01, 1.0, 0.001, 0.0001]
    assert [p.lambda_ for p in rank(points, queries=100, errors=2)][:3] == [1.0, 0.1, 0.01]
    assert [p.lambda_ for p in rank(points, queries=100, errors=0)][:3] == [0.01, 0.1, 1.0]


def test_rank__saturated_scores_take_the_largest_lambda():
    points = [Point(lambda_, 0.7, 0.4, score) for lambda_, score in ((0.1, 1.0), (1.0, 0.9995))]
    assert rank(points, queries=1000)[0].lambda_ == 1.0


def test_rung_sizes__fall_until_one_is_left():
    assert rung_sizes(9, 3) == [9, 3]
    assert rung_sizes(27, 3) == [27, 9, 3]
    assert rung_sizes(7, 2) == [7, 4, 2]
    assert rung_sizes(2, 3) == [2]
    assert rung_sizes(1, 3) == [1]


def test_steps_per_epoch__are_those_of_fit():
    for n, batch_size in ((150, 16), (33, 40), (5, 2)):
        training = replace(TRAINING, batch_size=batch_size)
        net = new_model(SHAPE, 2, 3, MODEL)
        trainer = Trainer(net, blobs(n), training, OBJECTIVE, given={})
        assert trainer.steps_per_epoch == steps_per_epoch(n, training)


@pytest.mark.parametrize("n", [500, 5000, 50_000])
@pytest.mark.parametrize("epochs", [3, 24, 40])
@pytest.mark.parametrize("seeds", [1, 3])
def test_plan__stays_within_the_budget(n, epochs, seeds):
    training = replace(TRAINING, epochs=epochs)
    rungs = plan(n, training, SearchConfig(seeds=seeds, budget=1.5))
    for r in rungs:
        # A run has at least two epochs of four batches, whatever that costs.
        assert r.steps <= max(1.5 / 2 * full_steps(n, training), r.n_lambdas * seeds * 8)
    assert all(2 <= r.epochs <= epochs for r in rungs)
    assert [r.n_lambdas for r in rungs] == [9, 3]


def test_rung__fewer_items_where_two_epochs_are_too_many():
    training = replace(TRAINING, epochs=4)
    few = rung(9, 300, 5000, training, 1)
    assert few.epochs == 2
    assert few.items < 5000
    assert 0.9 * 300 <= few.steps <= 300
    assert rung(1, 10**9, 5000, training, 1).epochs == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"lambdas": ()},
        {"lambdas": (0.1, -1.0)},
        {"lambdas": (0.1, math.nan)},
        {"lambdas": (0.1, 0.1)},
        {"budget": 0.0},
        {"reduction": 1},
        {"seeds": 0},
        {"held_out": 1.0},
        {"share": 2.0},
        {"hopeless": -0.1},
        {"tolerance": math.nan},
    ],
)
def test_search_config__rejects(wrong):
    with pytest.raises(ValueError, match="expected"):
        SearchConfig(**wrong)


# -- scores


def test_neighbour_recall__by_hand(make_model):
    model = make_model((4,), 2, 3)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4)).astype(np.float32)
    xq = rng.standard_normal((40, 4)).astype(np.float32)
    with torch.no_grad():
        z, zq = model.encode(torch.from_numpy(x)), model.encode(torch.from_numpy(xq))
        ids = model.quantizer(z).ids
        codes = look_up(model.quantizer.codewords, ids).transpose(0, 1).flatten(1).double()
    hits = 0.0
    for query, latent in zip(xq, zq.double(), strict=True):
        nearest = int(np.square(x - query).sum(1).argmin())
        distances = (codes - latent).square().sum(1)
        same = (ids == ids[nearest]).all(1)
        nearer = int(((distances < distances[nearest]) & ~same).sum())
        hits += min(max((5 - nearer) / int(same.sum()), 0), 1)
    assert neighbour_recall(model, x, xq, k=5) == pytest.approx(hits / 40, abs=1e-6)
    assert neighbour_recall(model, x, xq, k=300) == 1


def test_default_score__by_kind_of_items():
    assert default_score(SHAPE, TRAINING).name == "view-recall"
    assert default_score((12,), TRAINING).name == "recall"
    assert default_score(SHAPE, TRAINING, "recall").name == "recall"
    with pytest.raises(ValueError, match="expected images"):
        default_score((12,), TRAINING, "view-recall")
    with pytest.raises(ValueError, match="'view-recall' or 'recall', got 'map'"):
        default_score(SHAPE, TRAINING, "map")


def test_mean_precision__reads_the_labels_of_both_parts(make_model, make_items):
    x, rows = make_items(60), np.random.default_rng(0).permutation(60)
    stored, held = Part(x, np.sort(rows[:40])), Part(x, rows[40:])
    labels = np.zeros(60, np.int64)
    model = make_model()
    assert mean_precision(model, stored, held, labels) == 1
    labels[held.rows] = 1
    assert mean_precision(model, stored, held, labels) == 0
    labels[stored.rows[::2]] = 1
    assert 0.4 < mean_precision(model, stored, held, labels) < 0.7  # half of them, at random


# -- the search


def test_tune__finds_the_best_score_and_counts_what_it_cost(tmp_path):
    score, asked = nearness(tmp_path, 0.02)
    result = search(tmp_path, score=score, training=replace(TRAINING, batch_size=16, epochs=12))
    assert result.lambda_ == 0.01
    assert [(p.rung, p.lambda_) for p in result.points] == [
        *((0, lambda_) for lambda_ in SEARCH.lambdas),
        (1, 0.01),
        (1, 0.1),
    ]
    assert all(p.status == "complete" for p in result.points)
    assert result.points[-1].epochs >= 2
    assert {held for _, _, held in asked} == {30}
    logs = [json.loads(path.read_text().splitlines()[-1]) for path in tmp_path.rglob("log.jsonl")]
    assert len(logs) == 6
    assert sum(end["step"] for end in logs) == result.steps
    assert result.steps <= 1.5 * result.full_steps
    assert read_points(tmp_path / "tune.json") == result.points
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_tune__measures_what_the_training_logged(tmp_path):
    result = search(tmp_path, lambdas=(0.01,))
    log = next(tmp_path.rglob("log.jsonl")).read_text().splitlines()
    events = [json.loads(line) for line in log]
    best = next(e for e in events if e.get("epoch") == events[-1]["best_epoch"])
    (point,) = result.points
    assert point.distance_ratio == best["distance_ratio"]
    assert point.reconstruction == best["validation_reconstruction"]
    assert point.perplexity == pytest.approx(np.mean(best["perplexity"]))


def test_tune__same_seed_same_result(tmp_path):
    score = default_score(SHAPE, TRAINING)
    results = [search(tmp_path / str(i), score=score, lambdas=(0.01, 0.1)) for i in range(2)]
    timeless = [[replace(p, elapsed_s=0.0) for p in result.points] for result in results]
    assert timeless[0] == timeless[1]
    assert results[0].lambda_ == results[1].lambda_


def test_tune__averages_seeds_within_the_same_budget(tmp_path):
    result = search(tmp_path, lambdas=(0.01, 0.1), seeds=2, budget=3.0)
    assert [p.seeds for p in result.points] == [2, 2]
    runs = json.loads((tmp_path / "tune.json").read_text())["runs"]
    assert runs[0]["reconstruction"] != runs[1]["reconstruction"]
    mean = np.mean([run["reconstruction"] for run in runs if run["lambda_"] == 0.01])
    assert result.points[0].reconstruction == pytest.approx(mean)
    assert result.steps <= 3 * result.full_steps


def test_tune__diverged_runs_stay_in_the_record(tmp_path):
    result = search(tmp_path, lambdas=(0.01, TOO_LARGE))
    statuses = {point.lambda_: point.status for point in result.points}
    assert statuses[TOO_LARGE].startswith("diverged")
    assert statuses[0.01] == "complete"
    assert result.lambda_ == 0.01
    assert result.range.low_measured
    record = json.loads((tmp_path / "tune.json").read_text())
    assert {run["status"][:8] for run in record["runs"]} == {"diverged", "complete"}


def test_tune__all_diverged_raises_and_again(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="converged, got diverged"):
            search(tmp_path, lambdas=(TOO_LARGE,))
    assert [p.status[:8] for p in read_points(tmp_path / "tune.json")] == ["diverged"]


def test_tune__hopeless_and_collapsed_runs_stop_early(tmp_path, monkeypatch):
    """What `fit` measures is changed for one lambda: its error, then its perplexity."""
    from faiss_pqvae.training import loop

    original = loop.Trainer._end_epoch

    def end_epoch(trainer, epoch):
        event = original(trainer, epoch)
        if trainer.objective.lambda_ == 1.0:
            event["validation_reconstruction"] = 50.0
        if trainer.objective.lambda_ == 0.1:
            event["perplexity"] = [1.0, 1.01]
        return event

    monkeypatch.setattr(loop.Trainer, "_end_epoch", end_epoch)
    result = search(tmp_path, budget=6.0)
    points = {point.lambda_: point for point in result.points if point.rung == 0}
    assert points[1.0].status.startswith("hopeless: error 50 after epoch")
    assert points[0.1].status.startswith("collapsed")
    assert points[0.001].status == "complete"
    assert points[1.0].epochs < points[0.001].epochs
    assert points[0.1].epochs < points[0.001].epochs
    assert result.lambda_ == 0.01  # the best that is left


class Interrupts:
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


def test_tune__goes_on_without_repeating_finished_runs(tmp_path):
    straight = search(tmp_path / "straight", lambdas=(0.01, 0.1, 1.0))
    score, asked = nearness(tmp_path / "broken", 0.1)
    reads, interruptions = 15, 0
    while True:
        try:
            result = search(
                tmp_path / "broken", x=Interrupts(reads), score=score, lambdas=(0.01, 0.1, 1.0)
            )
            break
        except KeyboardInterrupt:
            interruptions += 1
            assert interruptions < 50
    assert interruptions >= 3
    assert len(asked) == len(straight.points)
    assert [replace(p, elapsed_s=0.0) for p in result.points] == [
        replace(p, elapsed_s=0.0) for p in straight.points
    ]
    assert result.lambda_ == straight.lambda_
    before = (tmp_path / "broken" / "tune.json").read_bytes()
    search(tmp_path / "broken", score=score, lambdas=(0.01, 0.1, 1.0))
    assert len(asked) == len(straight.points)
    assert (tmp_path / "broken" / "tune.json").read_bytes() == before


def test_tune__refuses_a_record_that_knows_a_sample_of_its_data(tmp_path):
    search(tmp_path, lambdas=(0.01,))
    record = json.loads((tmp_path / "tune.json").read_text())
    record["configuration"]["data"] = {"shape": [150, 1, 8, 8], "sample": 1234}
    (tmp_path / "tune.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="of an earlier version"):
        search(tmp_path, lambdas=(0.01,))


def one_pixel_changed():
    x = images()
    x[-1, 0, 3, 3] += 1
    return x


def test_tune__refuses_another_search_in_the_folder(tmp_path):
    search(tmp_path, lambdas=(0.01,))
    before = (tmp_path / "tune.json").read_bytes()
    for change, named in (
        ({"lambdas": (0.1,)}, "another search"),
        ({"lambdas": (0.01,), "training": replace(TRAINING, lr=0.1)}, "another training"),
        ({"lambdas": (0.01,), "model": replace(MODEL, width=5)}, "another model"),
        ({"lambdas": (0.01,), "objective": replace(OBJECTIVE, beta=0.5)}, "another objective"),
        ({"lambdas": (0.01,), "x": images(seed=3)}, "another data"),
        ({"lambdas": (0.01,), "x": one_pixel_changed()}, "another data"),
        ({"lambdas": (0.01,), "score": replace(nearness(tmp_path, 0.1)[0], labels="x")}, "labels"),
        ({"lambdas": (0.01,), "score": default_score(SHAPE, TRAINING)}, "another score"),
    ):
        with pytest.raises(ValueError, match=named):
            search(tmp_path, **change)
    search(tmp_path, lambdas=(0.01,), objective=replace(OBJECTIVE, lambda_=0.7))  # it is not used
    assert (tmp_path / "tune.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_tune__refuses_files_that_are_no_record(content, tmp_path):
    (tmp_path / "tune.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tune\.json"):
        search(tmp_path)
    assert (tmp_path / "tune.json").read_bytes() == content


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (blobs(5), ValueError),
        (images()[:0], ValueError),
        (images().astype(np.int64), TypeError),
        (np.full((150, *SHAPE), np.nan, np.float32), ValueError),
    ],
)
def test_tune__wrong_items(x, error, tmp_path):
    with pytest.raises(error, match="expected"):
        search(tmp_path, x=x)


# -- the command

FAST = [
    *("--model.encoder", "linear", "--model.dsub", "2", "--training.epochs", "2"),
    *("--training.batch-size", "32", "--training.precision", "float32", "--factory", "PQVAE2x3"),
]


def test_command__writes_a_record_and_says_what_comes_next(tmp_path, capsys):
    np.save(tmp_path / "x.npy", images())
    out = tmp_path / "tuned"
    command = ["tune", str(tmp_path / "x.npy"), "--out", str(out), "--lambdas", "0.01", "0.1"]
    main([*command, *FAST, "training.views:views", "--training.views.shift", "0.1"])
    printed = capsys.readouterr().out
    record = json.loads((out / "tune.json").read_text())
    assert record["chosen"] in (0.01, 0.1)
    assert record["configuration"]["score"] == "view-recall"
    assert {"command", "environment", "range", "points", "steps", "full_steps"} <= set(record)
    assert f"--reconstruction.lambda_ {record['chosen']}" in printed
    assert "permissible range: distance ratio" in printed
    following = next(line for line in printed.splitlines() if line.startswith("next"))
    arguments = following.split()[2:]
    arguments[arguments.index("BUNDLE")] = str(tmp_path / "bundle")
    main(arguments)
    assert (tmp_path / "bundle" / "config.json").exists()
    log = (tmp_path / "bundle" / "training" / "log.jsonl").read_text().splitlines()
    start = json.loads(log[0])
    assert start["objective"]["lambda_"] == record["chosen"]
    assert start["training"]["views"]["shift"] == 0.1
    assert start["training"]["batch_size"] == 32


def test_command__vectors_behind_a_transform(tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((150, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command = ["tune", str(tmp_path / "x.npy"), "--out", str(tmp_path / "t"), *FAST]
    main([*command, "--factory", "PCA8,PQVAE2x3", "--lambdas", "0.01", "--model.encoder", "mlp"])
    record = json.loads((tmp_path / "t" / "tune.json").read_text())
    assert record["configuration"]["data"]["shape"] == [150, 8]
    assert record["configuration"]["score"] == "recall"
    assert 0 <= record["points"][0]["score"] <= 1


def test_command__refuses_what_has_no_lambda(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((150, 12), np.float32))
    with pytest.raises(SystemExit):
        main(["tune", str(tmp_path / "x.npy"), "--out", str(tmp_path / "t"), *FAST])
    assert "--model.encoder mlp" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--score", "map"], "expected labels"),
        (["--factory", "PQ8"], "faiss.index_factory"),
        (["--lambdas", "0.1", "0.1"], "every lambda once"),
        (["--budget", "-1"], "budget > 0"),
    ],
)
def test_command__wrong_input_ends_with_one_line(arguments, message, tmp_path, capsys):
    np.save(tmp_path / "x.npy", blobs(20))
    with pytest.raises(SystemExit) as error:
        main(["tune", str(tmp_path / "x.npy"), "--out", str(tmp_path / "t"), *FAST, *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_command__help(capsys):
    with pytest.raises(SystemExit) as error:
        main(["tune", "--help"])
    assert error.value.code == 0
    assert "--lambdas" in capsys.readouterr().out
