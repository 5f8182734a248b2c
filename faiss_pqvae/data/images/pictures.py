"""Encoded pictures by number, decoded by several threads; what is wrong is told of all at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.images.decoder import (
    BrokenImageError,
    Decoder,
    Encoded,
    OtherSizeError,
    image_size,
    quiet_pillow,
)
from faiss_pqvae.messages import listed
from faiss_pqvae.progress import Progress

_R = TypeVar("_R")
_log = logging.getLogger(__name__)

_CHUNK_BYTES = 16 << 20  # of decoded pictures at a time
_CHUNK = 1024  # pictures at most, and as many as all threads have in hand when one is stopped
_LISTED = 100  # faults in a message

Faults = dict[int, ValueError]
# A picture and what a message calls it.
Read = Callable[[int], tuple[Encoded, str]]


@dataclass(frozen=True)
class Pictures:
    """Pictures that are decoded on access.

    Attributes:
        ids: (n,) int64, the numbers of the pictures among all that were found.
        total: how many were found.
        read: a picture by its number among all; it raises BrokenImageError, too.
        stamp: text that changes with the content of a picture, by its number.
        decoder: what makes arrays of them.
    """

    ids: npt.NDArray[np.int64]
    total: int
    read: Read
    stamp: Callable[[int], str]
    decoder: Decoder

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, channels, height, width)."""
        return (len(self.ids), *self.decoder.shape)

    @property
    def left_out(self) -> npt.NDArray[np.int64] | None:
        """`ids`, where pictures were left out; None when all are there."""
        return None if len(self.ids) == self.total else self.ids

    def cropped(self) -> Pictures:
        """The pictures as the middle of each, where they are resized."""
        return replace(self, decoder=replace(self.decoder, crop=True))

    def rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Some of the pictures, (len(rows), channels, height, width) uint8.

        Raises:
            ValueError: one is broken or of another size. All others are then looked at, too, and
                the message lists every one.
        """
        out = np.empty((len(rows), *self.decoder.shape), np.uint8)
        if faults := self.decode(rows, out):
            raise self.error({int(rows[at]): fault for at, fault in faults.items()} | self.faults())
        return out

    def decode(self, rows: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]) -> Faults:
        """Decodes pictures into an array; returns what is wrong, by place in it."""

        def one(place: int) -> ValueError | None:
            try:
                file, name = self.read(int(self.ids[rows[place]]))
                out[place] = self.decoder.image(file, name)
            except (BrokenImageError, OtherSizeError) as fault:
                return fault
            return None

        found = enumerate(in_threads(one, range(len(rows))))
        return {place: fault for place, fault in found if fault is not None}

    def parts(self, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """Rows in pieces that are decoded at a time."""
        item_bytes = int(np.prod(self.decoder.shape))
        size = min(_CHUNK, max(workers(), _CHUNK_BYTES // item_bytes))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def faults(self, *, progress: bool = True) -> Faults:
        """Decodes every picture, as fast as can be; returns what is wrong, by row."""
        if self.decoder.resize and self.decoder.size != (1, 1):
            return self.smallest().faults(progress=progress)
        rows, found = np.arange(len(self.ids)), Faults()
        with Progress(
            "checking images", len(rows), unit="images", shown=progress, inner=True
        ) as bar:
            for part in self.parts(rows):
                out = np.empty((len(part), *self.decoder.shape), np.uint8)
                found |= {int(part[at]): fault for at, fault in self.decode(part, out).items()}
                bar.update(len(part))
        return found

    def smallest(self) -> Pictures:
        """The pictures as one pixel each, for which JPEG is decoded at an eighth of its size."""
        return replace(self, decoder=replace(self.decoder, size=(1, 1), resize=True))

    def error(self, faults: Faults) -> ValueError:
        """What to raise for faults, see `faults_error`."""
        return faults_error(faults, len(self.ids))

    def of_one_size(self, *, skip_broken: bool) -> Pictures:
        """The pictures in the size that all of them have, which their headers say.

        Raises:
            OtherSizeError: sizes differ.
            ValueError: a picture has none, and is not to be left out: then everything that is
                broken is listed.
        """

        def one(number: int) -> tuple[str, tuple[int, int]] | BrokenImageError:
            try:
                file, name = self.read(number)
                return name, image_size(file, name, orient=self.decoder.orient)
            except BrokenImageError as fault:
                return fault

        found = in_threads(one, self.ids.tolist())
        faults: Faults = {
            i: fault for i, fault in enumerate(found) if isinstance(fault, ValueError)
        }
        if faults and not skip_broken:
            raise self.error(faults | self.faults())
        ids = leave_out(self.ids, faults)
        first, *others = (size for size in found if isinstance(size, tuple))
        other = [f"{name} {size}" for name, size in others if size != first[1]]
        if other:
            raise OtherSizeError(
                f"expected images of one size (height, width), got {first[0]} {first[1]} but "
                f"{listed(other)}; pass size=(height, width), --size HEIGHT WIDTH, to resize"
            )
        return replace(self, ids=ids, decoder=replace(self.decoder, size=first[1], resize=False))

    def without_broken(self) -> Pictures:
        """Those that can be decoded; the others are named in a warning of the log.

        Raises:
            ValueError: none can be, or one has another size.
        """
        faults = self.faults()
        if any(isinstance(fault, OtherSizeError) for fault in faults.values()):
            raise self.error(faults)
        return replace(self, ids=leave_out(self.ids, faults))


def leave_out(ids: npt.NDArray[np.int64], faults: Faults) -> npt.NDArray[np.int64]:
    """Numbers without those at faulty places, which a warning of the log names.

    Raises:
        ValueError: there are no others.
    """
    if not faults:
        return ids
    if len(faults) == len(ids):
        raise faults_error(faults, len(ids))
    _log.warning(
        "left out %s of %s images: %s",
        f"{len(faults):,}",
        f"{len(ids):,}",
        listed(faults.values(), between="; "),
    )
    return np.delete(ids, [*faults])


def faults_error(faults: Faults, n: int) -> ValueError:
    """An error that lists what is wrong with some of n pictures."""
    lines = [str(fault) for _, fault in sorted(faults.items())]
    if len(lines) > 1:
        more = [f"and {len(lines) - _LISTED:,} more"] if len(lines) > _LISTED else []
        head = f"{len(lines):,} of {n:,} images cannot be used:"
        lines = ["\n  ".join([head, *lines[:_LISTED], *more]) + "\n"]
    else:
        lines[0] += "; "
    if all(isinstance(fault, OtherSizeError) for fault in faults.values()):
        return ValueError(lines[0].rstrip("; \n"))
    if len(faults) == n:
        return ValueError(f"{lines[0]}mend or remove what is broken: nothing else is there")
    return ValueError(
        f"{lines[0]}mend or remove what is broken, or leave it out with skip_broken=True "
        "(--skip-broken)"
    )


def workers() -> int:
    """Threads that decode: one a processor that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(work: Callable[[int], _R], numbers: Sequence[int]) -> list[_R]:
    """Results in order; Pillow lets other threads run while it decodes."""
    found: list[_R] = []
    with quiet_pillow(), ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(numbers), _CHUNK):
            found += pool.map(work, numbers[start : start + _CHUNK])
    return found


def crop(source: Any) -> bool:
    """Lets images in files be cropped, see `Decoder.crop`; returns whether a source has such."""
    if not isinstance(getattr(source, "pictures", None), Pictures):
        return False
    source.pictures = source.pictures.cropped()
    return True
