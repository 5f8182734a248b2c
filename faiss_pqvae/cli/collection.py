"""`build SOURCE... OUT`: an index of a collection of vectors, from its files to measured recall.

Every phase leaves what it made in OUT: the plan, the training, the parts, the exact neighbours. The
same command goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faiss_pqvae.cli.exact import nearest_others
from faiss_pqvae.cli.held_memory import HeldMemory
from faiss_pqvae.cli.next_command import print_next
from faiss_pqvae.cli.plan import Wanted, expanded, planned
from faiss_pqvae.cli.recall import tuned
from faiss_pqvae.cli.sizes import recall_of
from faiss_pqvae.data.source import Source
from faiss_pqvae.extras import import_extra
from faiss_pqvae.files import check_folder, replace_bytes
from faiss_pqvae.progress import Progress
from faiss_pqvae.scale.planning import QUERIES, Plan, Wishes
from faiss_pqvae.types import IdArray

if TYPE_CHECKING:
    from faiss_pqvae import LatentIndex

_ROWS = 65_536  # of a sample that are read at a time
_DONE, _PHASES = "build.json", "phases.json"
_OF_RESULT = ("n", "d", "description", "n_train", "n_queries", "n_parts", "effort")


def build_collection(
    sources: Sequence[str], out: Path, wanted: Wanted, wishes: Wishes, engine: str
) -> None:
    """Learns codes of a sample, encodes all in parts, and measures what the index finds.

    Raises:
        ImportError: the engine is not installed.
        ValueError: wishes that nothing fulfils; a folder with another plan, or of other files;
            parts that failed.
        OSError: the disk is full or failing.
    """
    from faiss_pqvae.scale.job import source_key  # here, because it imports torch

    recall, k = recall_of(wanted.target_recall or "0.9@10")
    check_folder(out)
    if engine == "torchrun":
        raise ValueError("expected --engine local or ray for SOURCE... OUT, got torchrun")
    if engine == "ray":
        import_extra("ray", "for --engine ray")
    sources = expanded(sources)
    source, plan = planned(sources, wishes)
    key = source_key(source, sources)
    plan = _keep_plan(out, plan, wishes, key)
    print("\n".join(plan.lines()), flush=True)
    done = _read(out / _DONE, "found") if (out / _DONE).exists() else None
    is_built = done is not None and (out / "config.json").exists()
    if done is not None and is_built and done["found"]["target"] == [recall, k]:
        _tidy(out)
        print(_said(done["found"], out))
        return
    rows, asked = _sample(plan)
    if not is_built:
        with _measured(out, "learn"):
            index = _trained(plan, source, rows, wishes, out)
        with _measured(out, "encode"):
            _encode(index, sources, out, plan, engine)
    with _measured(out, "exact neighbours"):
        queries = source[asked]
        truth = nearest_others(
            sources,
            key,
            queries,
            asked,
            out / "neighbours",
            n=plan.n,
            n_parts=plan.n_parts,
            workers=plan.workers,
            engine=engine,
        )
    with _measured(out, "measure"):
        found = _opened(out, is_written=is_built)
        figures = tuned(found, queries, asked, truth, recall, k)
    _write(found, out)
    figures |= _read(out / _PHASES, "seconds", "peak_bytes")
    about = {"command": shlex.join(["faiss-pqvae", *sys.argv[1:]]), "plan": asdict(plan)}
    measured = {**figures, "target": [recall, k]}
    replace_bytes(out / _DONE, _json({**about, "found": measured}))
    _tidy(out)
    print(_said(measured, out))
    mapped = "" if plan.fits else " --mmap"
    print_next(found, f"search {shlex.quote(str(out))} QUERIES{mapped}")


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _read(path: Path, *keys: str) -> Any:
    """What a file of ours says.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = json.loads(path.read_bytes())
        for key in keys:
            content[key]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"damaged {path}, remove it: {error}") from error
    return content


