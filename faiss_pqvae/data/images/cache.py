"""Pictures decoded once: the pixels that a training reads many times, in memory or in a file."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.images.pictures import Faults, Pictures
from faiss_pqvae.extras import import_extra
from faiss_pqvae.progress import Progress

# What `decoded` writes into its folder.
PIXELS, STAMPS = "images.npy", "images.stamps"

_MEMORY_BYTES = 1 << 30
_FORMAT = 1  # of the files, and of what a decoder makes of a picture
_STAMP = np.dtype("<u8")  # of a picture that lies in the file; 0 where none does

_Rows = npt.NDArray[np.int64]
_Pixels = npt.NDArray[np.uint8]


@contextmanager
def decoded(
    x: Any, folder: Path | None, *, memory_bytes: int = _MEMORY_BYTES, progress: bool = True
) -> Iterator[Any]:
    """The pixels of images in a folder or in Parquet, decoded once; anything else as it is.

    With a folder they are kept there while they are in use. What lies there already of the same
    files, as far as their places, sizes and times of change say, and of the same options, is not
    decoded again, so that an interrupted call goes on. An end without an error removes the files;
    after an error they stay, for the next call.

    Args:
        x: an `ImageFolder`, a `ParquetImages`, or anything.
        folder: where the files are kept; made when missing. None: see `decode_all`.
        memory_bytes: see `decode_all`.
        progress: draw a bar, where standard error is a terminal.

    Yields:
        (n, channels, height, width) uint8, a read-only map of the file; or `x`.

    Raises:
        ValueError: images cannot be read; all of them are listed.
        OSError: the disk is full or failing; the message says which file, and what it needs.
    """
    pictures = getattr(x, "pictures", None)
    if folder is None or not isinstance(pictures, Pictures):
        yield decode_all(x, memory_bytes=memory_bytes, progress=progress)
        return
    folder.mkdir(parents=True, exist_ok=True)
    yield _kept(pictures, folder, progress=progress)
    for name in (PIXELS, STAMPS):
        (folder / name).unlink(missing_ok=True)


def decode_all(x: Any, *, memory_bytes: int = _MEMORY_BYTES, progress: bool = True) -> Any:
    """As `decoded` without a folder: in memory, or where that is too much in a temporary file.

    Args:
        x: an `ImageFolder`, a `ParquetImages`, or anything.
        memory_bytes: of pixels in memory at most. More go to a file without a name, where TMPDIR
            says, which goes away with the array.
        progress: draw a bar, where standard error is a terminal.

    Raises:
        ValueError, OSError: see `decoded`.
    """
    pictures = getattr(x, "pictures", None)
    if not isinstance(pictures, Pictures):
        return x
    rows = np.arange(len(pictures.ids))
    if math.prod(pictures.shape) <= memory_bytes:
        out = np.empty(pictures.shape, np.uint8)
        _decode(pictures, rows, out.__setitem__, progress=progress)
        return out
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=folder) as file:  # lives as long as its mapping
        pixels = _PixelFile(file, pictures.shape, f"a temporary file in {folder} (TMPDIR)")
        pixels.check_room(folder)
        _decode(pictures, rows, pixels.put, progress=progress)
        file.flush()
        return np.memmap(file, np.uint8, "r", pixels.start, pictures.shape)


def _decode(
    pictures: Pictures,
    rows: _Rows,
    put: Callable[[_Rows, _Pixels], None],
    *,
    progress: bool,
) -> None:
    """Hands on all pictures that can be decoded, and then raises what is wrong with the others."""
    faults, n = Faults(), len(pictures.ids)
    with Progress(
        "decoding images",
        n,
        unit="images",
        shown=progress,
        initial=n - len(rows),
        inner=True,
    ) as bar:
        for part in pictures.parts(rows):
            out = np.empty((len(part), *pictures.decoder.shape), np.uint8)
            found = pictures.decode(part, out)
            faults |= {int(part[at]): fault for at, fault in found.items()}
            good = np.delete(np.arange(len(part)), [*found])
            put(part[good], out[good])
            bar.update(len(part))
    if faults:
        raise pictures.error(faults)


def _kept(pictures: Pictures, folder: Path, *, progress: bool) -> _Pixels:
    """The pixels in the folder's files, of which only what is missing is decoded."""
    path, n = folder / PIXELS, len(pictures.ids)
    wanted = _stamps(pictures)
    with _opened(path) as file, _opened(folder / STAMPS) as stamps:
        there = np.zeros(n, _STAMP)
        if _is_whole(file, pictures.shape[1:]):
            raw = stamps.read()
            known = np.frombuffer(raw, _STAMP, len(raw) // _STAMP.itemsize)[:n]
            there[: len(known)] = known
        stamps.truncate(0)  # before there is a file of pixels that they might speak of
        pixels = _PixelFile(file, pictures.shape, str(path))
        pixels.check_room(folder)
        stamps.seek(0)
        stamps.write(there.tobytes())

        def put(rows: _Rows, images: _Pixels) -> None:
            pixels.put(rows, images)
            with pixels.telling():
                os.fsync(file.fileno())  # before the stamps that say so
                for row in rows.tolist():
                    stamps.seek(row * _STAMP.itemsize)
                    stamps.write(wanted[row].tobytes())
                stamps.flush()

        _decode(pictures, np.flatnonzero(there != wanted), put, progress=progress)
    return np.memmap(path, np.uint8, "r", pixels.start, pictures.shape)


def _opened(path: Path) -> BinaryIO:
    """A file for reading and writing, made where it is missing."""
    path.touch()
    return path.open("r+b")


def _stamps(pictures: Pictures) -> npt.NDArray[np.uint64]:
    """One number a picture, of its file and of how it is decoded: (n,) uint64, none 0."""
    how = f"{_FORMAT} {import_extra('PIL').__version__} {pictures.decoder}"
    texts = (f"{how} {pictures.stamp(number)}" for number in pictures.ids.tolist())
    hashes = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.maximum(np.frombuffer(b"".join(hashes), _STAMP), 1)


class _PixelFile:
    """Pixels in numpy's format, written row by row at any place.

    Not through a mapping: a full disk would end the process there.

    Args:
        file: open for reading and writing.
        shape: (n, channels, height, width).
        where: its name in messages.

    Attributes:
        start: bytes before the first picture.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, ...], where: str) -> None:
        self.file, self.where = file, where
        self.n_bytes, self.item_bytes = math.prod(shape), math.prod(shape[1:])
        with self.telling():
            file.seek(0)
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            self.start = file.tell()
            file.truncate(self.start + self.n_bytes)

    def check_room(self, folder: Path) -> None:
        """Raises an OSError where the disk has no room for what is not written yet."""
        status = os.fstat(self.file.fileno())
        written = getattr(status, "st_blocks", 0) * 512
        free = shutil.disk_usage(folder).free
        if self.n_bytes - written > free:
            raise OSError(f"{self._needs()}: {folder} has {free / 1e6:,.1f} MB free")

    def put(self, rows: _Rows, images: _Pixels) -> None:
        """Writes pictures (len(rows), channels, height, width) at their rows."""
        with self.telling():
            for row, image in zip(rows.tolist(), images, strict=True):
                self.file.seek(self.start + row * self.item_bytes)
                self.file.write(image.tobytes())
            self.file.flush()

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Errors of writing say which file, and what it needs."""
        try:
            yield
        except OSError as error:
            raise OSError(f"{self._needs()}: {error.strerror or error}") from error

    def _needs(self) -> str:
        return f"cannot write {self.where}, which needs {self.n_bytes / 1e6:,.1f} MB for images"


def _is_whole(file: BinaryIO, item_shape: tuple[int, ...]) -> bool:
    """Whether a file holds pixels of such pictures, and is as long as its header says."""
    try:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    except (ValueError, EOFError):
        return False  # empty, or damaged: everything is decoded anew
    size = os.fstat(file.fileno()).st_size
    return tuple(shape[1:]) == item_shape and size == file.tell() + math.prod(shape)
