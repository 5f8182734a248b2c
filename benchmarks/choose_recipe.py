"""Chooses lambda and whitening for a data set on a validation split of its database.

Every candidate is trained, without labels, on one part of the database and scored on the rest:
by the mean average precision of the held-out images as queries, which reads their labels, and by
`view_recall`, which needs none. The data set's own queries are not touched. Writes every score,
also those that lost.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from pathlib import Path

import numpy as np
import tyro

import faiss_pqvae as fpq
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.eval.metrics.precision import map_at_k, relevance
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.training import fit, new_model
from faiss_pqvae.training.tune.scores import view_recall


def main(
    out: Path,
    *,
    dataset: str = "mnist5k",
    n_train: int = 3200,
    nbits: int = 8,
    epochs: int = 40,
    batch_size: int = 128,
    width: int = 24,
    lambdas: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03),
    whitenings: tuple[float, ...] = (0.0, 0.3),
    seeds: int = 3,
) -> None:
    """Trains every candidate and writes its scores, the best mean average precision first.

    Args:
        out: JSON file.
        dataset: name of a labelled data set; its queries are not read.
        n_train: images of the database to train on; the others score.
        nbits: bits of each of the 8 sub-quantizers.
        epochs: of every training.
        batch_size: of every training.
        width: of the networks.
        lambdas: candidates.
        whitenings: candidates.
        seeds: trainings of every candidate, each on another split; their scores are averaged.
    """
    data = load(dataset)
    x, labels = np.asarray(data.database[:]), data.database_labels
    views = fpq.Views.for_shape(x.shape[1:])
    scores = []
    for lambda_, whitening in itertools.product(lambdas, whitenings):
        objective = fpq.Reconstruction(lambda_=lambda_, whitening=whitening)
        runs = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(x))
            kept, held = np.sort(order[:n_train]), np.sort(order[n_train : n_train + 5000])
            training = fpq.TrainingConfig(
                epochs=epochs,
                batch_size=batch_size,
                seed=seed,
                precision="float32",
            )
            config = fpq.ModelConfig(width=width)
            model = new_model(x.shape[1:], 8, nbits, config, objective=objective)
            history = fit(model, x[kept], training, objective=objective)
            index = fpq.LatentIndex(model)
            index.add(x[kept])
            _, I = index.search(x[held], 1000)  # noqa: E741 - FAISS's name
            runs.append(
                {
                    "map@1000": map_at_k(relevance(I, labels[kept], labels[held]), 1000),
                    "view_recall@1": view_recall(model, x[held], views=views),
                    "distance_ratio": history[-2]["distance_ratio"],
                    "perplexity": float(np.mean(history[-2]["perplexity"])),
                    "train_s": history[-1]["elapsed_s"],
                }
            )
        means = {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        row = {"lambda_": lambda_, "whitening": whitening, **means, "runs": runs}
        scores.append(row)
        print({name: value for name, value in row.items() if name != "runs"}, flush=True)
    scores.sort(key=lambda row: -row["map@1000"])
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "dataset": dataset,
        "n_train": n_train,
        "n_held_out": min(5000, len(x) - n_train),
        "environment": environment(),
        "scores": scores,
    }
    replace_bytes(out, (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    tyro.cli(main)
