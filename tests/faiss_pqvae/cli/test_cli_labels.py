"""The commands with codes that learn from labels, DQN and DPQ."""

import functools
import importlib
import json
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from faiss_pqvae.cli import main
from faiss_pqvae.eval.data import load as data_module
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.splits import few_labels
from faiss_pqvae.eval.methods.learned_code import LearnedCode
from faiss_pqvae.index.bundle import read_index
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.registry import datasets
from faiss_pqvae.training import TrainingConfig

FAST = [
    *("--model.width", "4", "--model.dsub", "4", "--model.encoder", "mlp"),
    *("--training.epochs", "1", "--training.batch-size", "16", "--training.precision", "float32"),
]


def shapes(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, 6, 6) uint8 in two greys, and which grey (n,) int64."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(seed).integers(0, 100, (n, 1, 6, 6))
    return (100 * labels[:, None, None, None] + noise).astype(np.uint8), labels


@pytest.fixture
def toy(register, monkeypatch):
    """A data set of that name; "few-labels" takes 10 labelled items and 3 queries a class."""
    (x, labels), (queries, query_labels) = shapes(80), shapes(20, seed=1)
    data = LabelledData(
        name="toy",
        protocol="pqvae",
        description="two greys",
        train=x,
        database=x,
        database_labels=labels,
        queries=queries,
        query_labels=query_labels,
        class_names=("dark", "light"),
    )
    register(datasets, "toy", lambda: data)
    fewer = functools.partial(few_labels, labelled_per_class=10, queries_per_class=3)
    monkeypatch.setattr(data_module, "few_labels", fewer)
    return data


@pytest.fixture
def files(tmp_path):
    """Images and their labels as .npy, by name."""
    x, labels = shapes(80)
    arrays = {
        "x": x,
        "labels": np.where(np.arange(80) < 60, labels, -1),
        "several": np.stack([labels == 0, labels == 1, labels >= 0], axis=1),
        "few": labels[:10],
        "floats": labels.astype(np.float32),
        "words": np.eye(2, 3, dtype=np.float32),
        "three": np.eye(3, dtype=np.float32),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "text.npy").write_text("0 1 0 1")
    return {name: str(tmp_path / f"{name}.npy") for name in (*arrays, "text", "missing")}


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        ("DQN2x4", ["--labels", "labels"]),
        ("DQN2x4", ["--labels", "several"]),
        ("DPQ2x4", ["--labels", "labels", "--word-vectors", "words"]),
    ],
)
def test_train__with_labels_of_a_file(factory, options, files, tmp_path, capsys):
    out = str(tmp_path / "b")
    options = [files.get(option, option) for option in options]
    main(["train", files["x"], out, "--factory", factory, *options, *FAST])
    assert " of 16 codewords" in capsys.readouterr().out
    main(["build", out, files["x"]])
    index = read_index(out)
    assert (index.description, index.ntotal) == (factory, 80)
    main(["info", out])
    assert "perplexity" in capsys.readouterr().out


def test_train__with_labels_that_the_data_have(toy, tmp_path):
    x, labels = shapes(24)
    for number, (image, label) in enumerate(zip(x, labels, strict=True)):
        folder = tmp_path / "photos" / "ab"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{number}.png")
    for data, options in (("toy", []), (str(tmp_path / "photos"), ["--size", "6", "6"])):
        out = tmp_path / f"bundle-{Path(data).name}"
        main(["train", data, str(out), "--factory", "DQN2x4", *options, *FAST])
        start = json.loads((out / "training" / "log.jsonl").read_text().splitlines()[0])
        assert start["classes"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--factory", "PQVAE2x4", "--labels", "labels"], "with DQN or DPQ only, got PQVAE2x4"),
        (["--factory", "PQVAE2x4", "--word-vectors", "words"], "with DQN or DPQ only"),
        (["--factory", "DQN2x4"], "expected labels for DQN2x4: --labels FILE.npy"),
        (["--factory", "DQN2x4", "--labels", "missing"], "missing.npy"),
        (["--factory", "DQN2x4", "--labels", "text"], "expected labels as .npy"),
        (["--factory", "DQN2x4", "--labels", "few"], "for 80 items, got (10,)"),
        (["--factory", "DQN2x4", "--labels", "floats"], "expected labels as integers"),
        (
            ["--factory", "DPQ2x4", "--labels", "labels", "--word-vectors", "three"],
            "word vectors of shape (2, e)",
        ),
    ],
)
def test_train__rejects_wrong_labels(arguments, message, files, tmp_path, capsys):
    arguments = [files.get(argument, argument) for argument in arguments]
    with pytest.raises(SystemExit):
        main(["train", files["x"], str(tmp_path / "b"), *arguments, *FAST])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--factory", "DQN2x4"], "expected PQVAE in the factory"),
        (["--model.objective", "dpq"], "the reconstruction objective"),
    ],
)
def test_tune__is_of_the_reconstruction_objective(options, message, files, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["tune", files["x"], "--out", str(tmp_path / "t"), *options, *FAST])
    assert message in capsys.readouterr().err


