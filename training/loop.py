"""The training loop: set up, train, save, close; it can be read from top to bottom."""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from faiss_pqvae.files import replace_bytes
from faiss_pqvae.inputs import check_items, read_rows
from faiss_pqvae.model import PQVAE, to_float
from faiss_pqvae.networks import Linear
from faiss_pqvae.quantizer import distance_ratio, histogram, perplexity, usage
from faiss_pqvae.resnet import ResNet
from faiss_pqvae.training.checkpoint import load_checkpoint, save_checkpoint
from faiss_pqvae.training.config import Precision, TrainingConfig, VectorTraining
from faiss_pqvae.training.contrastive import contrastive_objective
from faiss_pqvae.training.least_squares import fit_linear
from faiss_pqvae.training.objectives import Terms, fit_whitener, reconstruction_objective
from faiss_pqvae.training.ranking import Metric, Ranking, standard_errors
from faiss_pqvae.training.setup import choose_device, faster_precision, reset_parameters
from faiss_pqvae.training.start import Start, Starts, begin_at, linear_layers, settle
from faiss_pqvae.training.views import Views, random_views

History = list[dict[str, Any]]

_CHECKPOINT, _LOG = "checkpoint.pt", "log.jsonl"
_VALIDATION_ITEMS = 5000
_NORMALIZATION_ITEMS = 10_000
_KMEANS_ITEMS = 16_384
_DECODER_ITEMS = 16_384
_SMALL_VIEWS = 0.7  # of a training with a residual encoder
_SMALL = 5 / 8  # of the height and width of images: `small_views`
_PART = 1024  # items that are read and encoded at a time
_RECALL_AT = 10  # what vectors are validated by
_VECTOR_PATIENCE = 3  # epochs, at most; what vectors gain they gain at once
_CONVINCING = 2.0  # standard errors by which they must find more than at the start


class DivergedError(ValueError):
    """The loss of a training is no longer finite."""


