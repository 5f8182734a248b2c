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


class Spread(NamedTuple):
    """How far apart trainings of the demo end that differ in their seed alone.

    Attributes:
        method: the name of its row.
        bits: of a code.
        search: of the row.
        n: seeds.
        mean: of mAP@1000, in percent.
        deviation: standard deviation over the seeds, in points.
        low: the lowest.
        high: the highest.
    """

    method: str
    bits: int
    search: str
    n: int
    mean: float
    deviation: float
    low: float
    high: float


# results/demo-seeds.json, rounded to a tenth of a point: tests/test_readme.py compares.
SPREADS = (
    Spread("PQ-VAE", 32, "adc", 5, 69.9, 2.2, 67.4, 73.3),
    Spread("PQ-VAE", 64, "adc", 5, 68.8, 1.5, 66.8, 70.7),
    Spread("PQ-VAE, contrastive", 32, "adc", 5, 78.0, 2.2, 74.8, 80.8),
)


def note_on_seeds() -> str:
    """What a reader of one training of each code has to know of others."""
    told = [
        f"{one.method} of {one.bits} bits ({one.search}) {one.mean:.1f} ± {one.deviation:.1f}, "
        f"from {one.low:.1f} to {one.high:.1f}"
        for one in SPREADS
    ]
    return (
        "One training of each code, with one seed; other seeds and processors end elsewhere. "
        f"mAP@1000 of {SPREADS[0].n} seeds, ± their deviation: {'; '.join(told)}."
    )


QUICK = (
    "A quick run (--quick): a few epochs, to show that everything works. What is learned in so few "
    "is far below what the demo without --quick learns."
)


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
