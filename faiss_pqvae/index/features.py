"""What a front makes of items, computed once and kept: in memory, or on disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from faiss_pqvae.data.batches import read_batches, rows_at_a_time
from faiss_pqvae.data.source import Rows
from faiss_pqvae.files import read_checked, space_for, sync, write_checked
from faiss_pqvae.index.front import Front
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray

_log = logging.getLogger(__name__)

_ROUNDING = 2.0**-10  # of the largest feature of an item: what 16 bits may change
_SAVE_EVERY_S = 30.0


def keep_features(
    x: Any,
    front: Front,
    folder: Path | None = None,
    *,
    what: str = "items",
    batch_size: int = 1024,
    memory_bytes: int = 2**30,
    progress: bool = True,
) -> FloatArray | KeptFeatures:
    """What a front makes of items, computed once: what a training reads in their place.

    With a folder it is kept there in `features-{hash}.npy`, of the network and of all bytes of the
    items, and the next call with the same ones reads it instead. The file has float16 where that
    changes no feature by more than a thousandth of the item's largest, else float32. It gets its
    name when it is complete; a call that was interrupted or killed is gone on with by the same one,
    which computes at most half a minute's features again.

    Args:
        x: (n, *front.input_shape) uint8 or float: an array, a memory map, a tensor or a source.
        front: the network.
        folder: where the file is kept; made when missing. None keeps nothing.
        what: the name of x in messages.
        batch_size: items read at a time.
        memory_bytes: features of more bytes as float32 stay on disk and are mapped into memory:
            without a folder in a temporary file, where TMPDIR says, which goes away with the array.
        progress: draw a bar, where standard error is a terminal.

    Returns:
        (n, front.d_out) float32: an array, a memory map, or what reads a file row by row.

    Raises:
        ValueError: NaN or infinity in items or features.
        OSError: the disk is full or failing; another process computes features in this folder.
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


class _Done(NamedTuple):
    """How far a call came that did not end.

    Attributes:
        rows: whose features are in the file.
        digest: of the network and of these items.
        dtype: of the file.
    """

    rows: int = 0
    digest: str = ""
    dtype: str = "<f2"

    def end(self, shape: tuple[int, int]) -> int:
        """The place behind these rows in a file of features of a shape."""
        row_bytes = shape[1] * np.dtype(self.dtype).itemsize
        return _write_header(io.BytesIO(), self.dtype, shape) + self.rows * row_bytes


class _OtherItemsError(Exception):
    """What is there of an earlier call is of other items."""


class _TooCoarseError(Exception):
    """Features that 16 bits do not hold."""


class _Computing:
    """Features on their way, and the hash of what they are made of.

    Args:
        x, front, what, batch_size, progress: see `keep_features`.
    """

    def __init__(self, x: Any, front: Front, what: str, batch_size: int, progress: bool) -> None:
        self.x, self.front, self.what = x, front, what
        self.batch_size, self.progress = batch_size, progress
        self.shape = (len(x), front.d_out)

    def _items(self, doing: str) -> Iterator[Tensor]:
        with Progress(doing, len(self.x), unit="items", shown=self.progress) as bar:
            rows = rows_at_a_time(self.x, self.batch_size)
            for items in read_batches(self.x, rows, self.what):
                yield items
                bar.update(len(items))

    def _hash(self) -> Any:
        """Of the network and of the kind of the items, to which these are added."""
        uint8 = self.x.dtype in (np.dtype(np.uint8), torch.uint8)
        digest = hashlib.sha256(f"{'uint8' if uint8 else 'float32'} {tuple(self.x.shape)}".encode())
        digest.update(self.front.fingerprint().encode())
        digest.update(np.array(self.front.probe(), np.float64).tobytes())
        return digest

    def read(self) -> str:
        """Reads all items for the sake of the name."""
        digest = self._hash()
        for items in self._items("looking for features"):
            digest.update(_bytes(items))
        return _name(digest)

    def features(self) -> Iterator[FloatArray]:
        """Batch by batch, (rows, d_out) float32."""
        for items in self._items("features"):
            yield self.front.apply(items).cpu().numpy()

    def write(self, file: BinaryIO) -> int:
        """Writes all features in numpy's format; returns the place of the first one.

        Not through a mapping: a full disk would end the process there.
        """
        start = _write_header(file, "<f4", self.shape)
        for features in self.features():
            file.write(features.astype("<f4", copy=False).tobytes())
        return start

    def write_on(self, file: BinaryIO, state: Path, done: _Done) -> str:
        """Writes all features that are not there yet; returns the name for the file.

        Args:
            file: open for writing, perhaps with what an earlier call left.
            state: the file that says how far it is.
            done: what that said.

        Raises:
            _OtherItemsError: the file has features of other items.
            _TooCoarseError: features that it cannot hold.
        """
        digest, row = self._hash(), 0
        file.seek(0)
        _write_header(file, done.dtype, self.shape)
        file.seek(done.end(self.shape))
        file.truncate()
        saved = time.monotonic()
        if done.rows:
            _log.info("features of %s items are there already", f"{done.rows:,}")
        try:
            for items in self._items("features"):
                there = min(len(items), max(0, done.rows - row))
                digest.update(_bytes(items[:there]))
                row += there
                if there and row == done.rows and digest.hexdigest() != done.digest:
                    raise _OtherItemsError
                if there == len(items):
                    continue
                features = self.front.apply(items[there:]).cpu().numpy()
                file.write(_rounded(features, done.dtype).tobytes())
                digest.update(_bytes(items[there:]))
                row += len(items) - there
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    _save(file, state, _Done(row, digest.hexdigest(), done.dtype))
                    saved = time.monotonic()
        except (_OtherItemsError, _TooCoarseError):
            raise
        except BaseException as stop:
            if row > done.rows:  # a full disk may have no place for this either
                with contextlib.suppress(OSError):
                    _save(file, state, _Done(row, digest.hexdigest(), done.dtype))
            if isinstance(stop, KeyboardInterrupt):
                stop.add_note(
                    f"the features of {row:,} of {len(self.x):,} items are kept: the same call "
                    "goes on after them"
                )
            raise
        return _name(digest)


