"""Vectors with their true nearest neighbours: what an index finds of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from faiss_pqvae.data.source import Source
from faiss_pqvae.types import IdArray

from ..metrics.recalls import k_recall_at_k, one_recall_at_k
from .brute_force import Metric, Neighbours, distances
from .judged import judged_scores
from .protocol import Scores, TrainOn, curve_ks
from .qrels import Qrels
from .selections import Selection
from .texts import Lines
from .truth import DEPTH

ONE_RECALLS = (1, 10, 100)
K_RECALLS = (10, 100)


@dataclass(frozen=True, eq=False)
class VectorData:
    """Vectors to train on, to search in and to search for; relevant are the nearest ones.

    Attributes:
        name: what `load` was asked for.
        protocol: what is trained on and which neighbours are true, with "subset" in it when only
            a part was asked for.
        description: what to print beside a number that comes from these data.
        train: (nt, d) float32.
        database: (n, d) float32.
        queries: (nq, d) float32.
        metric: "l2", or "inner_product" (larger is nearer). Angular distance is "l2" between
            vectors that were scaled to unit length.
        truth: the nearest neighbours of every query, (nq, depth).
        qrels: which items are really relevant to which queries, where that is known.
        selections: filters that searches are measured with, besides without one.
        texts: of the items, where they stand for some; a report shows them.
        query_texts: likewise of the queries.
        trained_on: what `train` is; by default "base" where it is the database, else "learn".

    Raises:
        TypeError: a source is not float32.
        ValueError: a shape does not fit, a set is empty, the truth has no neighbours, or
            a judgement is of what is not there.
    """

    name: str
    protocol: str
    description: str
    train: Source
    database: Source
    queries: Source
    metric: Metric
    truth: Neighbours
    qrels: Qrels | None = None
    trained_on: TrainOn | None = None
    selections: tuple[Selection, ...] = ()
    texts: Lines | None = None
    query_texts: Lines | None = None

    default_k = DEPTH

    @property
    def relevant(self) -> str:
        """What is relevant to a query, in words."""
        nearest = "its nearest items, by exact distances"
        if self.qrels is None:
            return nearest
        asked = int((self.qrels.n_relevant(len(self.queries)) > 0).sum())
        return (
            f"{nearest}; and what is judged to be, of {asked:,} queries, of which exact search "
            "shows what a code can keep"
        )

    def __post_init__(self) -> None:
        d = self.database.shape[-1]
        for part in ("train", "database", "queries"):
            source: Source = getattr(self, part)
            if len(source.shape) != 2 or len(source) == 0 or source.shape[1] != d:
                raise ValueError(f"expected {part} of shape (at least 1, {d}), got {source.shape}")
            if source.dtype != np.float32:
                raise TypeError(f"expected {part} of float32, got {source.dtype}")
        if self.metric not in ("l2", "inner_product"):
            raise ValueError(f"expected the metric l2 or inner_product, got {self.metric!r}")
        I, D = self.truth  # noqa: E741
        if I.shape != D.shape or I.ndim != 2 or len(I) != len(self.queries) or not I.shape[1]:
            raise ValueError(
                f"expected neighbours of {len(self.queries)} queries, got {I.shape} and {D.shape}"
            )
        if I.min() < 0 or I.max() >= len(self.database):
            raise ValueError(
                f"expected true ids from 0 to {len(self.database) - 1}, got {I.min()} to {I.max()}"
            )
        if self.qrels is not None:
            self.qrels.check(len(self.queries), len(self.database))
        if (self.texts is None) != (self.query_texts is None):
            raise ValueError("expected texts of items and of queries, got those of one")
        if self.texts is not None and self.query_texts is not None:
            self.texts.check(len(self.database), "an item")
            self.query_texts.check(len(self.queries), "a query")

    @property
    def depth(self) -> int:
        """How many true neighbours of every query are known."""
        return int(self.truth.I.shape[1])

    @property
    def labels_to_train(self) -> None:
        """Vectors have no labels."""
        return None

    def among(self, selection: Selection) -> VectorData:
        """The data where some items are allowed only: what is nearest, or relevant, among them."""
        qrels = self.qrels
        if qrels is not None:
            kept = np.zeros(len(qrels.items), bool)
            for group in selection.groups:
                mine = np.isin(qrels.queries, group.queries)
                kept |= mine & np.isin(qrels.items, group.items)
            qrels = Qrels(qrels.queries[kept], qrels.items[kept], qrels.grades[kept])
        return replace(self, truth=selection.truth, qrels=qrels, selections=())

    def scores(self, I: IdArray, k: int) -> Scores:  # noqa: E741
        """Recall of every query and its curves, from the true distances of what was returned.

        The distances that the index gave play no part. Ties count by distance: see
        `metrics.one_recall_at_k` and `metrics.k_recall_at_k`.

        Args:
            I: (nq, at least k) int64, positions in the database, distinct, best first; -1 where
                the index returned nothing, which is a miss.
            k: how many of them count.

        Returns:
            Scores by name: "1-recall@1", "1-recall@10", "1-recall@100", "10-recall@10" and
            "100-recall@100", as far as k and the depth of the truth allow, and those of
            `judged_scores` where relevance was judged; curves "k", "1-recall@k" and "k-recall@k",
            up to there.

        Raises:
            ValueError: a shape, k or an id does not fit.
        """
        if I.ndim != 2 or not 1 <= k <= I.shape[1]:
            raise ValueError(f"expected I of shape (nq, at least k = {k}), got {I.shape}")
        near = min(k, DEPTH)
        sign = np.float32(-1 if self.metric == "inner_product" else 1)
        queries = np.asarray(self.queries[:])
        found = sign * distances(queries, self.database, I[:, :near], self.metric)
        true = sign * self.truth.D
        per_query = {
            **{f"1-recall@{r}": one_recall_at_k(found, true, r) for r in ONE_RECALLS if r <= near},
            **{
                f"{r}-recall@{r}": k_recall_at_k(found, true, r)
                for r in K_RECALLS
                if r <= min(near, self.depth)
            },
        }
        if self.qrels is not None:
            per_query |= judged_scores(self.qrels, I, k)
        ks = curve_ks(min(near, self.depth))
        curves = {
            "k": [float(value) for value in ks],
            "1-recall@k": [float(one_recall_at_k(found, true, value).mean()) for value in ks],
            "k-recall@k": [float(k_recall_at_k(found, true, value).mean()) for value in ks],
        }
        return Scores(per_query, curves)
