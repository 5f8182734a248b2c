"""Figures 1 to 4 of the PQ-VAE paper (Wu and Flierl, arXiv 1807.04629), trained and drawn.

1 to 3: two-dimensional latents of MNIST for a high rate, a low rate, and a high rate with a small
lambda. 4: reconstruction error against distance ratio, a point for every lambda, and beside it
what the paper is about, the retrieval score, against lambda and against the ratio.

Trainings see no labels. Error, ratio and the permissible range are measured on training images
that were held out; the test images are the queries of the score, which chooses nothing here.
The same command goes on after an interruption; --redraw draws from the stored numbers.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from paper.figures import Sweep, latents_figure, save_figure, sweep_figure
from scipy.spatial import cKDTree
from tqdm import tqdm

import faiss_pqvae as fpq
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.eval.metrics.precision import count_relevant, map_at_k, precision_at_k, relevance
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.training import Reconstruction, TrainingConfig, Views, fit, new_model
from faiss_pqvae.training.loop import DivergedError
from faiss_pqvae.training.tune.search import Point, permissible_range, read_points

FORMAT = 1
N_DRAWN = 3000
N_NEAR = 10
K = 1000
SCORES = ("map@1000", "precision@100")
SHOWN = ("mAP@1000", "precision@100")
# The paper's network for MNIST: fully connected, the decoder the encoder's mirror.
NETWORK = fpq.ModelConfig(encoder="mlp", decoder="mlp", width=256)
FREE = dataclasses.replace(NETWORK, normalize_latents=False)
LATENTS = (
    ("A high rate", 6, 1.0),
    ("A low rate", 3, 1.0),
    (r"A high rate with a small $\lambda$", 6, 0.001),
)
SWEEPS = (
    ("Latents as the encoder gives them, as in the paper", FREE),
    ("Latents batch-normalised, the default here", NETWORK),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of the figures.

    Attributes:
        dataset: a labelled set of images; mnist5k needs no download.
        lambdas: of figure 4.
        seeds: trainings of every lambda of figure 4.
        bits: of each of the 8 sub-quantizers of figure 4.
        epochs: of every training of figure 4.
        epochs_2d: of every training of figures 1 to 3.
        n_queries: random test images that are searched for; all when there are fewer.
        folder: for trainings and latents.
        results: for paper.json and figures/; None takes results with mnist, else the folder.
        redraw: draw from paper.json and the stored latents, without data or training.
        tune: draw the tune.json of `faiss-pqvae tune` instead, as tune.svg and tune.png beside it.
        threads: of torch and FAISS; None leaves the libraries' own choice.
    """

    dataset: str = "mnist"
    lambdas: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 0.1, 1.0, 10.0)
    seeds: int = 2
    bits: int = 4
    epochs: int = 6
    epochs_2d: int = 12
    n_queries: int = 2000
    folder: Path = Path("runs/paper")
    results: Path | None = None
    redraw: bool = False
    tune: Path | None = None
    threads: int | None = None


def main(options: Options) -> None:
    """Trains what is missing, writes paper.json, draws the four figures."""
    if options.tune is not None:
        for path in draw_tune(options.tune):
            print(path)
        return
    results = options.results or (
        Path("results") if options.dataset == "mnist" else options.folder / options.dataset
    )
    folder = options.folder / options.dataset
    if not options.redraw:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
            fpq.native.faiss.omp_set_num_threads(options.threads)
        measure(options, folder, results / "paper.json")
    record = json.loads((results / "paper.json").read_text(encoding="utf-8"))
    for path in draw(record, folder / "latents.npz", results / "figures"):
        print(path)
    print("\n".join(summary(record)))


# Measuring ---


