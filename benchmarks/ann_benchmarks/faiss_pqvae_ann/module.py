"""PQ-VAE in native FAISS indexes, for ann-benchmarks.

A query is the raw vector: the encoder runs inside of `query`, so the times that are stored have it.
"""

from __future__ import annotations

import time
from dataclasses import fields
from string import Formatter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from ann_benchmarks.algorithms.base.module import BaseANN

from faiss_pqvae import LatentIndex, index_factory
from faiss_pqvae.native import faiss
from faiss_pqvae.training import TrainingConfig


class FaissPQVAE(BaseANN):
    """An index by its factory string, trained by what is to be indexed.

    Args:
        metric: ann-benchmarks's "euclidean" or "angular"; angular is the cosine between latents,
            and between the vectors where the search is refined.
        description: a factory string of faiss_pqvae, in which {nlist} and the like stand for
            `sizes`: "IVF{nlist},PQVAE{M}x8,RFlat".
        sizes: a value for every name in braces.
        training: settings of faiss_pqvae.training.TrainingConfig; what is not named has its
            default.

    Raises:
        ValueError: another metric, sizes other than the description's, unknown settings.

    Attributes:
        index: what `fit` made.
    """

    METRICS: ClassVar[dict[str, Any]] = {"euclidean": faiss.METRIC_L2, "angular": "cosine"}
    QUERY_SETTINGS: ClassVar[tuple[str, ...]] = ("nprobe", "efSearch", "k_factor", "search_type")

    def __init__(
        self,
        metric: str,
        description: str,
        sizes: dict[str, int] | None = None,
        training: dict[str, Any] | None = None,
    ) -> None:
        sizes, training = sizes or {}, training or {}
        _check_names("metric", [metric], self.METRICS)
        _check_names(
            "training settings", training, [field.name for field in fields(TrainingConfig)]
        )
        named = {name for _, name, _, _ in Formatter().parse(description) if name is not None}
        if named != set(sizes):
            raise ValueError(
                f"expected sizes for {sorted(named)} of {description!r}, got {sorted(sizes)}"
            )
        self.metric = metric
        self.description = description.format(**sizes)
        self.training = TrainingConfig(**training)
        self.index: LatentIndex | None = None
        self._settings: dict[str, Any] = {}
        self._found: npt.NDArray[np.int64] = np.empty((0, 0), np.int64)
        self._threads = torch.get_num_threads()
        self._started = self._encode_s = 0.0
        self._answered = 0

    def fit(self, X: npt.NDArray[Any]) -> None:
        """Trains on all of X and stores it.

        Args:
            X: (n, d), of any float type; left as it is.
        """
        x = np.ascontiguousarray(X, dtype=np.float32)
        self._use_threads(self._threads)
        index = index_factory(
            x.shape[1], self.description, self.METRICS[self.metric], training=self.training
        )
        index.train(x)
        index.add(x)
        # Only now: what is counted is what the queries need.
        index.model.encoder.register_forward_pre_hook(self._encoder_starts)
        index.model.encoder.register_forward_hook(self._encoder_ends)
        self.index = index
        self._use_threads(1)

    def set_query_arguments(self, settings: dict[str, Any]) -> None:
        """Sets how the next queries search.

        Args:
            settings: nprobe (inverted lists), efSearch (graph), k_factor (refinement) and
                search_type ("adc" or "sdc").

        Raises:
            ValueError: other settings; one that this kind of index does not have.
        """
        _check_names("query settings", settings, self.QUERY_SETTINGS)
        index = self._fitted()
        if "k_factor" in settings and index.refiner is None:
            raise ValueError(f"{self.description} does not refine, and so has no k_factor")
        for name, value in settings.items():
            setattr(index, name, value)
        self._settings = dict(settings)
        self._encode_s, self._answered = 0.0, 0

    def query(self, q: npt.NDArray[Any], n: int) -> npt.NDArray[np.int64]:
        """Encodes one vector and searches with it, on one thread.

        Args:
            q: (d,), of any float type.
            n: how many neighbours.

        Returns:
            (n,) int64, best first; fewer where the lists that were visited hold fewer.
        """
        return _without_padding(self._search(np.asarray(q)[None], n)[0])

    def batch_query(self, X: npt.NDArray[Any], n: int) -> None:
        """Encodes many vectors and searches with them, on every thread there is.

        Args:
            X: (nq, d), of any float type.
            n: how many neighbours each.
        """
        self._use_threads(self._threads)
        self._found = self._search(X, n)
        self._use_threads(1)

    def get_batch_results(self) -> list[npt.NDArray[np.int64]]:
        """What `batch_query` found: one (n,) int64 a query, shorter where less was found."""
        return [_without_padding(row) for row in self._found]

    def get_additional(self) -> dict[str, Any]:
        """Attributes for the result file: bytes of a stored vector, seconds of the parts."""
        index = self._fitted()
        stored = getattr(index.refiner, "index", None)  # the decoder stores nothing
        return {
            "description": self.description,
            "code_bytes": index.sa_code_size(),
            "refine_bytes": 0 if stored is None else stored.sa_code_size(),
            "train_s": index.train_s,
            "encoder_s_per_query": self._encode_s / max(self._answered, 1),
        }

    def done(self) -> None:
        """Frees the index."""
        self.index = None
        self._use_threads(self._threads)

    def __str__(self) -> str:
        words = [self.description, *(f"{name}={x}" for name, x in self._settings.items())]
        return f"FaissPQVAE({', '.join(words)})"

    def _search(self, x: npt.NDArray[Any], n: int) -> npt.NDArray[np.int64]:
        _, I = self._fitted().search(  # noqa: E741 - FAISS's name
            np.ascontiguousarray(x, dtype=np.float32), n
        )
        self._answered += len(I)
        return I

    def _fitted(self) -> LatentIndex:
        if self.index is None:
            raise ValueError("expected a call of fit before")
        return self.index

    def _use_threads(self, n: int) -> None:
        torch.set_num_threads(n)
        faiss.omp_set_num_threads(n)

    def _encoder_starts(self, *_: Any) -> None:
        self._started = time.perf_counter()

    def _encoder_ends(self, *_: Any) -> None:
        self._encode_s += time.perf_counter() - self._started


def _without_padding(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The ids without FAISS's -1, which ann-benchmarks would take for duplicates."""
    return ids[ids >= 0]


def _check_names(what: str, names: Any, known: Any) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"expected {what} of {sorted(known)}, got {unknown}")
