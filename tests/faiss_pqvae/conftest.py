"""Indexes whose encoder changes nothing: FAISS itself, or numpy, can say what they have to find."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faiss_pqvae import (
    PQVAE,
    LatentIndex,
    ModelConfig,
    deserialize_index,
    read_index,
    serialize_index,
    write_index,
)
from faiss_pqvae.codebooks import Codebooks
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import maps
from faiss_pqvae.native.inject import inject_codebooks

D, M, NLIST = 8, 4, 4
IP = faiss.METRIC_INNER_PRODUCT
EPS = 1e-4  # of sums of float32


def _codebooks(nbits: int) -> np.ndarray:
    rng = np.random.default_rng(nbits)
    return rng.standard_normal((M, 2**nbits, D // M), dtype=np.float32)


def _coarse() -> np.ndarray:
    return np.random.default_rng(99).standard_normal((NLIST, D), dtype=np.float32)


def _empty_native(kind: str, nbits: int, metric: int) -> Any:
    if kind.startswith("IVF"):
        quantizer = faiss.IndexFlat(D, metric)
        quantizer.add(_coarse())
        make = faiss.IndexIVFPQFastScan if kind == "IVFfs" else faiss.IndexIVFPQ
        index = make(quantizer, D, NLIST, M, nbits, metric)
        index.by_residual = False
        index.nprobe = NLIST
        return index
    if kind == "HNSW":
        return faiss.IndexHNSWPQ(D, M, 8, nbits, metric)
    return {"PQ": faiss.IndexPQ, "PQfs": faiss.IndexPQFastScan}[kind](D, M, nbits, metric)


@pytest.fixture(scope="session")
def make_native() -> Callable[..., Any]:
    """An empty native index of a kind, ready to be searched, all of its lists visited."""

    def make(kind: str, nbits: int, metric: int, id_map: str = "") -> Any:
        index = _empty_native(kind, nbits, metric)
        inject_codebooks(index, Codebooks(_codebooks(nbits)))
        return getattr(faiss, f"Index{id_map}")(index) if id_map else index

    return make


@pytest.fixture(scope="session")
def make_identity() -> Callable[..., LatentIndex]:
    """A LatentIndex over such an index, whose encoder and decoder are the identity."""

    def make(
        kind: str, nbits: int, metric: int, id_map: str = "", *, refine: Any = None
    ) -> LatentIndex:
        config = ModelConfig(encoder="linear", dsub=D // M, normalize_latents=False)
        model = PQVAE((D,), M, nbits, config)
        with torch.no_grad():
            for network in (model.encoder, model.decoder):
                network.map.weight.copy_(torch.eye(D))
                network.map.bias.zero_()
            model.quantizer.codewords.copy_(torch.from_numpy(_codebooks(nbits)))
            model.fitted.fill_(True)
        native = _empty_native(kind, nbits, metric)
        index = getattr(faiss, f"Index{id_map}")(native) if id_map else native
        return LatentIndex(model, metric, faiss_index=index, refine_index=refine)

    return make


class Reference:
    """What an index holds, in numpy: ids and quantized vectors, in the order of adding.

    Attributes:
        ids: (n,) int64.
        x: (n, d) float64.
        items: (n, d) float64, what was quantized.
        refined: whether distances are those of the items.
    """

    def __init__(
        self, kind: str, nbits: int, metric: int, id_map: str = "", *, refined: bool = False
    ) -> None:
        self.kind, self.metric, self.id_map, self.refined = kind, metric, id_map, refined
        self.keeps_ids = bool(id_map) or kind.startswith("IVF")
        self.codebooks = _codebooks(nbits).astype(np.float64)
        self.ids = np.empty(0, np.int64)
        self.x = self.items = np.empty((0, D))

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Vectors (n, d) to their nearest codewords (n, d) float64."""
        parts = x.astype(np.float64).reshape(len(x), M, 1, D // M)
        nearest = ((parts - self.codebooks) ** 2).sum(-1).argmin(-1)  # (n, M)
        return self.codebooks[np.arange(M), nearest].reshape(len(x), D)

    def add(self, x: np.ndarray, ids: Any = None) -> None:
        self._append(self.quantize(x), x, ids)

    def _append(self, x: np.ndarray, items: np.ndarray, ids: Any = None) -> None:
        if ids is None:
            ids = np.arange(len(self.ids), len(self.ids) + len(x))
        self.ids = np.concatenate([self.ids, ids])
        self.x, self.items = np.concatenate([self.x, x]), np.concatenate([self.items, items])

    def remove(self, removed: np.ndarray) -> int:
        """Forgets those whose id is in `removed`; returns how many."""
        there = np.isin(self.ids, removed)
        self.ids, self.x, self.items = self.ids[~there], self.x[~there], self.items[~there]
        if not self.keeps_ids:
            self.ids = np.arange(len(self.ids))
        return int(there.sum())

    def merge(self, other: "Reference", add_id: int = 0) -> None:
        self._append(other.x, other.items, other.ids + add_id if self.keeps_ids else None)
        other.remove(other.ids)

    def distances(self, q: np.ndarray) -> np.ndarray:
        """(nq, d) to (nq, n) float64, inner products negated: less is better."""
        return self._distances(q.astype(np.float64), self.items if self.refined else self.x)

    def _distances(self, q: np.ndarray, x: np.ndarray) -> np.ndarray:
        return -q @ x.T if self.metric == IP else ((q[:, None] - x) ** 2).sum(-1)

    def tolerance(self, q: np.ndarray) -> np.ndarray:
        """(nq, 1): what a search may be wrong by; FAISS's rounding of tables in a fast scan."""
        eps = EPS * np.ones((len(q), 1))
        if self.refined or not self.kind.endswith("fs"):
            return eps
        spans = np.ptp(self._tables(q), -1)  # (nq, M)
        step = np.maximum(spans.max(1) / 255, spans.sum(1) / 65535)
        return eps + M * 0.5 * step[:, None]

    def _tables(self, q: np.ndarray) -> np.ndarray:
        """Distances of every sub-vector to every codeword: (nq, M, ksub)."""
        parts = q.astype(np.float64).reshape(len(q), M, 1, D // M)
        if self.metric == IP:
            return -(parts * self.codebooks).sum(-1)
        return ((parts - self.codebooks) ** 2).sum(-1)

    def check_search(
        self, found: tuple[np.ndarray, ...], q: np.ndarray, k: int, allowed: Any = None
    ) -> None:
        """Fails unless the k nearest of the allowed ids were found, best first."""
        D_, I_ = self._signed(found[0]), found[1]
        ids, distances = self._allowed(q, allowed)
        tolerance = self.tolerance(q)
        there = I_ != -1
        counts = there.sum(1)
        assert D_.shape == I_.shape == (len(q), k)
        assert (there == (np.arange(k) < counts[:, None])).all()
        for i, n in enumerate(counts):
            assert (np.diff(D_[i, :n]) >= 0).all()
            left = _without(ids, distances[i], I_[i, :n], D_[i, :n], tolerance[i, 0])
            # A graph may miss some.
            if self.kind != "HNSW" and n < min(k, len(ids)):
                # FAISS's fast scan never finds an inner product of the worst codewords.
                worst = self._tables(q[i : i + 1]).max(-1).sum()
                assert self.kind.endswith("fs")
                assert self.metric == IP
                assert self.refined or left.min() >= worst - tolerance[i, 0]
            elif self.kind != "HNSW" and n:
                assert left.min(initial=np.inf) >= D_[i, n - 1] - 2 * tolerance[i, 0]

    def check_range(
        self, found: tuple[np.ndarray, ...], q: np.ndarray, thresh: float, allowed: Any = None
    ) -> None:
        """Fails unless all allowed ids within the threshold were found."""
        lims, D_, I_ = found[0].astype(np.int64), self._signed(found[1]), found[2]
        ids, distances = self._allowed(q, allowed)
        bound = float(self._signed(np.array(thresh)))
        assert lims[0] == 0
        assert lims[-1] == len(D_) == len(I_)
        assert D_.max(initial=-np.inf) < bound
        for i in range(len(q)):
            own = slice(lims[i], lims[i + 1])
            # A range is exact, also where codes are scanned fast.
            left = _without(ids, distances[i], I_[own], D_[own], EPS)
            if self.kind != "HNSW":
                assert left.min(initial=np.inf) >= bound - EPS

    def _signed(self, distances: np.ndarray) -> np.ndarray:
        return distances.astype(np.float64) * (-1 if self.metric == IP else 1)

    def _allowed(self, q: np.ndarray, allowed: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = np.ones(len(self.ids), bool) if allowed is None else np.isin(self.ids, allowed)
        return self.ids[rows], self.distances(q)[:, rows]


def _without(
    ids: np.ndarray, distances: np.ndarray, found: np.ndarray, at: np.ndarray, tol: float
) -> np.ndarray:
    """Distances of what was not found; fails if something else was, or at another distance."""
    # By id and then by distance: of several under one id, any may have been found, each once.
    order, mine = np.lexsort((distances, ids)), np.lexsort((at, found))
    left = distances[order]
    if len(np.unique(ids)) == len(ids):
        places = np.searchsorted(ids[order], found[mine])
        assert (places < len(ids)).all()
        assert (ids[order][places] == found[mine]).all()
        assert len(np.unique(places)) == len(places)
        assert np.abs(at[mine] - left[places]).max(initial=0) <= tol
        left[places] = np.inf
        return left
    for wanted, distance in zip(found[mine], at[mine], strict=True):
        fits = (ids[order] == wanted) & (np.abs(left - distance) <= tol)
        assert fits.any()
        left[fits.argmax()] = np.inf
    return left


@pytest.fixture(scope="session")
def make_reference() -> type[Reference]:
    """Brute force in numpy over what an index of a kind would hold."""
    return Reference


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[LatentIndex], list[LatentIndex]]:
    """What comes of an index by everything that copies: files, mapped ones too, bytes, pickles."""

    def copied(index: LatentIndex) -> list[LatentIndex]:
        write_index(index, tmp_path)
        found = [
            read_index(tmp_path),
            pickle.loads(pickle.dumps(index)),
            copy.deepcopy(index),
            deserialize_index(serialize_index(index)),
        ]
        return [*found, read_index(tmp_path, mmap=True)] if maps(index.faiss_index) else found

    return copied
