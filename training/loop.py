"""The training loop: set up, train, save, close; it can be read from top to bottom."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from faiss_pqvae.data.batches import check_items
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.model.clustering import histogram, perplexity, usage
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.registry import objectives

from .build import checked, resolved_objective
from .checkpoint import load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .data.items import Rows
from .device import choose_device, reset_parameters, take_over
from .objectives.protocol import Objective, Setup, Way, values_of

History = list[dict[str, Any]]

_CHECKPOINT, _LOG = "checkpoint.pt", "log.jsonl"


class DivergedError(ValueError):
    """The loss of a training is no longer finite."""


def fit(
    model: PQVAE,
    x: Any,
    config: TrainingConfig | None = None,
    *,
    objective: Any = None,
    folder: str | Path | None = None,
    progress: bool = True,
    go_on: Callable[[dict[str, Any]], bool] | None = None,
    pretrained: PQVAE | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **given: Any,
) -> History:
    """Trains a PQ-VAE, end to end, and leaves the best weights in it.

    With a folder, the log is in `log.jsonl` and the state in `checkpoint.pt`; called again with
    the same arguments after an interruption, it goes on along the same trajectory (bit for bit
    with one thread and a named precision).

    Args:
        model: as `training.build.new_model` made it; its weights are drawn anew from `config.seed`,
            but for those of networks that were handed in.
        x: (n, *input_shape) uint8 or float: an array, a memory map, a tensor or a source.
        config: settings of the loop.
        objective: what is learned, see `training.build.resolved_objective`; None takes what the
            model's configuration names.
        folder: where log and checkpoint go; None keeps them in memory.
        progress: draw a bar, where standard error is a terminal.
        go_on: asked after every epoch, with its event; False stops the training there, as
            `patience` does.
        pretrained: a trained model whose encoder's weights are where this one begins, as far as
            they have the same shapes: for another code length, or for other items.
        clock: seconds, of a budget and of the log.
        given: what the objective learns from besides the items, see `Objective.learns_from`:
            labels and word_vectors, or starts.

    Returns:
        The history, one dict of plain values per event, as in `log.jsonl`: first a "start", then
        one "epoch" each, then an "end".

    Raises:
        TypeError, ValueError: `x` is not what the model takes; there are too few items; what is
            given is wrong, missing, or not asked for (before any training); a model of other codes
            than the objective's; the folder holds another training's checkpoint; a pretrained model
            that has another encoder.
        DivergedError: the loss is no longer finite.
    """
    trainer = Trainer(
        model,
        x,
        config or TrainingConfig(),
        resolved_objective(model.config.objective if objective is None else objective),
        folder=folder,
        pretrained=pretrained,
        progress=progress,
        clock=clock,
        given=given,
    )
    try:
        trainer.train(progress=progress, go_on=go_on)
    finally:
        trainer.close()
    return trainer.history


class Trainer:
    """State of one training.

    Everything random is drawn from a generator made of the seed and the number of the step (or
    epoch), so that the step's number is all that a checkpoint has to keep of the randomness.

    Args:
        model, x, config, objective, folder, pretrained, progress, clock, given: see `fit`.
    """

    def __init__(
        self,
        model: PQVAE,
        x: Any,
        config: TrainingConfig,
        objective: Objective,
        *,
        folder: str | Path | None = None,
        pretrained: PQVAE | None = None,
        progress: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        given: dict[str, Any],
    ) -> None:
        x = check_items(x, model.input_shape, "training data")
        known = checked(objective, len(x), given)
        _check_fits(model, objective)
        self.model = model
        self.objective, self.config = objective.settled(model, config)
        self.device = choose_device(config.device)
        reset_parameters(model, config.seed)
        model.to(self.device)
        self.pretrained = None if pretrained is None else pretrained.fingerprint()
        setup = Setup(model, x, self.config, self.device, progress, pretrained is not None)
        self.task = self.objective.task(setup, known)
        if pretrained is not None:
            take_over(model, pretrained)
        self.items, self.batch_size = self.task.items, self.task.batch_size
        # The rest of an epoch that does not fill a batch waits for another epoch's order.
        self.steps_per_epoch = len(self.task.examples) // self.batch_size
        self.total_steps = self.steps_per_epoch * self.task.epochs
        self.budget_s = None if config.budget_minutes is None else 60 * config.budget_minutes
        self.clock = clock
        self.folder = None if folder is None else Path(folder)
        self.history: History = []
        self._setup()

    def _setup(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.task.parameter_groups(),
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
        )
        self.step = 0
        self.order: Rows | None = None  # of the epoch under way
        self.elapsed_s = 0.0
        self.best_loss, self.best_epoch = math.inf, -1
        self.best_state: dict[str, Tensor] = {}
        self.counts = torch.zeros(
            self.model.M, self.model.quantizer.ksub, dtype=torch.long, device=self.device
        )
        self.sums: dict[str, float] = {}  # of the loss and its parts, since the last epoch
        self.summed = 0  # steps
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (_CHECKPOINT, _LOG):  # what a killed process was writing
                for leftover in self.folder.glob(f".{name}.*.new"):
                    leftover.unlink(missing_ok=True)
            if self.checkpoint_path.exists():
                self._resume()
                return
        started = self.clock()
        facts, loss = self.task.start()
        if loss is not None:
            self._keep(loss, -1)
        self.elapsed_s += self.clock() - started
        self._log({**self._start_event(), **facts})
        if loss is not None:
            self.save()

    def _keep(self, loss: float, epoch: int) -> None:
        self.best_loss, self.best_epoch = loss, epoch
        self.best_state = {
            name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()
        }

    def _start_event(self) -> dict[str, Any]:
        model, settings = self.model, asdict(cast(Any, self.objective))
        return {
            "event": "start",
            "items": len(self.items),
            "train_items": len(self.items.train_rows),
            "validation_items": len(self.items.validation_rows),
            "steps_per_epoch": self.steps_per_epoch,
            "device": str(self.device),
            "precision": self.task.precision,
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "model": {
                "input_shape": list(model.input_shape),
                "M": model.M,
                "nbits": model.nbits,
                **asdict(model.config),
            },
            "training": asdict(self.config),
            "objective": {"name": objectives.name_of(type(self.objective)), **settings},
        }

    def train(
        self, *, progress: bool = True, go_on: Callable[[dict[str, Any]], bool] | None = None
    ) -> None:
        """Runs to the end, from wherever the state stands; for `go_on` see `fit`."""
        last = self.history[-1]
        stopped = last["event"] == "end" or (
            go_on is not None and last["event"] == "epoch" and not go_on(last)
        )
        with self._bar(progress=progress) as bar:
            while not (self._done or self._stopped_early() or stopped):
                self._step()
                bar.update(self._way.at - bar.n)
                if self.step % self.steps_per_epoch == 0 or self._done:
                    event = self._end_epoch((self.step - 1) // self.steps_per_epoch)
                    bar.set_postfix(self._summary(event))
                    stopped = go_on is not None and not go_on(event)
                    self.save()
                elif (
                    self.task.resumes_within_epochs
                    and self.step % self.config.checkpoint_every == 0
                ):
                    self.save()
        self._finish()

    @property
    def _way(self) -> Way:
        if self.budget_s is None:
            return Way(self.step, self.total_steps)
        return Way(min(self.elapsed_s, self.budget_s), self.budget_s)

    @property
    def _done(self) -> bool:
        at, end = self._way
        return at >= end

    def _bar(self, *, progress: bool) -> Any:
        at, end = self._way
        timed = self.budget_s is not None
        layout = "{l_bar}{bar}| {n:.0f}/{total:.0f} s{postfix}" if timed else None
        return tqdm(
            total=end,
            initial=at,
            unit="s" if timed else "step",
            bar_format=layout,
            desc="training",
            disable=None if progress else True,
        )

    def _step(self) -> None:
        started = self.clock()
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if position == 0 or self.order is None:
            generator = self.items.generator("order", epoch)
            order = torch.randperm(len(self.task.examples), generator=generator)
            self.order = self.task.examples[order.numpy()]
        self._update(self.order[position * self.batch_size : (position + 1) * self.batch_size])
        self.step += 1
        self.elapsed_s += self.clock() - started

    def _update(self, examples: Rows) -> None:
        way, generator = self._way, self.items.generator("step", self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("highest", self.config.lr) * schedule(*way)
        terms = self.task.terms(examples, self.step, way, generator)
        if not torch.isfinite(terms.loss):
            raise DivergedError(
                f"the loss is not finite at step {self.step}: try a smaller lr than "
                f"{self.config.lr}, or other settings of the objective than {self.objective}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        for name, value in values_of(terms).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.summed += 1
        if terms.ids is not None:
            self.counts += histogram(terms.ids, self.model.quantizer.ksub)
        self.task.after_step(terms, self.step, generator)

    @torch.no_grad()
    def _end_epoch(self, epoch: int) -> dict[str, Any]:
        started = self.clock()
        self.model.eval()
        self.task.after_epoch()
        found = self.task.validate()
        self.elapsed_s += self.clock() - started
        event: dict[str, Any] = {
            "event": "epoch",
            "epoch": epoch,
            "step": self.step,
            **{name: value / self.summed for name, value in self.sums.items()},
            **{f"validation_{name}": value for name, value in found.values.items()},
            "distance_ratio": found.distance_ratio,
            "perplexity": [round(float(p), 3) for p in perplexity(self.counts)],
            "usage": [round(float(u), 4) for u in usage(self.counts)],
            "lr": self.optimizer.param_groups[0]["lr"],
            "elapsed_s": round(self.elapsed_s, 3),
            **found.facts,
        }
        if found.counts and event["validation_loss"] < self.best_loss:
            self._keep(event["validation_loss"], epoch)
        self.sums, self.summed = {}, 0
        self.counts.zero_()
        self._log(event)
        return self.history[-1]

    def _summary(self, event: dict[str, Any]) -> dict[str, str]:
        """What a progress bar says of an epoch."""
        shown = self.task.shown
        value = event.get(f"validation_{shown}", math.nan)
        perplexity = f"{np.mean(event['perplexity']):.0f}"
        return {shown: f"{value:.4f}", "perplexity": perplexity}

    def _stopped_early(self) -> bool:
        done, position = divmod(self.step, self.steps_per_epoch)
        patience = self.task.patience if self.budget_s is None else 0
        waits = patience and self.best_state and position == 0
        return bool(waits and done - 1 - self.best_epoch >= patience)

    def _finish(self) -> None:
        if self.best_state:
            self.model.load_state_dict(self.best_state)
        self.task.release()
        self.model.eval()
        finished = self.history[-1]["event"] == "end"
        if not finished:
            self.task.finish()
            self._keep(self.best_loss, self.best_epoch)
        self.model.fitted.fill_(True)
        if not finished:
            self._log(
                {
                    "event": "end",
                    "step": self.step,
                    "best_epoch": self.best_epoch,
                    "validation_loss": self.best_loss,
                    "stopped_early": not self._done,
                    "elapsed_s": round(self.elapsed_s, 3),
                }
            )
            self.save()

    # -- files

    @property
    def checkpoint_path(self) -> Path:
        """Where the state is kept."""
        assert self.folder is not None
        return self.folder / _CHECKPOINT

    def _log(self, event: dict[str, Any]) -> None:
        self.history.append(json.loads(json.dumps(event)))  # as it is read again
        if self.folder is not None:
            lines = "".join(json.dumps(event) + "\n" for event in self.history)
            replace_bytes(self.folder / _LOG, lines.encode())

    def save(self) -> None:
        """Writes the checkpoint, when there is a folder."""
        if self.folder is None:
            return
        state = {
            "fingerprint": self._fingerprint(),
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": {"loss": self.best_loss, "epoch": self.best_epoch, "state": self.best_state},
            "task": self.task.state(),
            "sums": self.sums,
            "summed": self.summed,
            "counts": self.counts,
            "history": json.dumps(self.history),
        }
        save_checkpoint(self.checkpoint_path, state)

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint_path)
        if json.loads(state["fingerprint"]) != json.loads(self._fingerprint()):  # 1 is 1.0
            raise ValueError(
                f"{self.checkpoint_path} belongs to a training with other settings or data: "
                "choose another folder, or remove it"
            )
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        best = state["best"]
        self.best_loss, self.best_epoch, self.best_state = (
            best["loss"],
            best["epoch"],
            best["state"],
        )
        self.task.load(state["task"])
        self.sums, self.summed = state["sums"], state["summed"]
        self.counts = state["counts"].to(self.device)
        self.history = json.loads(state["history"])

    def _fingerprint(self) -> str:
        """Model, settings and a sample of the data, as text that must agree when resuming."""
        event = self._start_event()
        kept = {key: event[key] for key in ("items", "model", "training", "objective")}
        sample = self.items.read(self.items.spread(64)).cpu().numpy()
        kept |= {"pretrained": self.pretrained, "given": self.task.fingerprint()}
        return json.dumps({**kept, "sample": zlib.crc32(sample.tobytes())}, sort_keys=True)

    def close(self) -> None:
        """Lets go of the data."""
        self.items.x = None


def _check_fits(model: PQVAE, objective: Objective) -> None:
    """Refuses a model that was built for other codes."""
    wanted = objective.spec(unit=model.config.unit_latents, metric=model.spec.metric)
    if wanted != model.spec:
        name = objectives.name_of(type(objective))
        raise ValueError(
            f"expected a model of {wanted} for the objective {name!r}, got {model.spec}: make it "
            "by training.new_model with this objective"
        )
    objective.networks(model.config, model.input_shape)


def schedule(at: float, end: float) -> float:
    """Share of the highest learning rate: linear rise over 5 % of the way, then a cosine to 0.

    Args:
        at: how far the training is, in steps or in seconds.
        end: how far it goes.
    """
    rise = max(1, end // 20)
    if at < rise:
        return (at + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * min(1, (at - rise) / max(1, end - rise))))
