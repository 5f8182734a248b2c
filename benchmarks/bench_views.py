"""Time of making augmented views over the time of training on them, and over kornia's.

One side makes the views of a batch, the other takes a step of the contrastive objective on as
many: a target of 0.25 says that views are made four times as fast as the network learns from them.
Kornia (`pip install kornia`) is compared where it is installed; it makes the same crops, mirror
images, colours and greys, with its own ranges.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from common import Figure, Options, make_model, random_items, run_script, timed_pairs
from torch import Tensor

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import to_float
from faiss_pqvae.training.data.views import PRESETS, Views, random_views
from faiss_pqvae.training.objectives.contrastive import Contrastive, contrastive_objective

SHAPE = (3, 32, 32)
BATCH_SIZE, N_VIEWS = 128, 4
STEP_TARGET, KORNIA_TARGET = 0.25, 0.5


def make_views(x: Tensor, views: Views) -> Callable[[], Tensor]:
    """The views of a step."""
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.cat([random_views(x, views, generator) for _ in range(N_VIEWS)])


def step(x: Tensor) -> Callable[[], None]:
    """A step of the contrastive objective, in bfloat16, on views that stay the same."""
    model = make_model(SHAPE, ModelConfig(), M=8, nbits=4, objective="contrastive").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    views = x.repeat(N_VIEWS, 1, 1, 1)

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            terms = contrastive_objective(model, views, x, Contrastive())
        optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def kornia_views(x: Tensor) -> Callable[[], object] | None:
    """The same number of kornia's views; None where it is not installed."""
    if importlib.util.find_spec("kornia") is None:
        return None
    from kornia import augmentation  # type: ignore[import-not-found]

    natural = PRESETS["natural"]
    jitter = [natural.color] * 3
    made: Any = augmentation.AugmentationSequential(
        augmentation.RandomResizedCrop(SHAPE[1:], scale=(natural.min_scale, 1.0)),
        augmentation.RandomHorizontalFlip(p=natural.flip),
        augmentation.ColorJitter(*jitter, natural.hue, p=1.0),
        augmentation.RandomGrayscale(p=natural.grayscale),
        data_keys=["input"],
    )
    return lambda: [made(x) for _ in range(N_VIEWS)]


def measure(options: Options) -> list[Figure]:
    """Views over a step, and over kornia's views."""
    repeats = options.repeats or (3 if options.quick else 15)
    x = to_float(torch.from_numpy(random_items(BATCH_SIZE, SHAPE)))
    natural = make_views(x, PRESETS["natural"])
    sides: list[tuple[str, Callable[[], object] | None, float]] = [
        ("views over a contrastive step", step(x), STEP_TARGET),
        ("views over kornia's", kornia_views(x), KORNIA_TARGET),
    ]
    figures = []
    for name, other, target in sides:
        if other is None:
            print(f"not measured: {name}; kornia is not installed")
            continue
        pairs = timed_pairs(natural, other, repeats=repeats)
        rates = [round(N_VIEWS * BATCH_SIZE / seconds) for seconds in pairs.medians_s]
        details = {"views_per_s": rates[0], "other_views_per_s": rates[1], "n_views": N_VIEWS}
        limit = f"{rates[0]:,} views a second against {rates[1]:,}"
        figures.append(Figure(name, pairs.ratios, target, limit=limit, details=details))
    return figures


if __name__ == "__main__":
    run_script("views", [measure], __doc__)
