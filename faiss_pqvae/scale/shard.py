"""The shard of a part: its codes in a native index, and what says that it is whole."""

from __future__ import annotations

import functools
import json
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.data.row_range import RowRange
from faiss_pqvae.files import replace_bytes, sha256_of, space_for, sync
from faiss_pqvae.index.latent_index import LatentIndex, with_native
from faiss_pqvae.native.files.io import read_native, write_native
from faiss_pqvae.scale.job import Job

_LEFT_S = 3600.0


def shard_path(job: Job, part: int) -> Path:
    """The native file of a part, which FAISS reads, too; beside it lies what is said of it."""
    return job.folder / f"shard-{part + 1:05}-of-{job.n_parts:05}.faiss"


def is_done(job: Job, part: int) -> bool:
    """Whether a part's shard is there, whole, and of this job."""
    path = shard_path(job, part)
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        n_bytes = path.stat().st_size
    except (OSError, ValueError, RecursionError):
        return False
    digest = record.pop("sha256", None) if isinstance(record, dict) else None
    return bool(record == {**_said(job, part), "bytes": n_bytes} and digest == sha256_of(path))


def make_shard(job: Job, part: int) -> None:
    """Encodes the items of a part and stores them; nothing, if that was done.

    What it writes depends on the job and the part alone. Ids count from 0 over all parts where the
    index keeps ids, and from 0 in every part otherwise.

    Raises:
        ValueError: a source that cannot be read, other items or another model than the job's, NaN
            or infinity.
        OSError: the disk is full or failing.
    """
    if is_done(job, part):
        return
    index, source = _opened(job)
    index.reset()
    rows = job.rows(part)
    items = RowRange(source, rows)
    if index.takes_ids:
        index.add_with_ids(items, np.arange(rows.start, rows.stop))
    else:
        index.add(items)
    path = shard_path(job, part)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        write_native(index.faiss_index, new, "index")
        with space_for(new):
            sync(new)
        record = {**_said(job, part), "bytes": new.stat().st_size, "sha256": sha256_of(new)}
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
        index.reset()
    sync(path.parent)
    replace_bytes(path.with_suffix(".json"), json.dumps(record, indent=1).encode() + b"\n")


def read_shard(job: Job, part: int, model: LatentIndex, *, mmap: bool = False) -> LatentIndex:
    """The shard of a part as an index that has the job's model.

    Args:
        job: the job.
        part: counted from 0.
        model: as `job.read_model` reads it.
        mmap: as in `read_index`.

    Raises:
        FileNotFoundError: it is not done.
        ValueError: it is damaged.
    """
    found = with_native(model, read_codes(job, part, mmap=mmap))
    found.read_only = mmap
    return found


def read_codes(job: Job, part: int, *, mmap: bool = False) -> Any:
    """The native index of a part alone, without the tables that a search needs.

    Raises:
        FileNotFoundError, ValueError: as `read_shard`.
    """
    path = shard_path(job, part)
    if not is_done(job, part):
        what = "is damaged" if path.with_suffix(".json").is_file() else "is not there"
        raise FileNotFoundError(
            f"{path} {what}: `faiss-pqvae build BUNDLE {job.where} --out {job.folder} --part "
            f"{part + 1}/{job.n_parts}` makes it"
        )
    return read_native(path, "index", mmap=mmap)


def remove_leftovers(job: Job) -> None:
    """Removes what killed workers left half written: what nobody has written to for an hour."""
    for pattern in (".shard-*.new", ".model.*.new", ".job.json.*.new"):
        for path in job.folder.glob(pattern):
            if time.time() - path.stat().st_mtime < _LEFT_S:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@functools.lru_cache(1)
def _opened(job: Job) -> tuple[LatentIndex, Any]:
    """The model and the source of a job: a worker makes many shards of one."""
    return job.read_model(), job.open()


def _said(job: Job, part: int) -> dict[str, Any]:
    """What a shard's record says besides its file's size and hash."""
    rows = job.rows(part)
    return {
        "format": 1,
        "model": job.model,
        "source": job.source,
        "start": rows.start,
        "stop": rows.stop,
    }
