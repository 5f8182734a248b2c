"""What trains codes of images best, and what of it matters, on CIFAR-10: a curve and a table.

`curve`: mAP@1000 of all test queries against the time of training, for the objectives, with PCA+OPQ
as a line. `ablation`: mAP@1000 after trainings that differ from the default in one setting, on
images that are held out of the 50,000 and search in the rest: settings are not chosen with test
queries. Both keep finished trainings, and go on where they were interrupted.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tyro
from paper.figures import Trace, save_figure, traces_figure

import faiss_pqvae as fpq
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.measure.confidence import percentile_intervals, resampled_means
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.baselines import baselines
from faiss_pqvae.eval.metrics.precision import average_precision_at_k, relevance
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import new_index_pq
from faiss_pqvae.training import TrainingConfig, fit, new_model

DATASET, K, BITS = "cifar10-jpeg", 1000, 32
POINTS = 12  # of a curve
HELD_OUT = 2000
# Half the width of the default: what 10 or 20 minutes on two cores can train best.
MODEL = fpq.ModelConfig(width=32)
TRAINING = TrainingConfig(batch_size=128, precision="bfloat16")
CODE = 8, 4  # M, nbits
OBJECTIVES: dict[str, tuple[Any, fpq.ModelConfig, TrainingConfig]] = {
    "reconstruction": (
        fpq.Reconstruction(),
        fpq.ModelConfig(),
        TrainingConfig(precision="bfloat16"),
    ),
    "contrastive": (fpq.Contrastive(), MODEL, TRAINING),
    "both": (fpq.Contrastive(reconstruction_weight=1.0), MODEL, TRAINING),
}


@dataclass(frozen=True)
class Change:
    """What differs from the default.

    Attributes:
        objective: settings of the objective.
        model: settings of the model.
        training: settings of the training.
        code: M and nbits.
        starts_from: another row, with whose encoder the training begins.
        share: of the minutes.
    """

    objective: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    code: tuple[int, int] = CODE
    starts_from: str | None = None
    share: float = 1.0


ABLATION = {
    "default": Change(),
    "16 bits": Change(code=(4, 4)),
    "64 bits": Change(code=(16, 4)),
    "16 bits, from the default": Change(code=(4, 4), starts_from="default", share=0.2),
    "64 bits, from the default": Change(code=(16, 4), starts_from="default", share=0.2),
    "no diversity": Change({"diversity": 0.0}),
    "diversity 1": Change({"diversity": 1.0}),
    "softness 1": Change({"softness": 1.0}),
    "softness 20": Change({"softness": 20.0}),
    "4 x 8 bits (ksub 256)": Change(code=(4, 8)),
    "reconstruction weight 0.1": Change({"reconstruction_weight": 0.1}),
    "reconstruction weight 1": Change({"reconstruction_weight": 1.0}),
    "batches of 32": Change(training={"batch_size": 32}),
    "batches of 512": Change(training={"batch_size": 512}),
    "2 views, batches of 256": Change({"n_views": 2}, training={"batch_size": 256}),
    "no small views": Change({"small_views": 0.0}),
    "width 64": Change(model={"width": 64}),
}


def curve(
    *,
    minutes: float = 20,
    folder: Path = Path("runs/contrastive"),
    out: Path = Path("results/contrastive-curve.json"),
    threads: int = 2,
) -> None:
    """Draws mAP@1000 against minutes of training, for the objectives and PCA+OPQ.

    Args:
        minutes: of every training; its schedule is that of all of them.
        folder: for trainings.
        out: JSON file; the figure goes beside it, into figures/.
        threads: of torch and FAISS.
    """
    set_threads(threads)
    data = load(DATASET)
    x = np.asarray(data.database[:])
    queries = np.asarray(data.queries[:])
    labels = data.database_labels, data.query_labels

    def score(model: fpq.PQVAE) -> dict[str, float]:
        return scores(model, (x, queries), labels)

    opq = run(data, baselines(BITS, x.shape[1:], only={"OPQ"}), folder / "opq", k=K)
    level = next(row.metrics[f"map@{K}"] for row in opq.rows if "OPQ" in row.method)
    record = head(data, minutes, threads)
    record["PCA+OPQ"] = level
    record["curves"] = []
    for name, (objective, config, training) in OBJECTIVES.items():
        model = new_model(x.shape[1:], *CODE, config, objective=objective)
        timed = replace(training, budget_minutes=minutes)
        points = traced(model, x, (objective, timed), folder / f"curve-{name}", score)
        settings = {
            "settings": asdict(objective),
            "model": asdict(config),
            "training": asdict(timed),
        }
        record["curves"].append({"objective": name, **settings, "points": points})
    write(out, record)
    figures = out.parent / "figures" / out.stem
    for path in draw(record, figures, name="objective", levels={"PCA+OPQ": record["PCA+OPQ"]}):
        print(path)


def ablation(
    *,
    minutes: float = 10,
    folder: Path = Path("runs/contrastive"),
    out: Path = Path("results/contrastive-ablation.json"),
    threads: int = 2,
) -> None:
    """Trains the contrastive objective with one setting changed at a time, and tells mAP@1000.

    Args:
        minutes: of every training; those that start from another take a fifth.
        folder: for trainings.
        out: JSON file.
        threads: of torch and FAISS.
    """
    set_threads(threads)
    data = load(DATASET)
    x, labels = np.asarray(data.database[:]), data.database_labels
    order = np.random.default_rng(0).permutation(len(x))
    held, kept = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
    defaults = {
        "objective": asdict(fpq.Contrastive()),
        "model": asdict(MODEL),
        "training": asdict(TRAINING),
    }
    record = {**head(data, minutes, threads), "held_out": HELD_OUT, "default": defaults}
    record["rows"] = []
    trained: dict[str, fpq.PQVAE] = {}
    for name, change in ABLATION.items():
        objective = fpq.Contrastive(**change.objective)
        config = replace(MODEL, **change.model)
        model = new_model(x.shape[1:], *change.code, config, objective=objective)
        history = fit(
            model,
            x[kept],
            replace(TRAINING, budget_minutes=minutes * change.share, **change.training),
            objective=objective,
            folder=folder / f"ablation-{slug(name)}",
            pretrained=trained[change.starts_from] if change.starts_from else None,
        )
        trained[name] = model
        end = history[-1]
        row = {
            "changed": name,
            **asdict(change),
            **scores(model, (x[kept], x[held]), (labels[kept], labels[held])),
            "steps": end["step"],
            "epochs": round(end["step"] / history[0]["steps_per_epoch"], 2),
            "elapsed_s": end["elapsed_s"],
        }
        record["rows"].append(row)
        print(row, flush=True)
        write(out, record)


def traced(
    model: fpq.PQVAE,
    x: Any,
    learned: tuple[Any, TrainingConfig],
    folder: Path,
    score: Callable[[fpq.PQVAE], dict[str, float]],
    **given: Any,
) -> list[dict[str, float]]:
    """Trains and scores about every twelfth of the time, with the clock of the training stopped.

    Args:
        model: to be trained.
        x: (n, ...) items.
        learned: the objective, and the loop's settings.
        folder: of the training.
        score: of the model as it stands.
        **given: what the objective learns from besides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "points.json"
    points: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []
    objective, training = learned
    assert training.budget_minutes is not None
    apart = 60 * training.budget_minutes / POINTS

    def measure(event: dict[str, Any]) -> bool:
        elapsed = event["elapsed_s"]
        if elapsed >= (points[-1]["elapsed_s"] if points else 0.0) + apart:
            points.append({"elapsed_s": elapsed, "step": event["step"], **score(model)})
            print(folder.name, points[-1], flush=True)
            replace_bytes(path, json.dumps(points).encode())
        return True

    history = fit(model, x, training, objective=objective, folder=folder, go_on=measure, **given)
    end = history[-1]
    return [*points, {"elapsed_s": end["elapsed_s"], "step": end["step"], **score(model)}]


