"""A control: do the baselines gain as much from standardised images as PQ-VAE does?

PQ-VAE brings every image to zero mean and unit deviation before its encoder. Here the baselines
get images treated in the same way.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

import numpy as np
import tyro

from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.measure.results import write_results
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.baselines import baselines
from faiss_pqvae.eval.report.text import table
from faiss_pqvae.types import FloatArray


def standardized(x: np.ndarray) -> FloatArray:
    """(n, c, h, w) uint8 to float32, as `PQVAE.normalize` does it."""
    out = x.astype(np.float32) / np.float32(255)
    out -= out.mean((1, 2, 3), keepdims=True)
    out /= out.std((1, 2, 3), ddof=1, keepdims=True) + np.float32(0.1)
    return out


def main(out: Path, *, dataset: str = "cifar10-jpeg", bits: tuple[int, ...] = (32, 64)) -> None:
    """Measures the baselines on standardised images.

    Args:
        out: JSON file, in the format of results.json.
        dataset: name of a labelled data set.
        bits: code lengths.
    """
    data = load(dataset)
    database = standardized(np.asarray(data.database[:]))
    treated = dataclasses.replace(
        data,
        protocol=f"{data.protocol}, every image standardised",
        train=database,
        database=database,
        queries=standardized(np.asarray(data.queries[:])),
    )
    shape = database.shape[1:]
    methods = [method for length in bits for method in baselines(length, shape)]
    command = shlex.join(["python", *sys.argv])
    results = run(treated, methods, Path("runs/control"), command=command)
    print(table(results))
    write_results(results, out)


if __name__ == "__main__":
    tyro.cli(main)
