"""What several processes gain in a training: one and two processes, at the same global batch.

Items are random, which says nothing of codes and all of time. A run is timed from the first step to
the end of the last epoch, validation included; what precedes the first step (a start by FAISS, say)
is given apart. The median of several runs, each of which begins its processes anew.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import distributed

import faiss_pqvae as fpq
from faiss_pqvae.eval.measure.environment import environment
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.training import TrainingConfig

# (processes, threads of each)
TEAMS = ((1, 1), (1, 2), (2, 1))
# Objective: the factory's string, shape of an item, items, batch.
CASES: dict[str, tuple[str, tuple[int, ...], int, int]] = {
    "reconstruction": ("PQVAE8x8", (3, 32, 32), 4096, 256),
    "contrastive": ("PQVAE8x8", (3, 32, 32), 1536, 256),
    "synthesis": ("PQVAE8,RDecoder", (128,), 20_000, 1024),
}
SYNTHESIS = {"epochs": 2, "rounds": 1, "filled": 0, "start_items": 8192, "table_items": 8192}


def trained(name: str) -> dict[str, float]:
    """Seconds of a training by this process, or by all that have joined it."""
    factory, shape, n, batch = CASES[name]
    objective: Any = fpq.Synthesis(**SYNTHESIS) if name == "synthesis" else name
    config = TrainingConfig(epochs=2, batch_size=batch, precision="float32", patience=0)
    rng = np.random.default_rng(0)
    if len(shape) == 3:
        x: Any = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    else:
        x = rng.normal(size=(n, *shape)).astype(np.float32)
    index = fpq.index_factory(shape, factory, objective=objective, training=config)
    index.train(x, progress=False)
    epochs = [event for event in index.history if event["event"] == "epoch"]
    first = epochs[0]["elapsed_s"]
    # The first epoch has what precedes it; the second is steps alone, and as long.
    steps = epochs[-1]["elapsed_s"] - first
    return {"epoch_s": steps, "before_s": max(0.0, first - steps)}


def member(name: str, meeting: str, rank: int, size: int, threads: int) -> None:
    """What a process does."""
    torch.set_num_threads(threads)
    if size > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size
        )
    found = trained(name)
    if rank == 0:
        print(json.dumps(found))
    if size > 1:
        distributed.destroy_process_group()


def measured(name: str, size: int, threads: int) -> dict[str, float]:
    """Seconds of a training by so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        begun = [
            subprocess.Popen(
                [
                    sys.executable,
                    __file__,
                    name,
                    f"{folder}/meeting",
                    *map(str, (rank, size, threads)),
                ],
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
        ]
        said = [process.communicate()[0] for process in begun]
    if any(process.returncode for process in begun):
        raise RuntimeError(f"{name} by {size} processes failed")
    found: dict[str, float] = json.loads(said[0].strip().splitlines()[-1])
    return found


def main(out: Path, repeats: int = 3, only: tuple[str, ...] = tuple(CASES)) -> None:
    """Measures and writes it.

    Args:
        out: JSON file.
        repeats: runs of each, in turn.
        only: objectives.
    """
    rows = []
    for name in only:
        runs: dict[tuple[int, int], list[dict[str, float]]] = {team: [] for team in TEAMS}
        for _ in range(repeats):
            for team, found in runs.items():
                found.append(measured(name, *team))
        for (size, threads), found in runs.items():
            row: dict[str, Any] = {"objective": name, "processes": size, "threads": threads}
            for key in ("epoch_s", "before_s"):
                row[key] = round(statistics.median(run[key] for run in found), 2)
            first = rows[-(len(rows) % len(TEAMS))] if len(rows) % len(TEAMS) else row
            row["speed_up"] = round(first["epoch_s"] / row["epoch_s"], 2)
            rows.append(row)
            print(json.dumps(row), flush=True)
    about = {"command": shlex.join(["python", *sys.argv]), "environment": environment()}
    replace_bytes(out, (json.dumps({**about, "rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] in CASES:
        member(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    else:
        tyro.cli(main)
