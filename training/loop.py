"""The training loop: set up, train, save, close; it can be read from top to bottom."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.data.batches import check_items, content_key, read_rows
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.model import team
from faiss_pqvae.model.clustering import histogram, perplexity, usage
from faiss_pqvae.model.fine_tuned import thaw
from faiss_pqvae.model.networks import Headed
from faiss_pqvae.model.pqvae import PQVAE, have_distances
from faiss_pqvae.progress import Progress
from faiss_pqvae.registry import objectives

from .build import check_codes, checked, resolved_objective
from .config import TrainingConfig
from .data.items import WHAT, Rows, parts
from .data.little import warn_of_little
from .device import choose_device, reset_parameters, take_over
from .kept import CHECKPOINT, LOG, TRAINED, Kept, key_of_networks
from .objectives.protocol import Objective, Setup, Way, values_of
from .synced_norm import synced

History = list[dict[str, Any]]

_logger = logging.getLogger(__name__)

_SAVE_EVERY_S = 60.0
_APART = 1e-2  # of the largest weight: further than rounding leads two processes
_COMPARED = 64  # items that several processes compare, to find out whether they have the same


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
    content: str | None = None,
    **given: Any,
) -> History:
    """Trains a PQ-VAE, end to end, and leaves the best weights in it.

    With a folder, the log is in `log.jsonl` and the state in `checkpoint.pt`, and in `phase-*.pt`
    what precedes the first step; called again with the same arguments after an interruption, it
    goes on along the same trajectory (bit for bit with one thread and a named precision). A
    finished training keeps its weights alone, in `trained.pt`: the same call reads them.

    Where torch.distributed has several processes, they train one model, each with its share of
    every batch, as one of them would with all of it but for rounding: all have to call this with
    the same arguments. The first one has the files of the folder.

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
        content: the `content_key` of x, where the caller has it: x need not be read for it then.
        given: what the objective learns from besides the items, see `Objective.learns_from`:
            labels and word_vectors, or starts, queries and coarse centroids.

    Returns:
        The history, one dict of plain values per event, as in `log.jsonl`: first a "start", then
        one "epoch" each, then an "end".

    Raises:
        TypeError, ValueError: `x` is not what the model takes; there are too few items; what is
            given is wrong, missing, or not asked for (before any training); a model of other codes
            than the objective's; the folder holds another training's checkpoint; a pretrained model
            that has another encoder.
        DivergedError: the loss is no longer finite.
        KeyboardInterrupt: Ctrl-C, with a note that says what is kept.
    """
    progress = progress and team.is_first()
    trainer = Trainer(
        model,
        x,
        config or TrainingConfig(),
        resolved_objective(model.config.objective if objective is None else objective),
        folder=folder,
        pretrained=pretrained,
        progress=progress,
        clock=clock,
        content=content,
        given=given,
    )
    try:
        with synced(model):
            trainer.train(progress=progress, go_on=go_on)
    finally:
        trainer.close()
    return trainer.history


class Trainer:
    """State of one training.

    Everything random is drawn from a generator made of the seed and the number of the step (or
    epoch), so that the step's number is all that a checkpoint has to keep of the randomness.

    Args:
        model, x, config, objective, folder, pretrained, progress, clock, content, given: see `fit`.
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
        content: str | None = None,
        given: dict[str, Any],
    ) -> None:
        x = check_items(x, model.input_shape, WHAT)
        if team.size() > 1:  # before anything is done together
            rows = np.arange(0, len(x), max(1, len(x) // _COMPARED))
            kind = tuple(x.shape), str(x.dtype)
            team.check_agreement("items", kind, read_rows(x, rows, WHAT))
        known = checked(objective, len(x), given)
        check_codes(model, objective)
        model.spec = replace(model.spec, by_residual=known.get("coarse") is not None)
        self.model = model
        self.objective, self.config = objective.settled(model, config)
        self.device = choose_device(config.device)
        reset_parameters(model, config.seed)
        model.to(self.device)
        self.pretrained = None if pretrained is None else pretrained.fingerprint()
        self.networks = key_of_networks(model.handed_in())
        self.folder = None if folder is None else Path(folder)
        self.kept = Kept(self.folder)
        started_from = pretrained is not None
        setup = Setup(model, x, self.config, self.device, progress, started_from, self.kept)
        self.task = self.objective.task(setup, known)
        if pretrained is not None:
            take_over(model, pretrained)
        # A mask of attention has infinities that mean something.
        self.finite = [name for name, value in model.state_dict().items() if _is_finite(value)]
        self.items, self.batch_size = self.task.items, self.task.batch_size
        # The rest of an epoch that does not fill a batch waits for another epoch's order.
        self.steps_per_epoch = len(self.task.examples) // self.batch_size
        self.total_steps = self.steps_per_epoch * self.task.epochs
        self.budget_s = config.budget_s
        self.clock = clock
        self.history: History = []
        warn_of_little(self.items, self.model.quantizer.ksub)
        if team.size() > 1:
            self._check_shares()
            team.check_agreement("settings", self._fingerprint(""))
        if self.folder is not None:
            if content is None:
                content = team.by_first(lambda: content_key(x, WHAT, progress=progress))
            self.kept.open(self._fingerprint(content))
        with self._saying_what_is_kept(), synced(model):
            self._setup()

    def _check_shares(self) -> None:
        for what, n in (
            ("items of a batch", self.batch_size),
            ("validation items", len(self.items.validation_rows)),
        ):
            if n < team.size():
                raise ValueError(f"expected at least as many {what} as processes, got {n}")

    def _setup(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.task.parameter_groups(),
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
            fused=True,  # in one pass over the weights: three times as fast
        )
        self.step = self.saved_step = 0
        self.saved_at = time.monotonic()
        self.order: Rows | None = None  # of the epoch under way
        self.elapsed_s = 0.0
        self.best_loss, self.best_epoch = math.inf, -1
        self.best_state: dict[str, Tensor] = {}
        self.counts = torch.zeros(
            self.model.M, self.model.quantizer.ksub, dtype=torch.long, device=self.device
        )
        self.sums: dict[str, float] = {}  # of the loss and its parts, since the last epoch
        self.summed = 0  # steps
        if (state := self.kept.take(TRAINED)) is not None:
            self._read(state)
            return
        if (state := self.kept.take(CHECKPOINT)) is not None:
            self._resume(state)
            return
        started, before = self.clock(), self.kept.spent_s
        self.kept.clock = lambda: before + self.clock() - started
        facts, loss = self.task.start()
        if loss is not None:
            self._keep(loss, -1)
        self.elapsed_s = team.agreed(self.kept.clock())
        self.kept.clock = lambda: self.elapsed_s
        self._log({**self._start_event(), **facts})
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
            "processes": team.size(),
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
        if last["event"] == "end":
            self._as_trained()
            return
        stopped = last["event"] == "epoch" and not _goes_on(go_on, last)
        with self._saying_what_is_kept():
            with self._bar(progress=progress) as bar:
                while not (self._done or self._stopped_early() or stopped):
                    self._step()
                    bar.update(self._way.at - bar.n)
                    if self.step % self.steps_per_epoch == 0 or self._done:
                        event = self._end_epoch((self.step - 1) // self.steps_per_epoch)
                        bar.note(**self._summary(event))
                        stopped = not _goes_on(go_on, event)
                        self.save()
                    elif self._is_time_to_save():
                        self.save()
            self._warn_of_short_budget()
            self._finish()

    def _warn_of_short_budget(self) -> None:
        """Where the budget ended before all items were seen once, and nothing had been learned."""
        if self.budget_s is None or not self.total_steps or self.step >= self.steps_per_epoch:
            return
        _logger.warning(
            "the budget of %g minutes was over after %d of the %d steps of one epoch: codes find "
            "little after so few; give it more minutes",
            self.budget_s / 60,
            self.step,
            self.steps_per_epoch,
        )

    def _is_time_to_save(self) -> bool:
        """Within an epoch: every so many steps, and once a minute where these are slow."""
        late = time.monotonic() - self.saved_at > _SAVE_EVERY_S
        return self.task.resumes_within_epochs and (
            late or self.step % self.config.checkpoint_every == 0
        )

    @contextlib.contextmanager
    def _saying_what_is_kept(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt as stop:
            stop.add_note(self._what_is_kept())
            raise

    def _what_is_kept(self) -> str:
        """What an interruption leaves, for whoever caused it."""
        if self.folder is None:
            return "nothing of the training is kept: it had no folder"
        if self.history:
            step, total = self.saved_step, self.total_steps
            of = f" of {total:,}" if self.budget_s is None else ""
            lost = ""
            if n := self.step - step:
                lost = f"; {n:,} later {'step is' if n == 1 else 'steps are'} done again"
            return f"{self.folder} keeps the training up to step {step:,}{of}{lost}"
        phases = ", ".join(self.kept.phases) or "nothing yet"
        return f"{self.folder} keeps of what precedes the training: {phases}"

    @property
    def _way(self) -> Way:
        if self.budget_s is None or not self.total_steps:  # a start may be all
            return Way(self.step, self.total_steps)
        return Way(min(self.elapsed_s, self.budget_s), self.budget_s)

    @property
    def _done(self) -> bool:
        at, end = self._way
        # A budget can be over before the first step; a start counts as what was trained then.
        return at >= end and (self.step > 0 or bool(self.best_state))

    def _bar(self, *, progress: bool) -> Progress:
        at, end = self._way
        timed = self.budget_s is not None
        unit = "s" if timed else "steps"
        return Progress("training", end, unit=unit, shown=progress, initial=at, seconds=timed)

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
        if self.budget_s is not None:  # which decides about what follows
            self.elapsed_s = team.agreed(self.elapsed_s)

    def _update(self, examples: Rows) -> None:
        way, generator = self._way, self.items.generator("step", self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get("highest", self.config.lr) * schedule(*way)
        thawing = self.config.thawing * way.end
        share = min(1.0, way.at / thawing) if thawing else 1.0
        # Where no matrix follows them there may be nothing else that learns.
        thaw(self.model.backbone, share, least=not isinstance(self.model.encoder, Headed))
        terms = self.task.terms(examples, self.step, way, generator)
        values = values_of(terms)
        if not math.isfinite(values["loss"]):
            raise DivergedError(f"the loss is not finite at step {self.step}{self._advice()}")
        self.optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        team.average_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        self.optimizer.step()
        for name, value in values.items():
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
        found = team.agreed(self.task.validate())
        self.elapsed_s = team.agreed(self.elapsed_s + self.clock() - started)
        self._stay_together()
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
        better = found.counts and event["validation_loss"] < self.best_loss
        if better and self._is_finite():  # a rank among NaN can be the first
            self._keep(event["validation_loss"], epoch)
        self.sums, self.summed = {}, 0
        self.counts.zero_()
        self._log(event)
        return self.history[-1]

    def _stay_together(self) -> None:
        """Takes the first process's weights, from which rounding may have led the others away."""
        if team.size() == 1:
            return
        own = self.model.state_dict()
        first = {name: value.to(self.device) for name, value in team.agreed(own).items()}
        pairs = [
            (own[name].double(), value.double())
            for name, value in first.items()
            if name in self.finite and value.numel()
        ]
        apart = max(
            float((mine - theirs).abs().max() / (1e-6 + theirs.abs().max()))
            for mine, theirs in pairs
        )
        if team.mean(torch.tensor(float(apart > _APART), device=self.device)) > 0:
            raise ValueError(
                "expected every process to learn the same, got other weights than the first one's: "
                "what moves codewords has to be given the latents of all, see "
                "faiss_pqvae.model.team.gathered"
            )
        self.model.load_state_dict(first)

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
        stopped_early = not self._done
        if self.best_state:
            self.model.load_state_dict(self.best_state)
        else:  # the last weights are all that there is
            self.best_loss = self.history[-1]["validation_loss"]
        if not (math.isfinite(self.best_loss) and self._is_finite()):
            raise DivergedError(
                f"the weights are not finite after the last step, {self.step}{self._advice()}"
            )
        self.task.release()
        self.model.eval()
        started = self.clock()
        facts = self.task.finish() or {}
        self._stay_together()
        self.elapsed_s += self.clock() - started
        with torch.inference_mode():
            some = parts(self.items.train_rows)[0]
            if not have_distances(self.model.encode(self.items.read(some))):
                raise DivergedError(
                    f"latents are not below 1e18 after the last step, {self.step}{self._advice()}"
                )
        self._keep(self.best_loss, self.best_epoch)
        self._as_trained()
        self._log(
            {
                "event": "end",
                "step": self.step,
                "best_epoch": self.best_epoch,
                "validation_loss": self.best_loss,
                "stopped_early": stopped_early,
                "elapsed_s": round(self.elapsed_s, 3),
                **facts,
            }
        )
        self._keep_trained()

    def _as_trained(self) -> None:
        """Leaves the model as one whose training is over."""
        self.task.release()
        thaw(self.model.backbone, 1.0)
        self.model.eval()
        self.model.fitted.fill_(True)

    def _is_finite(self) -> bool:
        state = self.model.state_dict()
        return all(_is_finite(state[name]) for name in self.finite)

    def _advice(self) -> str:
        return (
            f": try a smaller lr than {self.config.lr}, or other settings of the objective than "
            f"{self.objective}"
        )

    # -- files

    def _log(self, event: dict[str, Any]) -> None:
        self.history.append(json.loads(json.dumps(event)))  # as it is read again
        if self.folder is not None and team.is_first():
            lines = "".join(json.dumps(event) + "\n" for event in self.history)
            replace_bytes(self.folder / LOG, lines.encode())

    def save(self) -> None:
        """Writes the checkpoint, when there is a folder."""
        state = {
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
        self.kept.put(CHECKPOINT, state)
        self.saved_step, self.saved_at = self.step, time.monotonic()

    def _resume(self, state: dict[str, Any]) -> None:
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.saved_step = self.step
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

    def _keep_trained(self) -> None:
        """Keeps the weights, and nothing that only an interrupted training needs."""
        state = {
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "model": self.model.state_dict(),
            "networks_after": key_of_networks(self.model.handed_in()),
            "history": json.dumps(self.history),
        }
        self.kept.put(TRAINED, state)
        self.kept.drop(CHECKPOINT, *self.kept.phases)

    def _read(self, state: dict[str, Any]) -> None:
        """Takes what `_keep_trained` kept."""
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.model.load_state_dict(state["model"])
        self.history = json.loads(state["history"])
        self.kept.drop(CHECKPOINT, *self.kept.phases)  # which a crash may have left

    def _fingerprint(self, content: str) -> dict[str, Any]:
        """Model, settings and all that is learned from: what must agree when resuming."""
        event = self._start_event()
        return {
            **{key: event[key] for key in ("items", "model", "training", "objective")},
            "content": content,
            "pretrained": self.pretrained,
            "networks": self.networks,
            "given": self.task.fingerprint(),
        }

    def close(self) -> None:
        """Lets go of the data."""
        self.items.x = None


def _is_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def _goes_on(go_on: Callable[[dict[str, Any]], bool] | None, event: dict[str, Any]) -> bool:
    """Whether a training shall go on after an epoch."""
    return go_on is None or team.by_first(lambda: bool(go_on(event)))


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
