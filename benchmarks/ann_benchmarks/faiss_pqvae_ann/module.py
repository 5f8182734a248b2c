"""PQ-VAE in native FAISS indexes, for ann-benchmarks.

A query is the raw vector. What is searched is one native index that begins with the encoder, so
every time that ann-benchmarks stores has the encoder in it.
"""

from __future__ import annotations

import time
import warnings
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

FloatArray = npt.NDArray[np.float32]
IdArray = npt.NDArray[np.int64]


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
        native: what `fit` made: a faiss.Index over raw vectors (of length 1 for "angular").
    """

    METRICS: ClassVar[dict[str, Any]] = {"euclidean": faiss.METRIC_L2, "angular": "cosine"}
    QUERY_SETTINGS: ClassVar[tuple[str, ...]] = ("nprobe", "efSearch", "k_factor")

    def __init__(
        self,
        metric: str,
        description: str,
        sizes: dict[str, int] | None = None,
        training: dict[str, Any] | None = None,
    ) -> None:
        sizes, training = sizes or {}, training or {}
        _check_names("metric", [metric], self.METRICS)
        known = [field.name for field in fields(TrainingConfig)]
        _check_names("training settings", training, known)
        named = {name for _, name, _, _ in Formatter().parse(description) if name is not None}
        if named != set(sizes):
            raise ValueError(
                f"expected sizes for {sorted(named)} of {description!r}, got {sorted(sizes)}"
            )
        self.metric = metric
        self.description = description.format(**sizes)
        self.training = TrainingConfig(**training)
        self.native: Any = None
        self._settings: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._found: IdArray = np.empty((0, 0), np.int64)
        self._threads = torch.get_num_threads()

    def fit(self, X: npt.NDArray[Any]) -> None:
        """Trains on all of X and stores it.

        Args:
            X: (n, d), of any float type; left as it is.

        Raises:
            ValueError: a description whose search FAISS alone cannot do ("RDecoder").
        """
        x = self._as_searched(X)
        self._use_threads(self._threads)
        index = index_factory(
            x.shape[1], self.description, self.METRICS[self.metric], training=self.training
        )
        index.train(x)
        model_bytes = len(faiss.serialize_index(_native(index)))  # before it has codes
        index.add(x)
        self.native = _native(index)
        self._facts = {
            "description": self.description,
            "code_bytes": index.sa_code_size(),
            "refine_bytes": 0 if index.refiner is None else index.refiner.index.sa_code_size(),
            "model_bytes": model_bytes,
            "train_s": index.train_s,
            "encoder_s": _encoder_s(self.native, x),
        }
        self._use_threads(1)

    def set_query_arguments(self, settings: dict[str, Any]) -> None:
        """Sets how the next queries search.

        Args:
            settings: nprobe (inverted lists), efSearch (graph), k_factor (refinement).

        Raises:
            ValueError: other settings; one that this kind of index does not have.
        """
        _check_names("query settings", settings, self.QUERY_SETTINGS)
        native = self._fitted()
        for name, value in settings.items():
            setting = "k_factor_rf" if name == "k_factor" else name
            try:
                faiss.ParameterSpace().set_index_parameter(native, setting, value)
            except RuntimeError as error:
                raise ValueError(f"{self.description} has no {name} to set") from error
        self._settings = dict(settings)

    def query(self, q: npt.NDArray[Any], n: int) -> IdArray:
        """Encodes one vector and searches with it, on one thread.

        Args:
            q: (d,), of any float type.
            n: how many neighbours.

        Returns:
            (n,) int64, best first; fewer where the lists that were visited hold fewer.
        """
        return _without_padding(self._search(q[None], n)[0])

    def batch_query(self, X: npt.NDArray[Any], n: int) -> None:
        """Encodes many vectors and searches with them, on every thread there is.

        Args:
            X: (nq, d), of any float type.
            n: how many neighbours each.
        """
        self._use_threads(self._threads)
        self._found = self._search(X, n)
        self._use_threads(1)

    def get_batch_results(self) -> list[IdArray]:
        """What `batch_query` found: one (n,) int64 a query, shorter where less was found."""
        return [_without_padding(row) for row in self._found]

    def get_additional(self) -> dict[str, Any]:
        """Attributes for the result file.

        Returns:
            description; code_bytes and refine_bytes of a stored vector; train_s; encoder_s, the
            least of some times that the encoder alone took for one vector.
        """
        self._fitted()
        return dict(self._facts)

    def done(self) -> None:
        """Frees the index."""
        self.native = None
        self._use_threads(self._threads)

    def __str__(self) -> str:
        words = [self.description, *(f"{name}={x}" for name, x in self._settings.items())]
        return f"FaissPQVAE({', '.join(words)})"

    def _as_searched(self, x: npt.NDArray[Any]) -> FloatArray:
        """Vectors as float32, for "angular" in a copy of length 1; zero stays zero."""
        if self.metric == "euclidean":
            return np.ascontiguousarray(x, dtype=np.float32)
        copy = np.array(x, dtype=np.float32, order="C")
        faiss.normalize_L2(copy)
        return copy

    def _search(self, x: npt.NDArray[Any], n: int) -> IdArray:
        _, I = self._fitted().search(self._as_searched(x), n)  # noqa: E741 - FAISS's name
        return I

    def _fitted(self) -> Any:
        if self.native is None:
            raise ValueError("expected a call of fit before")
        return self.native

    def _use_threads(self, n: int) -> None:
        torch.set_num_threads(n)
        faiss.omp_set_num_threads(n)


def _native(index: LatentIndex) -> Any:
    """The search, encoder and second look included, as one faiss.Index over raw vectors."""
    if hasattr(index.refiner, "unit"):
        index.refiner.unit = False  # queries have length 1 before FAISS gets them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            native = index.to_faiss()
        except UserWarning as warning:  # tables alone would be another method
            raise ValueError(str(warning)) from warning
    if not isinstance(_encoding(native), faiss.IndexPreTransform):
        raise ValueError(
            f"expected an encoder that FAISS can run, got {index.model.config.encoder!r}"
        )
    return native


def _encoding(native: Any) -> Any:
    """The part of the index that begins with the encoder."""
    if isinstance(native, faiss.IndexRefine):
        return faiss.downcast_index(native.base_index)
    return native


def _encoder_s(native: Any, x: FloatArray) -> float:
    """Seconds of the encoder alone for one vector: the least of some, so never too long."""
    encoding = _encoding(native)
    chain = [
        faiss.downcast_VectorTransform(encoding.chain.at(i)) for i in range(encoding.chain.size())
    ]
    taken = []
    for i in range(min(len(x), 200)):
        started = time.perf_counter()
        z = x[i : i + 1]
        for transform in chain:
            z = transform.apply(z)
        taken.append(time.perf_counter() - started)
    return min(taken)


def _without_padding(ids: IdArray) -> IdArray:
    """The ids without FAISS's -1, which ann-benchmarks would take for duplicates."""
    return ids[ids >= 0]


def _check_names(what: str, names: Any, known: Any) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"expected {what} of {sorted(known)}, got {unknown}")
