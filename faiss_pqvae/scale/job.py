"""What all shards of an index have in common: a frozen model, a source, and in how many parts.

A folder has the job in `job.json`, the model in `model/`, and a shard of every part that is done.
Whoever has the folder and the source can make any shard, at any time and twice if he likes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from faiss_pqvae.data.batches import check_items
from faiss_pqvae.data.images.pictures import crop
from faiss_pqvae.data.open import ImageOptions, open_several
from faiss_pqvae.data.row_range import rows_of_part
from faiss_pqvae.data.source import Source
from faiss_pqvae.files import replace_bytes
from faiss_pqvae.index.bundle import read_config, read_index, write_index
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.index.naming import items_of
from faiss_pqvae.index.refine import StoredVectors
from faiss_pqvae.scale.planning import parts_for

FORMAT = 1
# Of the files of items: how many of them are looked into, and blocks of each.
_SAMPLED, _BLOCKS, _BLOCK_BYTES = 256, 16, 4096
# Of a bundle's configuration, what decides which code an item gets and how codes are read.
_OF_MODEL = ("spec", "encoder", "decoder", "model", "metric", "factory", "effort")


@dataclass(frozen=True)
class Job:
    """Shards to make.

    Attributes:
        folder: of the shards.
        data: where the items are, see `open_several`.
        images: how images are read.
        shape: of one item.
        n: items.
        n_parts: of them; the items of a part lie side by side.
        model: hash of all that decides about an item's code.
        source: hash of names, sizes and numbers of rows of the files of items, and of samples of
            what is in them: other files are noticed, a single changed value is not.
    """

    folder: Path
    data: tuple[Path, ...]
    images: ImageOptions
    shape: tuple[int, ...]
    n: int
    n_parts: int
    model: str
    source: str

    def rows(self, part: int) -> slice:
        """The items of a part, which is counted from 0."""
        return rows_of_part(self.n, part, self.n_parts)

    def open(self) -> Source:
        """The items.

        Raises:
            ValueError: others than when the job was begun.
        """
        source = _opened(self.data, self.images, self.shape)
        if (len(source), source_key(source, self.data)) != (self.n, self.source):
            raise ValueError(
                f"expected the items in {self.where} as they were when the shards in {self.folder} "
                f"were begun, {self.n:,} of them, got others: name another folder for their shards"
            )
        return source

    def names(self) -> Items | None:
        """What the items are called, in the order of their ids; None where they are gone."""
        try:
            return items_of(self.open(), self.where)
        except FileNotFoundError:
            return None

    @property
    def where(self) -> Path:
        """The path of the items, or the folder around several."""
        return self.data[0] if len(self.data) == 1 else Path(os.path.commonpath(self.data))

    def read_model(self) -> LatentIndex:
        """The index that shards are made with, without items.

        Raises:
            ValueError: a damaged or another model.
        """
        found = _model_key(self.model_folder)
        if found != self.model:
            raise ValueError(f"expected the model {self.model[:12]} of the job, got {found[:12]}")
        return read_index(self.model_folder)

    @property
    def model_folder(self) -> Path:
        """The bundle of the model."""
        return self.folder / "model"


def begin(
    index: LatentIndex,
    data: str | Path | Sequence[str | Path],
    folder: str | Path,
    n_parts: int | None = None,
    images: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    *,
    workers: int = 1,
) -> Job:
    """Begins a job, or finds that it was begun.

    Args:
        index: trained; what it holds does not count, and is forgotten.
        data: path of the items, or several.
        folder: for the shards; made when missing.
        n_parts: one or more, at most as many as there are items; None takes as many as the job in
            the folder has, or some for each worker.
        images: how images are read.
        workers: that are going to make them.

    Raises:
        ValueError: a folder with the shards of another model, of other items or other parts; an
            index that stores more of an item than a code, or has a network that is not ours, which
            a worker would not have; images that are left out.
        OSError: the disk is full or failing.
    """
    folder = Path(folder)
    given = [data] if isinstance(data, str | Path) else data
    paths = tuple(Path(path).absolute() for path in given)
    if isinstance(index.refiner, StoredVectors):
        raise ValueError(
            f"expected an index of codes alone for shards, got {index.description}, which stores "
            "the items as well"
        )
    if images.skip_broken:
        raise ValueError("expected images that can all be read for shards, got --skip-broken")
    source = _opened(paths, images, index.input_shape)
    if images.crop is None and index.crops and crop(source):
        images = replace(images, crop=True)  # for the workers
    check_items(source, index.input_shape, f"items of {paths[0]}")
    begun = read_job(folder) if (folder / "job.json").exists() else None
    if n_parts is None:
        n_parts = parts_for(len(source), workers) if begun is None else begun.n_parts
    if not 1 <= n_parts <= len(source):
        raise ValueError(f"expected from 1 to {len(source):,} parts, got {n_parts:,}")
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        folder=folder,
        data=paths,
        images=images,
        shape=index.input_shape,
        n=len(source),
        n_parts=n_parts,
        model=_keep_model(index, folder),
        source=source_key(source, paths),
    )
    if begun is not None:
        _check_same(begun, job)
    else:
        replace_bytes(folder / "job.json", json.dumps(_record(job), indent=1).encode() + b"\n")
    return job


def read_job(folder: str | Path) -> Job:
    """The job that was begun in a folder.

    Raises:
        FileNotFoundError: none was.
        ValueError: a damaged file, or one of a newer version.
    """
    path = Path(folder, "job.json")
    if not path.is_file():
        raise FileNotFoundError(
            f"no shards in {folder}: {path.name} is missing; `faiss-pqvae build BUNDLE DATA --out "
            f"{folder} --workers 2` makes some"
        )
    try:
        record = json.loads(path.read_bytes())
        version = record.pop("format")
        if version != FORMAT:
            raise ValueError(f"expected format {FORMAT}, got {version!r}")
        for name in ("n", "n_parts"):
            if not isinstance(record[name], int) or record[name] < 1:
                raise ValueError(f"expected {name} >= 1, got {record[name]!r}")
        images = record.pop("images")
        size = images["size"] and tuple(images["size"])
        return Job(
            folder=Path(folder),
            data=tuple(map(Path, record.pop("data"))),
            images=ImageOptions(**{**images, "size": size}),
            shape=tuple(record.pop("shape")),
            **record,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged {path}: {error}") from error


def _record(job: Job) -> dict[str, Any]:
    record = asdict(job)
    del record["folder"]
    return {"format": FORMAT, **record, "data": [str(path) for path in job.data]}


def _check_same(begun: Job, job: Job) -> None:
    said = {
        "model": "another model",
        "shape": "other items",
        "n": "other items",
        "source": "other items",
        "n_parts": "other parts",
        "images": "other options of images",
    }
    for name, what in said.items():
        mine, theirs = getattr(job, name), getattr(begun, name)
        if mine != theirs:
            raise ValueError(
                f"expected shards of {name} {str(theirs)[:60]} in {job.folder}, got "
                f"{str(mine)[:60]}, {what}: name another folder, or remove this one"
            )


def _keep_model(index: LatentIndex, folder: Path) -> str:
    """Writes the model to the folder, if it is not there; its hash."""
    index.reset()
    index.search_type = "adc"
    new, there = folder / f".model.{secrets.token_hex(8)}.new", folder / "model"
    try:
        write_index(index, new)
        read_index(new)  # as every worker will
        key = _model_key(new)
        try:
            new.replace(there)
        except OSError:
            if not there.is_dir():
                raise
            # One that is whole stays. Another one is of somebody else's job, if that was begun.
            if _whole_key(there) != key and not _is_of_other_job(folder, key):
                shutil.rmtree(there)
                new.replace(there)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return key


def _whole_key(folder: Path) -> str | None:
    """The hash of a model that can be read."""
    try:
        read_index(folder)
        return _model_key(folder)
    except (ValueError, OSError):
        return None


def _is_of_other_job(folder: Path, key: str) -> bool:
    return (folder / "job.json").exists() and read_job(folder).model != key


def _model_key(folder: Path) -> str:
    config = read_config(folder)
    said = {name: config.get(name) for name in _OF_MODEL}
    said["files"] = {name: file["sha256"] for name, file in config["files"].items()}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _opened(paths: tuple[Path, ...], images: ImageOptions, shape: tuple[int, ...]) -> Source:
    # Read in order, once: nothing of it need be in memory.
    return open_several(paths, images=images, like=shape, in_memory_bytes=0)


def source_key(source: Any, data: Sequence[str | Path]) -> str:
    """A hash of what the files of a source are called, and of samples of what is in them."""
    paths = getattr(source, "paths", None)
    files = [(Path(data[0]), len(source))] if paths is None else [(Path(path), 1) for path in paths]
    files = getattr(source, "parts", None) or files
    said = hashlib.sha256(f"{source.dtype} {tuple(source.shape)}".encode())
    for path in data:
        said.update(f"\n{_within(Path(path))}".encode())
    every = max(1, len(files) // _SAMPLED)
    for number, (path, n) in enumerate(files):
        file = path if path.is_file() else path.parent  # FILE/NAME
        size = file.stat().st_size if file.is_file() else 0
        said.update(f"\n{path.name} {n} {size}".encode())
        if size and number % every == 0:
            said.update(_sample(file, size))
    return said.hexdigest()


def _within(path: Path) -> str:
    """What a path names in a file: a column, a data set."""
    file = next((each for each in (path, *path.parents) if each.is_file()), path)
    return path.relative_to(file).as_posix()


def _sample(path: Path, size: int) -> bytes:
    """Some bytes of a file, from its beginning to its end."""
    found = []
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek(number * max(0, size - _BLOCK_BYTES) // (_BLOCKS - 1))
            found.append(file.read(_BLOCK_BYTES))
    return b"".join(found)
