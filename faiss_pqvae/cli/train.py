"""The command `train`."""

from __future__ import annotations

import logging
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.arguments import metric_name
from faiss_pqvae.cli.behind import Wanted, crop_for, in_some_size, made_before, wanted_by
from faiss_pqvae.cli.next_command import print_next
from faiss_pqvae.cli.options import Learning
from faiss_pqvae.cli.reading import (
    Data,
    Images,
    Labelled,
    Out,
    image_arguments,
    labels_of_places,
    open_for,
    open_labelled,
)
from faiss_pqvae.data.images.folder import ImageFolder
from faiss_pqvae.data.images.parquet import ParquetImages
from faiss_pqvae.data.npy import read_npy
from faiss_pqvae.data.open import ImageOptions
from faiss_pqvae.files import check_folder
from faiss_pqvae.index.bundle import read_config, read_index, write_index
from faiss_pqvae.index.factory import Training
from faiss_pqvae.index.grammar import parse
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.messages import counted
from faiss_pqvae.model import team
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.networks import is_pretrained
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.registry import encoders
from faiss_pqvae.training import TrainingConfig

_LOW = 0.5  # share of the codewords: below it a code of one bit less a part would say as much


def train(
    data: Data,
    out: Out,
    /,
    *,
    factory: str = "PQVAE8x8",
    metric: str | None = None,
    labels: Path | None = None,
    word_vectors: Path | None = None,
    queries: Path | None = None,
    kept_views: int = 0,
    images: Images = ImageOptions(),  # noqa: B008 - frozen
    pretrained: Path | None = None,
    encoder: str | None = None,
    model: ModelConfig = ModelConfig(),  # noqa: B008 - frozen
    training: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen
    learning: Learning = Learning({}),  # noqa: B008 - replaced by the options of objectives
) -> None:
    """Train encoder, decoder and codebooks on images or vectors, and write an empty index.

    The log is in OUT/training/log.jsonl. The same command goes on after an interruption.
    Several processes train one model where torchrun begins them: `torchrun --nproc-per-node 4 -m
    faiss_pqvae train DATA OUT`, each with a share of every batch, and with a GPU where there are
    some.

    Args:
        data: what to train on.
        out: folder for the bundle.
        factory: PQVAE{M}x{nbits}: M sub-quantizers of nbits bits each (8x8: 8 bytes an item), with
            FAISS's own items around: IVF1024,PQVAE16 or HNSW32,PQVAE8 (fewer items searched),
            PQVAE16x4fs (the fastest scan), PCA256,PQVAE16 (vectors), PQVAE8,RFlat (refined by the
            items themselves), PQVAE8,RDecoder (refined by their reconstructions). DQN4x8 and
            DPQ4x8 learn from labels: DQN's code is a product as PQ-VAE's is, of DPQ's code every
            first so many bytes are a code. Of vectors PQVAE8 learns sums of codewords,
            PQVAE8,RDecoder sums that a deep decoder ranks, HNSW and fs product codes, as PQVAE8
            does with --model.objective ranking: these are encoded the fastest, and for GPUs.
        metric: what searches compare latents by: l2, inner_product (or ip) or cosine, the inner
            product of latents of length 1; by default l2, and for DPQ inner_product.
        labels: for DQN and DPQ: a .npy file with labels of the items, (n,) integers, -1 for none,
            or (n, classes) of bool for several each. By default those that the data have: a data
            set's, the column "label" of a Parquet file (numbers, or text), or the folders of
            images.
        word_vectors: for DPQ: a .npy file with word vectors of the classes, (classes, e) floats.
        queries: for vectors: a file like DATA with real queries, 40 or more, where these are not
            like the items (titles for paragraphs, text for images): searches then map them as some
            of them teach and the others, held out, confirm. Never those of a measurement.
        kept_views: for --model.objective contrastive and pictures before a frozen encoder: so many
            augmented views of each (--training.augment or --training.views say how they differ) go
            through it once, and codes learn what they have in common. 2 to 4 are worth their time.
        images: how images in a folder or in Parquet are read.
        pretrained: folder of a trained index whose encoder the training starts from: for another
            code length, or for other images; of the same network and width.
        encoder: a name of a registered encoder, or package.module:attribute for one of your own: a
            torch module, or a function make(input_shape, latent_dim, width=...) that makes one. It
            keeps its weights; a Backbone(..., trainable=False) is left as it is, and codes of its
            features are learned, or with --model.fine-tuned its last parts learn along.
            efficientnet-lite0 is such a one, with weights of ImageNet. Photographs of several
            sizes, for it also those of more than 224 x 224, are read in the size that it wants,
            cropped if it wants that, where --size says nothing else.
        model: networks and bottleneck; --decoder is short for --model.decoder.
        training: the loop.
        learning: the objective.
    """
    # Before anything is read: a slip of the pen should not cost the reading of all photographs.
    metric = None if metric is None else metric_name(metric)
    parse(factory)
    if is_pretrained(encoders, encoder):
        wanted_by(encoder)
    with team.joined(training.device):
        team.by_first(lambda: _check_out(out))
        if not team.is_first():  # what all would say, one says
            logging.getLogger("faiss_pqvae").setLevel(logging.ERROR)
        found = _opened(data, images, encoder)
        source = found.items
        shape = tuple(source.shape[1:])
        views = None
        if kept_views:
            views, training = made_before(source, kept_views, training)
        index = learning.index(
            shape,
            factory,
            metric,
            model=model,
            training=training,
            encoder=encoder,
            pretrained=None if pretrained is None else _pretrained(pretrained, encoder),
        )
        given = _supervision(index, factory, found, labels, word_vectors)
        if views is not None:
            given["views"] = views
        if queries is not None:
            given["queries"] = open_for(index, str(queries), replace(images, column=None))
        index.train(source, **given, folder=out / "training")
        if not team.is_first():
            return
        write_index(index, out)
        items = counted(len(source), "item")
        print(f"trained on {items} in {_summary(index, len(source))}; the bundle is {out}")
        if queries is not None:
            print(_gain(index.history[-1]["queries"]))
        reading = shlex.join(image_arguments(replace(images, size=None, mode=None)))
        print_next(index, f"build {shlex.quote(str(out))} DATA {reading}".rstrip())


