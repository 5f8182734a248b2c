"""Images with something to learn in them."""

import numpy as np

SHAPE = (1, 8, 8)


def images(n=120, seed=0):
    """Blobs at four places: something that a small code can learn."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 40, (n, *SHAPE)).astype(np.uint8)
    for image, place in zip(x, rng.integers(0, 4, n), strict=True):
        row, column = 4 * (place // 2), 4 * (place % 2)
        image[0, row : row + 4, column : column + 4] += 200
    return x


def timeless(history):
    """A history without the seconds."""
    return [{k: v for k, v in event.items() if k != "elapsed_s"} for event in history]
