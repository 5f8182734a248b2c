"""Builds of collections of vectors by one command, from Parquet files to measured recall.

Collections of several sizes are made of the vectors of a data set, see many.py, and written as
Parquet files. `build SOURCE... OUT` is run on each, by processes of this machine, and on the
largest one by Ray, too, which gets the model that was learned before: the shards have to be the
same to the bit. The same command goes on after an interruption.

    python benchmarks/collection.py --base bsds_sift_base.bvecs --queries bsds_sift_query.bvecs \
        --folder runs/collection --out results/collection.json
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from many import CHUNK, Many
from matplotlib.figure import Figure
from paper.figures import save_figure
from tqdm import tqdm

import faiss_pqvae as fpq
from faiss_pqvae.data.open import open_source
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.native import faiss

SAMPLE_S = 0.5
NPROBE = 16  # at which sizes are compared
REPEATS = 5


def write_files(many: Many, n: int, files: int, folder: Path) -> None:
    """Writes n vectors as Parquet, a column of fixed size lists, where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(files), "files", disable=not sys.stderr.isatty()):
        path = folder / f"part-{number:03}.parquet"
        if path.exists():
            continue
        first, last = (n * i // files for i in (number, number + 1))
        new = path.with_suffix(".new")
        with pq.ParquetWriter(new, _schema(many.real.shape[1]), compression="none") as writer:
            for chunk in range(first // CHUNK, -(-last // CHUNK)):
                start = chunk * CHUNK
                x = many.chunk(chunk)[max(first - start, 0) : last - start]
                values = pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])
                writer.write_table(pa.table({"embedding": values}))
        new.replace(path)


def _schema(d: int) -> pa.Schema:
    return pa.schema([("embedding", pa.list_(pa.float32(), d))])


class Watch:
    """What a build leaves in its folder while it runs, and removes in the end.

    Args:
        out: its folder.
        keep: a folder that gets its plan and model; None keeps none.

    Attributes:
        shards: the hashes of the shards' files, by name.
    """

    def __init__(self, out: Path, keep: Path | None) -> None:
        self.shards = dict[str, str]()
        self._out, self._keep = out, keep
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            with contextlib.suppress(OSError, ValueError):
                for path in (self._out / "shards").glob("shard-*.json"):
                    if path.name not in self.shards:
                        self.shards[path.name] = json.loads(path.read_bytes())["sha256"]
                        self._keep_model()

    def _keep_model(self) -> None:
        if self._keep is not None and not self._keep.exists():
            new = self._keep.with_name(self._keep.name + ".new")
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(self._out / "trained", new / "trained")
            shutil.copy(self._out / "plan.json", new)
            new.rename(self._keep)


def build(words: list[str], out: Path, keep: Path | None = None) -> dict[str, Any]:
    """Runs the command; what it says in the end, and what was seen from outside."""
    with (out.parent / f"{out.name}.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "faiss_pqvae", *words], stdout=log, stderr=log
        )
        with Watch(out, keep) as watch:
            status = process.wait()
    if status:
        raise RuntimeError(f"expected the build to succeed, got {status}: see {log.name}")
    said = json.loads((out / "build.json").read_bytes())
    plan, found = said["plan"], said["found"]
    planned = {"seconds": {name: round(s, 1) for name, s in plan["seconds"].items()}}
    planned["memory_bytes"] = plan["memory_bytes"]
    files = json.loads((out / "config.json").read_bytes())["files"]
    return {
        **{name: plan[name] for name in ("description", "n_train", "n_parts", "effort")},
        "planned": planned,
        **found,
        "shards": [watch.shards[part] for part in sorted(watch.shards)],
        "index_sha256": files["index"]["sha256"],
    }


def ms_a_query(out: Path, queries: np.ndarray) -> float:
    """Of one thread, at the same nprobe whatever the size: the median of several calls."""
    index = fpq.read_index(out)
    index.nprobe = NPROBE
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            index.search(queries, 10)
            times.append(time.perf_counter() - started)
    finally:
        faiss.omp_set_num_threads(before)
    return round(1000 * statistics.median(times) / len(queries), 4)


