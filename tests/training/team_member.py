"""Trains what a test names, as one of several processes; every one leaves what it learned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.nn  # before there is a group, see `team.joined`
from torch import distributed
from torch.optim.optimizer import register_optimizer_step_pre_hook

import faiss_pqvae as fpq
from faiss_pqvae.training import TrainingConfig
from faiss_pqvae.training.objectives.additive import Additive
from faiss_pqvae.training.objectives.contrastive import Contrastive
from faiss_pqvae.training.objectives.ranking import Ranking
from faiss_pqvae.training.objectives.reconstruction import Reconstruction
from faiss_pqvae.training.objectives.synthesis import Synthesis

CONFIG = TrainingConfig(epochs=2, batch_size=33, precision="float32", device="cpu", patience=0)
_FEW = {"rounds": 1, "filled": 0}

# What is trained: the factory's string, of images or vectors, and an objective.
CASES: dict[str, tuple[str, tuple[int, ...], Any]] = {
    "reconstruction": ("PQVAE2x3", (3, 8, 8), Reconstruction(warmup_steps=2)),
    "contrastive": ("PQVAE2x3", (3, 8, 8), Contrastive(reconstruction_weight=0.5)),
    "contrastive-vectors": ("PQVAE2x3", (16,), Contrastive(neighbours=3)),
    "dqn": ("DQN2x3", (3, 8, 8), None),
    "dpq": ("DPQ2x3", (3, 8, 8), None),
    "ranking": ("PQVAE2x4", (16,), Ranking(rounds=2)),
    "additive": ("PQVAE2x4", (16,), Additive(**_FEW)),
    "synthesis": ("PQVAE2x4,RDecoder", (16,), Synthesis(batch_size=64, epochs=2, **_FEW)),
    "lists": ("IVF4,PQVAE2x4,RDecoder", (16,), Synthesis(batch_size=64, epochs=1, **_FEW)),
}


def images(n: int = 160) -> tuple[Any, Any]:
    """Of four classes: (n, 3, 8, 8) uint8 and labels (n,)."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 4
    colors = rng.integers(0, 256, (4, 3, 1, 1))
    noise = rng.integers(-60, 60, (n, 3, 8, 8))
    return np.clip(colors[labels] + noise, 0, 255).astype(np.uint8), labels


def vectors(n: int = 500, d: int = 16) -> Any:
    """(n, d) float32."""
    rng = np.random.default_rng(1)
    common = rng.normal(size=(n, 4)) @ rng.normal(size=(4, d))
    return (common + 0.3 * rng.normal(size=(n, d))).astype(np.float32)


class FirstGradients:
    """Those that an optimizer sees at its first step.

    Attributes:
        found: of all weights that have one, one after another.
    """

    def __init__(self) -> None:
        self.found = torch.empty(0)

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """A hook of torch's, before every step."""
        if not len(self.found):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            self.found = torch.cat([p.grad.flatten() for p in weights if p.grad is not None])


def train(name: str, folder: Path | None = None) -> dict[str, Any]:
    """What is learned in a case by this process, or by all that have joined it."""
    factory, shape, objective = CASES[name]
    index = fpq.index_factory(shape, factory, objective=objective, training=CONFIG)
    x, labels = images() if len(shape) == 3 else (vectors(), None)
    given = {"labels": labels} if factory.startswith("D") else {}
    gradients = FirstGradients()
    hook = register_optimizer_step_pre_hook(gradients)
    index.train(x, folder=folder, progress=False, **given)
    hook.remove()
    state = {key: value.clone() for key, value in index.model.state_dict().items()}
    return {"state": state, "history": index.history, "gradients": gradients.found}


def refused(rank: int) -> str:
    """What is said where every process has items of its own."""
    x = np.random.default_rng(rank).normal(size=(300 + rank, 8)).astype(np.float32)
    try:
        fpq.index_factory(8, "IVF4,PQVAE2x4", objective="additive").train(x, progress=False)
    except ValueError as error:
        return str(error)
    return ""


def main(meeting: str, rank: str, size: str, folder: str) -> None:
    """Joins the others and trains all cases, each with a folder for the team."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(size)
    )
    for name in CASES:
        torch.save(train(name, Path(folder) / name), Path(folder) / f"{name}-{rank}.pt")
    (Path(folder) / f"refused-{rank}.txt").write_text(refused(int(rank)))
    distributed.destroy_process_group()
    left = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
    (Path(folder) / f"threads-{rank}.txt").write_text("\n".join(left))


if __name__ == "__main__":
    main(*sys.argv[1:])
