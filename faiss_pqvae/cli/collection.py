"""`build SOURCE... OUT`: an index of a collection of vectors, from its files to measured recall.

Every phase leaves what it made in OUT: the plan, the training, the parts, the exact neighbours. The
same command goes on from there.
"""

from __future__ import annotations

import io
import json
import resource
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.cli.next_command import print_next
from faiss_pqvae.cli.plan import Wanted, expanded, planned
from faiss_pqvae.cli.recall import tuned, without_self
from faiss_pqvae.cli.sizes import recall_of
from faiss_pqvae.data.source import Source
from faiss_pqvae.files import check_folder, read_checked, replace_bytes, write_checked
from faiss_pqvae.progress import Progress
from faiss_pqvae.scale.planning import QUERIES, Plan, Wishes
from faiss_pqvae.types import FloatArray, IdArray

_ROWS = 65_536  # of a sample that are read at a time
_DONE = "build.json"
_OF_RESULT = ("n", "d", "description", "n_train", "n_queries", "n_parts", "effort")


def build_collection(
    sources: Sequence[str], out: Path, wanted: Wanted, wishes: Wishes, engine: str
) -> None:
    """Learns codes of a sample, encodes all in parts, and measures what the index finds.

    Raises:
        ValueError: wishes that nothing fulfils; a folder with another plan; parts that failed.
        OSError: the disk is full or failing.
    """
    recall, k = recall_of(wanted.target_recall or "0.9@10")
    check_folder(out)
    sources = expanded(sources)
    source, plan = planned(sources, wishes)
    print("\n".join(plan.lines()), flush=True)
    plan = _keep_plan(out, plan, sources)
    if (out / _DONE).exists():
        print(_said(json.loads((out / _DONE).read_bytes())["found"], out))
        return
    seconds: dict[str, float] = {}
    with _timed(seconds, "learn"):
        rows, asked = _sample(plan)
        index = _trained(plan, source, rows, wishes, out)
    with _timed(seconds, "encode"):
        job = _encoded(index, sources, out, plan, engine)
    with _timed(seconds, "exact neighbours"):
        queries = source[asked]
        truth = _truth(source, queries, asked, out)
    with _timed(seconds, "measure"):
        found = _joined(job, plan)
        figures = tuned(found, queries, asked, truth, recall, k)
    if plan.merges:
        from faiss_pqvae import write_index

        write_index(found, out)
    figures |= {"seconds": seconds, "peak_memory_bytes": _peak_bytes(plan.workers)}
    about = {"command": shlex.join(["faiss-pqvae", *sys.argv[1:]]), "plan": asdict(plan)}
    measured = {**figures, "target": [recall, k], "merged": plan.merges}
    content = {**about, "found": measured}
    replace_bytes(out / _DONE, (json.dumps(content, indent=1) + "\n").encode())
    for leftover in (out / "training", out / "trained", *([job.folder] if plan.merges else [])):
        shutil.rmtree(leftover, ignore_errors=True)
    print(_said(measured, out))
    if plan.merges:
        print_next(found, f"search {shlex.quote(str(out))} QUERIES")


class _timed:  # noqa: N801 - reads as a verb
    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self.seconds, self.phase = seconds, phase

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.phase] = round(time.perf_counter() - self.started, 1)


