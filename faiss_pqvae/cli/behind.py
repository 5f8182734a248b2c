"""Images of a data set as what a frozen network makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from faiss_pqvae.data.source import Source
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.protocol import Evaluated
from faiss_pqvae.index.features import keep_features
from faiss_pqvae.index.front import Front
from faiss_pqvae.model.networks import resolved_encoder


def behind(data: Evaluated, encoder: str, folder: Path) -> LabelledData:
    """The same data as features, computed once, which are then what every method gets.

    Args:
        data: images with labels.
        encoder: a name of a registered encoder or package.module:attribute, of a frozen network.
        folder: where features are kept.

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
        return keep_features(source, front, folder / what, what=f"images of the {what}")

    database = features(data.database, "database")
    shared = data.train is data.database
    return replace(
        data,
        name=f"{data.name}, features of {encoder}",
        description=f"{data.description}; {front.d_out} features an image, of {encoder}",
        train=database if shared else features(data.train, "train"),
        database=database,
        queries=features(data.queries, "queries"),
    )
