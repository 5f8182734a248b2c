"""CIFAR-10: the binary archive, or a copy re-encoded as JPEG in Parquet."""

from __future__ import annotations

import math
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np

from faiss_pqvae.data.images import ParquetImages
from faiss_pqvae.registry import datasets
from faiss_pqvae.types import CodeArray, IdArray

from ..download import download
from ..labelled import LabelledData
from ..protocol import DATA_VARIABLE, data_folder

_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_BYTES = 170_052_171
_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = "test_batch.bin"
_BATCH_ROWS = 10_000
_ITEM = (3, 32, 32)
# Images (n, 3, 32, 32) uint8 and labels (n,) int64.
_Batch: TypeAlias = tuple[CodeArray, IdArray]
_UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError)


@datasets.register("cifar10")
def cifar10(*, url: str = _URL, batch_rows: int = _BATCH_ROWS) -> LabelledData:
    """CIFAR-10 from its binary archive, which is downloaded when it is missing.

    Args:
        url: where from.
        batch_rows: images in each of its files.
    """
    folder = data_folder() / "cifar10"
    batches = folder / "cifar-10-batches-bin"
    archive = folder / "cifar-10-binary.tar.gz"
    if batches.is_dir():
        files = dict(_batches_in_folder(batches, batch_rows))
    else:
        if not archive.is_file():
            _download(url, archive, batches)
        files = dict(_batches_in_archive(archive, batch_rows))
    images, labels = zip(*(files[name] for name in _TRAIN), strict=True)
    database = np.concatenate(images)
    queries, query_labels = files[_TEST]
    return LabelledData(
        name="cifar10",
        protocol="pqvae",
        description="CIFAR-10",
        train=database,
        database=database,
        database_labels=np.concatenate(labels),
        queries=queries,
        query_labels=query_labels,
        class_names=_CLASSES,
    )


@datasets.register("cifar10-jpeg")
def cifar10_jpeg() -> LabelledData:
    """CIFAR-10 re-encoded as JPEG, in Parquet."""
    folder = data_folder() / "cifar10-jpeg"
    paths = [folder / "train.parquet", folder / "test.parquet"]
    if not all(path.is_file() for path in paths):
        raise FileNotFoundError(
            f"CIFAR-10 (JPEG) is not there: put train.parquet and test.parquet into {folder}, the "
            f"subfolder cifar10-jpeg of {DATA_VARIABLE}"
        )
    train, test = (ParquetImages(path) for path in paths)
    if train.labels is None or test.labels is None:
        raise ValueError(f"expected a column 'label' in {paths[0]} and {paths[1]}")
    database = train[:]  # training reads the images many times: decode them once
    return LabelledData(
        name="cifar10-jpeg",
        protocol="pqvae",
        description="CIFAR-10 (JPEG)",
        train=database,
        database=database,
        database_labels=train.labels,
        queries=test[:],
        query_labels=test.labels,
        class_names=train.class_names or _CLASSES,
    )


def _download(url: str, archive: Path, batches: Path) -> None:
    try:
        download(url, archive, md5=_MD5, size_bytes=_BYTES)
    except OSError as error:
        raise FileNotFoundError(
            f"CIFAR-10 is not there and could not be downloaded ({error}): put {archive.name} from "
            f"{url} into {archive.parent}, or the unpacked folder to {batches}"
        ) from error


def _batches_in_folder(folder: Path, rows: int) -> Iterator[tuple[str, _Batch]]:
    for name in (*_TRAIN, _TEST):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"CIFAR-10 is incomplete: expected {name} in {folder}")
        _check_batch_size(str(path), path.stat().st_size, rows)
        yield name, _parse_batch(path.read_bytes())


def _batches_in_archive(archive: Path, rows: int) -> Iterator[tuple[str, _Batch]]:
    """Reads the members that are needed; nothing is written, so no path in it is trusted."""
    missing = {*_TRAIN, _TEST}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if name not in missing or not member.isfile():
                    continue
                _check_batch_size(f"{name} in {archive}", member.size, rows)
                file = tar.extractfile(member)
                assert file is not None  # it is a regular file
                missing.remove(name)
                yield name, _parse_batch(file.read())
    except _UNREADABLE as error:
        raise ValueError(f"{archive} is corrupt or truncated: {error}") from error
    if missing:
        raise ValueError(f"{archive} is incomplete: expected {sorted(missing)} in it")


def _check_batch_size(name: str, size_bytes: int, rows: int) -> None:
    expected = rows * (1 + math.prod(_ITEM))
    if size_bytes != expected:
        raise ValueError(f"expected {expected} bytes in {name}, got {size_bytes}")


def _parse_batch(raw: bytes) -> _Batch:
    """Every record is the label, then the pixels."""
    records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 1 + math.prod(_ITEM))
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, *_ITEM)
    return images, records[:, 0].astype(np.int64)
