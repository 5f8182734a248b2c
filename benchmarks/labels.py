"""What of learning from labels matters, on CIFAR-10: an ablation of DPQ and DQN.

The protocol is "few-labels" (see `faiss_pqvae.eval.data.splits`), on training images alone:
queries are held out of them, 100 a class, and test images take no part, because settings are not
chosen with test queries. So the database has 44,000 images, and numbers are not those of the
test. Every row starts from one encoder; trained without labels on all training images, it saw the
held-out ones, too. Finished trainings are kept: the same command goes on where it was interrupted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from contrastive import DATASET, TRAINING, head, set_threads, slug, write

import faiss_pqvae as fpq
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.protocol import SEED
from faiss_pqvae.eval.data.splits import few_labels
from faiss_pqvae.eval.measure.confidence import percentile_intervals, resampled_means

QUERIES_PER_CLASS = 100
SEARCHED_AT_ONCE = 200  # queries: each is answered by the whole database
BITS: dict[str, tuple[int, ...]] = {"dpq": (8, 16, 24, 32), "dqn": (32,)}
OBJECTIVES: dict[str, Any] = {"dpq": fpq.DPQ, "dqn": fpq.DQN}


@dataclass(frozen=True)
class Change:
    """What differs from the default of an objective.

    Attributes:
        objective: "dpq" or "dqn".
        settings: of the objective.
        labels: settings of `LabelTraining`.
        model: settings of `ModelConfig`.
    """

    objective: str
    settings: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


ABLATION = {
    "DPQ": Change("dpq"),
    "DPQ, no quantization loss (two steps)": Change("dpq", {"quantization": 0.0}),
    "DPQ, no soft": Change("dpq", {"soft": 0.0}),
    "DPQ, no hard": Change("dpq", {"hard": 0.0}),
    "DPQ, latents of length 1": Change("dpq", model={"unit_latents": True}),
    "DPQ, contrast": Change("dpq", labels={"contrast": 1.0}),
    "DQN": Change("dqn"),
    "DQN, no quantization loss (two steps)": Change("dqn", {"quantization": 0.0}),
}


def ablation(
    *,
    pretrained: Path,
    minutes: float = 4,
    folder: Path = Path("runs/labels"),
    out: Path = Path("results/labels-ablation.json"),
    threads: int = 2,
) -> None:
    """Trains with one setting changed at a time, and tells mAP over the whole database.

    Args:
        pretrained: folder of an index, whose encoder every training starts from.
        minutes: of every training.
        folder: for trainings.
        out: JSON file.
        threads: of torch and FAISS.
    """
    set_threads(threads)
    start = fpq.read_index(pretrained).model
    data = held_out(load(DATASET), QUERIES_PER_CLASS)
    training = replace(TRAINING, budget_minutes=minutes)
    record = {
        **head(data, minutes, threads),
        "bits": BITS,
        "n_database": len(data.database),
        "n_queries": len(data.queries),
        "pretrained": asdict(start.config),
        "training": asdict(training),
        "rows": [],
    }
    for name, change in ABLATION.items():
        row = measured(change, data, training, start, folder / slug(name))
        record["rows"].append({"changed": name, **row})
        print(record["rows"][-1], flush=True)
        write(out, record)


def held_out(data: LabelledData, queries_per_class: int) -> LabelledData:
    """The protocol "dqn" with queries out of the training images, and without test images."""
    generator = np.random.default_rng(SEED)
    of_class = [np.flatnonzero(data.database_labels == i) for i in range(len(data.class_names))]
    held = np.sort(
        np.concatenate(
            [generator.choice(rows, queries_per_class, replace=False) for rows in of_class]
        )
    )
    kept = np.setdiff1d(np.arange(len(data.database)), held)
    training = data.database[kept]
    split = few_labels(
        replace(
            data,
            train=training,
            database=training,
            database_labels=data.database_labels[kept],
            queries=data.database[held],
            query_labels=data.database_labels[held],
        ),
        queries_per_class=queries_per_class,
    )
    return replace(split, protocol=f"{split.protocol}, queries held out of the training images")


def measured(
    change: Change,
    data: LabelledData,
    training: fpq.TrainingConfig,
    start: fpq.PQVAE,
    folder: Path,
) -> dict[str, Any]:
    """Trains one row, or reads its finished training, and measures it.

    Args:
        change: what differs.
        data: with labels of some of the training items.
        training: the loop.
        start: whose encoder the training starts from.
        folder: for log and checkpoint.
    """
    model = fpq.ModelConfig(
        encoder=start.config.encoder,
        width=start.config.width,
        standardize=start.config.standardize,
        **change.model,
    )
    labels = fpq.LabelTraining(**change.labels)
    objective = OBJECTIVES[change.objective](**change.settings, labels=labels)
    bits = BITS[change.objective]
    index = fpq.index_factory(
        tuple(data.database.shape[1:]),
        f"{change.objective.upper()}{max(bits) // 8}x8",
        model=model,
        training=training,
        objective=objective,
        pretrained=start,
    )
    assert data.train_labels is not None
    index.train(data.train, data.train_labels, folder=folder)
    index.add(data.database)
    first, *_, end = index.history
    return {
        **asdict(change),
        "map": {
            length: mean_precision(
                index.prefix(length // 8) if change.objective == "dpq" else index, data
            )
            for length in bits
        },
        "steps": end["step"],
        "epochs": round(end["step"] / first["steps_per_epoch"], 2),
        "elapsed_s": end["elapsed_s"],
    }


def mean_precision(index: fpq.LatentIndex, data: LabelledData) -> dict[str, float]:
    """The mAP over the whole database with half of its 95 % interval, and the bytes of a code."""
    k = len(data.database)
    precisions = []
    for at in range(0, len(data.queries), SEARCHED_AT_ONCE):
        rows = slice(at, at + SEARCHED_AT_ONCE)
        _, I = index.search(data.queries[rows], k)  # noqa: E741 - FAISS's name
        part = replace(data, queries=data.queries[rows], query_labels=data.query_labels[rows])
        precisions.append(part.scores(I, k).per_query[f"map@{k}"])
    precision = np.concatenate(precisions)
    low, high = percentile_intervals(resampled_means(precision[:, None]))[0]
    return {
        "mean": float(precision.mean()),
        "half_interval": float(high - low) / 2,
        "bytes": index.sa_code_size(),
    }


if __name__ == "__main__":
    tyro.cli(ablation, description=__doc__)
