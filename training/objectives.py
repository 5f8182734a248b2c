"""What a training minimises."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from faiss_pqvae.model import PQVAE


class Terms(NamedTuple):
    """The loss of a batch and its parts.

    Attributes:
        loss: scalar, eq. (24).
        reconstruction: scalar, mean squared error per component, of normalised inputs.
        quantization: scalar, sum over m of ||z_m - e_m||^2, mean over the batch.
        latents: (n, latent_dim) what the bottleneck got, without gradient.
        ids: (n, M) int64 codewords chosen; None while the bottleneck is bypassed.
    """

    loss: Tensor
    reconstruction: Tensor
    quantization: Tensor
    latents: Tensor
    ids: Tensor | None


def reconstruction_objective(
    model: PQVAE, view: Tensor, clean: Tensor, *, bypass: bool = False
) -> Terms:
    """Eq. (24): the clean item is reconstructed from the code of its view.

    Args:
        model: in training or evaluation mode.
        view: (n, *input_shape) uint8 or float, what the encoder gets.
        clean: (n, *input_shape) uint8 or float, what the decoder aims at.
        bypass: leave the bottleneck out, as a plain autoencoder.
    """
    target = model.normalize(clean)
    if bypass:
        z = model.encode(view)
        error = (model.decoder(z).float() - target).square().mean()
        return Terms(error, error, error.new_zeros(()), z.detach(), None)
    x, quantized = model(view)
    error = (x - target).square().mean()
    config = model.config
    loss = error + config.lambda_ * (
        quantized.codebook_loss + config.beta * quantized.commitment_loss
    )
    return Terms(loss, error, quantized.commitment_loss, quantized.z.detach(), quantized.ids)
