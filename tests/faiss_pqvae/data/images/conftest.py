"""Pictures of noise, in files."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Pixels = Callable[..., np.ndarray]


@pytest.fixture(scope="session")
def pixels() -> Pixels:
    """(height, width, 3) uint8 of a seed."""

    def make(seed: int, height: int = 5, width: int = 4) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def png() -> Callable[[np.ndarray], bytes]:
    """An encoded picture."""

    def encode(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture
def classes_folder(tmp_path: Path, pixels: Pixels) -> Path:
    """Three pictures of two classes, a note and a hidden file."""
    root = tmp_path / "classes"
    for seed, name in enumerate(["dog/a.png", "cat/deep/b.PNG", "cat/a.png"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(root / name)
    (root / "dog" / "notes.txt").write_text("not an image")
    (root / "dog" / "._a.png").write_bytes(b"a hidden file")
    return root
