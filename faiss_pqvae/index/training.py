"""What `LatentIndex.train` does: every part is made beside the index that there is."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from faiss_pqvae.data.batches import (
    check_items,
    content_key,
    read_batches,
    read_rows,
    sample_rows,
)
from faiss_pqvae.data.content import key_of_parts
from faiss_pqvae.data.few import warn_of_few
from faiss_pqvae.data.flat_views import WHAT as VIEWS
from faiss_pqvae.data.flat_views import flat_views
from faiss_pqvae.data.images.cache import decoded
from faiss_pqvae.index.coarse import POINTS, Coarse, clustering
from faiss_pqvae.index.encoding import Encoding
from faiss_pqvae.index.features import keep_features
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.storing import Stock, check_residuals
from faiss_pqvae.index.transforms import Transformed, Transforms
from faiss_pqvae.model import team
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.native.coarse import (
    clustering_of,
    has_residuals,
    inject_coarse,
    set_clustering,
)
from faiss_pqvae.native.inject import inject_codebooks, prepare_search, train_coarse
from faiss_pqvae.progress import Progress
from faiss_pqvae.types import FloatArray

_COARSE_EFFORT = 1  # of the choice of codes that inverted lists are laid out by
WHAT = "training data"  # the name of the items in messages
QUERIES = "training queries"

History = list[dict[str, Any]]


class Fit(Protocol):
    """How an index trains its model; `index_factory` gives it one."""

    @property
    def takes_coarse(self) -> bool:
        """Whether it can be given coarse centroids, to learn codewords of what they leave over."""

    def check(self, n: int, **given: Any) -> dict[str, Any]:
        """Checks what a training gets besides its items, before anything is read or trained.

        Args:
            n: number of items.
            **given: what there is of what `LatentIndex.train` gets, by its names: labels and
                word_vectors, queries of the shape of the items, and views, see `flat_views`.

        Returns:
            What the call takes as further keyword arguments; queries and views as they came.

        Raises:
            TypeError, ValueError: wrong ones, none where they are needed, or some that are not.
        """

    def __call__(
        self,
        model: PQVAE,
        x: Any,
        *,
        progress: bool,
        folder: Path | None = None,
        content: str | None = None,
        **given: Any,
    ) -> History:
        """Trains a model, in place.

        Args:
            model: as it was built.
            x: (n, *model.input_shape): items, or what front and transforms made of them.
            progress: draw a bar.
            folder: where log and checkpoints go, or None.
            content: the `content_key` of x, where there is a folder.
            **given: what `check` returned, queries as front and transforms made them, and where the
                index codes residuals "coarse", see `faiss_pqvae.index.coarse.Coarse`.

        Returns:
            The history, see `faiss_pqvae.training.fit`.
        """


@dataclass
class Parts:
    """The parts of an index that a training makes anew.

    Attributes:
        encoding: of items.
        stock: empty.
        history: of the training.
    """

    encoding: Encoding
    stock: Stock
    history: History

    def copied(self) -> Parts:
        """Such parts beside these, behind the front."""
        encoding = self.encoding.behind_front()
        encoding, state, history = copy.deepcopy((encoding, self.stock.state(), self.history))
        set_clustering(state[0], clustering_of(self.stock.store.index))
        return Parts(encoding, Stock.over(*state, encoding), history)


def trained(
    parts: Parts,
    x: Any,
    fit: Fit | None,
    *,
    ready: bool,
    given: dict[str, Any],
    folder: Any,
    progress: bool,
    batch_size: int,
) -> Parts:
    """Trains copies of an index's parts; these stay as they are, whatever happens.

    Several processes do so together, see `faiss_pqvae.model.team`; files are the first one's.

    Args:
        parts: of the index.
        x: (n, *input_shape) uint8 or float.
        fit: trains the model, or None.
        ready: model and transforms are trained already, and stay.
        given: what `Fit.check` takes besides the number of items.
        folder: where log, checkpoints, a front's features and decoded images go, or None.
        progress: draw bars.
        batch_size: items encoded at a time.

    Raises:
        TypeError, ValueError: see `LatentIndex.train`.
    """
    progress = progress and team.is_first()
    ntotal = parts.stock.store.index.ntotal
    if ntotal:
        raise ValueError(
            f"expected an empty index, got {ntotal} items, whose codes would lose their meaning: "
            "call reset() first"
        )
    if fit is None and not ready:
        raise ValueError("this index only serves: make one that trains by index_factory")
    _check_residuals(parts, fit, ready=ready)
    x = check_items(x, parts.encoding.input_shape, WHAT)
    given = {what: some for what, some in given.items() if some is not None}
    queries, views = given.get("queries"), given.get("views")
    for what, some in (("queries", queries), ("views", views)):
        if some is not None and ready:
            raise ValueError(f"expected no {what}, got some: the model is trained and stays as is")
    if queries is not None:
        given["queries"] = check_items(queries, parts.encoding.input_shape, QUERIES)
    if views is not None:
        given["views"] = flat_views(views, len(x), parts.encoding.input_shape)
    folder, fit_model = None if folder is None else Path(folder), None
    if fit is not None and not ready:  # wrong labels are found before anything is trained
        checked = dict(fit.check(len(x), **given))
        queries, views = checked.pop("queries", None), checked.pop("views", None)
        fit_model = functools.partial(fit, progress=progress, folder=folder, **checked)
    # A front reads its items once, and keeps what it makes of them.
    with ExitStack() as stack:
        if not parts.encoding.front:
            with team.first_before_others():
                x = stack.enter_context(decoded(x, folder, progress=progress))
        queries = _read_queries(parts.encoding.front, queries, batch_size)
        seen, content = _read(parts, x, folder, progress=progress, batch_size=batch_size)
        views = _read_views(parts.encoding.front, views, folder, progress, batch_size)
        job = _Job(seen, content, folder, progress, batch_size, queries, views)
        return _train(parts.copied(), job, fit_model)


def _check_residuals(parts: Parts, fit: Fit | None, *, ready: bool) -> None:
    """Whether what is trained can be codebooks of what the native index will code."""
    model, native = parts.encoding.model, parts.stock.store.index
    if ready:
        check_residuals(native, model, takes_coarse=False)
    elif has_residuals(native) and not (fit and fit.takes_coarse):
        raise ValueError(
            "expected an inverted file with by_residual=False: the objective learns codebooks of "
            "latents, not of what a coarse centroid leaves over of them"
        )


@dataclass(frozen=True)
class _Job:
    """What the parts are trained with.

    Attributes:
        x: (n, *seen_shape), items or what a front made of them.
        content: their key, where there is a folder.
        folder: for what outlives an interruption, or None.
        progress: draw bars.
        batch_size: items encoded at a time.
        queries: (nq, *seen_shape) likewise, or None.
        views: (n * K, *seen_shape) likewise, or None.
    """

    x: Any
    content: str | None
    folder: Path | None
    progress: bool
    batch_size: int
    queries: Any = None
    views: Any = None

    def behind(self, transforms: Transforms | None) -> tuple[Any, str | None]:
        """Items behind transforms that are trained, and their key."""
        if transforms is None:
            return self.x, self.content
        content = self.content and key_of_parts(self.content, [transforms.as_bytes()])
        return Transformed(self.x, transforms, WHAT), content

    def given_behind(self, transforms: Transforms | None) -> dict[str, Any]:
        """Queries and views behind them, as keywords; nothing where there are none."""
        found = {}
        for name, some, what in (("queries", self.queries, QUERIES), ("views", self.views, VIEWS)):
            if some is not None:
                found[name] = some if transforms is None else Transformed(some, transforms, what)
        return found

    def waiting(self, what: str) -> Progress:
        """For a call of FAISS."""
        return Progress(what, shown=self.progress)


def _read_queries(front: Front | None, queries: Any, batch_size: int) -> Any:
    """Queries, or what a front makes of them; all are read, so that NaN is found early."""
    if queries is None:
        return None
    batches = read_batches(queries, batch_size, QUERIES)
    if front is not None:
        return torch.cat([front.apply(batch).cpu() for batch in batches])
    for _ in batches:
        pass
    return queries


def _read_views(
    front: Front | None, views: Any, folder: Path | None, progress: bool, batch_size: int
) -> Any:
    """Views, or what a front makes of them, computed once; all are read, so that NaN is found."""
    if views is None:
        return None
    if front is not None:
        with team.first_before_others():
            return keep_features(
                views, front, folder, what=VIEWS, batch_size=batch_size, progress=progress
            )
    with Progress(f"reading {VIEWS}", len(views), unit="views", shown=progress) as bar:
        for batch in read_batches(views, batch_size, VIEWS):
            bar.update(len(batch))
    return views


def _read(
    parts: Parts, x: Any, folder: Path | None, *, progress: bool, batch_size: int
) -> tuple[Any, str | None]:
    """The items, or what a front makes of them; all are read, so that NaN is found early.

    With them their key, if there is a folder.
    """
    front, store = parts.encoding.front, parts.stock.store
    content = None
    if front is None and folder is not None:
        content = team.by_first(lambda: content_key(x, WHAT, progress=progress))
    elif front is None and x.dtype not in (np.dtype(np.uint8), torch.uint8):
        with Progress(f"reading {WHAT}", len(x), unit="items", shown=progress) as bar:
            for batch in read_batches(x, batch_size, WHAT):
                bar.update(len(batch))
    if store.has_lists and len(x) < store.bare.nlist:  # before hours, not after
        raise ValueError(
            f"expected at least as many items as inverted lists, {store.bare.nlist}, to train "
            f"with, got {len(x)}"
        )
    if store.has_lists:
        warn_of_few(len(x), store.bare.nlist, "training items", "inverted lists")
    if front is None:
        return x, content
    front.learned_behind = front.fingerprint()
    with team.first_before_others():
        seen = keep_features(x, front, folder, what=WHAT, batch_size=batch_size, progress=progress)
    if folder is None:
        return seen, None
    return seen, team.by_first(lambda: content_key(seen, WHAT, progress=progress))


def _train(new: Parts, job: _Job, fit: Callable[..., History] | None) -> Parts:
    """Trains parts; without a fit all but model and transforms."""
    if new.stock.vectors is not None:
        with job.waiting("training what refines"):
            new.stock.vectors.train(job.x, WHAT)
    native, coarse = new.stock.store.index, None
    if fit is not None:
        new.encoding = _with_fitted_transforms(new.encoding, job)
        model = new.encoding.model
        inputs, content = job.behind(new.encoding.transforms)
        if has_residuals(native):
            unit = model.spec.is_unit
            coarse = Coarse(native, inputs, WHAT, unit, job.folder, content, job.progress)
        given = job.given_behind(new.encoding.transforms)
        if coarse is not None:
            given["coarse"] = coarse
        new.history = fit(model, inputs, content=content, **given)
        model.eval()
    inject_codebooks(native, new.encoding.model.codebooks())
    if coarse is not None:
        inject_coarse(native, _latents_of(coarse(), new.encoding.model))
    elif new.stock.store.has_lists and not has_residuals(native):
        _train_coarse(new, job)
    prepare_search(native)
    return new


@torch.inference_mode()
def _latents_of(coarse: FloatArray, model: PQVAE) -> FloatArray:
    z = model.encode_centroids(torch.from_numpy(coarse).to(model.device))
    latents: FloatArray = z.cpu().contiguous().numpy()
    return latents


def _with_fitted_transforms(encoding: Encoding, job: _Job) -> Encoding:
    transforms = encoding.transforms
    if transforms is None:
        return encoding
    path = None
    if job.folder is not None and job.content is not None:
        key = key_of_parts(f"{job.content} {transforms}", [transforms.as_bytes()])
        path = job.folder / f"transforms-{key}"
    with team.first_before_others():
        fitted = None if path is None else transforms.read(path)
        if fitted is None:
            with job.waiting(f"training {transforms}"):
                fitted = transforms.trained(job.x, WHAT)
            if path is not None:
                fitted.write(path)
    return replace(encoding, transforms=fitted)


def _train_coarse(parts: Parts, job: _Job) -> None:
    bare = parts.stock.store.bare
    rows = sample_rows(len(job.x), POINTS * bare.nlist)
    latents = []
    # Where lists lie a code tells that was chosen in a hurry.
    encoding = replace(parts.encoding, effort=min(_COARSE_EFFORT, parts.encoding.effort))
    with Progress("encoding", len(rows), unit="items", shown=job.progress) as bar:
        for start in range(0, len(rows), job.batch_size):
            part = rows[start : start + job.batch_size]
            latents.append(encoding.batch(read_rows(job.x, part, WHAT)).z)
            bar.update(len(part))
    bare.quantizer.reset()  # of a training before
    with clustering(bare, progress=job.progress):
        train_coarse(parts.stock.store.index, np.concatenate(latents))
