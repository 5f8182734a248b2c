"""A package outside the repository adds an encoder, an objective, a method and a data set."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import faiss_pqvae as fpq
from faiss_pqvae.cli import main
from faiss_pqvae.eval import load

PACKAGE = Path(__file__).with_name("package")
TRAINING = fpq.TrainingConfig(epochs=2, batch_size=32, precision="float32", device="cpu")
FAST = [
    *("--training.epochs", "2", "--training.batch-size", "32", "--training.device", "cpu"),
    *("--training.precision", "float32", "--model.width", "8"),
]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory):
    """The package, installed into a folder of its own by pip, and found there."""
    target = tmp_path_factory.mktemp("outside")
    build = tmp_path_factory.mktemp("source") / "package"
    build.mkdir()
    for path in PACKAGE.rglob("*"):  # pip builds where the source is
        if path.is_file() and "__pycache__" not in path.parts:
            copy = build / path.relative_to(PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", str(target), str(build)],
        check=True,
        capture_output=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(target))
        importlib.invalidate_caches()
        yield target
    for name in [name for name in sys.modules if name.partition(".")[0] == "outside_people"]:
        del sys.modules[name]


def stripes():
    return load("people-stripes")


def test_registries__offer_what_the_package_has_and_import_it_when_asked():
    assert "people-pools" in fpq.encoders.names()
    assert "people-agreement" in fpq.objectives.names()
    assert "people-signs" in fpq.methods.names()
    assert "people-stripes" in fpq.datasets.names()
    assert fpq.encoders.get("people-pools") is fpq.encoders.get("outside_people.encoder:pools")


@pytest.mark.parametrize("objective", ["people-agreement", None, "contrastive"])
@pytest.mark.parametrize("encoder", ["people-pools", "outside_people.encoder:tuned", None])
def test_index__trains_writes_reads_and_searches(tmp_path, encoder, objective):
    data = stripes()
    index = fpq.index_factory(
        (3, 8, 8), "PQVAE4x4", training=TRAINING, encoder=encoder, objective=objective
    )
    index.train(data.train, progress=False)
    index.add(data.database)
    D, I = index.search(data.queries, 5)  # noqa: E741
    fpq.write_index(index, tmp_path)
    again = fpq.read_index(tmp_path, encoder=encoder)
    found = again.search(data.queries, 5)
    np.testing.assert_array_equal(found[0], D)
    np.testing.assert_array_equal(found[1], I)
    if encoder is not None:
        with pytest.raises(ValueError, match=f"pass {encoder!r} as read_index"):
            fpq.read_index(tmp_path)


def test_index__of_its_encoder_keeps_the_weights():
    encoder = importlib.import_module("outside_people.encoder")
    index = fpq.index_factory((3, 8, 8), "PQVAE4x4", training=TRAINING, encoder="people-pools")
    index.train(stripes().train, progress=False)
    kept = index.front.backbone.module.state_dict()
    for name, value in encoder.network(3).state_dict().items():
        assert torch.equal(kept[name], value)


def test_objective__with_settings_is_told_in_the_log():
    objective = importlib.import_module("outside_people.objective")
    chosen = objective.Agreement(spread=2.0)
    index = fpq.index_factory((3, 8, 8), "PQVAE4x4", training=TRAINING, objective=chosen)
    index.train(stripes().train, progress=False)
    told = index.history[0]["objective"]
    assert told == {"name": "outside_people.objective:Agreement", "spread": 2.0}
    assert "validation_agreement" in index.history[1]


def test_command_line__trains_builds_and_searches(tmp_path, capsys):
    out, encoder = str(tmp_path / "bundle"), ["--encoder", "people-pools"]
    objective = ["--model.objective", "people-agreement", "--people-agreement.spread", "2"]
    main(["train", "people-stripes", out, "--factory", "PQVAE4x4", *objective, *encoder, *FAST])
    said = capsys.readouterr()
    assert "0.000" not in said.err
    assert said.out.endswith(f"next: faiss-pqvae build {out} DATA --encoder people-pools\n")
    main(["build", out, "people-stripes", *encoder])
    main(["info", out, *encoder])
    assert "200 of 2 bytes" in capsys.readouterr().out
    main(["search", out, "people-stripes", "--k", "3", "--json", *encoder])
    assert np.array(json.loads(capsys.readouterr().out)["I"]).shape == (200, 3)
    log = (tmp_path / "bundle" / "training" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["objective"]["spread"] == 2
    with pytest.raises(SystemExit):
        main(["info", out])
    message = capsys.readouterr().err
    assert "'people-pools'" in message
    assert "in a shell --encoder" in message


def test_command_line__finds_a_module_of_the_folder_it_runs_in(tmp_path, monkeypatch):
    (tmp_path / "of_this_folder.py").write_text(
        "from outside_people.encoder import pools as make\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    encoder = ["--encoder", "of_this_folder:make"]
    main(["train", "people-stripes", "bundle", "--factory", "PQVAE4x4", *encoder, *FAST])
    main(["info", "bundle", *encoder])


def test_command_line__evaluates(tmp_path, capsys):
    out = tmp_path / "run"
    methods = ["--methods", "PQ", "people-signs", "outside_people.method:rows", "learned"]
    main(
        [
            *("evaluate", "--dataset", "people-stripes", "--out", str(out), "--bits", "16"),
            *(*methods, "--model.objective", "outside_people.objective:Agreement", *FAST),
        ]
    )
    results = json.loads((out / "results.json").read_text())
    names = {row["method"] for row in results["rows"]}
    assert {"PQ", "Signs", "PQ-VAE, agreement"} <= {name.removeprefix("PCA+") for name in names}
    assert (out / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("encoder", ["people-pools", "outside_people.encoder:tuned"])
def test_command_line__evaluates_codes_behind_its_encoder(tmp_path, encoder):
    out, options = tmp_path / "run", ["--bits", "16", "--methods", "learned", *FAST]
    command = ["evaluate", "--dataset", "people-stripes", "--out", str(out), *options]
    for _ in range(2):  # the second time from what is there
        main([*command, "--model.encoder", encoder])
    results = json.loads((out / "results.json").read_text())
    assert {row["bytes_per_vector"] for row in results["rows"]} >= {2}
    bundle = next(out.glob("*/config.json")).parent
    given = tmp_path / "given"
    main(
        [
            *("evaluate", "--dataset", "people-stripes", "--out", str(given)),
            *("--index", str(bundle), "--model.encoder", encoder, *FAST),
        ]
    )
    assert (given / "report.html").exists()
