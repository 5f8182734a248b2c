"""One string to an index: what the grammar's items are made of."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn

from faiss_pqvae.arguments import instance, item_shape, metric_name
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.grammar import CODES, MAX_M, Description, Item, error, parse
from faiss_pqvae.index.guard import guard, unguard
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.index.metrics import METRICS
from faiss_pqvae.index.nearest import BEFORE, spelled
from faiss_pqvae.index.opq import linear_starts
from faiss_pqvae.index.refine import StoredVectors
from faiss_pqvae.index.residual_start import residual_codebooks
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.fine_tuned import in_two
from faiss_pqvae.model.networks import is_named_ours, resolved_decoder, resolved_encoder
from faiss_pqvae.model.pqvae import PQVAE, latent_dim_of
from faiss_pqvae.native import faiss
from faiss_pqvae.native.coarse import takes_centroids
from faiss_pqvae.native.inject import new_residual_index
from faiss_pqvae.registry import decoders, encoders, objectives
from faiss_pqvae.training import TrainingConfig, fit
from faiss_pqvae.training.build import (
    Codes,
    checked,
    new_model,
    objective_for,
    resolved_objective,
)
from faiss_pqvae.training.loop import History
from faiss_pqvae.training.objectives.protocol import Objective

# Of the k-means of inverted lists: FAISS's own number for a k-means alone. With the 10 that its
# inverted files have, a list holds a query's nearest neighbour less often.
_COARSE_ITERATIONS = 25
# Of fewer codewords the one that says how long their sum is costs more than sums gain. Of more the
# choice takes too long, and too much memory: both grow with M squared.
_M_OF_SUMS = range(4, 17)
_MAX_GROWTH = 2**16  # dimensions that a transform may make out of fewer
_faiss_index_factory = faiss.index_factory  # FAISS's own, whatever `register` does


def index_factory(
    input_shape: int | tuple[int, ...],
    description: str,
    metric_type: int | str | None = None,
    *,
    model: ModelConfig | None = None,
    training: TrainingConfig | None = None,
    objective: Any = None,
    encoder: Any = None,
    decoder: Any = None,
    pretrained: PQVAE | None = None,
) -> LatentIndex:
    """Makes an untrained index from a string, as faiss.index_factory does.

    Examples: "PQVAE8x8", "PQVAE16x4fs", "IVF1024,PQVAE16", "HNSW32,PQVAE8", "IDMap2,PQVAE8x6",
    "L2norm,PCA256,PQVAE16", "PQVAE8,RFlat", "PQVAE8,Refine(SQfp16)", "PQVAE8,RDecoder". Inverted
    lists and graphs are over the latents, transforms before the encoder and refinement over the
    items. "DQN4x8" and "DPQ4x8" are codes that are trained with labels. In inverted lists codes are
    those of residuals, where the objective can learn these ("additive", "synthesis" and "ranking",
    of vectors) and the coarse quantizer holds centroids.

    Vectors with no network of one's own get the codes with which an index finds the most:
    "PQVAE4" to "PQVAE16" of 8 bits, with inverted lists or without, sums of codewords ("additive"),
    which a beam search chooses (`LatentIndex.effort`: `add` takes many times as long as with
    product codes) and no GPU searches; "PQVAE8,RDecoder" sums that a deep decoder ranks again
    ("synthesis"); and all others product codes ("ranking"), as do "PQVAE8" and the like with
    objective="ranking".

    Args:
        input_shape: dimension d of vectors, or (c, h, w) of images.
        description: [IDMap,|IDMap2,] [transforms,] [IVF...,|HNSW{m},] PQVAE{M}[x{nbits}][fs]
            [,RFlat|,Refine(...)|,RDecoder]; nbits is 8 by default. DQN{M}[x{nbits}][fs] may
            take PQVAE's place, and DPQ{blocks}[x{nbits}] without inverted lists or graph.
        metric_type: "l2", "inner_product" or "ip", or FAISS's METRIC_L2 and METRIC_INNER_PRODUCT,
            between latents; "cosine" is the inner product between latents of length 1
            (`ModelConfig.unit_latents`). None takes L2, and for DPQ inner products, which its codes
            are made for.
        model: networks and bottleneck.
        training: how the loop trains.
        objective: what is learned: a name of `faiss_pqvae.objectives`, "package.module:attribute",
            or an objective with its settings, such as `Contrastive(temperature=0.3)`. None takes
            the description's: of PQVAE the reconstruction, and of vectors with a linear encoder and
            decoder, the default, what is said above.
        encoder: a name of `faiss_pqvae.encoders`, "package.module:attribute", a torch module or a
            `Backbone`, which says what it wants to see and whether it learns along. A network that
            is not ours keeps its weights, from which it learns at a rate of its own. A frozen one
            (`trainable=False`) stands before everything else: transforms, code and refinement are
            those of its features, which are computed once for the training; they are vectors, which
            the encoder that `model` names codes.
        decoder: likewise, of latents (n, latent_dim) to normalised items (n, *input_shape).
        pretrained: a trained model, such as another index's, whose encoder `train` starts from.

    Returns:
        An index to `train`, `add` to and `search`.

    Raises:
        TypeError: a shape or a description of another type; a network that is no module.
        ValueError: a description that does not parse (the message points at the character), a
            parameter out of its range, an encoder that cannot take the items.
    """
    parsed = parse(description)
    for name, given, kind, hint in (
        ("model", model, ModelConfig, "as in model=ModelConfig(width=32)"),
        ("training", training, TrainingConfig, "as in training=TrainingConfig(epochs=10)"),
        ("pretrained", pretrained, PQVAE, "as in pretrained=other.model"),
    ):
        if given is not None:
            instance(name, given, kind, hint)
    shape = item_shape(input_shape)
    config = model or ModelConfig()
    asked = None if metric_type is None else metric_name(metric_type)
    if asked == "cosine":
        config, asked = replace(config, unit_latents=True), "inner_product"
    config, front, backbone = _encoder(encoder, config, parsed, shape)
    items = shape if front is None else (front.d_out,)
    transforms = _transforms(parsed, items)
    inputs = items if transforms is None else (transforms.d_out,)
    if backbone is not None and front is not None and transforms is not None:
        raise error(
            parsed.text,
            parsed.transforms[0].start,
            f"expected no transforms between the parts of {front.backbone.reference}, the last "
            f"{config.fine_tuned} of which learn",
        )
    if backbone is not None and inputs != shape and front is None:  # behind the transforms
        config, _, backbone = _encoder(encoder, config, parsed, inputs)
    config, given_decoder = _decoder(decoder, config, parsed, inputs)
    learned = _objective(objective, config, parsed, inputs)
    network = new_model(
        inputs,
        parsed.M,
        parsed.nbits,
        config,
        objective=learned,
        metric=asked,
        encoder=backbone,
        decoder=given_decoder,
    )
    if network.spec.is_additive and _is_graph(parsed.coarse):
        message = (
            "expected no graph around additive codes, whose items FAISS cannot compare: "
            "objective='ranking' learns product codes"
        )
        raise error(parsed.text, parsed.coarse.start, message)
    metric = METRICS[network.spec.metric]
    how = Training(learned, training, pretrained)
    index = LatentIndex(
        network,
        metric,
        fit=how,
        faiss_index=_native(parsed, network.latent_dim, metric, by_residual=how.takes_coarse),
        transforms=transforms,
        refine_index=_refine_index(parsed, items, metric),
        front=front,
    )
    index.description = description
    return index


def _encoder(
    encoder: Any, config: ModelConfig, parsed: Description, shape: tuple[int, ...]
) -> tuple[ModelConfig, Front | None, Backbone | None]:
    """The settings with the encoder's name, and somebody's network: frozen, or learning along."""
    key = config.encoder if encoder is None else encoder
    if key is None or is_named_ours(encoders, key):
        if config.fine_tuned:
            raise ValueError(
                f"expected an encoder that others have trained to fine-tune {config.fine_tuned} "
                f"parts of, such as 'efficientnet-lite0', got {key!r}"
            )
        return replace(config, encoder=key), None, None
    # Somebody's network is no matrix of ours, which would be a rotation.
    sizes = _latent_dim(replace(config, encoder="of somebody"), parsed, shape)
    backbone = resolved_encoder(key, shape, sizes, width=config.width)
    front = None
    if config.fine_tuned and backbone.trainable:
        raise ValueError(
            f"expected a frozen network to fine-tune the last {config.fine_tuned} parts of, "
            "Backbone(..., trainable=False), got one all of which learns"
        )
    if config.fine_tuned:
        frozen, backbone = in_two(backbone, config.fine_tuned, shape)
        front = None if frozen is None else Front(frozen, shape)
    if backbone.trainable:
        return replace(config, encoder=backbone.reference), front, backbone
    # What is learned is a code of its features, by a network of ours that the settings may name.
    head = config.encoder if is_named_ours(encoders, config.encoder) else None
    return replace(config, encoder=head), Front(backbone, shape), None


def _decoder(
    decoder: Any, config: ModelConfig, parsed: Description, shape: tuple[int, ...]
) -> tuple[ModelConfig, nn.Module | None]:
    """The settings with the decoder's name, and somebody's network."""
    key = config.decoder if decoder is None else decoder
    if is_named_ours(decoders, key):
        return replace(config, decoder=key), None
    module = resolved_decoder(key, shape, _latent_dim(config, parsed, shape), width=config.width)
    kind = type(module)
    name = key if isinstance(key, str) else f"{kind.__module__}:{kind.__qualname__}"
    return replace(config, decoder=name), module


def _latent_dim(config: ModelConfig, parsed: Description, shape: tuple[int, ...]) -> int:
    """Dimension of the latents, as somebody's network is asked for it."""
    config = config.for_items(shape, parsed.M, parsed.nbits, parsed.structure)
    return latent_dim_of(config, parsed.structure, parsed.M)


