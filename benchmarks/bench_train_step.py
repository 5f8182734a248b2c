"""Time of a training step with the bottleneck over the same step without it.

A step is forward, loss, backward and optimizer, as in the training loop; with the bottleneck
also the assignment, the moving averages and the count of the codewords chosen. Views are left
out of both sides: they would only hide the difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from common import Figure, Options, count_flops, make_model, random_items, run_script, timed_pairs

from faiss_pqvae.model.clustering import histogram
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE, to_float
from faiss_pqvae.training.objectives.reconstruction import (
    Reconstruction,
    reconstruction_objective,
)

BATCH_SIZE = 256
TARGET = 1.15

# Name, shape of an item, configuration, target, steps that are timed as one.
CASES: list[tuple[str, tuple[int, ...], ModelConfig, float | None, int]] = [
    ("conv, decoder linear", (3, 32, 32), ModelConfig(dsub=32, decoder="linear"), TARGET, 1),
    ("conv, decoder conv", (3, 32, 32), ModelConfig(dsub=32, decoder="conv"), TARGET, 1),
    # Two thin layers cost less than the bottleneck itself: no target can hold here.
    ("mlp 784, decoder linear", (784,), ModelConfig(encoder="mlp", dsub=32), None, 20),
]


def step(model: PQVAE, *, bypass: bool) -> Callable[[], None]:
    """A training step of a model on one batch of noise, which stays the same."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    counts = torch.zeros(model.M, model.quantizer.ksub, dtype=torch.long)
    clean = torch.from_numpy(random_items(BATCH_SIZE, model.input_shape))
    view = to_float(clean)
    model.train()

    def run() -> None:
        terms = reconstruction_objective(model, view, clean, Reconstruction(), bypass=bypass)
        optimizer.zero_grad(set_to_none=True)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if terms.ids is not None:
            counts.add_(histogram(terms.ids, model.quantizer.ksub))

    return run


def measure(options: Options) -> list[Figure]:
    """One figure per network."""
    repeats = options.repeats or (3 if options.quick else 31)
    figures = []
    for name, shape, config, target, steps in CASES:
        model = make_model(shape, config)
        sides = [step(copy.deepcopy(model), bypass=bypass) for bypass in (False, True)]
        flops = [count_flops(side) for side in sides]
        a, b = (_repeated(side, steps) for side in sides)
        pairs = timed_pairs(a, b, repeats=repeats)
        rate = steps * flops[1] / min(pairs.b_s) / 1e9
        figures.append(
            Figure(
                name=f"training step, {name}",
                values=pairs.ratios,
                target=target,
                limit=(
                    f"{flops[0] / flops[1]:.3f} by FLOPs ({flops[0] / 1e9:.2f} over "
                    f"{flops[1] / 1e9:.2f} GFLOP a step, done at {rate:.0f} GFLOP/s)"
                ),
                details={
                    "batch_size": BATCH_SIZE,
                    "M": model.M,
                    "ksub": model.quantizer.ksub,
                    "latent_dim": model.latent_dim,
                    "steps_per_measurement": steps,
                    "median_with_s": pairs.medians_s[0],
                    "median_without_s": pairs.medians_s[1],
                },
            )
        )
    return figures


def _repeated(work: Callable[[], None], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            work()

    return run


if __name__ == "__main__":
    run_script("train_step", [measure], __doc__)
