"""Items, models and indexes that the parts of `gpu_check.py` are about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gpu_check_part import Check

import faiss_pqvae as fpq
from faiss_pqvae.index import gpu
from faiss_pqvae.index.gpu import GpuLatentIndex
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import inject_codebooks
from faiss_pqvae.training import new_model
from faiss_pqvae.types import FloatArray, IdArray

D_IN = 16  # of vectors, where nothing depends on it


def vectors(n: int, d: int, seed: int = 0) -> FloatArray:
    """Normal draws (n, d) float32."""
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def mixed(n: int, d: int) -> FloatArray:
    """Vectors (n, d) float32 whose dimensions depend on each other."""
    latent = vectors(n, max(2, d // 4))
    return np.asarray(np.tanh(latent @ vectors(latent.shape[1], d, seed=5)) + 2, np.float32)


def pictures(n: int, shape: tuple[int, ...]) -> tuple[npt.NDArray[Any], IdArray]:
    """Images (n, c, h, w) uint8 of 10 classes, each a pattern under noise; and labels (n,)."""
    c, h, w = shape
    coarse = np.random.default_rng(1).integers(0, 200, (10, c, 4, 4), dtype=np.uint8)
    patterns = coarse.repeat(h // 4, axis=2).repeat(w // 4, axis=3)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    return patterns[labels] + rng.integers(0, 56, (n, *shape), dtype=np.uint8), labels


def make_model(
    shape: tuple[int, ...], M: int, nbits: int, objective: str | None = None, **config: Any
) -> fpq.PQVAE:
    """A model that counts as trained: weights from a seed, codewords spread like its latents."""
    torch.manual_seed(0)
    model = new_model(shape, M, nbits, fpq.ModelConfig(**config), objective=objective)
    x = torch.from_numpy(vectors(256, math.prod(shape))).reshape(256, *shape)
    x = x.sigmoid() if len(shape) == 3 else x
    with torch.no_grad():
        model.fit_normalization(x)
        z = model.eval().encode(x)
        codewords = model.quantizer.codewords
        codewords.copy_(torch.randn(codewords.shape) * z.std() + z.mean())
        model.quantizer.project()
        model.fitted.fill_(True)
    return model


def product_index(
    M: int, nbits: int, metric: str = "l2", *, n: int = 3000, dsub: int = 4
) -> LatentIndex:
    """A LatentIndex over an IndexPQ with n vectors in it."""
    index = fpq.LatentIndex(make_model((D_IN,), M, nbits, encoder="linear", dsub=dsub), metric)
    index.add(vectors(n, D_IN))
    return index


def inverted_index(kind: str, metric: str = "l2", *, n: int = 3000) -> LatentIndex:
    """A LatentIndex over 16 inverted lists, of which a search visits 4.

    Args:
        kind: "vectors" or "residuals", of which the codes are.
        metric: "l2" or "inner_product".
        n: items; their ids are of all kinds.
    """
    model = make_model((D_IN,), 8, 8, encoder="linear", dsub=4)
    number = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    quantizer = faiss.IndexFlat(model.latent_dim, number)
    quantizer.add(fpq.LatentIndex(model).encode(vectors(16, D_IN, seed=9)))
    native = faiss.IndexIVFPQ(quantizer, model.latent_dim, 16, 8, 8, number)
    native.by_residual, native.nprobe = kind == "residuals", 4
    inject_codebooks(native, model.codebooks())
    index = fpq.LatentIndex(model, metric, faiss_index=native)
    index.add_with_ids(vectors(n, D_IN), some_ids(n))
    return index


def some_ids(n: int, seed: int = 3) -> IdArray:
    """Ids (n,) int64 below 0 and beyond 32 bits, none of them twice."""
    return np.random.default_rng(seed).choice(2**62, n, replace=False) - 2**61


def filled_index(n: int, M: int, *, sums: bool = False) -> LatentIndex:
    """An index of n random codes of M bytes: how long a scan takes depends on no code."""
    objective, config = ("additive", {}) if sums else (None, {"encoder": "linear", "dsub": 8})
    index = fpq.LatentIndex(make_model((8 * M,), M, 8, objective, **config))
    codes = np.random.default_rng(0).integers(0, 256, (n, M), dtype=np.uint8)
    index.faiss_index.add_sa_codes(codes)
    return index


def copied(
    check: Check, index: LatentIndex, scan: gpu.Scan = "auto", *, nlist: int | None = None
) -> GpuLatentIndex:
    """The index on the card; without one its scan by torch, on the CPU."""
    if check.on_card:
        return fpq.index_cpu_to_gpu(index, scan=scan, nlist=nlist)
    return gpu.scanned_by_torch(index, [torch.device("cpu")])


def quick(**settings: Any) -> fpq.TrainingConfig:
    """A training of two epochs, on the CPU where nothing else is said."""
    return fpq.TrainingConfig(**{"epochs": 2, "device": "cpu", "precision": "float32", **settings})
