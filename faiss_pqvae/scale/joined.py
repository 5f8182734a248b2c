"""Shards searched as one index, or made one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from faiss_pqvae.arguments import check_attribute
from faiss_pqvae.files import space_for, sync
from faiss_pqvae.index.encoding import Batch
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.latent_index import LatentIndex, with_native
from faiss_pqvae.index.searching import check_k
from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import maps, read_native
from faiss_pqvae.native.files.joined_lists import can_join, write_joined
from faiss_pqvae.progress import Progress
from faiss_pqvae.scale.job import Job
from faiss_pqvae.scale.shard import is_done, read_codes, read_shard
from faiss_pqvae.types import FloatArray, IdArray

JOINED = "joined.faiss"  # in the folder of shards: inverted lists of all of them


def missing_parts(job: Job) -> list[int]:
    """The parts, counted from 0, that have no shard, or none that is whole."""
    with Progress("looking at shards", job.n_parts, unit="parts") as bar:
        missing = []
        for part in range(job.n_parts):
            if not is_done(job, part):
                missing.append(part)
            bar.update(1)
    return missing


def merged(job: Job) -> LatentIndex:
    """One index of all shards; its items are called as in an index built at once.

    Inverted lists go to a file in the job's folder, list by list, which is then mapped into memory:
    of a part it has its lists' sizes and places alone. All other codes are in memory.

    Raises:
        FileNotFoundError: a shard is missing, or damaged.
        ValueError: an index that FAISS cannot merge, a graph say.
        OSError: the disk is full or failing.
    """
    index = job.read_model()
    if can_join(index.faiss_index):
        index = _over_one_file(job, index)
    else:
        with Progress("merging", job.n_parts, unit="parts") as bar:
            for part in range(job.n_parts):
                index.merge_from(read_shard(job, part, index))
                bar.update(1)
    index.items = job.names()
    return index


def _over_one_file(job: Job, index: LatentIndex) -> LatentIndex:
    path = job.folder / JOINED
    for leftover in job.folder.glob(f".{JOINED}.*.new"):  # of one that was killed
        leftover.unlink(missing_ok=True)
    new = path.with_name(f".{JOINED}.{secrets.token_hex(8)}.new")
    with Progress("opening shards", job.n_parts, unit="parts") as bar:
        shards = []
        for part in range(job.n_parts):
            shards.append(read_codes(job, part, mmap=True))
            bar.update(1)
    try:
        write_joined(index.faiss_index, shards, new)
        with space_for(new):
            sync(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    found = with_native(index, read_native(path, "index", mmap=True))
    found.read_only = True
    return found


def _of_all(name: str) -> Any:
    """A setting of every shard, read of the first one."""

    def read(opened: OpenShards) -> Any:
        return getattr(opened.shards[0], name)

    def write(opened: OpenShards, value: Any) -> None:
        for shard in opened.shards:
            setattr(shard, name, value)

    return property(read, write, doc=f"Of all shards: see `LatentIndex.{name}`.")


class OpenShards:
    """Shards that are searched like an index, mapped into memory where FAISS can map them.

    Every search looks into all of them, in threads, and merges what they find. Of product codes
    these are the results of one index of all items; of graphs, and where a decoder ranks
    candidates, those of every shard's own search, which together look at more.

    Args:
        shards: one or more, of one model.
        starts: what is added to the ids of each; zeros where they keep ids.

    Attributes:
        shards: likewise.
        items: what their items are called, or None.
    """

    shards: list[LatentIndex]
    items: Items | None

    nprobe = _of_all("nprobe")
    k_factor = _of_all("k_factor")
    efSearch = _of_all("efSearch")  # noqa: N815 - FAISS's name
    search_type = _of_all("search_type")

    def __init__(self, shards: Sequence[LatentIndex], starts: Sequence[int]) -> None:
        self.shards, self._starts = [*shards], [*starts]
        self.items = None
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def __len__(self) -> int:
        return self.ntotal

    @property
    def ntotal(self) -> int:
        """Number of items in all shards."""
        return sum(shard.ntotal for shard in self.shards)

    def search(self, x: Any, k: int) -> tuple[FloatArray, IdArray]:
        """Finds the k nearest items of every query, in all shards.

        Args:
            x: (n, *input_shape) uint8 or float.
            k: results per query, k >= 1.

        Returns:
            D (n, k) float32 and I (n, k) int64, as `LatentIndex.search`; of equally near items
            the one with the smaller id comes first.

        Raises:
            TypeError, ValueError: as `LatentIndex.search`.
        """
        k = check_k(k)
        parts = [(np.empty((0, k), np.float32), np.empty((0, k), np.int64))]
        # Of one model: the first shard encodes for all.
        parts += [self._nearest(batch, k) for batch in self.shards[0].encoded_queries(x)]
        D, I = map(np.concatenate, zip(*parts, strict=True))  # noqa: E741
        return D, I

    def _nearest(self, batch: Batch, k: int) -> tuple[FloatArray, IdArray]:
        found = self._threads().map(lambda shard: _alone(shard, batch, k), self.shards)
        counted = [
            (D, np.where(I == -1, -1, I + start))
            for (D, I), start in zip(found, self._starts, strict=True)  # noqa: E741
        ]
        return nearest_of_all(counted, k, self.metric_type)

    @property
    def metric_type(self) -> int:
        """What distances are, see `LatentIndex.metric_type`."""
        return int(self.shards[0].metric_type)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one item."""
        return self.shards[0].input_shape

    @property
    def crops(self) -> bool:
        """See `LatentIndex.crops`."""
        return self.shards[0].crops

    def close(self) -> None:
        """Ends the threads; the next search begins them again."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def __enter__(self) -> OpenShards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None or self._pid != os.getpid():  # those of before a fork are gone
            n = min(len(self.shards), len(os.sched_getaffinity(0)))
            self._pool, self._pid = ThreadPoolExecutor(n), os.getpid()
        return self._pool


def _alone(shard: LatentIndex, batch: Batch, k: int) -> tuple[FloatArray, IdArray]:
    """A search by one thread of FAISS's: the shards are searched side by side."""
    faiss.omp_set_num_threads(1)  # of the calling thread alone
    return shard.search_encoded(batch, k)


def nearest_of_all(
    found: Sequence[tuple[FloatArray, IdArray]], k: int, metric_type: int
) -> tuple[FloatArray, IdArray]:
    """The k nearest of what several searches found: D (n, each) and I likewise, ids of all."""
    D, I = (np.concatenate(arrays, 1) for arrays in zip(*found, strict=True))  # noqa: E741
    far = np.where(I == -1, np.inf, -D if metric_type == faiss.METRIC_INNER_PRODUCT else D)
    best = np.lexsort((I, far), axis=1)[:, :k]
    return np.take_along_axis(D, best, 1), np.take_along_axis(I, best, 1)


def open_parts(job: Job, parts: Sequence[int]) -> OpenShards:
    """Opens some shards of a job, counted from 0; raises as `open_shards`."""
    model = job.read_model()
    mmap = maps(model.faiss_index)
    shards = [read_shard(job, part, model, mmap=mmap) for part in parts]
    starts = [0 if model.takes_ids else job.rows(part).start for part in parts]
    return OpenShards(shards, starts)
