"""What a PQ-VAE is built from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.codebooks import Structure
from faiss_pqvae.model.product import Update

_DSUB = 16
_RESIDUAL_DIM = 128  # of a latent, which has every codeword's dimension


@dataclass(frozen=True)
class ModelConfig:
    """The networks and the bottleneck of a PQ-VAE.

    Attributes:
        objective: what its codes learn: a name of `faiss_pqvae.objectives` ("reconstruction",
            "contrastive"; "additive", "ranking" and "synthesis" of vectors; "dqn" and "dpq" from
            labels) or "package.module:attribute". None takes what the description and the items ask
            for: of vectors with a linear encoder sums of codewords (additive) where FAISS scans 4
            to 16 bytes exhaustively, sums that a decoder ranks (synthesis) with RDecoder, and else
            product codes (ranking), also where `dsub` is given; of other items their
            reconstruction. The model itself does not read it.
        encoder: "conv" or one of the residual networks "resnet" and "resnet18" (images), "mlp",
            "linear", or the sum of both, "residual-mlp". None takes for images conv and for vectors
            linear, or what the objective is learned best with.
        fine_tuned: of a frozen network in the encoder's place, a torch.nn.Sequential, so many of
            its last parts learn along, the last one first; what is before them stays as it is, and
            runs once. "efficientnet-lite0" has 9: the last 4 hold nine tenths of its weights, and
            take a quarter of its time.
        decoder: "conv", "mlp" or "linear"; "linear" ties distances between latents to distances
            between reconstructions, which retrieval gains from.
        standardize: bring every image to zero mean and unit deviation first, so that codes describe
            the picture and not its exposure; vectors stay as they are.
        dsub: dimension of a sub-vector; the latents have M * dsub dimensions, those of residual
            codes dsub. None takes 16, for residual codes 128, and for vectors with a linear encoder
            as many as make a rotation: d / M, rounded up.
        width: channels of the first convolution, or units of a hidden layer.
        normalize_latents: batch-normalise the latents (without scale and shift), so that the
            quantizer's weight means the same whatever scale the encoder would like.
        unit_latents: scale every latent to length 1, so that inner products between latents are
            cosines.
        update: how the codewords learn: "ema" (eq. 25, 26) or "gradient". None takes what the
            objective needs, else ema.
        ema_decay: gamma of eq. (25, 26).
    """

    objective: str | None = None
    encoder: str | None = None
    fine_tuned: int = 0
    decoder: str = "linear"
    standardize: bool = True
    dsub: int | None = None
    width: int = 64
    normalize_latents: bool = True
    unit_latents: bool = False
    update: Update | None = None
    ema_decay: float = 0.99

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("objective", "encoder", "decoder"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(
                    f"expected {name} as a name, got {type(value).__name__}: hand the thing itself "
                    f"in as index_factory(..., {name}=...)"
                )
        if self.fine_tuned < 0:
            raise ValueError(f"expected fine_tuned >= 0, got {self.fine_tuned}")
        for name in ("dsub", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} >= 1, got {value}")

    def for_items(
        self, input_shape: tuple[int, ...], M: int, nbits: int, structure: Structure = "product"
    ) -> ModelConfig:
        """The same settings, with everything filled in that is None.

        Args:
            input_shape: (c, h, w) of images, (d,) of vectors.
            M: number of sub-quantizers.
            nbits: bits per sub-quantizer.
            structure: of the code.
        """
        encoder = self.encoder or ("conv" if len(input_shape) == 3 else "linear")
        dsub, residual = self.dsub, structure == "residual"
        if dsub is None and len(input_shape) == 1 and encoder == "linear" and not residual:
            dsub = -(-input_shape[0] // M)
            if dsub == 2 and nbits <= 2:
                dsub = 3  # FAISS cannot search two dimensions at 1 or 2 bits
        if dsub is None:
            dsub = _RESIDUAL_DIM if residual else _DSUB
        update = "gradient" if residual else self.update or "ema"
        return replace(self, encoder=encoder, dsub=dsub, update=update)
