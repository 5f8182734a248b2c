"""What a second look at the candidates gives: RDecoder and RFlat, on images and on vectors.

The same trained model answers with its codes alone, ranked again by the decoder's reconstructions
(nothing more is stored), and ranked again by the items themselves. Images count as right when their
class is; of vectors, the exact nearest neighbour is to be found. Needs bsds-sift.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

import faiss_pqvae as fpq
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.protocol import data_folder
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss

K = 10
K_FACTORS = (1.0, 4.0, 10.0)


def answers(
    description: str,
    model: fpq.ModelConfig,
    lambda_: float,
    training: fpq.TrainingConfig,
    data: Any,
) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """The ids (n, 10) that each way of looking finds, by its name; (train, database, queries)."""
    train, database, queries = data
    shape = tuple(database.shape[1:])
    objective = fpq.Reconstruction(lambda_=lambda_)
    index = fpq.index_factory(
        shape, description, model=model, training=training, objective=objective
    )
    index.train(train)
    flat = faiss.IndexFlatL2(int(np.prod(shape)))
    for name, refine_index in ((None, None), ("RDecoder", "decoder"), ("RFlat", flat)):
        index = fpq.LatentIndex(index.model, refine_index=refine_index)
        index.add(database)
        for index.k_factor in K_FACTORS if name else K_FACTORS[:1]:
            label = f"{name}, k_factor={index.k_factor:g}" if name else "codes alone"
            yield label, index.search(queries, K)[1]


def images() -> dict[str, Any]:
    """Share of the 10 nearest images that are of the query's class."""
    data = load("mnist5k")
    model = fpq.ModelConfig(width=24)
    training = fpq.TrainingConfig(epochs=50, batch_size=128, precision="float32")
    parts = (data.train, data.database, data.queries)
    labels = data.query_labels[:, None]
    return {
        label: {"precision@10": float((data.database_labels[I] == labels).mean())}
        for label, I in answers("PQVAE4x8", model, 0.01, training, parts)  # noqa: E741 - FAISS's name
    }


def vectors(folder: Path) -> dict[str, Any]:
    """Share of queries whose exact nearest neighbour is among the 1 and the 10 found."""
    from faiss.contrib.vecs_io import bvecs_mmap

    names = ("learn", "base", "query")
    train, database, queries = (
        np.ascontiguousarray(bvecs_mmap(str(folder / f"bsds_sift_{name}.bvecs")), np.float32)
        for name in names
    )
    exact = faiss.IndexFlatL2(database.shape[1])
    exact.add(database)
    nearest = exact.search(queries, 1)[1]
    model = fpq.ModelConfig(encoder="mlp", dsub=16, width=256)
    training = fpq.TrainingConfig(epochs=8, batch_size=256, precision="float32")
    return {
        label: {f"1-recall@{n}": float((I[:, :n] == nearest).any(1).mean()) for n in (1, K)}
        for label, I in answers(  # noqa: E741 - FAISS's name
            "PQVAE8x8", model, 0.001, training, (train[:50_000], database, queries)
        )
    }


def main(out: Path) -> None:
    """Measures both and writes them.

    Args:
        out: JSON file.
    """
    folder = data_folder() / "bsds-sift"
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
        "mnist5k, PQVAE4x8": images(),
        "bsds-sift, PQVAE8x8": vectors(folder),
    }
    print(json.dumps(result, indent=1))
    replace_bytes(out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
