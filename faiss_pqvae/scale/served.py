"""Shards that are searched: by threads of this process, or by actors of Ray on many machines."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.arguments import check_attribute
from faiss_pqvae.data.batches import check_items, read_rows
from faiss_pqvae.extras import import_extra
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.searching import check_k
from faiss_pqvae.scale.engines import begin_ray
from faiss_pqvae.scale.job import Job, read_job
from faiss_pqvae.scale.joined import OpenShards, nearest_of_all, open_parts
from faiss_pqvae.types import FloatArray, IdArray

_TRIES = 3  # of a search, by an actor that dies
_BATCH_BYTES = 8 << 20  # of queries that are sent at a time


def open_shards(
    folder: str | Path, *, engine: str = "local", workers: int | None = None
) -> OpenShards | RayShards:
    """Opens the shards in a folder, to be searched like an index.

    Every file is read once, for its hash, and mapped into memory then; FastScan's are loaded.

    Args:
        folder: of the shards.
        engine: "local": threads of this process; or "ray": actors of Ray Core, each with some of
            the shards, in the cluster that RAY_ADDRESS names, or one of its own on this machine.
            These need the package and the folder, under the same path.
        workers: actors; by default one for every shard, or for every processor of this machine if
            these are fewer.

    Raises:
        ImportError: Ray is not installed.
        FileNotFoundError: no shards, or one is missing or damaged: the message says which.
        ValueError: damaged, another model, or an engine that there is not.
    """
    job = read_job(Path(folder))
    if engine == "local":
        if workers is not None:
            raise ValueError(f"expected workers with engine='ray', got {workers} with 'local'")
        opened = open_parts(job, range(job.n_parts))
        opened.items = job.names()
        return opened
    if engine != "ray":
        raise ValueError(f"expected engine 'local' or 'ray', got {engine!r}")
    if workers is not None and workers < 1:
        raise ValueError(f"expected workers >= 1, got {workers}")
    return RayShards(job, workers)


class _Holder:
    """What an actor is: some shards of a job, opened when it is first asked."""

    def __init__(self, folder: Path, parts: Sequence[int]) -> None:
        self.folder, self.parts = folder, parts
        self.opened: OpenShards | None = None

    def ntotal(self) -> int:
        """Number of items."""
        return self._open().ntotal

    def search(self, x: Any, k: int, settings: dict[str, Any]) -> tuple[FloatArray, IdArray]:
        """As `OpenShards.search`, with its attributes set before."""
        opened = self._open()
        for name, value in settings.items():
            setattr(opened, name, value)
        return opened.search(x, k)

    def _open(self) -> OpenShards:
        if self.opened is None:
            self.opened = open_parts(read_job(self.folder), self.parts)
        return self.opened


def _of_all(name: str) -> Any:
    """A setting of every shard, which goes along with every search."""

    def read(served: RayShards) -> Any:
        return getattr(served._model, name)

    def write(served: RayShards, value: Any) -> None:
        setattr(served._model, name, value)  # what is wrong is found here
        served._settings[name] = value

    return property(read, write, doc=f"Of all shards: see `LatentIndex.{name}`.")


class RayShards:
    """Shards that actors of Ray hold; they are searched as `OpenShards` are.

    An actor that dies is begun anew and asked again, up to three times. A search gives what all
    shards have, or an error that names those without an answer.

    Args:
        job: whose shards are done.
        workers: actors, or None, see `open_shards`.

    Raises:
        FileNotFoundError: a shard is missing or damaged.

    Attributes:
        items: what the items are called, see `LatentIndex.items`; None where nobody knows.
    """

    items: Items | None

    nprobe = _of_all("nprobe")
    k_factor = _of_all("k_factor")
    efSearch = _of_all("efSearch")  # noqa: N815 - FAISS's name
    search_type = _of_all("search_type")

    def __init__(self, job: Job, workers: int | None) -> None:
        ray = self._ray = import_extra("ray", 'for engine="ray"')
        self._model, self._settings = job.read_model(), dict[str, Any]()
        self.items = job.names()
        n = min(job.n_parts, workers or len(os.sched_getaffinity(0)))
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            begin_ray(ray, n)
        # An actor waits for queries most of the time: it takes no processor away from others.
        options = {"num_cpus": 0, "scheduling_strategy": "SPREAD"}
        options |= {"max_restarts": -1, "max_task_retries": _TRIES}
        holder = ray.remote(**options)(_Holder)
        shares = [part.tolist() for part in np.array_split(np.arange(job.n_parts), n)]
        self._actors = [(holder.remote(job.folder, parts), parts) for parts in shares]
        try:
            self._n = int(sum(self._asked("ntotal")))
        except BaseException:
            self.close()
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        super().__setattr__(name, value)

    def __len__(self) -> int:
        return self.ntotal

    @property
    def ntotal(self) -> int:
        """Number of items in all shards."""
        return self._n

    @property
    def metric_type(self) -> int:
        """What distances are, see `LatentIndex.metric_type`."""
        return self._model.metric_type

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one item."""
        return self._model.input_shape

    @property
    def crops(self) -> bool:
        """See `LatentIndex.crops`."""
        return self._model.crops

    def search(self, x: Any, k: int) -> tuple[FloatArray, IdArray]:
        """As `OpenShards.search`.

        Raises:
            TypeError, ValueError: as `LatentIndex.search`; shards that were closed.
            ConnectionError: shards without an answer, which are named.
        """
        if not self._actors:
            raise ValueError("expected open shards to search, got closed ones: open them again")
        k = check_k(k)
        x = check_items(x, self.input_shape, "queries")
        rows = max(1, _BATCH_BYTES // (4 * math.prod(self.input_shape)))
        found = [(np.empty((0, k), np.float32), np.empty((0, k), np.int64))]
        for start in range(0, len(x), rows):
            part = read_rows(x, np.arange(start, min(start + rows, len(x))), "queries").numpy()
            each = self._asked("search", self._ray.put(part), k, self._settings)
            found.append(nearest_of_all(each, k, self.metric_type))
        D, I = (np.concatenate(arrays) for arrays in zip(*found, strict=True))  # noqa: E741
        return D, I

    def _asked(self, what: str, *given: Any) -> list[Any]:
        """What a method of all actors returns."""
        ray = self._ray
        asked = [(getattr(actor, what).remote(*given), parts) for actor, parts in self._actors]
        found = []
        for answer, parts in asked:
            try:
                found.append(ray.get(answer))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                first, last = parts[0] + 1, parts[-1] + 1
                reason = str(error).strip().splitlines()[0]
                raise ConnectionError(
                    f"no answer of the parts {first} to {last}: {reason}; ask again, or open the "
                    "shards again"
                ) from error
        return found

    def close(self) -> None:
        """Ends the actors, and a Ray that was begun for them."""
        for actor, _ in self._actors:
            self._ray.kill(actor)
        self._actors = []
        if self._owns_ray:
            self._ray.shutdown()

    def __enter__(self) -> RayShards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