@torch.inference_mode()
def scores(
    model: fpq.PQVAE,
    images: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    labels: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
) -> dict[str, float]:
    """mAP@1000 by ADC with half of its interval, and the share of the codewords in use.

    Args:
        model: as it stands.
        images: database and queries, (n, c, h, w) and (nq, c, h, w), or features (n, d), (nq, d).
        labels: theirs.
    """
    model.eval()
    z, zq = (
        torch.cat([model.encode(part) for part in torch.from_numpy(x).split(1000)]).numpy()
        for x in images
    )
    codebooks = model.codebooks()
    index = new_index_pq(codebooks)
    index.add(z)
    _, I = index.search(zq, K)  # noqa: E741 - FAISS's name
    precision = average_precision_at_k(relevance(I, *labels), K)
    low, high = percentile_intervals(resampled_means(precision[:, None]))[0]
    ids = model.quantizer(torch.from_numpy(z[:: max(1, len(z) // 16_384)])).ids.numpy()
    used = [len(np.unique(column)) for column in ids.T]
    return {
        f"map@{K}": float(precision.mean()),
        "half_interval": float(high - low) / 2,
        "usage": float(np.mean(used)) / codebooks.ksub,
    }


def draw(
    record: dict[str, Any], stem: Path, *, name: str, levels: dict[str, float]
) -> tuple[Path, Path]:
    """The figure of a curve's record.

    Args:
        record: with "curves" and "threads".
        stem: of the figure's files.
        name: the key of a curve's name.
        levels: mAP of what takes no such time, by name: lines.
    """
    traces = [
        Trace(
            entry[name],
            np.array([point["elapsed_s"] / 60 for point in entry["points"]]),
            np.array([100 * point[f"map@{K}"] for point in entry["points"]]),
        )
        for entry in record["curves"]
    ]
    threads = record["threads"]
    figure = traces_figure(
        traces,
        levels={name: 100 * level for name, level in levels.items()},
        xlabel=f"minutes of training, {threads} thread{'s' * (threads > 1)}",
        ylabel=f"mAP@{K} at {BITS} bits [%]",
    )
    return save_figure(figure, stem)


def head(data: LabelledData, minutes: float, threads: int) -> dict[str, Any]:
    """What a record says of where it comes from."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "dataset": data.description,
        "protocol": data.protocol,
        "bits": BITS,
        "minutes": minutes,
        "threads": threads,
        "environment": environment(),
    }


def set_threads(threads: int) -> None:
    """Of torch and FAISS."""
    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)


def slug(name: str) -> str:
    """A name as that of a folder."""
    return "".join(c if c.isalnum() or c == "." else "-" for c in name)


def write(path: Path, record: dict[str, Any]) -> None:
    """Replaces a record's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"curve": curve, "ablation": ablation}, description=__doc__
    )
