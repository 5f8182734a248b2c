"""Every objective on a device: the CPU's losses, bfloat16, an interruption, and steps a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy.typing as npt
import torch
from gpu_check_indexes import mixed, pictures, quick
from gpu_check_part import Check, DiffersError

import faiss_pqvae as fpq
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.training.kept import Kept
from faiss_pqvae.types import IdArray

_APART = 0.05  # losses on a card and on the CPU, where rounding leads elsewhere
History = list[dict[str, Any]]


@dataclass(frozen=True)
class Learned:
    """An objective, and what it learns from.

    Attributes:
        objective: with settings for a few seconds.
        description: of the index.
        images: whether the items are images, or vectors.
        labels: whether they have labels.
        model: settings of networks.
    """

    objective: Any
    description: str = "PQVAE4x4"
    images: bool = True
    labels: bool = False
    model: dict[str, Any] = field(default_factory=dict)


def objectives() -> dict[str, Learned]:
    """All of them, by name."""
    ranking = fpq.Ranking(rounds=2, epochs=2, anchors=256, sample=512, pool=20)
    few: dict[str, Any] = {"rounds": 2, "filled": 0}
    return {
        "reconstruction": Learned(fpq.Reconstruction(warmup_steps=4), model={"width": 8}),
        "contrastive": Learned(fpq.Contrastive(n_views=2), model={"encoder": "resnet", "width": 8}),
        "dpq": Learned(fpq.DPQ(), "DPQ4x4", labels=True, model={"encoder": "conv", "width": 8}),
        "dqn": Learned(fpq.DQN(), "DQN4x4", labels=True, model={"encoder": "conv", "width": 8}),
        "additive": Learned(fpq.Additive(**few), images=False),
        "synthesis": Learned(fpq.Synthesis(epochs=2, batch_size=256, **few), images=False),
        "ranking": Learned(ranking, images=False),
    }


def training(check: Check) -> None:
    """Every objective: the CPU's losses, bfloat16, an interruption; on a card, steps a second."""
    if not check.on_card:
        torch.set_num_threads(1)  # bit for bit, then
    names = objectives()
    for name, learned in names.items():
        with check.trying(name):
            kept: list[str] = []
            with keeping(kept):
                whole = trained(learned, check.folder / name, device=check.device)
            with check.trying(f"{name}, as on the CPU"):
                as_on_cpu(check, name, learned, whole)
            with check.trying(f"{name}, resumed"):
                resumed(check, name, learned, whole, kept)
            if name not in ("additive", "ranking"):  # in single precision whatever is said
                with check.trying(f"{name}, bfloat16"):
                    in_bfloat16(check, name, learned, whole)
    if check.on_card:
        for i, (name, learned) in enumerate(names.items()):
            with check.trying(f"{name}, timed"):
                timed(check, name, learned, check.left_s / (len(names) - i))


def as_on_cpu(check: Check, name: str, learned: Learned, whole: History) -> None:
    """Raises a DiffersError where the first loss is another than on the CPU."""
    cpu, there = losses(trained(learned)), losses(whole)
    first = apart(there[0], cpu[0])
    check.note(name, cpu_losses=cpu, losses=there, first_apart=first)
    if not first <= (_APART if check.on_card else 0):
        raise DiffersError(f"the first losses are {first:.1%} apart from the CPU's")


