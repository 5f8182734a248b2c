"""Pictures in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.images.decoder import Decoder, Encoded
from faiss_pqvae.data.images.image_options import Mode
from faiss_pqvae.data.images.listing import file_stamp
from faiss_pqvae.data.images.pictures import Pictures
from faiss_pqvae.data.source import Rows, row_ids


class ImageFiles:
    """Images in files, in the order that they are given in, decoded on access.

    Attributes:
        shape: (n, channels, height, width), dtype uint8.
        paths: the n files, in order.
        ids: (n,) int64, the places of the items among all files; None when all are there.
        total: how many files there are, broken ones that were left out included.
    """

    dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __init__(
        self,
        files: Sequence[Path],
        size: tuple[int, int] | None = None,
        *,
        crop: bool = False,
        mode: Mode = "RGB",
        orient: bool = True,
        skip_broken: bool = False,
    ) -> None:
        """Reads the header of every image when `size` is None.

        Args:
            files: one or more.
            size: (height, width) in pixels to which every image is resized (bilinear,
                antialiased); None requires that all have one size.
            crop: cut out the middle in the proportions of `size` first, in place of stretching.
            mode: "RGB", 3 channels, or "L", 1.
            orient: apply EXIF orientation.
            skip_broken: decode every image now, and leave out those that cannot be.

        Raises:
            ValueError: some are unreadable (all are listed) and not to be skipped, or sizes differ
                and `size` is None.
            ImportError: Pillow is not installed.
        """
        self._files = [*files]
        pictures = Pictures(
            np.arange(len(self._files)),
            len(self._files),
            self._read,
            self._stamp,
            Decoder(size or (1, 1), mode, resize=True, orient=orient, crop=crop),
        )
        if size is None:
            pictures = pictures.of_one_size(skip_broken=skip_broken)
        self.pictures = pictures.without_broken() if skip_broken else pictures
        self.shape = self.pictures.shape
        self.ids, self.total = self.pictures.left_out, len(self._files)
        self.paths = [self._files[i] for i in self.pictures.ids.tolist()]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows, /) -> npt.NDArray[Any]:
        return self.pictures.rows(row_ids(rows, len(self)))

    def _read(self, number: int) -> tuple[Encoded, str]:
        return self._files[number], str(self._files[number])

    def _stamp(self, number: int) -> str:
        return file_stamp(self._files[number])
