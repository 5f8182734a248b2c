"""DQN and DPQ: items with labels, and such as have none."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.data.labels import Labels
from faiss_pqvae.model.pqvae import PQVAE, to_float
from faiss_pqvae.model.residual import ResidualQuantizer, prefixes

from ..config import LabelTraining, TrainingConfig
from ..data.items import Items, Rows, parts
from ..data.sampler import Sampler, share_class
from ..data.views import Views, random_views
from ..device import faster_precision
from ..latents import fit_decoder, initialize_codewords, refine_codewords
from .contrastive import nt_xent
from .item_task import NORMALIZATION_ITEMS, groups_of, move_dead, view_size
from .protocol import Validation, Way
from .reconstruction import Terms
from .supervised import Classes, mean_average_precision, pair_loss, prefix_losses

_QUERIES, _STORED = 500, 1000  # held-out items that are searched for, and among how many
_RAMP = 0.5  # share of a DQN training over which the quantization loss rises from zero


class LabelTask:
    """A `Task`: the class of labelled items, and the quantization of all.

    Args:
        model: of the objective "dqn" or "dpq".
        items: to train with.
        labels: of all items.
        config: with all that depends on the model filled in.
        batch_size: of a step.
        word_vectors: (C, e) float32 of length 1, for "dpq", or None.
    """

    resumes_within_epochs = True

    def __init__(
        self,
        model: PQVAE,
        items: Items,
        labels: Labels,
        config: TrainingConfig,
        *,
        batch_size: int,
        word_vectors: npt.NDArray[np.float32] | None = None,
    ) -> None:
        assert config.labels is not None  # filled in by `settled`
        assert config.views is not None
        self.model, self.items, self.labels = model, items, labels
        self.config, self.batch_size = config, batch_size
        self.settings: LabelTraining = config.labels
        self.views: Views = config.views
        self.examples = items.train_rows
        self.epochs, self.patience = config.epochs, config.patience
        self.precision = config.precision
        self.ready = False  # whether there are codewords
        labelled = labels.labelled
        self.known = items.train_rows[labelled[items.train_rows]]
        self.held = items.validation_rows[labelled[items.validation_rows]]
        self.sampler = Sampler(labels, self.known)
        if self.sampler.n_classes < 2:
            raise ValueError(
                "expected labelled items of two classes or more besides those that are held out, "
                f"got {len(self.known)} items of {self.sampler.n_classes}"
            )
        # An epoch of labelled items has every pair of classes often enough, unless they are many.
        self.draws = len(self.known) < len(self.examples) or 4 * labels.n_classes > batch_size
        self.classes: Classes | None = None
        if model.config.objective == "dpq":
            self.classes = Classes(
                model.latent_dim,
                labels.n_classes,
                word_vectors=word_vectors,
                generator=items.generator("classes"),
            ).to(items.device)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All weights; codewords of "dpq" move at a rate of their own."""
        groups = [{"params": list(self.model.parameters())}]
        if isinstance(self.model.quantizer, ResidualQuantizer):
            groups = groups_of(self.model, self.config.lr)
        if self.classes is not None:
            groups[0]["params"] += list(self.classes.parameters())
        return groups

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Fits the normalisation, and chooses the precision."""
        rows = self.items.spread(NORMALIZATION_ITEMS)
        self.model.fit_normalization(self.items.read(rows))
        if self.precision == "auto":
            batch = self.items.read(rows[: self.batch_size])
            self.precision = faster_precision(self.model, batch)
        facts = {"classes": self.labels.n_classes, "labelled_items": len(self.known)}
        return facts, None

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        classes = {} if self.classes is None else self.classes.state_dict()
        return {"precision": self.precision, "ready": self.ready, "classes": dict(classes)}

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`."""
        self.precision, self.ready = state["precision"], state["ready"]
        if self.classes is not None:
            self.classes.load_state_dict(state["classes"])

    def fingerprint(self) -> str:
        """A hash of what is learned from besides the items."""
        digest = zlib.crc32(self.labels.classes.tobytes() + self.labels.starts.tobytes())
        if self.classes is not None:
            vectors = dict(self.classes.named_buffers()).get("vectors")
            if vectors is not None:
                digest = zlib.crc32(vectors.cpu().numpy().tobytes(), digest)
        return f"{digest:08x}"

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The objective of a batch: `examples`, and labelled items in place of some of them."""
        if not self.ready:
            initialize_codewords(self.model, self.items, batch_size=self.batch_size)
            self.ready = True
        self.model.train()
        rows = np.sort(self._batch(examples, generator))
        size = view_size(self.config, self.model.input_shape, way)
        contrast = self.settings.contrast
        x = to_float(self.items.read(rows))
        n_views = self.config.n_views if contrast else 1
        enabled = self.precision == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=enabled):
            views = [random_views(x, self.views, generator, size=size) for _ in range(n_views)]
            z = self.model.encode(torch.cat(views))
        y = self.labels.matrix(rows).to(z.device)
        of_views = y.repeat(n_views, 1)
        known = y.any(1).repeat(n_views)
        dpq = isinstance(self.model.quantizer, ResidualQuantizer)
        loss, parts_, q, ids = (self._dpq if dpq else self._dqn)(z, of_views, known, way)
        if contrast:
            parts_["contrast"] = nt_xent(
                functional.normalize(z),
                functional.normalize(q),
                n_items=len(rows),
                temperature=self.model.config.temperature,
                alike=share_class(y, y),
            )
            loss = loss + contrast * parts_["contrast"]
        return Terms(loss, parts_, z.detach(), ids)

    def _batch(self, examples: Rows, generator: torch.Generator) -> Rows:
        if not self.draws:
            return examples
        everything = len(self.known) == len(self.examples)
        share = 1.0 if everything else self.settings.labelled
        n = min(len(examples), max(2, round(share * len(examples))))
        return np.concatenate([self.sampler.draw(n, generator), examples[n:]])

    def _dpq(
        self, z: Tensor, y: Tensor, known: Tensor, way: Way
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        quantizer, settings, config = self.model.quantizer, self.settings, self.model.config
        assert isinstance(quantizer, ResidualQuantizer)
        assert self.classes is not None
        assert config.softness is not None
        assert settings.quantization is not None
        found = prefixes(z, quantizer.codewords, config.softness)
        quantizer.observe(found.ids)
        of_classes = self.classes(z[known], y[known])
        soft, hard, joint = prefix_losses(z, found.soft, found.hard)
        loss = of_classes + settings.quantization * (
            settings.soft * soft + settings.hard * hard + settings.joint * joint
        )
        parts_ = {"classes": of_classes, "quantization": hard, "soft_quantization": soft}
        return loss, parts_, found.soft[-1], found.ids

    def _dqn(
        self, z: Tensor, y: Tensor, known: Tensor, way: Way
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        assert self.settings.quantization is not None
        quantized = self.model.quantizer(z)
        pairs = pair_loss(z[known], y[known])
        rise = min(1.0, way.at / (_RAMP * way.end))
        error = quantized.commitment_loss
        loss = pairs + rise * self.settings.quantization * error
        return loss, {"pairs": pairs, "quantization": error}, quantized.z_q, quantized.ids

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Moves codewords that are not used any more."""
        move_dead(self.model, self.config, terms, step, generator)

    def after_epoch(self) -> None:
        """Codebooks and codes are estimated again, where no gradient moves the codewords."""
        if self.model.config.objective == "dqn" or not self.settings.quantization:
            refine_codewords(self.model, self.items)

    @torch.no_grad()
    def validate(self) -> Validation:
        """1 - mAP of held-out labelled items, as the index would find them, and the losses."""
        parts_ = parts(self.items.validation_rows)
        z = torch.cat([self.model.encode(self.items.read(part)) for part in parts_])
        rows = _spread(self.held, _QUERIES)
        queries = z[torch.from_numpy(np.searchsorted(self.items.validation_rows, rows))]
        y = self.labels.matrix(rows).to(z.device)
        precision = self._map(queries, rows)
        values = {"loss": 1.0 if precision is None else 1 - precision}
        if self.classes is not None:
            values["classes"] = float(self.classes(queries, y))
        elif len(rows) > 1:
            values["pairs"] = float(pair_loss(queries, y))
        values["quantization"] = float(self.model.quantizer(z).commitment_loss)
        ratio = self.model.quantizer.distance_ratio(z)
        # Where there is no precision, the last weights are as good as any.
        return Validation(values, ratio, counts=precision is not None, facts={})

    def _map(self, queries: Tensor, rows: Rows) -> float | None:
        """The mAP of latents of items among codes, their own and those of other labelled items."""
        others = self._others(rows)
        latents = [self.model.encode(self.items.read(part)) for part in parts(others)]
        q = self.model.quantizer(torch.cat([queries, *latents])).z_q
        scores = queries @ q.T
        if not isinstance(self.model.quantizer, ResidualQuantizer):
            scores = 2 * scores - q.square().sum(1)  # L2
        y = self.labels.matrix(np.concatenate([rows, others])).to(q)
        relevant = share_class(y[: len(rows)], y)
        n = torch.arange(len(rows), device=scores.device)
        scores[n, n], relevant[n, n] = -torch.inf, False  # nothing finds itself
        return mean_average_precision(scores, relevant)

    def _others(self, rows: Rows) -> Rows:
        """Labelled items of the training part, those that share a class with `rows` first."""
        wanted = self.labels.matrix(rows).any(0).numpy()
        item = np.repeat(np.arange(len(self.labels.starts) - 1), np.diff(self.labels.starts))
        near = np.isin(self.known, item[wanted[self.labels.classes]])
        n = _STORED - len(rows)
        first = _spread(self.known[near], n)
        return np.sort(np.concatenate([first, _spread(self.known[~near], n - len(first))]))

    def finish(self) -> None:
        """Fits the decoder, which was not trained."""
        fit_decoder(self.model, self.items)

    def release(self) -> None:
        """Nothing of the model was changed for the training alone."""


def _spread(rows: Rows, most: int) -> Rows:
    """At most so many of the rows, at even distances."""
    return rows[:: max(1, -(-len(rows) // most))] if most else rows[:0]