def evaluated(out: Path, objective: str, *bits: str) -> list[dict]:
    options = ["--protocol", "dqn", "--model.objective", objective, "--bits", *bits, *FAST]
    options += ["--methods", "Exact L2", "ITQ", "learned"]
    main(["evaluate", "--dataset", "toy", "--out", str(out), *options])
    results = json.loads((out / "results.json").read_text())
    assert results["protocol"] == "few-labels, 10 labelled and 3 queries a class"
    assert results["k"] == 74
    return [row for row in results["rows"] if row["method"] == objective.upper()]


def test_evaluate__one_training_of_dpq_has_all_lengths(toy, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    rows = evaluated(out, "dpq", "8", "24")
    found = [(row["bits"], row["bytes_per_vector"], row["config"]["prefix"]) for row in rows]
    assert found == [(8, 1, 1), (8, 1, 1), (24, 3, 3), (24, 3, 3)]
    assert [row["search"] for row in rows] == ["adc", "sdc"] * 2
    assert {row["config"]["factory"] for row in rows} == {"DPQ3x8"}
    assert len({row["train_s"] for row in rows}) == len({row["add_s"] for row in rows}) == 1
    assert all("map@74" in row["metrics"] for row in rows)
    assert [path.parent.parent.name for path in out.rglob("trained.pt")] == ["dpq-24"]
    assert read_index(out / "dpq-24").ntotal == 74
    assert "loss of classes" in (out / "report.html").read_text()
    # One more length comes from the bundle: nothing is added again.
    monkeypatch.setattr(LatentIndex, "add", None)
    more = evaluated(out, "dpq", "8", "16", "24")
    assert [row["config"]["prefix"] for row in more] == [1, 1, 2, 2, 3, 3]
    assert more[0]["key"] == rows[0]["key"]
    capsys.readouterr()
    main(["report", str(out), "--dataset", "toy"])
    assert "DPQ" in capsys.readouterr().out


def test_evaluate__dqn_of_half_bytes(toy, tmp_path):
    rows = evaluated(tmp_path / "run", "dqn", "12")
    found = {(row["bytes_per_vector"], row["config"]["factory"]) for row in rows}
    assert found == {(2, "DQN2x6")}
    assert read_index(tmp_path / "run" / "dqn-12").ntotal == 74


def test_evaluate__options_of_label_training_reach_it(toy, tmp_path):
    out = tmp_path / "run"
    options = ["--dqn.quantization", "0.5", "--methods", "learned"]
    command = ["evaluate", "--dataset", "toy", "--out", str(out), "--bits", "8", "--k", "20"]
    main([*command, "--protocol", "dqn", "--model.objective", "dqn", *FAST, *options])
    rows = json.loads((out / "results.json").read_text())["rows"]
    (settings,) = {
        row["config"]["objective"]["quantization"] for row in rows if row["method"] == "DQN"
    }
    assert settings == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.objective", "dqn"], "expected labelled images for the objective 'dqn'"),
        (["--protocol", "few-labels"], "with the protocol 'few-labels', got vectors"),
    ],
)
def test_evaluate__vectors_have_no_labels(options, message, tmp_path, capsys):
    path = tmp_path / "small-euclidean.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "euclidean"
        file["train"] = file["test"] = np.zeros((300, 8), np.float32)
    with pytest.raises(SystemExit):
        main(["evaluate", "--dataset", str(path), "--out", str(tmp_path / "run"), *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.objective", "dpq", "--bits", "12"], "bits as a multiple of 8, got 12"),
        (["--model.objective", "dqn", "--bits", "10"], "bits as a multiple of 4, got 10"),
        (["--model.objective", "dqn", "--also-lambdas", "1"], "reconstruction objective only"),
    ],
)
def test_evaluate__rejects_other_settings(options, message, toy, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--dataset", "toy", "--out", str(tmp_path / "run"), *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("objective", "lengths"), [("dpq", (8, 12)), ("dqn", (8, 16))])
def test_learned_code__rejects_lengths_that_it_has_not(objective, lengths, tmp_path):
    model = ModelConfig(objective=objective)
    with pytest.raises(ValueError, match=r"expected lengths of D..2x8 of \[.*16\] bits"):
        LearnedCode(2, 8, model, TrainingConfig(), folder=tmp_path, lengths=lengths)


def test_held_out__never_shows_test_images(toy, monkeypatch):
    """The ablation, benchmarks/labels.py, chooses by queries out of the training images."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    labels = importlib.import_module("labels")
    monkeypatch.setattr(labels, "few_labels", functools.partial(few_labels, labelled_per_class=5))
    data = labels.held_out(toy, 4)
    for name in ("labels", "contrastive"):  # names that others may have, too
        monkeypatch.delitem(sys.modules, name)
    assert (len(data.queries), len(data.database), len(data.train)) == (8, 62, 72)
    assert data.protocol.endswith("queries held out of the training images")
    images = np.concatenate([data.queries, data.train]).reshape(80, -1)
    training = toy.database.reshape(80, -1)
    np.testing.assert_array_equal(np.unique(images, axis=0), np.unique(training, axis=0))