def _codes(parsed: Description) -> Codes:
    """Which codes of vectors a description has, if no objective is named."""
    if parsed.nbits > 8 or parsed.fast_scan or _is_graph(parsed.coarse):
        return "product"
    if parsed.decoder:
        return "decoded"
    return "sums" if parsed.nbits == 8 and parsed.M in _M_OF_SUMS else "product"


def _is_graph(coarse: Item | None) -> TypeGuard[Item]:
    return coarse is not None and coarse.text.startswith("HNSW")


def _objective(
    objective: Any, config: ModelConfig, parsed: Description, shape: tuple[int, ...]
) -> Objective:
    """What is learned, whose codes must be those of the description."""
    key = config.objective if objective is None else objective
    if key is None:
        key = objective_for(parsed.kind, config, shape, codes=_codes(parsed))
    found = resolved_objective(key)
    name = objectives.name_of(type(found))
    if found.code != parsed.kind and resolved_objective().code != parsed.kind:
        wanted = objective_for(parsed.kind, config, shape)
        raise ValueError(f"expected the objective {wanted!r} for {parsed.text!r}, got {name!r}")
    if found.code != parsed.kind:
        raise ValueError(
            f"expected {found.code}{{M}}[x{{nbits}}] in the description for the objective "
            f"{name!r}, got {parsed.text!r}"
        )
    return found