def _keep_plan(out: Path, plan: Plan, sources: Sequence[str]) -> Plan:
    """The plan that was begun in a folder, or else this one, which is begun now."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "plan.json"
    if path.exists():
        begun = json.loads(path.read_bytes())
        # How many workers there are now may be another number.
        plan = replace(plan, n_parts=begun["plan"]["n_parts"])
        mine = {"sources": [*sources], **{name: getattr(plan, name) for name in _OF_RESULT}}
        theirs = {"sources": begun["sources"], **{name: begun["plan"][name] for name in _OF_RESULT}}
        other = [name for name in mine if mine[name] != theirs[name]]
        if other:
            raise ValueError(
                f"expected {other[0]} {theirs[other[0]]} as in {path}, got {mine[other[0]]}: name "
                "another folder, or remove this one"
            )
        return plan
    if any(out.iterdir()):
        raise ValueError(f"expected an empty folder, or one of such a build, got {out}")
    content = {"sources": [*sources], "plan": asdict(plan)}
    replace_bytes(path, (json.dumps(content, indent=1) + "\n").encode())
    return plan


def _sample(plan: Plan) -> tuple[IdArray, IdArray]:
    """Rows to learn from and rows to ask for, (n_train,) and (n_queries,) int64, in order."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(plan.n, plan.n_train + plan.n_queries, replace=False, shuffle=False)
    drawn = rng.permutation(drawn)
    return np.sort(drawn[plan.n_queries :]), np.sort(drawn[: plan.n_queries])


def _trained(plan: Plan, source: Source, rows: IdArray, wishes: Wishes, out: Path) -> Any:
    from faiss_pqvae import TrainingConfig, index_factory, read_index, write_index

    folder = out / "trained"
    if (folder / "config.json").exists():
        return read_index(folder)
    x = np.empty((len(rows), plan.d), np.float32)
    with Progress("reading a sample", len(rows), unit="vectors") as bar:
        for start in range(0, len(rows), _ROWS):
            part = slice(start, start + _ROWS)
            x[part] = source[rows[part]]
            bar.update(len(rows[part]))
    training = TrainingConfig(budget_minutes=wishes.train_minutes)
    index = index_factory(plan.d, plan.description, training=training)
    index.train(x, folder=out / "training")
    index.effort = plan.effort
    write_index(index, folder)
    return index


def _encoded(index: Any, sources: Sequence[str], out: Path, plan: Plan, engine: str) -> Any:
    from faiss_pqvae.scale.engines import make_shards
    from faiss_pqvae.scale.job import begin
    from faiss_pqvae.scale.joined import missing_parts
    from faiss_pqvae.scale.shard import remove_leftovers

    job = begin(index, sources, out / "shards", plan.n_parts)
    make_shards(job, missing_parts(job), workers=plan.workers, engine=engine)
    remove_leftovers(job)
    return job


def _joined(job: Any, plan: Plan) -> Any:
    from faiss_pqvae.scale.joined import merged, open_shards

    return merged(job) if plan.merges else open_shards(job.folder)


def _truth(source: Source, queries: FloatArray, asked: IdArray, out: Path) -> IdArray:
    """The nearest other item (nq,) int64 of every query, which is an item itself."""
    from faiss_pqvae.eval.data.brute_force import nearest

    path = out / "neighbours"
    content = read_checked(path)
    if content is None:
        found = nearest(queries, source, 2).I
        buffer = io.BytesIO()
        np.save(buffer, found)
        content = buffer.getvalue()
        write_checked(path, content)
    found = np.load(io.BytesIO(content))
    return without_self(found, asked)[:, 0]


def _peak_bytes(workers: int) -> int:
    """Of this process and, if there were workers, of so many like the largest one."""
    own, child = (
        1024 * resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own + (workers * child if workers > 1 else 0)


def _said(found: dict[str, Any], out: Path) -> str:
    wanted, k = found["target"]
    visits = f" at nprobe {found['nprobe']}" if "nprobe" in found else ""
    reached = "" if found["recall"] >= wanted else f" ({wanted:g} was wanted)"
    phases = ", ".join(f"{name} {s / 60:.1f} min" for name, s in found["seconds"].items())
    where = "an index" if found["merged"] else "shards, for fpq.open_shards,"
    return (
        f"recall  {found['recall']:.3f} among {k} results{visits}{reached}, of {QUERIES:,} items "
        f"that were not learned from\n"
        f"speed   {found['queries_per_s']:,} queries a second in one call\n"
        f"took    {phases}; at most {found['peak_memory_bytes'] / (1 << 30):.1f} GiB of memory\n"
        f"{where} in {out}"
    )
