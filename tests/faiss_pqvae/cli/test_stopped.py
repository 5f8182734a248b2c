"""What Ctrl-C leaves of a command is what the command line says."""

import numpy as np
import pytest

from faiss_pqvae.cli import main
from faiss_pqvae.index.bundle import read_index
from faiss_pqvae.training.loop import Trainer

FAST = [
    *("--model.encoder", "mlp", "--model.width", "4", "--training.epochs", "2"),
    *("--training.batch-size", "16", "--training.precision", "float32"),
]


@pytest.fixture
def vectors(tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 6), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    return str(tmp_path / "x.npy")


def interrupt(*_arguments, **_options):
    raise KeyboardInterrupt


def stopped(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 130
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_main__a_stopped_training_says_what_it_keeps_and_goes_on(
    vectors, tmp_path, capsys, monkeypatch
):
    out = str(tmp_path / "b")
    command = ["train", vectors, out, "--factory", "PQVAE2x3", *FAST]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", interrupt)
        line = stopped(command, capsys)
    assert line == (
        "faiss-pqvae: stopped; the same command goes on: what its training had finished is not "
        f"done again; {out}/training keeps the training up to step 0 of 6; 3 later steps "
        "are done again"
    )
    main(command)
    assert read_index(out).is_trained


@pytest.mark.parametrize(
    ("command", "step", "expected"),
    [
        ("build", "faiss_pqvae.index.latent_index.LatentIndex.add", "nothing is half written"),
        ("search", "faiss_pqvae.index.latent_index.LatentIndex.search", "begins again"),
        ("tune", "faiss_pqvae.training.loop.Trainer._step", "are in tune.json"),
        ("evaluate", "faiss_pqvae.eval.measure.searching.searched", "are in raw/"),
    ],
)
def test_main__says_what_is_true_of_each_command(
    command, step, expected, vectors, tmp_path, capsys, monkeypatch
):
    out = str(tmp_path / "b")
    main(["train", vectors, out, "--factory", "PQVAE2x3", *FAST])
    before = {path: path.read_bytes() for path in (tmp_path / "b").iterdir() if path.is_file()}
    arguments = {
        "build": ["build", out, vectors],
        "search": ["search", out, vectors],
        "tune": ["tune", vectors, "--out", str(tmp_path / "t"), "--factory", "PQVAE2x3", *FAST],
        "evaluate": ["evaluate", "--dataset", vectors, "--out", str(tmp_path / "e")],
    }[command]
    monkeypatch.setattr(step, interrupt)
    if command == "evaluate":
        monkeypatch.setattr("faiss_pqvae.eval.measure.runner.searched", interrupt)
        arguments += ["--queries", vectors, "--methods", "Exact L2"]
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert expected in stopped(arguments, capsys)
    assert before == {p: p.read_bytes() for p in (tmp_path / "b").iterdir() if p.is_file()}