def resumed(check: Check, name: str, learned: Learned, whole: History, kept: list[str]) -> None:
    """Kills a training when half of its states are kept, and trains again.

    Raises:
        DiffersError: it began anew, or ended elsewhere.
    """
    half, folder = max(1, len(kept) // 2), check.folder / f"{name}-killed"
    with keeping([], dies_at=half), contextlib.suppress(_KilledError):
        trained(learned, folder, device=check.device)
        raise DiffersError("expected an interruption, got none")
    later: list[str] = []
    with keeping(later):
        again = trained(learned, folder, device=check.device)
    last = apart(losses(again)[-1], losses(whole)[-1])
    counts = {"states": len(kept), "after": half, "then": len(later)}
    check.note(f"{name}, resumed", state=kept[half - 1], **counts, last_apart=last)
    if len(later) >= len(kept):
        raise DiffersError(f"began anew: {counts}")
    if not last <= (_APART if check.on_card else 0):
        raise DiffersError(f"resumed, the last loss is {last:.1%} apart")
    if not check.on_card and again != whole:
        raise DiffersError("resumed, the history is another one")


def in_bfloat16(check: Check, name: str, learned: Learned, whole: History) -> None:
    """Raises a DiffersError unless bfloat16 is what was used, and began at about the same loss."""
    history = trained(learned, precision="bfloat16", device=check.device)
    first = apart(losses(history)[0], losses(whole)[0])
    check.note(f"{name}, bfloat16", losses=losses(history), first_apart=first)
    if history[0]["precision"] != "bfloat16" or not first <= _APART:
        raise DiffersError(f"in {history[0]['precision']} the first loss is {first:.1%} apart")


def apart(value: float, reference: float) -> float:
    """By what share of a reference a value is another."""
    return abs(value / reference - 1)


def trained(learned: Learned, folder: Path | None = None, **settings: Any) -> History:
    """The history of a training of a few steps, without seconds."""
    index, x, labels = to_train(learned, 700, quick(batch_size=64, patience=0, **settings))
    index.train(x, labels, folder=folder, progress=False)
    return [{k: v for k, v in e.items() if not k.endswith("_s")} for e in index.history]


def to_train(
    learned: Learned, n: int, config: fpq.TrainingConfig, shape: tuple[int, ...] = (3, 16, 16)
) -> tuple[LatentIndex, npt.NDArray[Any], IdArray | None]:
    """An untrained index, n items, and labels."""
    x: npt.NDArray[Any]
    x, labels = pictures(n, shape) if learned.images else (mixed(n, shape[-1]), None)
    index = fpq.index_factory(
        x.shape[1:] if learned.images else x.shape[1],
        learned.description,
        objective=learned.objective,
        model=fpq.ModelConfig(**learned.model),
        training=config,
    )
    return index, x, labels if learned.labels else None


def losses(history: History) -> list[float]:
    """Of every epoch; of a training without any, errors of its rounds, or what it ended with."""
    found = [event["loss"] for event in history if event["event"] == "epoch"]
    return found or history[0].get("errors") or [history[-1]["validation_loss"]]


class _KilledError(BaseException):
    """What stands for the end of a process."""


def keeping(kept: list[str], dies_at: int | None = None) -> Any:
    """A context in which trainings tell what states they keep, and may end with one of them."""
    put: Callable[..., None] = Kept.put

    def counted(self: Kept, name: str, state: dict[str, Any]) -> None:
        put(self, name, state)
        kept.append(name)
        if len(kept) == dies_at:
            raise _KilledError

    return mock.patch.object(Kept, "put", counted)


def timed(check: Check, name: str, learned: Learned, seconds: float) -> None:
    """Notes steps a second of items and networks of a usual size."""
    if seconds < 3:
        check.note(f"{name}, timed", not_measured=f"{seconds:.0f} s each")
        return
    usual = replace(
        learned,
        objective=type(learned.objective)() if learned.images else learned.objective,
        description=learned.description.replace("4x4", "8x8"),
        model={k: v for k, v in learned.model.items() if k == "encoder"},
    )
    config = fpq.TrainingConfig(budget_minutes=0.6 * seconds / 60, device=check.device)
    n, shape = (20_000, (3, 32, 32)) if learned.images else (10_000, (64,))
    train_and_note(check, f"{name}, timed", *to_train(usual, n, config, shape))


def contrastive(check: Check) -> None:
    """The contrastive ResNet-18 in bfloat16, for the time that is left."""
    learned = Learned(fpq.Contrastive(), "PQVAE8x4", model={"encoder": "resnet18"})
    config = fpq.TrainingConfig(
        budget_minutes=0.8 * check.left_s / 60, precision="bfloat16", device=check.device
    )
    train_and_note(check, "ResNet-18", *to_train(learned, 50_000, config, (3, 32, 32)))


def train_and_note(
    check: Check, name: str, index: LatentIndex, x: npt.NDArray[Any], labels: IdArray | None
) -> None:
    """Trains, and notes how long it took and how fast it was."""
    if check.on_card:
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    index.train(x, labels, progress=False)
    took_s, start, end = time.monotonic() - began, index.history[0], index.history[-1]
    values: dict[str, Any] = {}
    if rate := steps_per_s(index.history):
        values = {"steps": end["step"], "steps_per_s": round(rate, 2)}
    if check.on_card:
        values["peak_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    check.note(
        name,
        seconds=round(took_s, 1),
        items=len(x),
        batch_size=start["training"]["batch_size"],
        precision=start["precision"],
        losses=losses(index.history),
        validation_loss=end["validation_loss"],
        **values,
    )


def steps_per_s(history: History) -> float:
    """Steps a second after the first epoch, with validation; 0 of a training without epochs.

    Of one epoch, what precedes it counts.
    """
    epochs = [(e["step"], e["elapsed_s"]) for e in history if e["event"] == "epoch"]
    if not epochs:
        return 0.0
    (step, second), (last, end) = epochs[0] if len(epochs) > 1 else (0, 0.0), epochs[-1]
    return float((last - step) / max(end - second, 1e-3))
