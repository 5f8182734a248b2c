"""Time of `index.add` over the bare encoder's forward pass on the same batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from common import Figure, Options, count_flops, make_index, random_items, run_script, timed_pairs

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE

TARGET = 1.10

# Encoder, shape of an item, target, items.
CASES: list[tuple[str, tuple[int, ...], float | None, int]] = [
    ("conv", (3, 32, 32), TARGET, 4096),
    # The two thin layers take about as long as FAISS's search for the nearest codewords.
    ("mlp", (784,), None, 65536),
]


def encode_all(model: PQVAE, x: npt.NDArray[np.uint8], batch_size: int) -> None:
    """The encoder's forward pass over x (n, *input_shape), and nothing else."""
    with torch.inference_mode():
        for start in range(0, len(x), batch_size):
            model.encode(torch.from_numpy(x[start : start + batch_size]))


def measure(options: Options) -> list[Figure]:
    """One figure per network."""
    repeats = options.repeats or (3 if options.quick else 21)
    figures = []
    for encoder, shape, target, n in CASES:
        n = n // 4 if options.quick else n
        index = make_index(shape, ModelConfig(encoder=encoder, dsub=32))
        model, x = index.model, random_items(n, shape)

        def add() -> None:
            index.reset()  # noqa: B023 - called within the same turn of the loop
            index.add(x)  # noqa: B023

        def encode() -> None:
            encode_all(model, x, index.batch_size)  # noqa: B023

        pairs = timed_pairs(add, encode, repeats=repeats)
        assert index.ntotal == n
        ksub, dsub = model.quantizer.ksub, model.quantizer.dsub
        encoder_flops = count_flops(lambda: model.encode(torch.from_numpy(x[:64]))) // 64  # noqa: B023
        assignment_flops = 2 * model.M * ksub * dsub
        rate = n * encoder_flops / min(pairs.b_s) / 1e9
        figures.append(
            Figure(
                name=f"add, {encoder}" if len(shape) == 3 else f"add, {encoder} {shape[0]}",
                values=pairs.ratios,
                target=target,
                limit=(
                    f"{1 + assignment_flops / encoder_flops:.3f} by FLOPs (encoder "
                    f"{encoder_flops / 1e6:.2f} MFLOP an item, done at {rate:.0f} GFLOP/s; nearest "
                    f"codewords {assignment_flops / 1e6:.2f})"
                ),
                details={
                    "n": n,
                    "batch_size": index.batch_size,
                    "M": model.M,
                    "ksub": ksub,
                    "latent_dim": model.latent_dim,
                    "median_add_s": pairs.medians_s[0],
                    "median_encode_s": pairs.medians_s[1],
                },
            )
        )
    return figures


if __name__ == "__main__":
    run_script("add", [measure], __doc__)