def measure(options: Options, folder: Path, path: Path) -> None:
    """Runs every training and writes the record and the latents."""
    data = load(options.dataset)
    if options.n_queries < len(data.queries):
        data = load(options.dataset, n_queries=options.n_queries)
    x = np.asarray(data.database[:])
    training = TrainingConfig(epochs=options.epochs, views=Views(), precision="float32", patience=0)
    record: dict[str, Any] = {
        "format": FORMAT,
        "command": shlex.join(["python", *sys.argv]),
        "dataset": data.description,
        "protocol": data.protocol,
        "environment": environment(),
        "training": dataclasses.asdict(training),
        "epochs_2d": options.epochs_2d,
        "mean_image_error": mean_image_error(x),
    }
    long = dataclasses.replace(training, epochs=options.epochs_2d)
    record["latents"] = _latents(data, x, long, folder)
    record["sweeps"] = _sweeps(options, data, x, training, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, allow_nan=False)
    replace_bytes(path, f"{text}\n".encode())


def mean_image_error(x: np.ndarray) -> float:
    """The error of a code that says nothing: every image reconstructed as the mean image."""
    model = fpq.PQVAE(x.shape[1:], 1, 1, dataclasses.replace(NETWORK, dsub=2))
    items = torch.from_numpy(x[:: max(1, len(x) // 5000)])
    model.fit_normalization(items)
    target = model.normalize(items)
    return float((target - target.mean(0)).square().mean())


def _latents(
    data: LabelledData, x: np.ndarray, training: TrainingConfig, folder: Path
) -> list[dict[str, Any]]:
    """Figures 1 to 3: trains, keeps latents of test images and codewords, returns the numbers."""
    rows = slice(0, N_DRAWN)
    arrays: dict[str, np.ndarray] = {"labels": data.query_labels[rows]}
    entries = []
    for number, (title, nbits, lambda_) in enumerate(LATENTS, 1):
        config, objective = dataclasses.replace(FREE, dsub=2), Reconstruction(lambda_=lambda_)
        model = new_model(x.shape[1:], 1, nbits, config, objective=objective)
        found = train(model, x, training, folder / f"figure-{number}", objective)
        with torch.inference_mode():
            z = model.encode(torch.from_numpy(np.asarray(data.queries[rows])))
            ids = model.quantizer(z).ids
        arrays[f"latents_{number}"] = z.numpy()
        arrays[f"codewords_{number}"] = model.quantizer.codewords[0].numpy()
        entry = {
            "figure": number,
            "title": title,
            "nbits": nbits,
            "lambda_": lambda_,
            **found,
            "drawn": len(z),
            **_agreement(z.numpy(), ids[:, 0].numpy(), arrays["labels"]),
            "model": dataclasses.asdict(config),
            "objective": dataclasses.asdict(objective),
        }
        entries.append(entry)
        print({k: v for k, v in entry.items() if k not in ("model", "objective")}, flush=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    replace_bytes(folder / "latents.npz", buffer.getvalue())
    return entries


def _agreement(z: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What the eye looks for in figures 1 to 3, of the latents that are drawn.

    Args:
        z: (n, 2) float, latents.
        ids: (n,) int64, their codewords.
        labels: (n,) int64.

    Returns:
        codewords_used; cell_purity, the share of latents with the most frequent label of their
        cell; neighbour_purity, the share of the 10 nearest other latents with the same label;
        latents_rms, the root mean square distance from the mean.
    """
    counts = np.zeros((ids.max() + 1, labels.max() + 1), np.int64)
    np.add.at(counts, (ids, labels), 1)
    _, near = cKDTree(z).query(z, 1 + N_NEAR)
    others = near != np.arange(len(z))[:, None]
    others[others.all(1), -1] = False  # where more than those coincide
    same = labels[near[others].reshape(len(z), N_NEAR)] == labels[:, None]
    return {
        "codewords_used": int((counts.sum(1) > 0).sum()),
        "cell_purity": round(float(counts.max(1).sum() / len(z)), 4),
        "neighbour_purity": round(float(same.mean()), 4),
        "latents_rms": round(float(np.sqrt(np.square(z - z.mean(0)).sum(1).mean())), 4),
    }


def train(
    model: fpq.PQVAE,
    x: np.ndarray,
    training: TrainingConfig,
    folder: Path,
    objective: Reconstruction,
) -> dict[str, Any]:
    """Trains, or reads the finished training; the numbers of the epoch whose weights are kept."""
    try:
        history = fit(model, x, training, objective=objective, folder=folder)
    except DivergedError as error:
        return {"status": f"diverged: {error}"}
    end = history[-1]
    epochs = {event["epoch"]: event for event in history if event["event"] == "epoch"}
    kept = epochs.get(end["best_epoch"], epochs[max(epochs)])
    return {
        "status": "complete",
        "distance_ratio": round(kept["distance_ratio"], 5),
        "reconstruction": round(kept["validation_reconstruction"], 6),
        "perplexity": round(float(np.mean(kept["perplexity"])), 2),
        "best_epoch": end["best_epoch"],
        "train_s": round(end["elapsed_s"], 1),
    }


def _sweeps(
    options: Options,
    data: LabelledData,
    x: np.ndarray,
    training: TrainingConfig,
    folder: Path,
) -> list[dict[str, Any]]:
    """Figure 4: every network with every lambda and seed."""
    records: list[dict[str, Any]] = [
        {"title": title, "M": 8, "nbits": options.bits, "model": None, "runs": []}
        for title, _ in SWEEPS
    ]
    todo = [
        (seed, number, lambda_)
        for seed in range(options.seeds)
        for number in range(len(SWEEPS))
        for lambda_ in options.lambdas
    ]
    for seed, number, lambda_ in tqdm(todo, desc="figure 4", unit="run", disable=None):
        config = dataclasses.replace(SWEEPS[number][1], dsub=8)
        objective = Reconstruction(lambda_=lambda_)
        place = folder / f"figure-4-{number}" / f"{lambda_!r}-{options.bits}-{seed}"
        model = new_model(x.shape[1:], 8, options.bits, config, objective=objective)
        run = {"lambda_": lambda_, "seed": seed}
        run |= train(model, x, dataclasses.replace(training, seed=seed), place, objective)
        if run["status"] == "complete":
            run |= _scores(model, data, x, place)
        records[number]["model"] = dataclasses.asdict(config)
        records[number]["objective"] = dataclasses.asdict(objective) | {"lambda_": None}
        records[number]["runs"].append(run)
        print({"network": number, **run}, flush=True)
    for record in records:
        found = permissible_range(points(record["runs"]))
        record["permissible"] = dataclasses.asdict(found)
    return records


def _scores(model: fpq.PQVAE, data: LabelledData, x: np.ndarray, folder: Path) -> dict[str, float]:
    """How well the codes retrieve (ADC); kept in a file, for the next time."""
    path = folder / "scores.json"
    asked = {"protocol": data.protocol, "k": K, "codewords": model.codebooks().centroids.tolist()}
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["asked"] == asked:
            return dict(stored["scores"])
    started = time.perf_counter()
    index = fpq.LatentIndex(model)
    index.add(x)
    k = min(K, index.ntotal)
    _, I = index.search(np.asarray(data.queries[:]), k)  # noqa: E741 - FAISS's name
    relevant = relevance(I, data.database_labels, data.query_labels)
    n = count_relevant(data.database_labels, data.query_labels)
    scores = {
        "map@1000": map_at_k(relevant, k),
        "map@1000/min(R,k)": map_at_k(relevant, k, n, "min(R,k)"),
        "precision@100": float(precision_at_k(relevant, min(100, k)).mean()),
        "score_s": round(time.perf_counter() - started, 1),
    }
    replace_bytes(path, json.dumps({"asked": asked, "scores": scores}).encode())
    return scores


def points(runs: Sequence[dict[str, Any]]) -> list[Point]:
    """A point for every lambda, means over its seeds; one that diverged makes it diverged."""
    found = []
    for lambda_ in sorted({run["lambda_"] for run in runs}):
        same = [run for run in runs if run["lambda_"] == lambda_]
        bad = [run["status"] for run in same if run["status"] != "complete"]
        mean = {
            name: math.nan if bad else float(np.mean([run[name] for run in same]))
            for name in ("distance_ratio", "reconstruction", SCORES[0])
        }
        found.append(
            Point(
                lambda_,
                mean["distance_ratio"],
                mean["reconstruction"],
                score=mean[SCORES[0]],
                status=bad[0] if bad else "complete",
                seeds=len(same),
            )
        )
    return found


# Drawing ---


def draw(record: dict[str, Any], latents: Path, folder: Path) -> list[Path]:
    """Draws the four figures from what is stored."""
    paths: list[Path] = []
    with np.load(latents) as arrays:
        for entry in record["latents"]:
            number = entry["figure"]
            figure = latents_figure(
                arrays[f"latents_{number}"],
                arrays["labels"],
                arrays[f"codewords_{number}"],
                title=_title(entry),
                class_names=[str(digit) for digit in range(10)],
            )
            paths += save_figure(figure, folder / f"figure-{number}")
    figure = sweep_figure([sweep(part) for part in record["sweeps"]])
    return [*paths, *save_figure(figure, folder / "figure-4")]


def _title(entry: dict[str, Any]) -> str:
    return (
        f"{entry['title']}: {2 ** entry['nbits']} codewords, {entry['nbits']} bits, "
        rf"$\lambda$ = {entry['lambda_']:g}"
        f"\nreconstruction error {entry['reconstruction']:.3f}, "
        f"distance ratio {entry['distance_ratio']:.2f}"
        f"\n{entry['cell_purity']:.0%} of the images have the most frequent digit of their cell"
    )


def sweep(record: dict[str, Any]) -> Sweep:
    """What is drawn of a network's runs."""
    good = [point.lambda_ for point in points(record["runs"]) if point.converged]
    runs = {
        lambda_: [run for run in record["runs"] if run["lambda_"] == lambda_] for lambda_ in good
    }

    def values(name: str) -> np.ndarray:
        return np.array([[run[name] for run in runs[lambda_]] for lambda_ in good])

    limits = record["permissible"]
    return Sweep(
        f"{record['title']} (mlp, {record['M']} x {record['nbits']} bits)",
        np.array(good),
        values("distance_ratio"),
        values("reconstruction"),
        {shown: values(name) for shown, name in zip(SHOWN, SCORES, strict=True)},
        (limits["low"], limits["high"]),
    )


def draw_tune(path: Path) -> tuple[Path, Path]:
    """Draws the first rung of a tune.json: all lambdas, equally long trained."""
    configuration = json.loads(path.read_text(encoding="utf-8"))["configuration"]
    rung = [point for point in read_points(path) if point.rung == 0]
    first = [point for point in rung if point.converged and not math.isnan(point.score)]
    found = permissible_range(rung, share=configuration["search"]["share"])
    drawn = Sweep(
        "The first rung of the search for lambda, held-out items",
        np.array([p.lambda_ for p in first]),
        np.array([[p.distance_ratio] for p in first]),
        np.array([[p.reconstruction] for p in first]),
        {configuration["score"]: np.array([[p.score] for p in first])},
        (found.low, found.high),
    )
    return save_figure(sweep_figure([drawn]), path.with_suffix(""))


def summary(record: dict[str, Any]) -> list[str]:
    """What the numbers say, a line a fact."""
    lines = []
    for part in record["sweeps"]:
        found = [point for point in points(part["runs"]) if point.converged]
        best = max(found, key=lambda point: point.score)
        lowest = min(found, key=lambda point: point.reconstruction)
        inside = part["permissible"]["lambdas"]
        lines += [
            f"{part['title']}:",
            f"  permissible lambdas {inside}, ratio {part['permissible']['low']:.3f} to "
            f"{part['permissible']['high']:.3f}",
            *(
                f"  {name}: lambda {p.lambda_:g}, ratio {p.distance_ratio:.3f}, error "
                f"{p.reconstruction:.4f}, mAP@1000 {100 * p.score:.1f}"
                for name, p in (
                    ("best score", best),
                    ("lowest error", lowest),
                    ("largest lambda", found[-1]),
                    ("smallest lambda", found[0]),
                )
            ),
        ]
    return lines


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
