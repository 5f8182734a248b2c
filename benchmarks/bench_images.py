"""Time of an epoch over photographs that were decoded once, over decoding them in every epoch.

The photographs are synthetic JPEGs of 12 megapixels, read at 64 x 64. What every epoch took before
is measured beside it: each file decoded at its full size by one thread, then resized. An epoch now
reads the pixels that `decoded` keeps, in random order; a second figure is what filling them takes,
once a training, with drafts of JPEG's own scaling and as many threads as there are processors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Figure, Options, run_script, timed_pairs
from PIL import Image

from faiss_pqvae.data.images import ImageFolder
from faiss_pqvae.data.images.cache import decoded
from faiss_pqvae.data.images.pictures import workers

SIZE = (64, 64)
BATCH_SIZE = 64
EPOCH_TARGET, FILL_TARGET = 0.01, 0.5


def write_photographs(folder: Path, n: int, height: int, width: int) -> None:
    """JPEGs of coarse noise with fine noise over it, ten different ones that come again."""
    generator = np.random.default_rng(0)
    for i in range(min(n, 10)):
        coarse = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        fine = generator.normal(0, 4, (height, width, 1)).astype(np.int16)
        noisy = np.clip(pixels + fine, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i}.jpg", quality=90)
    for i in range(10, n):
        (folder / f"{i}.jpg").write_bytes((folder / f"{i % 10}.jpg").read_bytes())


def decode_each(paths: list[Path]) -> Callable[[], None]:
    """An epoch that decodes every file at its full size."""

    def run() -> None:
        for path in paths:
            with Image.open(path) as image:
                np.asarray(image.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR))

    return run


def fill(source: ImageFolder, folder: Path) -> Callable[[], None]:
    """Decoding once into a file, which is removed afterwards."""

    def run() -> None:
        with decoded(source, folder, progress=False):
            pass

    return run


def measure(options: Options) -> list[Figure]:
    """An epoch over the file, and the filling of it, over an epoch that decodes."""
    n, height, width = (8, 1500, 2000) if options.quick else (200, 3000, 4000)
    repeats = options.repeats or (1 if options.quick else 3)
    figures = []
    with tempfile.TemporaryDirectory() as name:
        photographs, kept = Path(name) / "photographs", Path(name) / "kept"
        photographs.mkdir()
        write_photographs(photographs, n, height, width)
        source = ImageFolder(photographs, SIZE)
        before = decode_each(source.paths)
        order = np.random.default_rng(1).permutation(n)
        with decoded(source, kept, progress=False) as pixels:

            def epoch() -> None:
                for start in range(0, n, BATCH_SIZE):
                    np.array(pixels[order[start : start + BATCH_SIZE]])

            sides = [
                ("an epoch over decoding in it", epoch, EPOCH_TARGET),
                ("decoding once over an epoch that decodes", fill(source, kept / "2"), FILL_TARGET),
            ]
            for title, side, target in sides:
                pairs = timed_pairs(side, before, repeats=repeats, warmup=0)
                new_s, old_s = pairs.medians_s
                each_ms = [round(1000 * seconds / n, 3) for seconds in (new_s, old_s)]
                details = {
                    "images": n,
                    "megapixels": height * width / 1e6,
                    "threads": workers(),
                    "ms_per_image": each_ms[0],
                    "ms_per_image_before": each_ms[1],
                }
                limit = f"{each_ms[0]} ms an image against {each_ms[1]} ms, {workers()} threads"
                figures.append(Figure(title, pairs.ratios, target, limit=limit, details=details))
    return figures


if __name__ == "__main__":
    run_script("images", [measure], __doc__)
