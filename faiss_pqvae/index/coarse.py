"""Coarse centroids of what a model sees, learned before the codewords of what they leave over."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import functional

from faiss_pqvae.data.batches import read_sample
from faiss_pqvae.data.content import key_of_parts
from faiss_pqvae.files import read_checked, write_checked
from faiss_pqvae.model import team
from faiss_pqvae.native.coarse import coarse_settings, learn_coarse
from faiss_pqvae.native.walk import codebook_index
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray

POINTS = 256  # training vectors per inverted list, as many as FAISS's k-means takes


@dataclass(frozen=True)
class Coarse:
    """What `training.objectives.linear_start.Coarse` asks for, by FAISS's k-means.

    Attributes:
        native: an index with an inverted file, whose settings count.
        x: (n, d), what the model sees.
        what: the name of x in messages.
        unit: whether vectors are brought to length 1 first, as the model's latents are.
        folder: where the centroids outlive an interruption, and a training; or None.
        content: the key of x, where there is a folder.
        progress: draw a bar.
    """

    native: Any
    x: Any
    what: str
    unit: bool
    folder: Path | None
    content: str | None
    progress: bool

    @property
    def settings(self) -> str:
        """All that the centroids depend on but the items."""
        return f"unit={self.unit} {coarse_settings(self.native)}"

    def __call__(self) -> FloatArray:
        """The centroids (nlist, d) float32; raises as `clustering`."""
        return self._centroids

    @functools.cached_property
    def _centroids(self) -> FloatArray:
        return team.by_first(self._read_or_learned)

    def _read_or_learned(self) -> FloatArray:
        path = None
        if self.folder is not None and self.content is not None:
            path = self.folder / f"coarse-{key_of_parts(f'{self.content} {self.settings}', [])}"
            kept = read_checked(path)
            if kept is not None:
                found: FloatArray = np.load(io.BytesIO(kept), allow_pickle=False)
                return found
        centroids = self._learned()
        if path is not None:
            file = io.BytesIO()
            np.save(file, centroids)
            write_checked(path, file.getvalue())
        return centroids

    def _learned(self) -> FloatArray:
        bare = codebook_index(self.native)
        xt = read_sample(self.x, POINTS * bare.nlist, self.what).float().cpu()
        xt = functional.normalize(xt) if self.unit else xt
        with clustering(bare, progress=self.progress):
            return learn_coarse(self.native, xt.contiguous().numpy())


@contextmanager
def clustering(ivf: Any, *, progress: bool) -> Iterator[None]:
    """Around FAISS's k-means of the lists of an inverted file.

    Raises:
        ValueError: in the place of what FAISS raises.
    """
    least = ivf.cp.min_points_per_centroid
    ivf.cp.min_points_per_centroid = 1  # of too few it was warned
    try:
        with Progress(f"k-means of {ivf.nlist:,} inverted lists", shown=progress):
            yield
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot train the coarse quantizer: {error}") from error
    finally:
        ivf.cp.min_points_per_centroid = least  # a setting, by which a training is known again
