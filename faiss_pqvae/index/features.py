"""What a front makes of items, computed once and kept: in memory, or on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from faiss_pqvae.data.batches import read_batches
from faiss_pqvae.files import space_for, sync
from faiss_pqvae.index.front import Front
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray


def keep_features(
    x: Any,
    front: Front,
    folder: Path | None = None,
    *,
    what: str = "items",
    batch_size: int = 1024,
    memory_bytes: int = 2**30,
    progress: bool = True,
) -> FloatArray:
    """What a front makes of items, computed once: what a training reads in their place.

    With a folder it is kept there in `features-{hash}.npy`, of the network and of all bytes of the
    items, and the next call with the same ones reads it instead. The file gets its name when it is
    complete, so that a crash leaves none that would be believed.

    Args:
        x: (n, *front.input_shape) uint8 or float: an array, a memory map, a tensor or a source.
        front: the network.
        folder: where the file is kept; made when missing. None keeps nothing.
        what: the name of x in messages.
        batch_size: items read at a time.
        memory_bytes: features of more bytes stay on disk and are mapped into memory: without a
            folder in a temporary file, where TMPDIR says, which goes away with the array.
        progress: draw a bar, where standard error is a terminal.

    Returns:
        (n, front.d_out) float32, an array or a memory map.

    Raises:
        ValueError: NaN or infinity in items or features.
        OSError: the disk is full or failing.
    """
    computing = _Computing(x, front, what, batch_size, progress)
    in_memory = 4 * len(x) * front.d_out <= memory_bytes
    if folder is not None:
        return _load(_kept(computing, folder) or _keep(computing, folder), in_memory)
    if in_memory:
        return np.concatenate(list(computing.features()))
    with tempfile.TemporaryFile() as file:  # it has no name, and lives as long as its mapping
        start = computing.write(file)
        file.flush()
        return np.memmap(file, np.float32, "r", start, (len(x), front.d_out))


class _Computing:
    """Features on their way, and the hash of what they are made of.

    Args:
        x, front, what, batch_size, progress: see `keep_features`.

    Attributes:
        digest: of the network and of the items read so far.
    """

    def __init__(self, x: Any, front: Front, what: str, batch_size: int, progress: bool) -> None:
        self.x, self.front, self.what = x, front, what
        self.batch_size, self.progress = batch_size, progress
        self.shape = (len(x), front.d_out)
        uint8 = x.dtype in (np.dtype(np.uint8), torch.uint8)
        self._header = f"{'uint8' if uint8 else 'float32'} {tuple(x.shape)}".encode()
        self.digest = hashlib.sha256()

    def _items(self, doing: str, *, hashed: bool) -> Iterator[Tensor]:
        self.digest = hashlib.sha256(self._header)
        if hashed:
            self.digest.update(self.front.fingerprint().encode())
            self.digest.update(np.array(self.front.probe(), np.float64).tobytes())
        with Progress(doing, len(self.x), unit="items", shown=self.progress) as bar:
            for items in read_batches(self.x, self.batch_size, self.what):
                if hashed:
                    self.digest.update(items.cpu().contiguous().numpy().data)
                yield items
                bar.update(len(items))

    def name(self) -> str:
        """Of the file that keeps the features of what was read."""
        return f"features-{self.digest.hexdigest()[:32]}.npy"

    def read(self) -> str:
        """Reads all items for the sake of the name."""
        for _ in self._items("looking for features", hashed=True):
            pass
        return self.name()

    def features(self, *, hashed: bool = False) -> Iterator[FloatArray]:
        """Batch by batch, (rows, d_out) float32."""
        for items in self._items("features", hashed=hashed):
            yield self.front.apply(items).cpu().numpy()

    def write(self, file: BinaryIO, *, hashed: bool = False) -> int:
        """Writes all features in numpy's format; returns the place of the first one.

        Not through a mapping: a full disk would end the process there.
        """
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for features in self.features(hashed=hashed):
            file.write(features.astype("<f4", copy=False).tobytes())
        return start


def _kept(computing: _Computing, folder: Path) -> Path | None:
    """The file of an earlier call, if it is there and whole."""
    if not any(folder.glob("features-*.npy")):
        return None  # and so the items need not be read for their hash
    path = folder / computing.read()
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return path if (found.shape, found.dtype) == (computing.shape, np.float32) else None


def _keep(computing: _Computing, folder: Path) -> Path:
    """Writes the file, under its name when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".features.*.new"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    new = folder / f".features.{os.getpid()}.new"
    try:
        with space_for(new):
            with new.open("wb") as file:
                computing.write(file, hashed=True)
            sync(new)
        path = folder / computing.name()
        new.replace(path)
    except KeyboardInterrupt as stop:
        stop.add_note(f"the features of all {len(computing.x):,} items are computed again")
        raise
    finally:
        new.unlink(missing_ok=True)
    sync(folder)
    return path


def _load(path: Path, in_memory: bool) -> FloatArray:
    array: FloatArray = np.load(path, mmap_mode=None if in_memory else "r")
    return array
