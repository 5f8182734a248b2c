"""A data set: stripes in four directions."""

from typing import Any

import numpy as np


def stripes(n: int = 240, seed: int = 0) -> dict[str, Any]:
    """Noisy images of 3 x 8 x 8 pixels; the class is the direction of their stripes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    y, x = np.mgrid[:8, :8]
    waves = np.stack([np.sin(x), np.sin(y), np.sin(x + y), np.sin(x - y)])[labels]  # (n, 8, 8)
    phase = rng.random((n, 1, 1)) * 40
    noise = rng.normal(scale=40, size=(n, 3, 8, 8))
    images = 128 + 60 * waves[:, None] + phase[:, None] + noise
    items = images.clip(0, 255).astype(np.uint8)
    return {
        "database": items[:200],
        "labels": labels[:200],
        "queries": items[200:],
        "query_labels": labels[200:],
        "description": "noisy stripes in four directions, made up",
    }
