"""The self-supervised objective: a code should tell which item it is, whatever view it came from.

Cross-quantized contrastive learning (SPQ: Jang and Cho, ICCV 2021): the latent of one view is
compared with the quantized latents of the other views. What the views change, such a code forgets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.model.clustering import split
from faiss_pqvae.model.pqvae import PQVAE

from .reconstruction import Terms, reconstruction_terms

_NEVER = -1e9  # a logit that no softmax sees


def contrastive_objective(
    model: PQVAE, views: Tensor, clean: Tensor, *, whitener: Tensor | None = None
) -> Terms:
    """The contrastive loss between views, and what the model's settings add to it.

    Args:
        model: of the contrastive objective.
        views: (V * n, *input_shape) uint8 or float: one view of every item after another, V >= 2.
        clean: (n, *input_shape) uint8 or float, the items.
        whitener: as for `reconstruction_objective`.
    """
    config, n = model.config, len(clean)
    quantized = model.quantize(views)
    z = quantized.z
    with torch.autocast(z.device.type, enabled=False):
        assert config.softness is not None  # filled in with the items' shape
        soft, p = soft_assignment(split(z, model.M), model.quantizer.codewords, config.softness)
        q = soft.transpose(0, 1).flatten(1)
        contrast = nt_xent(z, q, n_items=n, temperature=config.temperature)
        uneven = unevenness(p)
    loss = contrast + config.diversity * uneven
    parts = {"contrast": contrast, "unevenness": uneven, "quantization": quantized.commitment_loss}
    if config.reconstruction_weight:
        error, weighted = reconstruction_terms(model, quantized, clean, whitener)
        loss = loss + config.reconstruction_weight * weighted
        parts["reconstruction"] = error
    return Terms(loss, parts, z.detach(), quantized.ids)


def soft_assignment(z_m: Tensor, codewords: Tensor, softness: float) -> tuple[Tensor, Tensor]:
    """What the codewords say of sub-vectors when each counts as much as it is near.

    Args:
        z_m: (M, n, dsub) float, sub-vectors of length 1 / sqrt(M).
        codewords: (M, ksub, dsub) float, of the same length.
        softness: factor on cosines before the softmax.

    Returns:
        The weighted means, brought to length 1 / sqrt(M), (M, n, dsub), and their weights
        (M, n, ksub).
    """
    M = len(codewords)
    cosines = M * torch.bmm(z_m, codewords.transpose(1, 2))
    p = (softness * cosines).softmax(-1)
    return M**-0.5 * functional.normalize(torch.bmm(p, codewords), dim=-1), p


def nt_xent(
    z: Tensor, q: Tensor, *, n_items: int, temperature: float, alike: Tensor | None = None
) -> Tensor:
    """Cross-entropy of an item's own quantized view among those of all other items.

    -log(exp(s_ij) / (exp(s_ij) + sum of exp(s_ik) over the views k of other items)), where
    s_ij = <z_i, q_j> / temperature, mean over all pairs of different views i, j of one item.

    Args:
        z: (V * n_items, d) float, of length 1; view v of item i is row v * n_items + i.
        q: (V * n_items, d) float, their quantized likes, of length 1.
        n_items: of the batch.
        temperature: of the softmax.
        alike: (n_items, n_items) bool: pairs of items that are not told apart, such as those of
            one class; of the others k above they are left out.
    """
    logits = z @ q.T / temperature
    rows = torch.arange(len(z), device=z.device)
    own = (rows.unsqueeze(0) - rows.unsqueeze(1)) % n_items == 0  # views of the same item
    views = len(z) // n_items
    never = own if alike is None else own | alike.repeat(views, views)
    others = logits.masked_fill(never, _NEVER).logsumexp(1, keepdim=True)
    positive = own ^ torch.eye(len(z), dtype=torch.bool, device=z.device)
    return functional.softplus(others - logits)[positive].mean()


def unevenness(p: Tensor) -> Tensor:
    """1 - entropy of the mean assignment over log(ksub), mean over the sub-quantizers.

    0 when all codewords are used alike, 1 when all items have the same one: the collapse that
    contrastive learning of codes is prone to.

    Args:
        p: (M, n, ksub) float, weights of every sub-vector's codewords.
    """
    entropy: Tensor = torch.special.entr(p.mean(1)).sum(-1)
    return 1 - entropy.mean() / math.log(p.shape[-1])
