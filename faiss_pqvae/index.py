"""LatentIndex: a model that encodes and a native FAISS index that stores and searches."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from faiss_pqvae.codebooks import FloatArray
from faiss_pqvae.inputs import check_items, read_batches
from faiss_pqvae.model import PQVAE
from faiss_pqvae.native import (
    SDC_NBITS,
    check_metric,
    check_searchable,
    faiss,
    new_index_pq,
    prepare_search,
)

SearchType = Literal["adc", "sdc"]
Fit = Callable[..., list[dict[str, Any]]]
CodeArray = npt.NDArray[np.uint8]
IdArray = npt.NDArray[np.int64]

_SEARCH_TYPES = ("adc", "sdc")


class LatentIndex:
    """Searches images or vectors by the codes that a PQ-VAE learned for them.

    The methods and their names are faiss.Index's. Items are (n, c, h, w) or (n, d), uint8 or
    float (images of floats in [0, 1]): arrays, memory maps, tensors or sources. They are read,
    encoded and stored batch by batch, so that more than memory holds can be added.

    Args:
        model: the PQ-VAE; it decides about shapes, M and nbits.
        metric_type: faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT, between latents.
        fit: how `train` trains a model: `fit(model, x, progress=..., folder=...)`, returning the
            history. None for an index that only serves.
        faiss_index: a native index that has the model's codebooks; None makes an empty one.

    Raises:
        ValueError: another metric; sizes that FAISS cannot search; a native index whose sizes are
            not the model's.

    Attributes:
        search_type: "adc" compares the query's latent with the codes; "sdc" quantizes the query
            too, the paper's symmetric tables, eq. (27 to 29). On a shared index set it once:
            it is no argument of a search.
        batch_size: items encoded at a time.
        faiss_index: the native index over the latent space.
        history: of the training, see `faiss_pqvae.training.fit`.
    """

    def __init__(
        self,
        model: PQVAE,
        metric_type: int = faiss.METRIC_L2,
        *,
        fit: Fit | None = None,
        faiss_index: Any | None = None,
    ) -> None:
        check_searchable(model.config.dsub, model.nbits)
        check_metric(metric_type)
        self.model = model.eval()
        self.fit = fit
        self.batch_size = 1024
        self.history: list[dict[str, Any]] = []
        self._search_type: SearchType = "adc"
        if faiss_index is None and model.is_trained:
            faiss_index = new_index_pq(model.codebooks(), metric_type)
        elif faiss_index is None:
            faiss_index = faiss.IndexPQ(model.latent_dim, model.M, model.nbits, metric_type)
        if (faiss_index.d, faiss_index.metric_type) != (model.latent_dim, metric_type):
            raise ValueError(
                f"expected a native index with d={model.latent_dim} and metric_type="
                f"{metric_type}, got d={faiss_index.d} and {faiss_index.metric_type}"
            )
        self.faiss_index = faiss_index

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.is_trained:
            prepare_search(self.faiss_index)

    def __repr__(self) -> str:
        return (
            f"LatentIndex(PQVAE{self.model.M}x{self.model.nbits}, "
            f"input_shape={self.input_shape}, ntotal={self.ntotal}, "
            f"is_trained={self.is_trained}, search_type={self.search_type!r})"
        )

    # -- what faiss.Index tells about itself

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one item: (c, h, w) or (d,)."""
        return self.model.input_shape

    @property
    def d(self) -> int:
        """Components of one item; the latents have `faiss_index.d`."""
        return math.prod(self.input_shape)

    @property
    def ntotal(self) -> int:
        """Number of items stored."""
        return int(self.faiss_index.ntotal)

    @property
    def is_trained(self) -> bool:
        """Whether items can be added and searched."""
        return bool(self.faiss_index.is_trained)

    @property
    def metric_type(self) -> int:
        """faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT."""
        return int(self.faiss_index.metric_type)

    @property
    def search_type(self) -> SearchType:
        """How queries are compared: "adc" or "sdc"; nothing else can be set."""
        return self._search_type

    @search_type.setter
    def search_type(self, name: SearchType) -> None:
        if name not in _SEARCH_TYPES:
            raise ValueError(f"expected search_type 'adc' or 'sdc', got {name!r}")
        self._search_type = name

    @property
    def train_s(self) -> float:
        """Seconds that the training took, those before an interruption included."""
        return float(self.history[-1]["elapsed_s"]) if self.history else 0.0

    def sa_code_size(self) -> int:
        """Bytes per stored item."""
        return int(self.faiss_index.sa_code_size())

    # -- training and storing

    def train(self, x: Any, *, folder: Any = None, progress: bool = True) -> None:
        """Trains encoder, decoder and codebooks end to end and injects the codebooks.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 4; all of it is read once before the
                training, so that NaN is found early.
            folder: where log and checkpoints go; the same call continues an interrupted training.
            progress: draw a bar, where standard error is a terminal.

        Raises:
            TypeError, ValueError: wrong items, NaN or infinity; an index that holds items, which
                would lose their meaning; an index without a `fit`. The index is then as before.
        """
        if self.ntotal:
            raise ValueError(
                f"expected an empty index, got {self.ntotal} items, whose codes would lose their "
                "meaning: call reset() first"
            )
        if self.fit is None:
            raise ValueError("this index only serves: make one that trains by index_factory")
        check_items(x, self.input_shape, "training data")
        if x.dtype not in (np.dtype(np.uint8), torch.uint8):
            for _ in read_batches(x, self.batch_size, "training data"):
                pass
        model = copy.deepcopy(self.model)  # an interruption leaves the index as it was
        options = {} if folder is None else {"folder": folder}
        history = self.fit(model, x, progress=progress, **options)
        faiss_index = new_index_pq(model.codebooks(), self.metric_type)
        self.model, self.faiss_index, self.history = model.eval(), faiss_index, history

    def add(self, x: Any) -> None:
        """Encodes and stores items; they get the ids ntotal, ntotal + 1 and so on.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 1.

        Raises:
            TypeError, ValueError: wrong items, NaN or infinity, an untrained index. Nothing is
                added then, nor when the reading of `x` fails half way.
        """
        before = self.ntotal
        try:
            for z in self._latents(x, "items to add"):
                self.faiss_index.add(z)
        except BaseException:
            # Also for Ctrl-C: half of an `add` would shift the ids of everything after it.
            self.faiss_index.remove_ids(faiss.IDSelectorRange(before, self.ntotal))
            raise

    def reset(self) -> None:
        """Forgets the items, keeps the training."""
        self.faiss_index.reset()

    # -- searching

    def search(self, x: Any, k: int) -> tuple[FloatArray, IdArray]:
        """Finds the k nearest stored items of every query.

        Args:
            x: (n, *input_shape) uint8 or float, n >= 1.
            k: results per query, k >= 1. Beyond ntotal the ids are -1, as in FAISS.

        Returns:
            D (n, k) float32, squared L2 distances or inner products between latents, best
            first; I (n, k) int64, ids.

        Raises:
            TypeError, ValueError: wrong queries, NaN or infinity, k < 1, an untrained index.
        """
        k = check_k(k)
        params = None
        native_sdc = (
            self.search_type == "sdc"
            and self.model.nbits == SDC_NBITS
            and self.metric_type == faiss.METRIC_L2
        )
        if native_sdc:
            params = faiss.SearchParametersPQ()
            params.search_type = faiss.IndexPQ.ST_SDC
        results = []
        for z in self._latents(x, "queries"):
            if self.search_type == "sdc" and not native_sdc:
                # The same distances: ADC of the query's own codewords.
                z = self.faiss_index.sa_decode(self.faiss_index.sa_encode(z))
            results.append(self.faiss_index.search(z, k, params=params))
        D, I = zip(*results, strict=True)  # noqa: E741 - FAISS's names
        return np.concatenate(D), np.concatenate(I)

    # -- latents and codes

    def encode(self, x: Any) -> FloatArray:
        """Latents of items: (n, *input_shape) to (n, faiss_index.d) float32."""
        return np.concatenate(list(self._latents(x, "items to encode")))

    def decode(self, z: FloatArray) -> FloatArray:
        """Latents (n, faiss_index.d) float32 back to items (n, *input_shape) float32.

        Raises:
            ValueError: a wrong shape, NaN or infinity, an untrained index.
        """
        self._check_trained()
        check_items(z, (self.model.latent_dim,), "latents")
        device = self.model.device
        with torch.inference_mode():
            items = [
                self.model.decode(batch.to(device)).cpu().numpy()
                for batch in read_batches(z, self.batch_size, "latents")
            ]
        return np.concatenate(items)

    def reconstruct(self, key: int) -> FloatArray:
        """The quantized latent (faiss_index.d,) float32 of a stored item.

        Raises:
            ValueError: no such id.
        """
        key = operator.index(key)
        if not 0 <= key < self.ntotal:
            raise ValueError(f"expected an id in [0, {self.ntotal}), got {key}")
        latent: FloatArray = self.faiss_index.reconstruct(key)
        return latent

    def sa_encode(self, x: Any) -> CodeArray:
        """Codes of items: (n, *input_shape) to (n, sa_code_size()) uint8; stores nothing."""
        return np.concatenate(
            [self.faiss_index.sa_encode(z) for z in self._latents(x, "items to encode")]
        )

    def sa_decode(self, codes: CodeArray) -> FloatArray:
        """Codes (n, sa_code_size()) uint8 to quantized latents (n, faiss_index.d) float32.

        Raises:
            TypeError: codes of another dtype.
            ValueError: a wrong shape, an untrained index.
        """
        self._check_trained()
        codes = np.asarray(codes)
        if codes.dtype != np.uint8:
            raise TypeError(f"expected codes of dtype uint8, got {codes.dtype}")
        if codes.ndim != 2 or codes.shape[1] != self.sa_code_size():
            raise ValueError(
                f"expected codes of shape (n, {self.sa_code_size()}), got {codes.shape}"
            )
        latents: FloatArray = self.faiss_index.sa_decode(np.ascontiguousarray(codes))
        return latents

    def _latents(self, x: Any, what: str) -> Iterator[FloatArray]:
        self._check_trained()
        check_items(x, self.input_shape, what)
        device = self.model.device
        for batch in read_batches(x, self.batch_size, what):
            with torch.inference_mode():
                latents: FloatArray = self.model.encode(batch.to(device)).cpu().numpy()
            yield latents

    def _check_trained(self) -> None:
        if not self.is_trained:
            raise ValueError("the index is not trained yet: call train(x) first")


def check_k(k: int) -> int:
    """A number of results as an int.

    Raises:
        TypeError: no integer.
        ValueError: below 1.
    """
    if isinstance(k, bool):
        raise TypeError("expected an integer k >= 1, got a bool")
    k = operator.index(k)
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    return k
