"""Two processes learn what one learns, but for rounding; files are the first one's."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from team_member import CASES, train

from faiss_pqvae import read_index
from faiss_pqvae.model import team

_MEMBER = Path(__file__).with_name("team_member.py")


def _by_two(folder: Path) -> None:
    """Trains all cases by two processes."""
    with ExitStack() as stack:
        said = [stack.enter_context((folder / f"said-{rank}.txt").open("w+")) for rank in range(2)]
        begun = [
            subprocess.Popen(
                [sys.executable, _MEMBER, folder / "meeting", str(rank), "2", folder],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=said[rank],
            )
            for rank in range(2)
        ]
        try:
            ended = [process.wait(timeout=240) for process in begun]
            assert ended == [0, 0], [Path(file.name).read_text() for file in said]
        finally:
            for process in begun:
                process.kill()


def _left(folder: Path, name: str, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{name}-{rank}.pt", weights_only=False)
    return found


# Where codewords begin at k-means, an item that lies between two of them by rounding moves these.
_GRADIENTS = {"reconstruction": 1e-3, "dqn": 1e-2, "dpq": 3e-2, "ranking": 1e-2, "lists": 1e-2}


@pytest.mark.timeout(300)
def test_two_processes__learn_what_one_learns(tmp_path: Path) -> None:
    # One test, for whoever begins the processes waits longer for them than for all else.
    _by_two(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in CASES:
            _check_same(name, train(name), *(_left(tmp_path, name, rank) for rank in range(2)))
    finally:
        torch.set_num_threads(threads)
    # Files are the first one's, and nothing is half written.
    log = (tmp_path / "synthesis" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in log] == _left(tmp_path, "synthesis", 0)["history"]
    assert not list((tmp_path / "synthesis").glob(".*"))
    for rank in range(2):
        said = (tmp_path / f"refused-{rank}.txt").read_text()
        assert said == "expected the same items in all 2 processes, got different ones"
        # A thread of the group that outlives it may abort the process in the end.
        assert "gloo" not in (tmp_path / f"threads-{rank}.txt").read_text()


def _check_same(
    name: str, alone: dict[str, Any], first: dict[str, Any], second: dict[str, Any]
) -> None:
    wanted, found = alone["gradients"], first["gradients"]
    assert (wanted - found).norm() <= _GRADIENTS.get(name, 1e-4) * wanted.norm(), name
    epochs = [
        [event for event in learned["history"] if event["event"] == "epoch"]
        for learned in (alone, first)
    ]
    for mine, theirs in zip(*epochs, strict=True):
        assert theirs["step"] == mine["step"], name
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=2e-2), name
        assert theirs["validation_loss"] == pytest.approx(mine["validation_loss"], rel=0.1), name
    if not len(wanted):  # codebooks by least squares alone
        for key, value in alone["state"].items():
            torch.testing.assert_close(first["state"][key], value, rtol=1e-3, atol=1e-4)
    for key, value in first["state"].items():
        assert torch.equal(second["state"][key], value), (name, key)
    events = [[event["event"] for event in learned["history"]] for learned in (first, second)]
    assert events[0] == events[1], name
    assert first["history"][0]["processes"] == 2


@pytest.mark.timeout(240)
def test_train__that_two_processes_were_begun_for(tmp_path: Path) -> None:
    # As torchrun, Slurm or Kubernetes begin them: by environment variables.
    x = np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "faiss_pqvae", "train", tmp_path / "x.npy", tmp_path / "out"]
    options = ["--factory", "PQVAE2x3", "--model.objective", "additive"]
    begun = [
        subprocess.Popen(
            [*command, *options, "--additive.filled", "0", "--additive.rounds", "2"],
            env={**os.environ, **where, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200)[0] for process in begun]
    assert [process.returncode for process in begun] == [0, 0]
    assert said[0].startswith("trained on 600 items")
    assert not said[1]
    assert read_index(tmp_path / "out").is_trained
    log = (tmp_path / "out" / "training" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["processes"] == 2


def test_alone__nothing_is_shared() -> None:
    x = torch.arange(6.0).view(3, 2)
    assert team.size() == 1
    assert team.is_first()
    assert team.share(3) == slice(0, 3)
    assert team.gathered(x, 3) is x
    assert float(team.mean_of_own(x, 3)) == 2.5
    assert team.agreed("mine") == "mine"
    assert team.by_first(lambda: 3) == 3
    team.average_gradients([x])
    team.check_agreement("items", "mine", torch.zeros(3))
    with team.first_before_others():
        pass


def test_world_size__that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="expected a number of processes in WORLD_SIZE, got 'two'"):
        team.is_asked_for()
