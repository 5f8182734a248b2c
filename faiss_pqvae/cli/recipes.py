"""The settings of the demo, each chosen on images held out of the 4,000."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from faiss_pqvae import Contrastive, ModelConfig, Reconstruction, TrainingConfig

DATASET = "mnist5k"


class Recipe(NamedTuple):
    """How a code of the demo is learned: `results/choice-mnist5k.json`.

    Attributes:
        objective: what is learned.
        model: networks and bottleneck.
        training: the loop.
        lengths: in bits.
        folder: below the demo's.
    """

    objective: object
    model: ModelConfig
    training: TrainingConfig
    lengths: tuple[int, ...]
    folder: str


def demo_recipes(*, quick: bool = False) -> list[Recipe]:
    """PQ-VAE at two lengths, and for the time at one only what learns which image a code is of."""
    loop = TrainingConfig(epochs=36, batch_size=128, precision="float32")
    views = TrainingConfig(epochs=12, batch_size=64, precision="bfloat16")
    if quick:
        loop, views = replace(loop, epochs=4), replace(views, epochs=1)
    lengths = (32,) if quick else (32, 64)
    return [
        Recipe(Reconstruction(lambda_=0.01), ModelConfig(width=24), loop, lengths, "."),
        Recipe(Contrastive(), ModelConfig(width=16), views, lengths[:1], "contrastive"),
    ]
