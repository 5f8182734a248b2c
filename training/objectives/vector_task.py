"""Vectors, from the best linear code on, towards the order of distances that is searched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.model.pqvae import PQVAE, to_float

from ..config import Precision, TrainingConfig
from ..data.items import Items, Rows, parts
from .protocol import Validation, Way
from .ranking import Metric, Ranking, standard_errors
from .reconstruction import Terms
from .start import Start, Starts, begin_at, linear_layers, settle

_RECALL_AT = 10  # what vectors are validated by
_PATIENCE = 3  # epochs, at most; what vectors gain they gain at once
_CONVINCING = 2.0  # standard errors by which they must find more than at the start


class VectorTask:
    """A `Task`: the ranking of near neighbours by the table look-ups of a search.

    Args:
        model: with a linear encoder and decoder.
        items: vectors to train with.
        config: with settings of vectors.
        starts: makes linear codes of a sample of the training part (n, d) float32.
        metric: what vectors are searched by.
        progress: draw bars, where standard error is a terminal.
    """

    resumes_within_epochs = False  # the codes of the items are those at the start of an epoch
    precision: Precision = "float32"

    def __init__(
        self,
        model: PQVAE,
        items: Items,
        config: TrainingConfig,
        *,
        starts: Starts,
        metric: Metric,
        progress: bool,
    ) -> None:
        assert config.vectors is not None  # the loop fills it in
        linear_layers(model)
        self.model, self.items, self.settings = model, items, config.vectors
        self.starts, self.progress = starts, progress
        self.epochs = min(config.epochs, self.settings.epochs)
        self.patience = min(config.patience, _PATIENCE)
        train, queries = (
            torch.cat([to_float(items.read(part)) for part in parts(rows)])
            for rows in (items.train_rows, items.validation_rows)
        )
        if model.config.unit_latents:
            train, queries = functional.normalize(train), functional.normalize(queries)
        self.ranking = Ranking(
            model,
            train,
            queries,
            self.settings,
            metric=metric,
            generator=items.generator("anchors"),
            progress=progress,
        )
        self.examples: Rows = torch.arange(len(self.ranking.anchors)).numpy()
        self.start_hits: Tensor | None = None  # what each query finds at the start

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Ranking.parameter_groups`."""
        return self.ranking.parameter_groups()

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Goes to the best start; what is trained must be better to be kept."""
        ranking = self.ranking
        generator = self.items.generator("start")
        rows = torch.randperm(len(ranking.items), generator=generator)[: self.settings.start_items]
        sample = ranking.items[rows.to(ranking.items.device)].cpu().numpy()
        starts = list(self.starts(sample))
        hits = [self._hits_from(start) for start in starts]
        best = starts[_most(hits)]
        starts.append(settle(best, ranking.items, self.settings.rounds, progress=self.progress))
        hits.append(self._hits_from(starts[-1]))
        chosen = _most(hits)
        self.start_hits = self._hits_from(starts[chosen])
        recalls = {
            start.name: float(found.mean()) for start, found in zip(starts, hits, strict=True)
        }
        facts = {f"validation_recall@{_RECALL_AT}": recalls, "start": starts[chosen].name}
        return facts, 1 - float(self.start_hits.mean())

    def _hits_from(self, start: Start) -> Tensor:
        begin_at(self.model, start)
        self.ranking.encode()
        return self.ranking.hits(_RECALL_AT)

    def state(self) -> dict[str, Any]:
        """See `Task.state`."""
        return {"start_hits": self.start_hits}

    def load(self, state: dict[str, Any]) -> None:
        """See `Task.load`; the model is loaded before."""
        self.start_hits = state["start_hits"]
        self.ranking.encode()

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The ranking of the anchors `examples`."""
        rows = torch.from_numpy(examples).to(self.ranking.items.device)
        return self.ranking.terms(rows, generator)

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """Nothing: every codeword of a start is in use."""

    def after_epoch(self) -> None:
        """Nothing: what an epoch changes is in the weights."""

    def validate(self) -> Validation:
        """The share of neighbours that are not found, and how far that is below the start's."""
        ranking = self.ranking
        ranking.encode()
        ranking.fit_decoder()
        z = self.model.encode(ranking.queries)
        error = ranking.reconstruction_error(ranking.queries)
        quantization = float(self.model.quantizer(z).commitment_loss)
        hits = ranking.hits(_RECALL_AT)
        loss = 1 - float(hits.mean())
        assert self.start_hits is not None
        gain = standard_errors(hits - self.start_hits)
        return Validation(
            {"loss": loss, "reconstruction": error, "quantization": quantization},
            self.model.quantizer.distance_ratio(z),
            counts=gain >= _CONVINCING,
            facts={f"validation_recall@{_RECALL_AT}": 1 - loss, "gain_in_standard_errors": gain},
        )

    def finish(self) -> None:
        """Nothing: the decoder was fitted when the weights were measured."""

    def release(self) -> None:
        """Gives the codewords back, see `Ranking.release`."""
        self.ranking.release()


def _most(hits: list[Tensor]) -> int:
    """The place of the highest mean; of equals the first."""
    means = [float(found.mean()) for found in hits]
    return means.index(max(means))
