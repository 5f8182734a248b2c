"""PQ-VAE: encoder, product-quantizer bottleneck and decoder as one model."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from faiss_pqvae.arguments import integer, item_shape
from faiss_pqvae.codebooks import Codebooks, Structure
from faiss_pqvae.model.additive_code import AdditiveCode
from faiss_pqvae.model.backbone import Backbone, bytes_of
from faiss_pqvae.model.clustering import assign, look_up, split
from faiss_pqvae.model.conditional import ConditionalCode
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.networks import Headed, build_decoder, build_encoder, check_decoder
from faiss_pqvae.model.product import ProductQuantizer, Quantized
from faiss_pqvae.model.residual import ResidualQuantizer
from faiss_pqvae.model.spec import CodeSpec, Latents, formed, repeated

ADDITIVE = "additive", "conditional"  # decoders of additive codes
EFFORT = 16  # of the choice of codes, see `ConditionalCode.choose`


class Reconstruction(NamedTuple):
    """A forward pass: the decoder's output (n, *input_shape), normalised, and the bottleneck's."""

    x: Tensor
    quantized: Quantized


class PQVAE(nn.Module):
    """A VQ-VAE whose bottleneck is a product quantizer (Wu and Flierl, arXiv 1807.04629).

    Inputs are images (n, c, h, w), uint8 or float in [0, 1], or float vectors (n, d). The model
    normalises them itself, with the statistics that `fit_normalization` took from training data.

    Args:
        input_shape: (c, h, w) or (d,).
        M: number of sub-quantizers.
        nbits: bits per sub-quantizer, 1 to 12.
        config: networks and bottleneck.
        spec: what its codes are. None takes product codes by L2, of latents of length 1 where the
            configuration says so.
        encoder: somebody's network that learns along, in place of the configuration's: from items
            to features. Where these are not `latent_dim` many, a matrix follows. A frozen one is
            not the model's: see `faiss_pqvae.index.encoding`.
        decoder: likewise, from latents (n, latent_dim) to normalised items (n, *input_shape).

    Attributes:
        config: with what depends on the items filled in, see `ModelConfig.for_items`.
        query_map: brings queries (n, d) where items like them are, or None where queries are like
            items; `add_query_map` makes one.

    Raises:
        TypeError: an encoder or a decoder that is no module.
        ValueError: a shape or a parameter out of its range.
    """

    mean: Tensor
    scale: Tensor
    fitted: Tensor
    query_map: nn.Linear | None

    def __init__(
        self,
        input_shape: tuple[int, ...],
        M: int,
        nbits: int,
        config: ModelConfig | None = None,
        *,
        spec: CodeSpec | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        input_shape = item_shape(input_shape)
        if len(input_shape) not in (1, 3) or min(input_shape) < 1:
            raise ValueError(
                f"expected an input shape (c, h, w) of images or (d,) of vectors, got {input_shape}"
            )
        M, nbits = integer("M", M, 1), integer("nbits", nbits)
        config = config or ModelConfig()
        if spec is None:
            spec = CodeSpec(latents="unit" if config.unit_latents else "free")
        config = config.for_items(input_shape, M, nbits, spec.structure)
        self.input_shape, self.M, self.nbits = input_shape, M, nbits
        self.config, self.spec = config, spec
        check_additive(config, spec, input_shape, M, nbits)
        self.quantizer = _quantizer(config, spec, M, nbits)
        self.latent_dim = latent_dim_of(config, spec.structure, M)
        self.encoder = self._encoder(encoder)
        self.decoder, self.decoder_is_ours = self._decoder(decoder)
        self.latent_norm: nn.Module = (
            nn.BatchNorm1d(self.latent_dim, affine=False)
            if config.normalize_latents
            else nn.Identity()
        )
        # Per channel for images, per dimension for vectors; one scale, so that distances keep
        # their proportions.
        shape = (input_shape[0], 1, 1) if len(input_shape) == 3 else input_shape
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("fitted", torch.tensor(False))
        self.query_map = None

    def _encoder(self, given: nn.Module | None) -> nn.Module:
        shape, latent_dim, config = self.input_shape, self.latent_dim, self.config
        if self.spec.is_additive:
            if given is not None:
                raise ValueError(f"expected no encoder for {self.spec}, got {type(given).__name__}")
            return nn.Identity()
        if given is None:
            assert config.encoder is not None  # `for_items` filled it in
            return build_encoder(config.encoder, shape, latent_dim, width=config.width)
        backbone = given if isinstance(given, Backbone) else Backbone(given)
        if not backbone.trainable:
            raise ValueError(
                "expected an encoder that learns along: a frozen one stands before the model, "
                "hand it to index_factory"
            )
        n_features = backbone.features_of(shape)
        if n_features == latent_dim:
            return backbone
        return Headed(backbone, n_features, latent_dim)

    def _decoder(self, given: nn.Module | None) -> tuple[nn.Module, bool]:
        shape, latent_dim, config = self.input_shape, self.latent_dim, self.config
        if self.spec.is_additive:
            if given is not None:
                raise ValueError(f"expected no decoder for {self.spec}, got {type(given).__name__}")
            sizes = shape[0], self.M, self.quantizer.ksub
            if config.decoder == "additive":
                return AdditiveCode(*sizes, has_lengths=self.spec.metric == "l2"), True
            return ConditionalCode(*sizes, width=2 * config.width), True
        if given is None:
            return build_decoder(config.decoder, shape, latent_dim, width=config.width), True
        if not isinstance(given, nn.Module):
            raise TypeError(f"expected a torch.nn.Module as decoder, got {type(given).__name__}")
        check_decoder(given, latent_dim, shape)
        return given, False

    @property
    def backbone(self) -> Backbone | None:
        """The encoder that was handed in, without the matrix that follows it."""
        if isinstance(self.encoder, Headed):
            return self.encoder.backbone
        return self.encoder if isinstance(self.encoder, Backbone) else None

    def handed_in(self) -> list[nn.Module]:
        """The networks that are not ours: their weights are kept, whatever training begins with."""
        given = [] if self.backbone is None else [self.backbone]
        return [*given, *([] if self.decoder_is_ours else [self.decoder])]

    @property
    def is_trained(self) -> bool:
        """Whether a training has finished with this model."""
        return bool(self.fitted)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    @property
    def standardizes(self) -> bool:
        """Whether every image is normalised by itself, not by the training data's statistics."""
        return self.config.standardize and len(self.input_shape) == 3

    @torch.no_grad()
    def fit_normalization(self, x: Tensor) -> None:
        """Takes mean and scale from training data (n, *input_shape), uint8 or float."""
        x = to_float(x)
        self.mean.copy_(x.mean((0, 2, 3), keepdim=True)[0] if x.ndim == 4 else x.mean(0))
        if self.standardizes:
            self.scale.copy_(_deviation(x).mean())  # what `decode` gives every image back
        else:
            self.scale.copy_((x - self.mean).square().mean().sqrt().clamp(min=1e-6))

    def normalize(self, x: Tensor) -> Tensor:
        """(n, *input_shape) uint8 or float in [0, 1] to float of zero mean and unit scale."""
        x = to_float(x)
        if self.standardizes:
            x = (x - x.mean((1, 2, 3), keepdim=True)) / _deviation(x)
        else:
            x = (x - self.mean) / self.scale
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    @property
    def code_decoder(self) -> AdditiveCode | ConditionalCode | None:
        """What chooses the codes of items and decodes them, where the code is additive."""
        decoder = self.decoder
        return decoder if isinstance(decoder, AdditiveCode | ConditionalCode) else None

    def encode(self, x: Tensor, *, effort: int = EFFORT) -> Tensor:
        """Latents of a batch, in the form that the spec says, see `formed`.

        Of an additive code those of items are their codewords, one after another, so that the code
        which is chosen is the one whose codewords are nearest. By residual they are as those of
        queries: only who knows the coarse centroids can choose codes of what these leave over.

        Args:
            x: (n, *input_shape) uint8 or float.
            effort: of that choice, see `ConditionalCode.choose`.

        Returns:
            (n, latent_dim) float32.
        """
        if self.spec.is_additive and not self.spec.by_residual:
            return self.quantized(self._chosen(x, effort))
        return formed(self._encoded(x), self.spec.latents, self.M)

    def encode_centroids(self, x: Tensor) -> Tensor:
        """Latents of coarse centroids (n, *input_shape): as `encode`, but of a length of their own.

        With an encoder that is a matrix, a residual of latents is the latent of a residual.
        """
        of_any_length: dict[Latents, Latents] = {"unit": "free", "repeated unit": "repeated"}
        latents = of_any_length.get(self.spec.latents, self.spec.latents)
        return formed(self._encoded(x), latents, self.M)

    def quantized(self, ids: Tensor) -> Tensor:
        """What codes (n, M) int64 stand for (n, latent_dim): codewords in a row, or added."""
        if isinstance(self.quantizer, ResidualQuantizer):
            return self.quantizer.look_up(ids)
        return look_up(self.quantizer.codewords, ids).transpose(0, 1).flatten(1)

    def _encoded(self, x: Tensor) -> Tensor:
        # What was handed in says itself what it wants to see.
        inputs = self.normalize(x) if self.backbone is None else to_float(x)
        z: Tensor = self.latent_norm(self.encoder(inputs).float())
        return z

    def add_query_map(self) -> nn.Linear:
        """Gives queries a matrix and an offset of their own, which begin as the identity.

        Raises:
            ValueError: a model of images.
        """
        if len(self.input_shape) != 1:
            raise ValueError(
                f"expected a model of vectors for a map of queries, got items of shape "
                f"{self.input_shape}"
            )
        query_map = nn.Linear(self.input_shape[0], self.input_shape[0], device=self.device)
        nn.init.eye_(query_map.weight)
        nn.init.zeros_(query_map.bias)
        self.query_map = query_map
        return query_map

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """As torch's; the model has a map of queries afterwards if these weights have one."""
        if "query_map.weight" not in state_dict:
            self.query_map = None
        elif self.query_map is None:
            self.add_query_map()
        return super().load_state_dict(state_dict, *args, **options)

    def map_queries(self, x: Tensor) -> Tensor:
        """Queries (n, *input_shape) as items, of the same shape; as they are without a map.

        Where latents have length 1, those of queries of any length are the same: these are brought
        to length 1 before they are mapped.
        """
        if self.query_map is None:
            return x
        x = x.float()
        if self.spec.is_unit:
            x = functional.normalize(x)
        mapped: Tensor = self.query_map(x - self.mean) + self.mean
        return mapped

    def encode_queries(self, x: Tensor) -> Tensor:
        """As `encode`, what queries (n, *input_shape) are compared with codes by."""
        return self.encode_mapped(self.map_queries(x))

    def encode_mapped(self, x: Tensor) -> Tensor:
        """As `encode_queries`, of queries that `map_queries` has mapped."""
        return formed(self._encoded(x), self.spec.latents, self.M)

    def encode_symmetric(self, x: Tensor, *, effort: int = EFFORT) -> Tensor:
        """As `encode_mapped`, of an additive code: queries are what their own codes stand for."""
        return repeated(self.summed(self.quantized(self._chosen(x, effort))), self.M)

    def summed(self, z: Tensor) -> Tensor:
        """Latents (n, latent_dim) of an additive code as vectors (n, d), of which they are sums.

        What undoes `repeated`, and gives for codewords their sum; both at once where a coarse
        centroid's latent and codewords of what it leaves over are added.
        """
        parts = z.view(len(z), self.M, -1)[..., :-1]  # without what stands for lengths
        return parts.sum(1) / math.sqrt(self.M)

    def _chosen(self, x: Tensor, effort: int) -> Tensor:
        """The codes (n, M) of items (n, d), of an additive code."""
        assert self.code_decoder is not None
        x = to_float(x)
        x = functional.normalize(x) if self.spec.is_unit else x
        return self.code_decoder.choose(x, effort)

    def quantize(self, x: Tensor) -> Quantized:
        """Encodes and quantizes a batch (n, *input_shape), uint8 or float."""
        return self.quantize_latents(self.encode(x))

    def quantize_latents(self, z: Tensor) -> Quantized:
        """Quantizes latents (n, latent_dim) float32."""
        # Nearest codewords are not found in bfloat16: the bottleneck leaves autocast.
        with torch.autocast(z.device.type, enabled=False):
            quantized: Quantized = self.quantizer(z)
        return quantized

    def decode(self, z: Tensor) -> Tensor:
        """Latents (n, latent_dim) back to inputs (n, *input_shape).

        Images are clipped to [0, 1]; standardised ones get the training data's average exposure.
        Additive codes of residuals are summed up: a deep decoder of these wants to know the codes,
        which their sum with a coarse centroid does not tell.
        """
        if self.spec.by_residual and self.spec.is_additive:
            return self.summed(z)
        if self.code_decoder is not None:
            return self.code_decoder.decode(assign(split(z, self.M), self.quantizer.codewords))
        x: Tensor = self.decoder(z).float() * self.scale + self.mean
        return x.clamp(0, 1) if x.ndim == 4 else x

    def forward(self, x: Tensor) -> Reconstruction:
        """Encodes, quantizes and decodes a batch (n, *input_shape), uint8 or float."""
        quantized = self.quantize(x)
        if self.code_decoder is not None:
            return Reconstruction(self.code_decoder.decode(quantized.ids), quantized)
        return Reconstruction(self.decoder(quantized.z_q).float(), quantized)

    def codebooks(self) -> Codebooks:
        """The learned codewords, for injection into a FAISS index."""
        return Codebooks(self.quantizer.codewords.detach().cpu().numpy(), structure=self.structure)

    @property
    def structure(self) -> Structure:
        """How codewords make a latent, see `CodeSpec`."""
        return self.spec.structure

    def fingerprint(self) -> str:
        """A hash of all weights, to know a model again."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode() + bytes_of(value))
        return digest.hexdigest()[:16]

    def prefix(self, n_levels: int) -> PQVAE:
        """The model of the first levels: a copy with these codebooks only, everything else as here.

        Its decoder is the one that was fitted to codes of all levels.

        Args:
            n_levels: from 1 to M.

        Raises:
            ValueError: another number, or codes that have no prefixes.
        """
        if self.structure != "residual":
            raise ValueError(
                "expected residual codes, every prefix of which is a code, such as DPQ's; got "
                f"{self.spec.name}, of {self.structure} codes"
            )
        n_levels = integer("n_levels", n_levels, 1, self.M)
        prefix = copy.deepcopy(self)
        quantizer = ResidualQuantizer(n_levels, self.nbits, latent_dim=self.latent_dim)
        for name, value in self.quantizer.state_dict().items():
            quantizer.state_dict()[name].copy_(value[:n_levels])
        prefix.quantizer, prefix.M = quantizer.to(self.device), n_levels
        return prefix.train(self.training)


def check_additive(
    config: ModelConfig, spec: CodeSpec, input_shape: tuple[int, ...], M: int, nbits: int
) -> None:
    """Refuses what additive codes are not made of.

    Raises:
        ValueError: items that are no vectors, more than 8 bits, a single codeword that would be a
            length, or a decoder of other codes.
    """
    if spec.is_additive != (config.decoder in ADDITIVE):
        raise ValueError(
            f"expected the decoder {' or '.join(map(repr, ADDITIVE))} for additive codes alone, "
            f"got {config.decoder!r} for {spec}"
        )
    if config.decoder == "additive" and spec.metric == "l2" and M < 2:
        raise ValueError(
            f"expected M >= 2 for additive codes by L2, the last of which is a length, got {M}"
        )
    if not spec.is_additive:
        return
    if len(input_shape) != 1 or config.dsub != input_shape[0] + 1:
        raise ValueError(
            f"expected vectors (d,) and dsub=d + 1 for additive codes, got {input_shape} and "
            f"dsub={config.dsub}"
        )
    if nbits > 8:
        raise ValueError(f"expected at most 8 bits a codeword for additive codes, got {nbits}")


def latent_dim_of(config: ModelConfig, structure: Structure, M: int) -> int:
    """Dimension of the latents of a model of M sub-quantizers, or levels."""
    assert config.dsub is not None  # `for_items` filled it in
    return config.dsub if structure == "residual" else M * config.dsub


def _quantizer(
    config: ModelConfig, spec: CodeSpec, M: int, nbits: int
) -> ProductQuantizer | ResidualQuantizer:
    latent_dim = latent_dim_of(config, spec.structure, M)
    if spec.structure == "residual":
        return ResidualQuantizer(M, nbits, latent_dim=latent_dim)
    return ProductQuantizer(
        M,
        nbits,
        latent_dim=latent_dim,
        update=config.update or "ema",
        ema_decay=config.ema_decay,
        radius=M**-0.5 if spec.latents == "unit parts" else None,
    )


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation of every image, (n, 1, 1, 1), kept away from zero by a tenth."""
    return x.std((1, 2, 3), keepdim=True) + 0.1


def to_float(x: Tensor) -> Tensor:
    """float32: uint8 images scaled to [0, 1], everything else as it is."""
    return x.float() / 255 if x.dtype == torch.uint8 and x.ndim == 4 else x.float()


def have_distances(z: Tensor) -> bool:
    """Whether float32 holds the squared distances between latents (n, d), and so FAISS finds them.

    FAISS counts an item without, but no inverted list gets it.
    """
    return bool((4 * z.square().sum(-1)).isfinite().all())
