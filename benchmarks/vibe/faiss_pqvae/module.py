"""PQ-VAE in native FAISS indexes, for VIBE.

A query is the raw vector. What is searched is one native index that begins with the encoder, so
every time that VIBE stores has the encoder in it.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from vibe.algorithms.base.module import BaseANN

from faiss_pqvae import index_factory
from faiss_pqvae.native import faiss
from faiss_pqvae.training import TrainingConfig

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]


class FaissPQVAE(BaseANN):
    """An index by its factory string, trained by what is to be indexed, on VIBE's one thread.

    Args:
        metric: VIBE's "euclidean", "cosine", "normalized" or "ip"; between vectors where the search
            is refined, between their latents before.
        description: a factory string of faiss_pqvae, such as "IVF1024,PQVAE32x4fs,RFlat".
        minutes: of training.

    Raises:
        ValueError: another metric, no minutes.

    Attributes:
        native: what `fit` made: a faiss.Index over raw vectors (of length 1 for "cosine").
    """

    METRICS: ClassVar[dict[str, str]] = {
        "euclidean": "l2",
        "cosine": "cosine",
        "normalized": "cosine",  # the vectors have length 1 already
        "ip": "inner_product",
    }

    def __init__(self, metric: str, description: str, minutes: float) -> None:
        if metric not in self.METRICS:
            raise ValueError(f"expected metric of {sorted(self.METRICS)}, got {metric!r}")
        self.metric, self.description, self.minutes = metric, description, minutes
        self.training = TrainingConfig(budget_minutes=minutes)
        self.native: Any = None
        self._settings: dict[str, float] = {}
        self._facts: dict[str, Any] = {}

    def fit(self, X: npt.NDArray[Any]) -> None:
        """Trains on all of X and stores it.

        Args:
            X: (n, d), of any float type; left as it is.

        Raises:
            UserWarning: a description whose search FAISS alone cannot do ("RDecoder").
        """
        self._build(X, None)

    def fit_ood(
        self, X_train: npt.NDArray[Any], X_learn: npt.NDArray[Any], X_learn_neighbors: IdArray
    ) -> None:
        """As `fit`, and learns a map of the side of the queries, if held-out ones find more by it.

        Args:
            X_train: (n, d), what is to be indexed.
            X_learn: (nq, d), of the queries' distribution.
            X_learn_neighbors: (nq, 100), not used: neighbours are found among what is learned from.

        Raises:
            UserWarning: as `fit`.
        """
        self._build(X_train, self._as_searched(X_learn))

    def _build(self, X: npt.NDArray[Any], queries: FloatArray | None) -> None:
        x = self._as_searched(X)
        metric = self.METRICS[self.metric]
        index = index_factory(x.shape[1], self.description, metric, training=self.training)
        index.train(x, queries=queries)
        index.add(x)
        if hasattr(index.refiner, "unit"):
            index.refiner.unit = False  # queries have length 1 before FAISS gets them
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of an export that would be another method
            self.native = index.to_faiss()
        self._facts = {
            "code_bytes": index.sa_code_size(),
            "refine_bytes": 0 if index.refiner is None else index.refiner.index.sa_code_size(),
            "train_s": index.train_s,
            "maps_queries": index.model.query_map is not None,
        }

    def set_query_arguments(self, k_factor: float, visited: int | None = None) -> None:
        """Sets how the next queries search.

        Args:
            k_factor: how many times as many candidates as results are looked at again.
            visited: inverted lists (nprobe) or candidates in the graph (efSearch); None where there
                is neither.

        Raises:
            RuntimeError: an index without a second look, lists or graph.
        """
        self._settings = {"k_factor_rf": k_factor}
        if visited is not None:
            self._settings["nprobe" if "IVF" in self.description else "efSearch"] = visited
        for name, value in self._settings.items():
            faiss.ParameterSpace().set_index_parameter(self.native, name, value)

    def query(self, v: npt.NDArray[Any], n: int) -> IdArray:
        """Encodes one vector and searches with it.

        Args:
            v: (d,), of any float type.
            n: how many neighbours.

        Returns:
            (n,) int64, best first; fewer where the lists that were visited hold fewer, for VIBE
            would take FAISS's -1 for the last vector.
        """
        _, I = self.native.search(self._as_searched(v[None]), n)  # noqa: E741 - FAISS's name
        return I[0][I[0] >= 0]

    def get_additional(self) -> dict[str, Any]:
        """Attributes for the result file.

        Returns:
            code_bytes and refine_bytes of a stored vector; train_s; maps_queries, whether a map of
            queries was learned and kept.
        """
        return dict(self._facts)

    def __str__(self) -> str:
        settings = {"minutes": self.minutes, **self._settings}
        words = [self.description, *(f"{name}={value}" for name, value in settings.items())]
        return f"FaissPQVAE({', '.join(words)})"

    def _as_searched(self, x: npt.NDArray[Any]) -> FloatArray:
        """Vectors as float32, for "cosine" in a copy of length 1; zero stays zero."""
        if self.metric != "cosine":
            return np.ascontiguousarray(x, dtype=np.float32)
        copy = np.array(x, dtype=np.float32, order="C")
        faiss.normalize_L2(copy)
        return copy
