"""A folder of pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from faiss_pqvae.data.images.files import ImageFiles
from faiss_pqvae.data.images.image_options import Mode
from faiss_pqvae.data.images.listing import IMAGE_SUFFIXES, Found, find_images
from faiss_pqvae.data.source import missing
from faiss_pqvae.messages import listed

_log = logging.getLogger(__name__)


class ImageFolder(ImageFiles):
    """The images in a folder and below it, in sorted order, decoded on access.

    What counts as an image: see `faiss_pqvae.data.images.listing`; how it is decoded: see
    `decoder.Decoder`.

    Attributes:
        skipped: what lies in the folder and is neither an image nor hidden; a warning of the log
            names it, too.
        class_names: names of the folders directly below `path`, sorted, when every image lies in
            one of them, broken ones included; None otherwise.
        labels: (n,) int64, indices into `class_names`, or None.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int] | None = None,
        *,
        crop: bool = False,
        mode: Mode = "RGB",
        orient: bool = True,
        skip_broken: bool = False,
    ) -> None:
        """Lists the folder and, when `size` is None, reads the header of every image.

        Args:
            path: the folder; or one image, alone.
            size: (height, width) in pixels to which every image is resized (bilinear,
                antialiased); None requires that all have one size.
            crop: cut out the middle in the proportions of `size` first, in place of stretching.
            mode: "RGB", 3 channels, or "L", 1.
            orient: apply EXIF orientation.
            skip_broken: decode every image now, and leave out those that cannot be.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: it holds no images, some are unreadable (all are listed) and not to be
                skipped, or sizes differ and `size` is None.
            ImportError: Pillow is not installed.
        """
        root = Path(path)
        if not root.exists():
            raise missing(root, "a folder of images")
        found, self.skipped = find_images(root) if root.is_dir() else Found([root], [])
        skipped = listed(path.relative_to(root) for path in self.skipped)
        if not found:
            raise ValueError(
                f"no images in {root}: expected files {', '.join(sorted(IMAGE_SUFFIXES))}, or "
                f"others that Pillow reads, got {skipped or 'none that is not hidden'}"
            )
        if self.skipped:
            n = len(self.skipped)
            _log.warning("%s: %s skipped that are no images: %s", root, f"{n:,}", skipped)
        super().__init__(found, size, crop=crop, mode=mode, orient=orient, skip_broken=skip_broken)
        self.class_names, labels = _folder_classes(root, found)
        self.labels = None if labels is None else labels[self.pictures.ids]


def _folder_classes(
    root: Path, paths: Sequence[Path]
) -> tuple[tuple[str, ...] | None, npt.NDArray[np.int64] | None]:
    parts = [path.relative_to(root).parts for path in paths]
    if any(len(names) <= 1 for names in parts):  # none of a picture alone
        return None, None
    folders = [names[0] for names in parts]
    class_names, labels = np.unique(folders, return_inverse=True)
    return tuple(str(name) for name in class_names), labels.astype(np.int64)