def _opened(data: str, images: ImageOptions, encoder: str | None) -> Labelled:
    """What to train on; photographs in the size of a network that saw such, where none is named."""

    def opened(wanted: Wanted | None) -> Labelled:
        return open_labelled(
            data, images if wanted is None else replace(images, **wanted._asdict())
        )

    if images.size is not None:
        crop = crop_for(encoder, images.size, images.mode, images.crop)
        return open_labelled(data, replace(images, crop=crop))
    found = in_some_size(opened, Path(data), encoder)
    are_pictures = isinstance(found.items, (ImageFolder, ParquetImages))
    if not (are_pictures and is_pretrained(encoders, encoder)):
        return found
    # Larger ones would be made smaller for the network, again and again.
    wanted = wanted_by(encoder)
    assert wanted is not None
    return opened(wanted) if max(found.items.shape[2:]) > max(wanted.size) else found


def _check_out(out: Path) -> None:
    """Whether a bundle can be written there, and none is lost that holds items."""
    check_folder(out)
    if not (out / "config.json").exists():
        return
    ntotal = read_config(out)["ntotal"]
    if ntotal:
        raise ValueError(
            f"expected a folder for a new index, got {out}, whose index has {ntotal} items and "
            "would be empty after a training: name another folder, or remove this one first"
        )


def _pretrained(bundle: Path, encoder: str | None) -> PQVAE:
    """The model of a bundle, with the encoder that both trainings have, if it is not ours."""
    needed = read_config(bundle).get("encoder") is not None
    return read_index(bundle, encoder=encoder if needed else None).model


def _supervision(
    index: LatentIndex,
    factory: str,
    data: Labelled,
    labels: Path | None,
    word_vectors: Path | None,
) -> dict[str, Any]:
    """What `LatentIndex.train` gets besides the items: labels from a file, or else the data's."""
    assert isinstance(index.fit, Training)
    if "labels" not in index.fit.objective.learns_from:
        if labels is not None or word_vectors is not None:
            raise ValueError(
                f"expected --labels and --word-vectors with DQN or DPQ only, got {factory}"
            )
        return {}
    # `LatentIndex.train` looks at shapes and dtypes.
    given = None if labels is None else labels_of_places(data.items, read_npy(labels, "labels"))
    found = data.labels() if given is None else given
    if found is None:
        raise ValueError(
            f"expected labels for {factory}: --labels FILE.npy, a labelled data set, a Parquet "
            "file with a column 'label', or a folder of images per class"
        )
    if word_vectors is None:
        return {"labels": found}
    return {"labels": found, "word_vectors": read_npy(word_vectors, "word vectors")}


def _gain(found: dict[str, Any]) -> str:
    """What held-out queries find with the map that was learned from the others, and without."""
    recall, errors = found["held_out_recall@10"], found["gain_in_standard_errors"]
    return (
        f"queries: recall@10 of {found['held_out']} held out is {recall['with']:.3f} with a map of "
        f"queries and {recall['without']:.3f} without ({errors:.1f} standard errors): it is "
        f"{'kept' if found['kept'] else 'not kept'}"
    )


def _summary(index: LatentIndex, n: int) -> str:
    """What a training on n items took, and how many codewords are in use after its last epoch."""
    end = index.history[-1]
    steps = f" and {counted(end['step'], 'step')}" if end["step"] else ""  # a start may be all
    text = f"{end['elapsed_s']:.0f} s{steps}"
    used = [event["perplexity"] for event in index.history if event.get("perplexity")]
    if used:
        ksub = index.model.quantizer.ksub
        perplexity = float(np.mean(used[-1]))
        text += f"; perplexity {perplexity:.0f} of {ksub} codewords"
        if n < ksub:  # no training can use more codewords than there are items
            text += " (low: train on more items)"
        elif perplexity < _LOW * ksub:
            text += " (low: train longer, or on more items)"
    return text
