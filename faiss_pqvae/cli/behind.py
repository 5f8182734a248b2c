"""Images of a data set as what a frozen network makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from faiss_pqvae.data.batches import content_key
from faiss_pqvae.data.images.decoder import OtherSizeError
from faiss_pqvae.data.images.image_options import CHANNELS, Mode
from faiss_pqvae.data.row_range import RowRange
from faiss_pqvae.data.source import Source
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.protocol import Evaluated
from faiss_pqvae.eval.methods.settings import Before, Tuned
from faiss_pqvae.index.features import keep_features
from faiss_pqvae.index.front import Front
from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.fine_tuned import in_two
from faiss_pqvae.model.networks import is_named_ours, resolved_encoder
from faiss_pqvae.model.networks.efficientnet import SIZE
from faiss_pqvae.registry import encoders
from faiss_pqvae.training import PictureViews, TrainingConfig

Opened = TypeVar("Opened")


class Wanted(NamedTuple):
    """How a network wants photographs.

    Attributes:
        size: height and width.
        crop: see `Backbone.crop`.
    """

    size: tuple[int, int]
    crop: bool


def wanted_by(encoder: str | None, shape: tuple[int, ...] = (3, SIZE, SIZE)) -> Wanted | None:
    """How an encoder wants photographs; None for one of ours, or where it does not say.

    Args:
        encoder: a name or a reference, as `--encoder` takes it.
        shape: (channels, height, width) of what it is made for.
    """
    if encoder is None or is_named_ours(encoders, encoder):
        return None
    backbone = resolved_encoder(encoder, shape, 1, width=1)
    return None if backbone.size is None else Wanted(backbone.size, backbone.crop)


def crop_for(
    encoder: str | None, size: tuple[int, int], mode: Mode | None, crop: bool | None
) -> bool | None:
    """Whether photographs that are resized are cropped: as the encoder wants, or as was said.

    Args:
        encoder: as `--encoder` takes it, or None.
        size: height and width that they are resized to.
        mode: their channels; None is RGB.
        crop: what was said, if anything was.

    Raises:
        ValueError: something else than the encoder wants, which later searches would not know.
    """
    wanted = wanted_by(encoder, (CHANNELS[mode or "RGB"], *size))
    if wanted is None:
        return crop
    if crop not in (None, wanted.crop):
        raise ValueError(
            f"expected photographs {'cropped' if wanted.crop else 'stretched'}, as {encoder} wants "
            f"them, got --crop {crop}: leave it out"
        )
    return wanted.crop


def in_some_size(
    opened: Callable[[Wanted | None], Opened], path: Path, encoder: str | None
) -> Opened:
    """Images as they are, or as an encoder wants them where they have several sizes.

    Args:
        opened: opens them, in a size or as they are.
        path: of what is opened; where nothing is there it is a data set's name, which has a size.
        encoder: as `--encoder` takes it, or None.

    Raises:
        OtherSizeError: those of a data set have several sizes, or nobody says what size is wanted.
    """
    try:
        return opened(None)
    except OtherSizeError:
        wanted = wanted_by(encoder) if path.exists() else None
        if wanted is None:
            raise
        return opened(wanted)


def made_before(
    source: Source, n_views: int, training: TrainingConfig
) -> tuple[PictureViews, TrainingConfig]:
    """Views of pictures that a frozen network is to see, and the loop's settings without them.

    Args:
        source: (n, c, h, w) images.
        n_views: of each.
        training: with views of images, or none; its seed is theirs.

    Raises:
        ValueError: no images, or views that change nothing.
    """
    chosen = training.for_shape(tuple(source.shape[1:]), strong=True)
    views = PictureViews(source, n_views, chosen.views, seed=training.seed)
    return views, replace(training, views=None, augment=None)


class Behind(NamedTuple):
    """What a frozen network makes of a data set.

    Attributes:
        data: of features.
        before: what made them, or what the learned code gets in their place.
        tuned: what learns along, where something does.
        views: (n * K, d) features of views of the training images, or None; where something learns
            along, as it gets them.
        model: settings of the model for features.
        training: those of the loop.
    """

    data: LabelledData
    before: Before
    tuned: Tuned | None
    views: Source | None
    model: ModelConfig
    training: TrainingConfig


def behind(
    data: Evaluated,
    encoder: str,
    folder: Path,
    kept_views: int,
    model: ModelConfig,
    training: TrainingConfig,
) -> Behind:
    """The same data as features, computed once, which are then what every method gets.

    Where the last parts of the network learn along, the learned code gets what its first parts
    give, which is kept, too.

    Args:
        data: images with labels.
        encoder: a name of a registered encoder or package.module:attribute, of a frozen network.
        folder: where features are kept.
        kept_views: of every training image, which the network sees, too.
        model: says how many parts learn along.
        training: see `made_before`.

    Raises:
        ValueError: no images with labels; a network that learns along as a whole.
    """
    shape = tuple(data.database.shape[1:])
    if not isinstance(data, LabelledData) or len(shape) != 3:
        raise ValueError(f"expected images with labels to make features of, got {data.name}")
    backbone = resolved_encoder(encoder, shape, 1, width=1)
    if backbone.trainable:
        raise ValueError(
            f"expected a frozen network to make features, Backbone(..., trainable=False), got "
            f"{encoder}, which learns along: --encoder trains it"
        )
    views: Source | None = None
    tuned = None
    if kept_views:
        views, training = made_before(data.train, kept_views, training)
    seen = data
    if model.fine_tuned:
        frozen, last = in_two(backbone, model.fine_tuned, shape)
        if frozen is None:
            raise ValueError(
                f"expected --model.fine-tuned below {model.fine_tuned}, all parts of {encoder}, "
                "with --features: --encoder trains all of it"
            )
        first = Front(frozen, shape)
        seen = _seen_by(first, data, folder, "-maps")
        if views is not None:
            views = _kept(views, first, folder / "views-maps")
        key = content_key(seen.database, "images (database)")
        tuned = Tuned(seen, last, model.fine_tuned, f"{key} {last.fingerprint()}")
        model = replace(model, encoder=None, fine_tuned=0)
        # Trainings learn copies of the last parts: all others get features as they were.
        as_it_was = Backbone(last.module, trainable=False, reference=encoder)
        front = Front(as_it_was, (first.d_out,))
    else:
        first = front = Front(backbone, shape)
        if views is not None:
            views = _kept(views, front, folder / "views")
    found = replace(
        _seen_by(front, seen, folder),
        name=f"{data.name}, features of {encoder}",
        description=f"{data.description}; {front.d_out} features an image, of {encoder}",
        looks=(data.database, data.queries),
    )
    return Behind(found, Before(first, encoder), tuned, views, model, training)


def _seen_by(front: Front, data: LabelledData, folder: Path, suffix: str = "") -> LabelledData:
    """The data as a network gives them, in folders by what they are."""
    start = _start_of(data.database, data.train)
    name = "database" if start == 0 else "train"
    train = _kept(data.train, front, folder / f"{name}{suffix}")
    if start is None:
        database = _kept(data.database, front, folder / f"database{suffix}")
    else:
        database = train if start == 0 else RowRange(train, slice(start, None))
    queries = _kept(data.queries, front, folder / f"queries{suffix}")
    return replace(data, train=train, database=database, queries=queries)


def _start_of(database: Source, train: Source) -> int | None:
    """The row from which on training items are those of the database; None: they are others."""
    if database is train:
        return 0
    if isinstance(database, RowRange) and database.source is train:  # made below, of such
        return len(train) - len(database)
    if not isinstance(database, np.ndarray) or not isinstance(train, np.ndarray):
        return None
    start = len(train) - len(database)
    end = train[start:] if start >= 0 else database
    same = end.__array_interface__ == database.__array_interface__
    return start if start >= 0 and same else None


def _kept(source: Source, front: Front, folder: Path) -> Source:
    return keep_features(source, front, folder, what=f"images ({folder.name})")