def fit(
    model: PQVAE,
    x: Any,
    config: TrainingConfig | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = True,
    go_on: Callable[[dict[str, Any]], bool] | None = None,
    starts: Starts | None = None,
    metric: Metric = "l2",
) -> History:
    """Trains a PQ-VAE, end to end, and leaves the best weights in it.

    Vectors for which `starts` are given begin at the best of these and are trained for the
    distances that are searched, see `VectorTraining`; everything else is drawn at random and
    trained to be reconstructed.

    With a folder, the log is in `log.jsonl` and the state in `checkpoint.pt`; called again with
    the same arguments after an interruption, it goes on along the same trajectory (bit for bit
    with one thread and a named precision).

    Args:
        model: as it was built; its weights are drawn anew from `config.seed`.
        x: (n, *input_shape) uint8 or float: an array, a memory map, a tensor or a source.
        config: settings.
        folder: where log and checkpoint go; None keeps them in memory.
        progress: draw a bar, where standard error is a terminal.
        go_on: asked after every epoch, with its event; False stops the training there, as
            `patience` does.
        starts: for vectors and a model with a linear encoder and decoder: makes linear codes of a
            sample of the training part (n, d) float32.
        metric: what vectors with `starts` are searched by.

    Returns:
        The history, one dict of plain values per event, as in `log.jsonl`: first a "start", then
        one "epoch" each, then an "end".

    Raises:
        TypeError, ValueError: `x` is not what the model takes; there are too few items; the
            folder holds another training's checkpoint; settings of vectors without `starts`.
        DivergedError: the loss is no longer finite.
    """
    trainer = Trainer(
        model,
        x,
        config or TrainingConfig(),
        folder,
        starts=starts,
        metric=metric,
        progress=progress,
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
        model, x, config, folder, starts, metric, progress: see `fit`.
    """

    def __init__(
        self,
        model: PQVAE,
        x: Any,
        config: TrainingConfig,
        folder: str | Path | None,
        *,
        starts: Starts | None = None,
        metric: Metric = "l2",
        progress: bool = True,
    ) -> None:
        check_items(x, model.input_shape, "training data")
        if len(x) < 4:
            raise ValueError(f"expected at least 4 training items, got {len(x)}")
        self.x, self.model = x, model
        self.starts, self.metric, self.progress = starts, metric, progress
        if starts is not None:
            linear_layers(model)
        self.contrastive = model.config.contrastive
        self.config = config.for_shape(model.input_shape, contrastive=self.contrastive)
        if starts is not None:
            self.config = replace(
                self.config, vectors=config.vectors or VectorTraining(), precision="float32"
            )
        elif config.vectors is not None:
            raise ValueError("expected starts with settings of vectors, got None")
        self.config = replace(self.config, small_views=self._small_views(config.small_views))
        self._check_views()
        self.device = choose_device(config.device)
        self._split()
        per_epoch = len(self.train_rows)
        if starts is not None:
            per_epoch = min(per_epoch, self._vectors.anchors)
        self.batch_size = min(config.batch_size, per_epoch)
        # The rest of an epoch that does not fill a batch waits for another epoch's order.
        self.steps_per_epoch = per_epoch // self.batch_size
        epochs = config.epochs if starts is None else min(config.epochs, self._vectors.epochs)
        self.total_steps = self.steps_per_epoch * epochs
        self.budget_s = None if config.budget_minutes is None else 60 * config.budget_minutes
        self.folder = None if folder is None else Path(folder)
        self.history: History = []
        self._setup()

    def _small_views(self, wanted: float | None) -> float:
        """The share that is meant by the setting."""
        scales = isinstance(self.model.encoder, ResNet) and self.contrastive
        if wanted and not scales:
            raise ValueError(
                f"expected small_views with the contrastive objective and a residual encoder, got "
                f"{wanted} with {self.model.config.objective!r} and {self.model.config.encoder!r}"
            )
        return (_SMALL_VIEWS if scales else 0.0) if wanted is None else wanted

    def _check_views(self) -> None:
        views = self.config.views
        if self.contrastive and views == Views():
            raise ValueError(
                "expected views that change something for the contrastive objective, got none: two "
                "views of an item would be the same"
            )
        if self.starts is not None and (self.contrastive or views != Views()):
            raise ValueError(
                "expected a reconstruction objective without views for vectors that start at a "
                f"linear code, got {self.model.config.objective!r} with {views}"
            )

    def _split(self) -> None:
        rows = torch.randperm(len(self.x), generator=self._generator("split", 0)).numpy()
        held_out = max(1, round(len(rows) * self.config.validation_fraction))
        held_out = min(held_out, _VALIDATION_ITEMS, len(rows) - 2)
        self.validation_rows = np.sort(rows[:held_out])
        most = None if self.starts is None else held_out + self._vectors.items
        self.train_rows = np.sort(rows[held_out:most])

    @property
    def _vectors(self) -> VectorTraining:
        assert self.config.vectors is not None  # wherever there are starts
        return self.config.vectors

    def _setup(self) -> None:
        reset_parameters(self.model, self.config.seed)
        self.model.to(self.device)
        self.ranking = None if self.starts is None else self._make_ranking()
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(),
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
        )
        self.step = 0
        self.bypass = self.starts is None and not self.contrastive  # until there are codewords
        self.order: npt.NDArray[np.int64] | None = None  # of the epoch under way
        self.elapsed_s = 0.0
        self.best_loss, self.best_epoch = math.inf, -1
        self.best_state: dict[str, Tensor] = {}
        self.counts = torch.zeros(
            self.model.M, self.model.quantizer.ksub, dtype=torch.long, device=self.device
        )
        self.sums: dict[str, float] = {}  # of the loss and its parts, since the last epoch
        self.summed = 0  # steps
        self.precision: Precision = self.config.precision
        self.whitener: Tensor | None = None
        self.start_hits: Tensor | None = None  # of vectors: what each query finds at the start
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (_CHECKPOINT, _LOG):  # what a killed process was writing
                for leftover in self.folder.glob(f".{name}.*.new"):
                    leftover.unlink(missing_ok=True)
            if self.checkpoint_path.exists():
                self._resume()
                return
        if self.ranking is not None:
            self._start_vectors(self.ranking)
            return
        rows = self.train_rows[:: max(1, len(self.train_rows) // _NORMALIZATION_ITEMS)]
        sample = self._read(rows)
        self.model.fit_normalization(sample)
        if self.config.whitening and self._reconstructs:
            self.whitener = fit_whitener(
                self.model.normalize(sample), self.config.whitening, seed=self.config.seed
            )
        if self.precision == "auto":
            self.precision = faster_precision(self.model, self._read(rows[: self.batch_size]))
        self._log(self._start_event())

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer moves; "highest" is a group's own learning rate."""
        if self.ranking is not None:
            return self.ranking.parameter_groups()
        if not self.contrastive:
            return [{"params": list(self.model.parameters())}]
        codewords = self.model.quantizer.codewords
        rest = [p for p in self.model.parameters() if p is not codewords]
        # Their components are of that size: a step turns them as far as it turns larger weights.
        lr = self.config.lr * self.model.latent_dim**-0.5
        return [{"params": rest}, {"params": [codewords], "highest": lr, "weight_decay": 0.0}]

    @property
    def _reconstructs(self) -> bool:
        return not self.contrastive or self.model.config.reconstruction_weight > 0

    def _make_ranking(self) -> Ranking:
        items, queries = (
            torch.cat([to_float(self._read(part)) for part in self._parts(rows)])
            for rows in (self.train_rows, self.validation_rows)
        )
        if self.model.config.unit_latents:
            items, queries = functional.normalize(items), functional.normalize(queries)
        return Ranking(
            self.model,
            items,
            queries,
            self._vectors,
            metric=self.metric,
            generator=self._generator("anchors", 0),
            progress=self.progress,
        )

    def _start_vectors(self, ranking: Ranking) -> None:
        """Goes to the best start; what is trained must be better to be kept."""
        assert self.starts is not None
        started = time.perf_counter()
        generator = self._generator("start", 0)
        rows = torch.randperm(len(ranking.items), generator=generator)[: self._vectors.start_items]
        sample = ranking.items[rows.to(self.device)].cpu().numpy()
        starts = list(self.starts(sample))
        hits = [self._hits_from(start, ranking) for start in starts]
        best = starts[_most(hits)]
        starts.append(settle(best, ranking.items, self._vectors.rounds, progress=self.progress))
        hits.append(self._hits_from(starts[-1], ranking))
        chosen = _most(hits)
        self.start_hits = self._hits_from(starts[chosen], ranking)
        self._keep(1 - float(self.start_hits.mean()), -1)
        self.elapsed_s += time.perf_counter() - started
        event = self._start_event()
        event[f"validation_recall@{_RECALL_AT}"] = {
            start.name: float(found.mean()) for start, found in zip(starts, hits, strict=True)
        }
        event["start"] = starts[chosen].name
        self._log(event)
        self.save()

    def _hits_from(self, start: Start, ranking: Ranking) -> Tensor:
        begin_at(self.model, start)
        ranking.encode()
        return ranking.hits(_RECALL_AT)

    def _keep(self, loss: float, epoch: int) -> None:
        self.best_loss, self.best_epoch = loss, epoch
        self.best_state = {
            name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()
        }

    def _start_event(self) -> dict[str, Any]:
        return {
            "event": "start",
            "items": len(self.x),
            "train_items": len(self.train_rows),
            "validation_items": len(self.validation_rows),
            "steps_per_epoch": self.steps_per_epoch,
            "device": str(self.device),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "model": {
                "input_shape": list(self.model.input_shape),
                "M": self.model.M,
                "nbits": self.model.nbits,
                **asdict(self.model.config),
            },
            "training": asdict(self.config),
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
                bar.update(self._way[0] - bar.n)
                if self.step % self.steps_per_epoch == 0 or self._done:
                    event = self._end_epoch((self.step - 1) // self.steps_per_epoch)
                    bar.set_postfix(_summary(event))
                    stopped = go_on is not None and not go_on(event)
                    self.save()
                elif self.ranking is None and self.step % self.config.checkpoint_every == 0:
                    self.save()  # (the codes of vectors are those at the start of an epoch)
        self._finish()

    @property
    def _way(self) -> tuple[float, float]:
        """How far the training is, and how far it goes: in steps, or in seconds of a budget."""
        if self.budget_s is None:
            return self.step, self.total_steps
        return min(self.elapsed_s, self.budget_s), self.budget_s

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
        started = time.perf_counter()
        epoch, position = divmod(self.step, self.steps_per_epoch)
        if position == 0 or self.order is None:
            self.order = self._epoch_order(epoch)
        at, end = self._way
        if self.step == 0 and self.contrastive:
            self._initialize_codewords()
        elif self.bypass and (self.step >= self.config.warmup_steps or at >= end // 10):
            self._initialize_codewords()
            self.bypass = False
        rows = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        self._update(rows)
        self.step += 1
        self.elapsed_s += time.perf_counter() - started

    def _update(self, rows: npt.NDArray[np.int64]) -> None:
        config, model = self.config, self.model
        generator = self._generator("step", self.step)
        for group in self.optimizer.param_groups:
            highest = group.get("highest", config.lr)
            group["lr"] = highest * schedule(*self._way)
        if self.ranking is None:
            model.train()
            terms = self._objective(self._read(np.sort(rows)), generator, self._view_size)
        else:
            terms = self.ranking.terms(torch.from_numpy(rows).to(self.device), generator)
        if not torch.isfinite(terms.loss):
            raise DivergedError(
                f"the loss is not finite at step {self.step}: try a smaller lr than {config.lr}"
                + (f" or lambda_ than {model.config.lambda_}" if self._reconstructs else "")
            )
        self.optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        model.quantizer.project()
        for name, value in _values(terms).items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.summed += 1
        if terms.ids is not None:
            self.counts += histogram(terms.ids, model.quantizer.ksub)
            if self.ranking is None and (self.step + 1) % config.revive_every == 0:
                model.quantizer.revive(
                    terms.latents, threshold=config.revive_below, generator=generator
                )

    def _objective(
        self, clean: Tensor, generator: torch.Generator, size: tuple[int, int] | None = None
    ) -> Terms:
        views = self.config.views
        assert views is not None  # filled in by `for_shape`
        x = to_float(clean)
        enabled = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            if self.contrastive:
                several = [
                    random_views(x, views, generator, size=size) for _ in range(self.config.n_views)
                ]
                return contrastive_objective(
                    self.model, torch.cat(several), clean, whitener=self.whitener
                )
            view = random_views(x, views, generator)
            return reconstruction_objective(
                self.model, view, clean, whitener=self.whitener, bypass=self.bypass
            )

    @property
    def _view_size(self) -> tuple[int, int] | None:
        """Height and width of the views of this step, where they are not the images' own."""
        at, end = self._way
        if at >= (self.config.small_views or 0.0) * end:
            return None
        _, height, width = self.model.input_shape
        return max(1, round(_SMALL * height)), max(1, round(_SMALL * width))

    def _initialize_codewords(self) -> None:
        generator = self._generator("kmeans", 0)
        wanted = max(_KMEANS_ITEMS, 8 * self.model.quantizer.ksub)
        order = torch.randperm(len(self.train_rows), generator=generator)[:wanted]
        rows = self.train_rows[order.numpy()]
        # In training mode: early on, the running statistics of batch normalisation lag behind.
        # So every part has to be a random one: data often come sorted by class.
        self.model.train()
        with torch.no_grad():
            latents = [self.model.encode(self._read(np.sort(p))) for p in self._parts(rows)]
        self.model.quantizer.initialize(
            torch.cat(latents), batch_size=self.batch_size, generator=generator
        )

    @torch.no_grad()
    def _end_epoch(self, epoch: int) -> dict[str, Any]:
        started = time.perf_counter()
        self.model.eval()
        gain = math.inf  # of vectors above their start, in standard errors
        if self.ranking is None:
            sums, ratio = self._validate()
        else:
            sums, ratio, gain = self._validate_vectors(self.ranking)
        self.elapsed_s += time.perf_counter() - started
        event: dict[str, Any] = {
            "event": "epoch",
            "epoch": epoch,
            "step": self.step,
            **{name: value / self.summed for name, value in self.sums.items()},
            **{f"validation_{name}": value for name, value in sums.items()},
            "distance_ratio": ratio,
            "perplexity": [round(float(p), 3) for p in perplexity(self.counts)],
            "usage": [round(float(u), 4) for u in usage(self.counts)],
            "lr": self.optimizer.param_groups[0]["lr"],
            "elapsed_s": round(self.elapsed_s, 3),
        }
        if self.ranking is not None:
            event[f"validation_recall@{_RECALL_AT}"] = 1 - event["validation_loss"]
            event["gain_in_standard_errors"] = gain
        # The loss without the bottleneck does not compare with the loss through it.
        lower = not self.bypass and event["validation_loss"] < self.best_loss
        if lower and gain >= _CONVINCING:
            self._keep(event["validation_loss"], epoch)
        self.sums, self.summed = {}, 0
        self.counts.zero_()
        self._log(event)
        return event

    def _validate(self) -> tuple[dict[str, float], float]:
        """Means over the validation part: the loss and its parts, and the distance ratio."""
        sums, ratio = dict[str, float](), 0.0
        generator = self._generator("validation", 0)  # the same views in every epoch
        # An item is contrasted with a batch, as in the training.
        size = self.batch_size if self.contrastive else _PART
        for part in self._parts(self.validation_rows, size):
            clean = self._read(part)
            for name, value in _values(self._objective(clean, generator)).items():
                sums[name] = sums.get(name, 0.0) + len(part) * value
            ratio += len(part) * distance_ratio(
                self.model.encode(clean), self.model.quantizer.codewords
            )
        n = len(self.validation_rows)
        return {name: value / n for name, value in sums.items()}, ratio / n

    def _validate_vectors(self, ranking: Ranking) -> tuple[dict[str, float], float, float]:
        """Like `_validate`; the loss is the share of neighbours that are not found.

        The third value says how far fewer than at the start these are, in standard errors.
        """
        ranking.encode()
        ranking.fit_decoder()
        z = self.model.encode(ranking.queries)
        error = ranking.reconstruction_error(ranking.queries)
        quantization = float(self.model.quantizer(z).commitment_loss)
        hits = ranking.hits(_RECALL_AT)
        sums = {
            "loss": 1 - float(hits.mean()),
            "reconstruction": error,
            "quantization": quantization,
        }
        ratio = distance_ratio(z, self.model.quantizer.codewords)
        assert self.start_hits is not None
        gain = standard_errors(hits - self.start_hits)
        return sums, ratio, gain

    def _stopped_early(self) -> bool:
        done, position = divmod(self.step, self.steps_per_epoch)
        patience = self.config.patience
        if self.ranking is not None:
            patience = min(patience, _VECTOR_PATIENCE)
        waits = patience and self.best_state and position == 0 and self.budget_s is None
        return bool(waits and done - 1 - self.best_epoch >= patience)

    def _finish(self) -> None:
        if self.best_state:
            self.model.load_state_dict(self.best_state)
        if self.ranking is not None:
            self.ranking.release()
        self.model.eval()
        if not self._reconstructs and self.history[-1]["event"] != "end":
            self._fit_decoder()
            self._keep(self.best_loss, self.best_epoch)
        self.model.fitted.fill_(True)
        if self.history[-1]["event"] != "end":
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

    @torch.no_grad()
    def _fit_decoder(self) -> None:
        """The linear decoder that reconstructs the items best from their codes."""
        rows = self.train_rows[:: max(1, len(self.train_rows) // _DECODER_ITEMS)]
        x, y = [], []
        for part in self._parts(rows):
            clean = self._read(part)
            x.append(self.model.quantize(clean).z_q)
            y.append(self.model.normalize(clean).flatten(1))
        decoder = self.model.decoder
        assert isinstance(decoder, Linear)  # the model sees to it
        fit_linear(decoder.map, torch.cat(x), torch.cat(y))

    # -- reading and randomness

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        name = f"{self.config.seed}/{purpose}/{number}".encode()
        return torch.Generator().manual_seed(zlib.crc32(name))

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        generator = self._generator("order", epoch)
        if self.ranking is not None:  # places among its anchors
            anchors = torch.randperm(len(self.ranking.anchors), generator=generator)
            places: npt.NDArray[np.int64] = anchors.numpy()
            return places
        order = torch.randperm(len(self.train_rows), generator=generator).numpy()
        rows: npt.NDArray[np.int64] = self.train_rows[order]
        return rows

    def _read(self, rows: npt.NDArray[np.int64]) -> Tensor:
        return read_rows(self.x, rows, "training data").to(self.device)

    def _parts(self, rows: npt.NDArray[np.int64], size: int = _PART) -> list[npt.NDArray[np.int64]]:
        return [rows[i : i + size] for i in range(0, len(rows), size)]

    # -- files

    @property
    def checkpoint_path(self) -> Path:
        """Where the state is kept."""
        assert self.folder is not None
        return self.folder / _CHECKPOINT

    def _log(self, event: dict[str, Any]) -> None:
        self.history.append(event)
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
            "precision": self.precision,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": {"loss": self.best_loss, "epoch": self.best_epoch, "state": self.best_state},
            "whitener": self.whitener,
            "start_hits": self.start_hits,
            "sums": self.sums,
            "summed": self.summed,
            "bypass": self.bypass,
            "counts": self.counts,
            "history": json.dumps(self.history),
        }
        save_checkpoint(self.checkpoint_path, state)

    def _resume(self) -> None:
        state = load_checkpoint(self.checkpoint_path)
        if state["fingerprint"] != self._fingerprint():
            raise ValueError(
                f"{self.checkpoint_path} belongs to a training with other settings or data: "
                "choose another folder, or remove it"
            )
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.precision = state["precision"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        best = state["best"]
        self.best_loss, self.best_epoch, self.best_state = (
            best["loss"],
            best["epoch"],
            best["state"],
        )
        whitener: Tensor | None = state["whitener"]
        self.whitener = None if whitener is None else whitener.to(self.device)
        self.start_hits = state.get("start_hits")  # older checkpoints are of images
        self.sums, self.summed, self.bypass = state["sums"], state["summed"], state["bypass"]
        self.counts = state["counts"].to(self.device)
        self.history = json.loads(state["history"])
        if self.ranking is not None:
            self.ranking.encode()

    def _fingerprint(self) -> str:
        """Model, settings and a sample of the data, as text that must agree when resuming."""
        event = self._start_event()
        kept = {key: event[key] for key in ("items", "model", "training")}
        rows = self.train_rows[:: max(1, len(self.train_rows) // 64)]
        sample = zlib.crc32(self._read(rows).cpu().numpy().tobytes())
        if self.starts is not None:
            kept["metric"] = self.metric
        return json.dumps({**kept, "sample": sample}, sort_keys=True)

    def close(self) -> None:
        """Lets go of the data."""
        self.x = None


def _most(hits: list[Tensor]) -> int:
    """The place of the highest mean; of equals the first."""
    means = [float(found.mean()) for found in hits]
    return means.index(max(means))


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


def _values(terms: Terms) -> dict[str, float]:
    """The loss and its parts, brought from the device at once."""
    named = {"loss": terms.loss, **terms.parts}
    values = torch.stack([value.detach().float() for value in named.values()])
    return dict(zip(named, values.double().tolist(), strict=True))


def _summary(event: dict[str, Any]) -> dict[str, str]:
    """What a progress bar says of an epoch."""
    part = "contrast" if "contrast" in event else "reconstruction"
    return {
        part: f"{event[f'validation_{part}']:.4f}",
        "perplexity": f"{np.mean(event['perplexity']):.0f}",
    }