def slopes(rows: dict[str, Any]) -> dict[str, float]:
    """Of the logarithm of costs over that of sizes, by least squares."""
    sizes = np.log([row["n"] for row in rows.values()])
    return {
        name: round(float(np.polyfit(sizes, np.log(values), 1)[0]), 2)
        for name, values in costs(rows).items()
    }


def costs(rows: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds by phase of the builds on this machine, and of a thousand searches."""
    found = {
        name: [row["seconds"][name] for row in rows.values()]
        for name in ("learn", "encode", "exact neighbours", "measure")
    }
    found["1,000 searches"] = [row["ms_a_query"] for row in rows.values()]
    return found


def draw(rows: dict[str, Any], stem: Path) -> None:
    """Costs against sizes, both logarithmic, with the slope of each in the legend."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    sizes, found = [row["n"] for row in rows.values()], slopes(rows)
    for (name, values), marker in zip(costs(rows).items(), "os^Dv", strict=True):
        axes.plot(sizes, values, marker=marker, label=f"{name}, slope {found[name]:.2f}")
    axes.set(xscale="log", yscale="log", xlabel="vectors", ylabel="seconds")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    axes.grid(visible=True, alpha=0.3)
    for path in save_figure(figure, stem):
        print(path)


def main(
    base: Path,
    queries: Path,
    folder: Path,
    out: Path,
    sizes: tuple[int, ...] = (100_000, 1_000_000, 10_000_000),
    files: int = 40,
    memory: str = "3G",
    effort: int = 1,
    train_minutes: float = 8,
    workers: int = 2,
) -> None:
    """Builds what is missing and writes what came of it.

    Args:
        base: vectors that the collections are made of.
        queries: for the time of a search.
        folder: for collections and indexes.
        out: JSON file; builds that are there are not repeated.
        sizes: of the collections, in order.
        files: of each.
        memory: that a build is given.
        effort: of the choice of codes.
        train_minutes: of a training's passes.
        workers: processes that encode.
    """
    many = Many.of(base)
    asked = np.asarray(open_source(queries)[:], np.float32)
    found = json.loads(out.read_bytes()) if out.exists() else {}
    rows, by_ray = found.get("rows", {}), found.get("by Ray")

    def write() -> None:
        about = {"command": shlex.join(["python", *sys.argv]), "environment": environment()}
        about |= {"files": files, "memory": memory, "workers": workers, "nprobe": NPROBE}
        content = {**about, "rows": rows, "by Ray": by_ray}
        if len(rows) > 1:
            content["slopes"] = slopes(rows)
            draw(rows, out.parent / "figures" / "collection-cost")
        replace_bytes(out, (json.dumps(content, indent=1) + "\n").encode())

    said = {"--memory": memory, "--effort": effort, "--workers": workers}
    said |= {"--train-minutes": train_minutes}
    options = [str(word) for pair in said.items() for word in pair]
    for n in sizes:
        here, name, is_last = folder / str(n), f"{n:,}", n == max(sizes)
        words = ["build", str(here / "files" / "*.parquet")]
        if name in rows and not (is_last and by_ray is None):
            continue
        write_files(many, n, files, here / "files")
        if name not in rows:
            keep = here / "ray" if is_last else None
            row = build([*words, str(here / "local"), *options], here / "local", keep)
            row["source_bytes"] = sum(path.stat().st_size for path in (here / "files").iterdir())
            row["ms_a_query"] = ms_a_query(here / "local", asked)
            rows[name] = {"n": n, **row}
            write()
            print(name, json.dumps(rows[name]), flush=True)
        if is_last and by_ray is None:
            row = build([*words, str(here / "ray"), *options, "--engine", "ray"], here / "ray")
            same = {key: row[key] == rows[name][key] for key in ("shards", "index_sha256")}
            by_ray = {"n": n, "model": "of the build by processes", **row, "the same": same}
            write()
            print("by Ray", json.dumps(by_ray), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    tyro.cli(main)
