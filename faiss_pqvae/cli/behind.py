"""Images of a data set as what a frozen network makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from faiss_pqvae.data.images.decoder import OtherSizeError
from faiss_pqvae.data.source import Source
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.protocol import Evaluated
from faiss_pqvae.index.features import keep_features
from faiss_pqvae.index.front import Front
from faiss_pqvae.model.networks import resolved_encoder
from faiss_pqvae.model.networks.efficientnet import SIZE
from faiss_pqvae.training import PictureViews, TrainingConfig

Opened = TypeVar("Opened")


def in_some_size(opened: Callable[[tuple[int, int] | None], Opened], path: Path) -> Opened:
    """Images as they are, or in the size of a network of photographs where they have several.

    Args:
        opened: opens them, in a size or as they are.
        path: of what is opened; where nothing is there it is a data set's name, which has a size.

    Raises:
        OtherSizeError: those of a data set have several sizes.
    """
    try:
        return opened(None)
    except OtherSizeError:
        if not path.exists():
            raise
        return opened((SIZE, SIZE))


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
        views: (n * K, d) features of views of the training images, or None.
        training: settings of the loop for features.
    """

    data: LabelledData
    views: Source | None
    training: TrainingConfig


def behind(
    data: Evaluated, encoder: str, folder: Path, kept_views: int, training: TrainingConfig
) -> Behind:
    """The same data as features, computed once, which are then what every method gets.

    Args:
        data: images with labels.
        encoder: a name of a registered encoder or package.module:attribute, of a frozen network.
        folder: where features are kept.
        kept_views: of every training image, which the network sees, too.
        training: see `made_before`.

    Raises:
        ValueError: no images with labels; a network that learns along.
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
    front = Front(backbone, shape)

    def features(source: Source, what: str) -> Source:
        return keep_features(source, front, folder / what, what=f"images ({what})")

    database = features(data.database, "database")
    train = database if data.train is data.database else features(data.train, "train")
    views = None
    if kept_views:
        made, training = made_before(data.train, kept_views, training)
        views = features(made, "views")
    found = replace(
        data,
        name=f"{data.name}, features of {encoder}",
        description=f"{data.description}; {front.d_out} features an image, of {encoder}",
        train=train,
        database=database,
        queries=features(data.queries, "queries"),
    )
    return Behind(found, views, training)
