"""A frozen network of somebody else in front of an index: what it makes of items, kept."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from faiss_pqvae.data.batches import read_batches
from faiss_pqvae.files import sync
from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.types import FloatArray


class Front:
    """A frozen backbone at the edge of an index: everything behind it treats features as the items.

    It runs where its weights are, on the CPU or on a GPU, and its copies share them.

    Args:
        backbone: with `trainable=False`.
        input_shape: of one item, (c, h, w) or (d,).
        chunk_bytes: of float32 inputs that the network sees together, whose activations take many
            times their memory.

    Attributes:
        d_out: features of an item.

    Raises:
        TypeError: no Backbone.
        ValueError: one that learns along, or one that cannot take such items.
    """

    def __init__(
        self, backbone: Backbone, input_shape: tuple[int, ...], *, chunk_bytes: int = 2**26
    ) -> None:
        if not isinstance(backbone, Backbone):
            raise TypeError(f"expected a Backbone, got {type(backbone).__name__}")
        if backbone.trainable:
            raise ValueError(
                "expected a frozen backbone (trainable=False) in front of an index: one that "
                "learns along is the model's own encoder"
            )
        self.backbone, self.input_shape = backbone, tuple(input_shape)
        self.chunk_bytes = chunk_bytes
        self.d_out = backbone.features_of(self.input_shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> Front:
        return self  # frozen: a copy of an index needs no second network

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Front):
            return NotImplemented
        if self.input_shape != other.input_shape:
            return False
        return self.backbone is other.backbone or self.fingerprint() == other.fingerprint()

    __hash__ = None  # type: ignore[assignment]  # compared by what they do

    def __repr__(self) -> str:
        return f"Front({self.backbone.reference!r}, {self.input_shape} to {self.d_out})"

    def fingerprint(self) -> str:
        """A hash of all weights and of what is done to items, see `Backbone.fingerprint`."""
        return self.backbone.fingerprint()

    def to(self, device: torch.device) -> Front:
        """A copy with a network of its own on a device."""
        other = copy.copy(self)
        other.backbone = copy.deepcopy(self.backbone).to(device)
        return other

    @torch.inference_mode()
    def apply(self, items: Tensor) -> Tensor:
        """Items (n, *input_shape), uint8 or float, to features (n, d_out) float32.

        Returns:
            Features on the network's device.

        Raises:
            ValueError: NaN or infinity in them, or another number of them.
        """
        self.backbone.eval()  # whatever its owner did: running statistics are weights, too
        device = next((p.device for p in self.backbone.parameters()), torch.device("cpu"))
        parts = [self.backbone(part.to(device)) for part in torch.split(items, self._chunk())]
        features = torch.cat(parts)
        if features.shape[1] != self.d_out:
            raise ValueError(
                f"expected {self.d_out} features an item from {self.backbone.reference}, got "
                f"{features.shape[1]}"
            )
        finite = features.isfinite().all(1)
        if not finite.all():
            raise ValueError(
                f"expected finite features from {self.backbone.reference}, got NaN or infinity "
                f"for {int((~finite).sum())} of {len(features)} items"
            )
        return features

    def _chunk(self) -> int:
        """Items that the network sees together."""
        shape = self.input_shape
        if self.backbone.size is not None and len(shape) == 3:
            shape = (shape[0], *self.backbone.size)
        return max(1, self.chunk_bytes // (4 * math.prod(shape)))


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
        off = None if self.progress else True
        with tqdm(total=len(self.x), desc=doing, unit=" items", disable=off) as bar:
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
        for _ in self._items("known features?", hashed=True):
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
        with new.open("wb") as file:
            computing.write(file, hashed=True)
        sync(new)
        path = folder / computing.name()
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync(folder)
    return path


def _load(path: Path, in_memory: bool) -> FloatArray:
    array: FloatArray = np.load(path, mmap_mode=None if in_memory else "r")
    return array