@contextlib.contextmanager
def _measured(out: Path, phase: str) -> Iterator[None]:
    """Keeps what a phase takes, with the runs before that were interrupted in it."""
    path, started = out / _PHASES, time.perf_counter()
    with HeldMemory() as held:
        try:
            yield
        finally:
            phases = _read(path, "seconds", "peak_bytes") if path.exists() else {}
            seconds, peaks = phases.get("seconds", {}), phases.get("peak_bytes", {})
            seconds[phase] = round(seconds.get(phase, 0.0) + time.perf_counter() - started, 1)
            peaks[phase] = max(peaks.get(phase, 0), held.peak_bytes)
            replace_bytes(path, _json({"seconds": seconds, "peak_bytes": peaks}))


def _tidy(out: Path) -> None:
    for name in ("training", "trained", "shards"):
        shutil.rmtree(out / name, ignore_errors=True)


def _keep_plan(out: Path, plan: Plan, wishes: Wishes, source: str) -> Plan:
    """The plan that was begun in a folder, or else this one, which is begun now."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "plan.json"
    if not path.exists():
        if any(out.iterdir()):
            raise ValueError(f"expected an empty folder, or one of such a build, got {out}")
        replace_bytes(path, _json({"source": source, "plan": asdict(plan)}))
        return plan
    begun = _read(path, "source", "plan")
    try:
        # What follows from the number of workers, which may be another one now.
        plan = replace(plan, n_parts=begun["plan"]["n_parts"])
        if wishes.effort is None:
            plan = replace(plan, effort=begun["plan"]["effort"])
        theirs = {name: begun["plan"][name] for name in _OF_RESULT}
    except (KeyError, TypeError) as error:
        raise ValueError(f"damaged {path}, remove it: {error}") from error
    mine = {name: getattr(plan, name) for name in _OF_RESULT}
    other = [name for name in mine if mine[name] != theirs[name]]
    if other:
        raise ValueError(
            f"expected {other[0]} {theirs[other[0]]} as in {path}, got {mine[other[0]]}: name "
            "another folder, or remove this one"
        )
    if begun["source"] != source:
        raise ValueError(
            f"expected the files of vectors that {out} was begun with, got others, or other "
            "contents: name another folder, or remove this one"
        )
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


def _encode(index: Any, sources: Sequence[str], out: Path, plan: Plan, engine: str) -> None:
    from faiss_pqvae.scale.engines import make_shards
    from faiss_pqvae.scale.job import begin
    from faiss_pqvae.scale.joined import missing_parts
    from faiss_pqvae.scale.shard import remove_leftovers

    job = begin(index, sources, out / "shards", plan.n_parts)
    make_shards(job, missing_parts(job), workers=plan.workers, engine=engine)
    remove_leftovers(job)


def _opened(out: Path, *, is_written: bool) -> LatentIndex:
    """The index of all shards."""
    from faiss_pqvae import read_index
    from faiss_pqvae.scale.job import read_job
    from faiss_pqvae.scale.joined import merged

    if not is_written:
        return merged(read_job(out / "shards"))
    return read_index(out, mmap=True)


def _write(found: LatentIndex, out: Path) -> None:
    """Keeps an index with its nprobe."""
    from faiss_pqvae import write_index

    write_index(found, out)


def _said(found: dict[str, Any], out: Path) -> str:
    wanted, k = found["target"]
    visits = f" at nprobe {found['nprobe']}" if "nprobe" in found else ""
    reached = "" if found["recall"] >= wanted else f" ({wanted:g} was wanted)"
    phases = ", ".join(f"{name} {s / 60:.1f} min" for name, s in found["seconds"].items())
    peak = max(found["peak_bytes"].values())
    held = f"; at most {peak / (1 << 30):.1f} GiB of memory" if peak else ""
    return (
        f"recall  {found['recall']:.3f} among {k} results{visits}{reached}, of {QUERIES:,} items "
        f"that were not learned from\n"
        f"speed   {found['queries_per_s']:,} queries a second in one call\n"
        f"took    {phases}{held}\n"
        f"an index in {out}"
    )
