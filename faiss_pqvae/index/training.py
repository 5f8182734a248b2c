"""What `LatentIndex.train` does: every part is made beside the index that there is."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from faiss_pqvae.data.batches import read_batches, read_rows, sample_rows
from faiss_pqvae.data.labels import check_supervision
from faiss_pqvae.index.encoding import Encoding
from faiss_pqvae.index.front import Front, keep_features
from faiss_pqvae.index.refine import Refiner, StoredVectors, made_of, make_refiner
from faiss_pqvae.index.transforms import Transformed
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native.inject import inject_codebooks, prepare_search, train_coarse
from faiss_pqvae.native.store.store import Store

WHAT = "training data"  # the name of the items in messages
_COARSE_POINTS = 256  # training vectors per inverted list, as many as FAISS's k-means takes

History = list[dict[str, Any]]


class Fit(Protocol):
    """How an index trains its model; `index_factory` gives it one."""

    def check(self, n: int, *, labels: Any = None, word_vectors: Any = None) -> dict[str, Any]:
        """Checks what a training gets besides its items, before anything is read or trained.

        Args:
            n: number of items.
            labels: as `LatentIndex.train` gets them.
            word_vectors: likewise.

        Returns:
            What the call takes as further keyword arguments.

        Raises:
            TypeError, ValueError: wrong ones, none where they are needed, or some that are not.
        """

    def __call__(
        self, model: PQVAE, x: Any, *, progress: bool, folder: Path | None = None, **given: Any
    ) -> History:
        """Trains a model, in place.

        Args:
            model: as it was built.
            x: (n, *model.input_shape): items, or what front and transforms made of them.
            progress: draw a bar.
            folder: where log and checkpoints go, or None.
            **given: what `check` returned.

        Returns:
            The history, see `faiss_pqvae.training.fit`.
        """


@dataclass
class Parts:
    """The parts of an index that a training makes.

    Attributes:
        encoding: of features, where the index has a front.
        store: of an empty native index.
        refiner: a second look at results, or None.
        history: of the training.
    """

    encoding: Encoding
    store: Store
    refiner: Refiner | None
    history: History

    def copied(self) -> Parts:
        """Such parts beside these."""
        encoding, native, refine_index, history = copy.deepcopy(
            (self.encoding, self.store.index, made_of(self.refiner), self.history)
        )
        store = Store(native)
        return Parts(encoding, store, make_refiner(refine_index, encoding, store), history)


def checked_fit(
    fit: Fit,
    model: PQVAE,
    n: int,
    *,
    labels: Any,
    word_vectors: Any,
    folder: Path | None,
    progress: bool,
) -> Callable[[PQVAE, Any], History]:
    """A fit with all that it gets besides a model and n items, which is checked here, once.

    Raises:
        TypeError, ValueError: see `Fit.check`.
    """
    if not hasattr(fit, "check"):
        given = {"labels": labels, "word_vectors": word_vectors, "folder": folder}
        given = {name: value for name, value in given.items() if value is not None}
        check_supervision(model.config, labels, word_vectors, n)
        return functools.partial(fit, progress=progress, **given)
    given = fit.check(n, labels=labels, word_vectors=word_vectors)
    return functools.partial(fit, progress=progress, folder=folder, **given)


def read_training(
    x: Any,
    front: Front | None,
    nlist: int | None,
    folder: Path | None,
    *,
    batch_size: int,
    progress: bool,
) -> Any:
    """Reads all items once, so that NaN is found before anything is trained.

    Args:
        x: (n, *input_shape) uint8 or float.
        front: of the index, or None.
        nlist: inverted lists of the index, or None.
        folder: where a front's features are kept, or None.
        batch_size: items at a time.
        progress: draw a bar.

    Returns:
        x, or what the front makes of it.

    Raises:
        ValueError: NaN or infinity; fewer items than inverted lists.
    """
    if front is None and x.dtype not in (np.dtype(np.uint8), torch.uint8):
        for _ in read_batches(x, batch_size, WHAT):
            pass
    if nlist is not None and len(x) < nlist:  # before hours, not after
        raise ValueError(
            f"expected at least as many items as inverted lists, {nlist}, to train with, got "
            f"{len(x)}"
        )
    if front is None:
        return x
    return keep_features(x, front, folder, what=WHAT, batch_size=batch_size, progress=progress)


def train_parts(
    parts: Parts, x: Any, fit: Callable[[PQVAE, Any], History] | None, *, batch_size: int
) -> Parts:
    """Trains copies of an index's parts; these stay as they are, whatever happens.

    Args:
        parts: of the index.
        x: (n, *parts.encoding.seen_shape) uint8 or float: items, or features of them.
        fit: trains the model on what the transforms give; None leaves model and transforms.
        batch_size: items encoded at a time.

    Raises:
        ValueError: items that FAISS cannot fit a part to, and whatever `fit` raises.
    """
    new = parts.copied()
    if isinstance(new.refiner, StoredVectors):
        new.refiner.train(x, WHAT)
    if fit is not None:
        new.encoding = _with_fitted_transforms(new.encoding, x)
        transforms = new.encoding.transforms
        inputs = x if transforms is None else Transformed(x, transforms, WHAT)
        new.history = fit(new.encoding.model, inputs)
        new.encoding.model.eval()
    inject_codebooks(new.store.index, new.encoding.model.codebooks())
    if new.store.is_ivf:
        _train_coarse(new, x, batch_size)
    prepare_search(new.store.index)
    return new


def _with_fitted_transforms(encoding: Encoding, x: Any) -> Encoding:
    if encoding.transforms is None:
        return encoding
    return Encoding(encoding.model, encoding.transforms.trained(x, WHAT))


def _train_coarse(parts: Parts, x: Any, batch_size: int) -> None:
    bare = parts.store.bare
    rows = sample_rows(len(x), _COARSE_POINTS * bare.nlist)
    latents = [
        parts.encoding.batch(read_rows(x, rows[start : start + batch_size], WHAT)).z
        for start in range(0, len(rows), batch_size)
    ]
    bare.quantizer.reset()  # of a training before
    try:
        train_coarse(parts.store.index, np.concatenate(latents))
    except RuntimeError as error:
        raise ValueError(f"FAISS cannot train the coarse quantizer: {error}") from error
