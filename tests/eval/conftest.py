"""One finished run and its page, for all tests of the report."""

import json
from dataclasses import replace

import numpy as np
import pytest

from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.build import from_factory
from faiss_pqvae.eval.methods.exact import exact
from faiss_pqvae.eval.report.page import write_report
from faiss_pqvae.native import faiss

HOSTILE = "<b>$bold</b>"


def labelled(items, labels, name="blobs"):
    """Items with their labels as data: the first 300 are the database, the rest are queries."""
    return LabelledData(
        name=name,
        protocol="30 queries",
        description="three noisy blobs",
        train=items[:300],
        database=items[:300],
        database_labels=labels[:300],
        queries=items[300:],
        query_labels=labels[300:],
        class_names=("round", "long", "flat"),
    )


@pytest.fixture(scope="session")
def blobs():
    generator = np.random.default_rng(0)
    labels = np.arange(330) % 3
    centres = generator.integers(60, 196, (3, 1, 8, 8))
    noise = generator.normal(scale=60, size=(330, 1, 8, 8))
    return labelled(np.clip(centres[labels] + noise, 0, 255).astype(np.uint8), labels)


METHODS = [
    exact(64),
    from_factory("LSH", 16, 64, "LSH16rt", search="hamming"),
    from_factory("PQ", 16, 64, "PQ8x2np"),
    from_factory(HOSTILE, 16, 64, "PQ4x4np"),
    from_factory("PQ", 24, 64, "PQ8x3np"),
    *(from_factory("PQ", 16, 64, "PQ8x2np", seed=seed) for seed in (1, 2)),
    replace(from_factory("IVF", 24, 64, "IVF4,PQ8x2np"), searches=("nprobe=1", "nprobe=4")),
]


@pytest.fixture(scope="session")
def report_run(blobs, tmp_path_factory):
    """A run with its logs: (results, out, trainings, usage)."""
    out = tmp_path_factory.mktemp("run")
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # tiny parallel regions on busy cores take minutes
    results = run(blobs, METHODS, out, k=50, command="faiss-pqvae demo --name '<i>'")
    faiss.omp_set_num_threads(before)
    epochs = [
        {
            "event": "epoch",
            "epoch": epoch,
            "reconstruction": 1 / (epoch + 1),
            "validation_reconstruction": 1.1 / (epoch + 1),
            "quantization": 0.1,
            "distance_ratio": 0.5,
            "perplexity": [2.0, 3.5],
            "usage": [0.5, 1.0],
        }
        for epoch in range(3)
    ]
    lines = [{"event": "start"}, *epochs, {"event": "epoch", "epoch": 3}, 3]
    log = out / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)) + '\n{"event": "epo')
    usage = {"PQ-VAE, 16 bits": np.array([[5, 0, 5, 0], [1, 2, 3, 4]])}
    return results, out, {"PQ-VAE, 16 bits": log}, usage


@pytest.fixture(scope="session")
def report_page(report_run, blobs):
    results, out, trainings, usage = report_run
    path = write_report(results, blobs, out, trainings=trainings, usage=usage)
    assert path == out / "report.html"
    return path.read_text()
