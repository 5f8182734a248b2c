"""What finds pictures of one class by codes of a pretrained network's features, and since when.

CIFAR-10 without labels, 32 bits. `parts`: mAP@1000 after trainings that differ in one setting, on
images that are held out of the 50,000 and search in the rest: settings are not chosen with test
queries. `curve`: the same of all test queries against the time of training, with every other method
on the same features as a line. Both keep features and finished trainings, and go on where they were
interrupted.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro
from contrastive import BITS, HELD_OUT, K, draw, head, scores, set_threads, slug, traced, write

import faiss_pqvae as fpq
from faiss_pqvae.data.row_range import RowRange
from faiss_pqvae.data.source import Source
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.index.features import keep_features
from faiss_pqvae.index.front import Front
from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.fine_tuned import in_two
from faiss_pqvae.model.networks import resolved_encoder
from faiss_pqvae.training import PictureViews, TrainingConfig, fit, new_model

DATASET, ENCODER, N_VIEWS = "cifar10-jpeg", "efficientnet-lite0", 2
MODEL = fpq.ModelConfig(encoder="mlp", width=512)
OBJECTIVE = fpq.Contrastive(neighbours=10, n_views=4)
TRAINING = TrainingConfig(precision="float32")
CODE = 8, 4  # M, nbits
CURVES = "default", "no kept views, features disturbed", "no neighbours"
LINES = "Exact L2", "PQ", "OPQ", "RQ, norm inside"  # with the curves as many as there are colours


@dataclass(frozen=True)
class Change:
    """What differs from the default.

    Attributes:
        objective: settings of the objective; or another one.
        model: settings of the model; `fine_tuned` counts parts of the network.
        training: settings of the training.
        kept_views: views of every picture that the network saw.
        code: M and nbits.
    """

    objective: Any = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    kept_views: int = N_VIEWS
    code: tuple[int, int] = CODE


PARTS = {
    "default": Change(),
    "one kept view": Change(kept_views=1),
    "no kept views, features disturbed": Change(kept_views=0),
    "no neighbours": Change({"neighbours": 0}),
    "neither": Change({"neighbours": 0}, kept_views=0),
    "30 neighbours": Change({"neighbours": 30}),
    "2 views a step": Change({"n_views": 2}),
    "temperature 0.2": Change({"temperature": 0.2}),
    "temperature 1": Change({"temperature": 1.0}),
    "linear head": Change(model={"encoder": "linear", "dsub": 16}),
    "linear head beside ours": Change(model={"encoder": "residual-mlp"}),
    "head of 128": Change(model={"width": 128}),
    "head of 2,048": Change(model={"width": 2048}),
    "4 x 8 bits": Change(code=(4, 8)),
    "reconstruction of features": Change(fpq.Reconstruction(), kept_views=0),
    "last 2 parts of the network": Change({"n_views": 2}, model={"fine_tuned": 2}),
    "last 4 parts of the network": Change({"n_views": 2}, model={"fine_tuned": 4}),
}


class Features:
    """Features of all pictures and of their views, by how much of the network learns along.

    Args:
        x: (n, 3, h, w) uint8.
        n_views: of every picture.
        folder: where they are kept.
    """

    def __init__(self, x: Source, n_views: int, folder: Path) -> None:
        self.x, self.n_views, self.folder = x, n_views, folder
        self.shape = tuple(x.shape[1:])
        self.network = resolved_encoder(ENCODER, self.shape, 1, width=1)

    def front(self, fine_tuned: int) -> tuple[Front, Backbone | None]:
        """What stays as it is, and what learns along, if something does."""
        if not fine_tuned:
            return Front(self.network, self.shape), None
        frozen, learning = in_two(self.network, fine_tuned, self.shape)
        assert frozen is not None
        return Front(frozen, self.shape), copy.deepcopy(learning)

    def of(self, x: Source, what: str, front: Front, fine_tuned: int) -> Source:
        """Features of pictures."""
        name = f"{what}{f'-{fine_tuned}' if fine_tuned else ''}"
        return keep_features(x, front, self.folder / name, what=f"images ({name})")

    def views(self, front: Front, fine_tuned: int) -> Source:
        """Features of `n_views` views of every picture, one after another."""
        return self.of(PictureViews(self.x, self.n_views), "views", front, fine_tuned)


def some_views(views: Source, n_views: int, kept: int, n_items: int) -> Source:
    """The first of the views of every item, of the first items."""
    if kept == n_views:
        return RowRange(views, slice(0, n_items * n_views))
    rows = np.arange(n_items)[:, None] * n_views + np.arange(kept)
    return np.asarray(views[rows.ravel()])


def in_memory(x: Source) -> npt.NDArray[np.float32]:
    """All rows of a source."""
    return np.asarray(x[np.arange(len(x))])


@dataclass(frozen=True)
class Ready:
    """What a training needs.

    Attributes:
        model: untrained.
        x: features of all pictures.
        objective: with its settings.
        config: of the loop.
        given: views, where there are some.
    """

    model: fpq.PQVAE
    x: Source
    objective: Any
    config: TrainingConfig
    given: dict[str, Any]


def ready(features: Features, change: Change, minutes: float, n: int) -> Ready:
    """What is trained for a row, with the first n pictures."""
    settings = {**asdict(MODEL), **change.model}
    fine_tuned = settings.pop("fine_tuned")
    front, learning = features.front(fine_tuned)
    given = {}
    if change.kept_views:
        views = features.views(front, fine_tuned)
        given["views"] = some_views(views, features.n_views, change.kept_views, n)
    objective = change.objective
    if isinstance(objective, dict):
        objective = replace(OBJECTIVE, **objective)
    config = fpq.ModelConfig(**{**settings, "encoder": None if learning else settings["encoder"]})
    return Ready(
        new_model((front.d_out,), *change.code, config, objective=objective, encoder=learning),
        features.of(features.x, "database", front, fine_tuned),
        objective,
        replace(TRAINING, budget_minutes=minutes, **change.training),
        given,
    )


def parts(
    *,
    minutes: float = 6,
    folder: Path = Path("runs/pictures"),
    features: Path | None = None,
    out: Path = Path("results/pictures-parts.json"),
    only: tuple[str, ...] = (),
    threads: int = 1,
) -> None:
    """Trains with one setting changed at a time, and tells mAP@1000 of held-out pictures.

    Args:
        minutes: of every training.
        folder: for trainings.
        features: for features of the pictures and their views; by default in that folder.
        out: JSON file; the rows that it has are kept.
        only: rows, by name; all by default.
        threads: of torch and FAISS.
    """
    set_threads(threads)
    data = load(DATASET)
    # The set is in no order: the last ones are as good as any.
    n = len(data.database) - HELD_OUT
    kept = Features(data.database, N_VIEWS, features or folder / "features")
    defaults = {
        "objective": asdict(OBJECTIVE),
        "model": asdict(MODEL),
        "training": asdict(TRAINING),
        "kept_views": N_VIEWS,
        "code": CODE,
    }
    record = {**head(data, minutes, threads), "held_out": HELD_OUT, "default": defaults}
    record["rows"] = read_rows(out, minutes)
    for name in only or PARTS:
        if any(row["changed"] == name for row in record["rows"]):
            continue
        change = PARTS[name]
        made = ready(kept, change, minutes, n)
        history = fit(
            made.model,
            RowRange(made.x, slice(0, n)),
            made.config,
            objective=made.objective,
            folder=folder / slug(name),
            **made.given,
        )
        everything = in_memory(made.x)
        images, labels = (everything[:n], everything[n:]), data.database_labels
        end = history[-1]
        row = {
            "changed": name,
            **asdict(change),
            **scores(made.model, images, (labels[:n], labels[n:])),
            "steps": end["step"],
            "epochs": round(end["step"] / history[0]["steps_per_epoch"], 2),
            "elapsed_s": end["elapsed_s"],
        }
        record["rows"] = [*read_rows(out, minutes), row]
        print(row, flush=True)
        write(out, record)


def curve(
    *,
    minutes: float = 30,
    folder: Path = Path("runs/pictures"),
    features: Path | None = None,
    others: Path = Path("results/pictures-32-others.json"),
    out: Path = Path("results/pictures-curve.json"),
    threads: int = 1,
) -> None:
    """Draws mAP@1000 of all test queries against minutes of training, features not counted.

    Args:
        minutes: of every training; its schedule is that of all of them.
        folder: for trainings.
        features: see `parts`.
        others: results of `faiss-pqvae evaluate` on the same features: what the lines are.
        out: JSON file; the figure goes beside it, into figures/.
        threads: of torch and FAISS.
    """
    set_threads(threads)
    data = load(DATASET)
    kept = Features(data.database, N_VIEWS, features or folder / "features")
    labels = data.database_labels, data.query_labels
    levels = {
        row["method"]: row["metrics"][f"map@{K}"]
        for row in json.loads(others.read_text())["rows"]
        if row["method"] in LINES and row["bits"] in (BITS, 32 * 1280)
    }
    record: dict[str, Any] = {**head(data, minutes, threads), "lines": levels, "curves": []}
    for name in CURVES:
        change = PARTS[name]
        made = ready(kept, change, minutes, len(data.database))
        front, _ = kept.front(change.model.get("fine_tuned", 0))
        queries = kept.of(data.queries, "queries", front, change.model.get("fine_tuned", 0))
        both = in_memory(made.x), in_memory(queries)
        points = traced(
            made.model,
            made.x,
            (made.objective, made.config),
            folder / f"curve-{slug(name)}",
            functools.partial(scores, images=both, labels=labels),
            **made.given,
        )
        record["curves"].append({"name": name, **asdict(change), "points": points})
        write(out, record)
    figures = out.parent / "figures" / out.stem
    for path in draw(record, figures, name="name", levels=levels):
        print(path)


def read_rows(out: Path, minutes: float) -> list[dict[str, Any]]:
    """The rows that a file has already.

    Raises:
        ValueError: they took other times.
    """
    if not out.exists():
        return []
    record = json.loads(out.read_text())
    if record["minutes"] != minutes:
        raise ValueError(f"{out} has rows of {record['minutes']} minutes: choose another --out")
    rows: list[dict[str, Any]] = record["rows"]
    return rows


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"parts": parts, "curve": curve}, description=__doc__)