def _bytes(items: Tensor) -> memoryview:
    return items.cpu().contiguous().numpy().data


def _name(digest: Any) -> str:
    """Of the file that keeps the features of what was read."""
    return f"features-{digest.hexdigest()[:32]}.npy"


def _rounded(features: FloatArray, dtype: str) -> npt.NDArray[Any]:
    """As a file holds them.

    Raises:
        _TooCoarseError: 16 bits would change them, or are too few for what is so large or small.
    """
    if dtype == "<f4":
        return features.astype("<f4", copy=False)
    with np.errstate(over="ignore"):
        half = features.astype("<f2")
    largest = np.abs(features).max(1)
    if not (np.abs(half - features).max(1) <= _ROUNDING * largest).all():
        raise _TooCoarseError
    return half


def _save(file: BinaryIO, state: Path, done: _Done) -> None:
    """Keeps how far it is: first the features, then the word about them."""
    file.flush()
    os.fsync(file.fileno())
    write_checked(state, json.dumps(done._asdict()).encode())


def _read_state(state: Path, size: int, shape: tuple[int, int]) -> _Done:
    """How far an earlier call came, if its files are whole."""
    found = read_checked(state)
    if found is None:
        return _Done()
    about = json.loads(found)
    if not isinstance(about, dict) or about.keys() != set(_Done._fields):  # of another version
        return _Done()
    done = _Done(**about)
    return done if done.rows <= shape[0] and size >= done.end(shape) else _Done()


def _write_header(file: Any, dtype: str, shape: tuple[int, int]) -> int:
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    place: int = file.tell()
    return place


def _kept(computing: _Computing, folder: Path) -> Path | None:
    """The file of an earlier call, if it is there and whole."""
    if not any(folder.glob("features-*.npy")):
        return None  # and so the items need not be read for their hash
    path = folder / computing.read()
    try:
        found = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    fits = found.shape == computing.shape and found.dtype in (np.float16, np.float32)
    return path if fits else None


def _keep(computing: _Computing, folder: Path) -> Path:
    """Writes the file, under its name when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".features.*.new"):  # of versions that did not go on
        leftover.unlink(missing_ok=True)
    new, state = folder / ".features.new", folder / ".features.state"
    with space_for(new), new.open("a+b") as held, new.open("r+b") as file:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_of_name(held, new) or not _is_of_name(file, new):
                raise BlockingIOError  # it has just been given its name
        except BlockingIOError as error:
            raise OSError(
                f"another process computes features in {folder}: wait until it has done so, or "
                "name another folder"
            ) from error
        try:
            path = folder / _write_all(computing, file, state)
            new.replace(path)
            state.unlink(missing_ok=True)
        except BaseException:
            if not state.exists():  # nothing to go on with
                new.unlink(missing_ok=True)
            raise
    sync(folder)
    return path


def _is_of_name(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _write_all(computing: _Computing, file: BinaryIO, state: Path) -> str:
    """Writes the file, from where an earlier call was, and returns its name."""
    size = os.fstat(file.fileno()).st_size
    done = _read_state(state, size, computing.shape)
    while True:
        try:
            name = computing.write_on(file, state, done)
            break
        except _OtherItemsError:
            done = _Done()
        except _TooCoarseError:
            _log.info("features as float32: float16 would change them by a thousandth")
            done = _Done(dtype="<f4")
        state.unlink(missing_ok=True)
    file.flush()
    os.fsync(file.fileno())
    return name


class KeptFeatures:
    """Features in a file, mapped and read as float32, whatever they are kept as.

    Args:
        path: of a .npy file.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path) -> None:
        self.source = np.load(path, mmap_mode="r")  # whose pages readers let go of
        self.shape: tuple[int, ...] = self.source.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> FloatArray:
        found: FloatArray = self.source[rows].astype(np.float32)
        return found


def _load(path: Path, in_memory: bool) -> FloatArray | KeptFeatures:
    if in_memory:
        array: FloatArray = np.load(path).astype(np.float32, copy=False)
        return array
    return KeptFeatures(path)
