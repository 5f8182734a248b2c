"""Stripes: images that a class tells apart by the direction and width of their stripes."""

from __future__ import annotations

from typing import Any

import numpy as np

from faiss_pqvae.registry import datasets

_CLASSES = ("narrow rows", "wide rows", "narrow columns", "wide columns")


@datasets.register("stripes")
def stripes(
    *, n: int = 1000, n_queries: int = 100, size: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Images (n, 1, size, size) uint8 of four kinds of stripes in noise.

    Args:
        n: images to search in.
        n_queries: images to search for.
        size: height and width in pixels.
        seed: of phases and noise.
    """
    generator = np.random.default_rng(seed)
    labels = np.arange(n + n_queries) % len(_CLASSES)
    position = np.arange(size)[None] + generator.integers(0, size, (len(labels), 1))
    wave = np.sin(position * np.where(labels % 2, 0.5, 2.0)[:, None])  # (n, size)
    image = np.repeat(wave[:, :, None], size, axis=2)
    image = np.where((labels < 2)[:, None, None], image, image.transpose(0, 2, 1))
    noisy = 128 + 60 * image + generator.normal(scale=30, size=image.shape)
    x = np.clip(noisy, 0, 255).astype(np.uint8)[:, None]
    return {
        "database": x[:n],
        "labels": labels[:n],
        "queries": x[n:],
        "query_labels": labels[n:],
        "class_names": _CLASSES,
        "description": "stripes in noise",
    }