@dataclass(frozen=True)
class Training:
    """How an index of the factory trains its model; see `faiss_pqvae.index.training.Fit`.

    Attributes:
        objective: what is learned.
        config: settings of the loop; None takes the defaults.
        pretrained: a model whose encoder the training starts from, or None.
    """

    objective: Objective
    config: TrainingConfig | None = None
    pretrained: PQVAE | None = None

    @property
    def takes_coarse(self) -> bool:
        """Whether the objective can learn codewords of what coarse centroids leave over."""
        return "coarse" in self.objective.learns_from

    def check(self, n: int, **given: Any) -> dict[str, Any]:
        """What the objective learns from besides n items; linear codes to start at are FAISS's."""
        if "starts" in self.objective.learns_from:
            given["starts"] = linear_starts
        if "codebooks" in self.objective.learns_from:
            given["codebooks"] = residual_codebooks
        return checked(self.objective, n, given)

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
        """Trains a model; see `faiss_pqvae.training.fit`."""
        if given.get("starts") is linear_starts:
            given["starts"] = functools.partial(
                linear_starts,
                M=model.M,
                nbits=model.nbits,
                d_out=model.latent_dim,
                progress=progress,
            )
        return fit(
            model,
            x,
            self.config,
            objective=self.objective,
            folder=folder,
            progress=progress,
            pretrained=self.pretrained,
            content=content,
            **given,
        )


def register() -> None:
    """Lets faiss.index_factory understand PQVAE, DQN and DPQ, too; `unregister` undoes it.

    `faiss.index_factory(d, "IVF1024,PQVAE16")` is then what `index_factory` makes; every other
    string goes where it went before. What FAISS cannot do with such an index, as it is no C++
    object (`faiss.write_index`, `faiss.clone_index`), raises a TypeError that says what to use.
    Registering twice is the same as once.
    """
    if not isinstance(faiss.index_factory, _WithPQVAE):
        faiss.index_factory = _WithPQVAE(faiss.index_factory)
    guard()


def unregister() -> None:
    """Puts back the very functions of faiss that were there before `register`."""
    if isinstance(faiss.index_factory, _WithPQVAE):
        faiss.index_factory = faiss.index_factory.before
    unguard()


class _WithPQVAE:
    """A faiss.index_factory that also makes what `index_factory` does.

    Args:
        before: the one that takes every other string.
    """

    def __init__(self, before: Callable[..., Any]) -> None:
        self.before = before
        functools.update_wrapper(self, before)

    def __call__(self, d: Any, description: Any, *args: Any, **options: Any) -> Any:
        if isinstance(description, str) and any(kind in description for kind in CODES):
            return index_factory(d, description, *args, **options)
        return self.before(d, description, *args, **options)


def _native(parsed: Description, d: int, metric_type: int, *, by_residual: bool) -> Any:
    """The empty native index over latents of d dimensions.

    Args:
        parsed: the description.
        d: of the latents.
        metric_type: between them.
        by_residual: whether codebooks can be those of what a coarse centroid leaves over.
    """
    coarse, M, nbits = parsed.coarse, parsed.M, parsed.nbits
    if parsed.structure == "residual":
        index = new_residual_index(d, M, nbits)
    elif coarse is None:
        kind = faiss.IndexPQFastScan if parsed.fast_scan else faiss.IndexPQ
        index = kind(d, M, nbits, metric_type)
    elif _is_graph(coarse):
        # FAISS's own factory forgets the metric here.
        if not re.fullmatch("HNSW[0-9]+", coarse.text):
            raise error(parsed.text, coarse.start, "expected HNSW{m}, as in HNSW32")
        links = _links(parsed, coarse)[0]
        index = faiss.IndexHNSWPQ(d, M, links, nbits, metric_type)
    else:
        _links(parsed, coarse)
        code = f"PQ{M}x4fs" if parsed.fast_scan else f"PQ{M}x{nbits}np"
        text = f"{coarse.text},{code}"
        index = _from_faiss(parsed, coarse, d, text, metric_type, "inverted lists")
        if index.nlist < 1:
            raise error(parsed.text, coarse.start, "expected at least one inverted list")
        try:
            copy.deepcopy(index)  # as `train` does
        except RuntimeError as refusal:
            message = "expected coarse centroids that FAISS can copy untrained, as those of IVF1024"
            raise error(parsed.text, coarse.start, message) from refusal
        index.by_residual = by_residual and takes_centroids(index)
        if index.by_residual:
            index.cp.niter = _COARSE_ITERATIONS
            index.cp.spherical = False  # FAISS's, for inner products; lengths are residuals
    if parsed.id_map:
        index = getattr(faiss, f"Index{parsed.id_map}")(index)
    return index


def _links(parsed: Description, coarse: Item) -> list[int]:
    """The links of every graph in an item; FAISS crashes with fewer than two."""
    links = []
    for match in re.finditer("HNSW([0-9]+)", coarse.text):
        digits = match[1]
        links.append(int(digits) if len(digits) < 20 else MAX_M + 1)
        if not 2 <= links[-1] <= MAX_M:
            at = coarse.start + match.start(1)
            raise error(parsed.text, at, f"expected HNSW{{m}} with m from 2 to {MAX_M}")
    return links


def _transforms(parsed: Description, shape: tuple[int, ...]) -> Transforms | None:
    if not parsed.transforms:
        return None
    first = parsed.transforms[0]
    if len(shape) != 1:
        raise error(
            parsed.text,
            first.start,
            f"expected items that are vectors for {first.text}, got {shape}",
        )
    d = shape[0]
    for item in parsed.transforms:  # one by one, to know which one is wrong
        text = f"{item.text},Flat"
        index = _from_faiss(parsed, item, d, text, faiss.METRIC_L2, "a transform")
        if not isinstance(index, faiss.IndexPreTransform):
            message = f"expected a transform, got {item.text!r}{spelled(item.text, BEFORE)}"
            raise error(parsed.text, item.start, message)
        _check_transform(parsed, item, faiss.downcast_VectorTransform(index.chain.at(0)))
        d = index.index.d
    return Transforms.from_description(shape[0], ",".join(item.text for item in parsed.transforms))


def _check_transform(parsed: Description, item: Item, transform: Any) -> None:
    """Refuses what FAISS could not train."""
    d_in, d_out = transform.d_in, transform.d_out
    shrinks = isinstance(transform, faiss.PCAMatrix | faiss.ITQTransform)
    most = d_in if shrinks else max(d_in, _MAX_GROWTH)
    if not 1 <= d_out <= most:
        raise error(parsed.text, item.start, f"expected 1 to {most} dimensions, got {d_out}")
    if isinstance(transform, faiss.OPQMatrix) and (transform.M < 1 or d_out % transform.M):
        message = f"expected a number that divides {d_out} dimensions, got {transform.M}"
        raise error(parsed.text, item.start, message)


def _refine_index(parsed: Description, shape: tuple[int, ...], metric_type: int) -> Any:
    """What LatentIndex takes as `refine_index`."""
    if parsed.decoder:
        return "decoder"
    if parsed.refine is None:
        return None
    text = parsed.refine.text
    what = "an index to refine with"
    index = _from_faiss(parsed, parsed.refine, math.prod(shape), text, metric_type, what)
    try:
        StoredVectors(index)
    except ValueError as refusal:
        raise error(parsed.text, parsed.refine.start, str(refusal)) from refusal
    return index


def _from_faiss(
    parsed: Description, item: Item, d: int, text: str, metric_type: int, expected: str
) -> Any:
    try:
        return _faiss_index_factory(d, text, metric_type)
    except (RuntimeError, MemoryError) as refusal:
        message = (
            f"expected {expected} that FAISS understands, got {item.text!r}"
            f"{spelled(item.text, BEFORE)}"
        )
        raise error(parsed.text, item.start, message) from refusal
