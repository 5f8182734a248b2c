"""The self-supervised objective: a code should tell which item it is, whatever view it came from.

Cross-quantized contrastive learning (SPQ: Jang and Cho, ICCV 2021): the latent of one view is
compared with the quantized latents of the other views. What the views change, such a code forgets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from faiss_pqvae.arguments import check_numbers
from faiss_pqvae.model import team
from faiss_pqvae.model.clustering import split
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.registry import objectives

from ..config import TrainingConfig
from ..data.views import Views
from .protocol import Setup, Terms, learned_apart
from .reconstruction import Reconstruction, Whitener, reconstruction_terms
from .view_task import ViewTask, settled_small_views

_NEVER = -1e9  # a logit that no softmax sees


@objectives.register("contrastive")
@dataclass(frozen=True)
class Contrastive:
    """Which item a code is of, whatever `training.Views` does to it (SPQ, Jang and Cho, ICCV 2021).

    It knows what is in a picture, and takes longer to train. Every sub-vector and every codeword
    has the length 1 / sqrt(M), and so every latent the length 1.

    Attributes:
        temperature: of the loss.
        softness: the loss sees a mean of all codewords, weighted by a softmax over cosines times
            this number; the index sees the nearest codeword.
        diversity: weight of the codewords' even use beside the loss.
        n_views: of every item in a step, at least 2.
        neighbours: of vectors that say what an item is, such as a pretrained network's features:
            every second view is one of one of so many nearest items, by the cosine of what is
            beside the mean, in its 128 main directions, in place of the item itself; what
            neighbours differ in, the code forgets. Where a network that others have trained learns
            along, they are the nearest by the features that it begins with. 0 compares an item with
            itself alone.
        small_views: share of a training of images, from its start on, in which views have 5/8 of
            the height and width: a step then takes little more than half the time. None takes 0.7
            for the residual encoders, and 0 for others, most of which take one size only.
        reconstruction_weight: of the reconstruction beside the contrast; the decoder is then
            trained along, and may be any. With 0 it is fitted afterwards, by least squares.
        reconstruction: its settings, where it has a weight.
    """

    title: ClassVar[str] = "PQ-VAE, contrastive"
    code: ClassVar[str] = "PQVAE"
    learns_from: ClassVar[tuple[str, ...]] = ("views",)

    temperature: float = 0.5
    softness: float = 5.0
    diversity: float = 0.1
    n_views: int = 4
    neighbours: int = 0
    small_views: float | None = None
    reconstruction_weight: float = 0.0
    reconstruction: Reconstruction = field(default_factory=Reconstruction)

    def __post_init__(self) -> None:
        check_numbers(self)
        for name in ("temperature", "softness"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"expected {name} > 0, got {value}")
        for name in ("diversity", "reconstruction_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"expected {name} >= 0, got {value}")
        if self.n_views < 2:
            raise ValueError(f"expected n_views >= 2, got {self.n_views}")
        if self.neighbours < 0:
            raise ValueError(f"expected neighbours >= 0, got {self.neighbours}")
        if self.small_views is not None and not 0 <= self.small_views <= 1:
            raise ValueError(f"expected small_views in [0, 1], got {self.small_views}")

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """Product codes of sub-vectors of one length."""
        return CodeSpec(latents="unit parts", metric=metric or "l2")

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """Codewords that learn by gradient; a residual network or an mlp."""
        return learned_apart(
            "contrastive",
            config,
            input_shape,
            update="gradient",
            fits_decoder=not self.reconstruction_weight,
            advice=": a reconstruction_weight > 0 trains it along",
        )

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """Views that were made before; the task looks at their number."""
        views = given.get("views")
        return {} if views is None else {"views": views}

    def settled(self, model: PQVAE, config: TrainingConfig) -> tuple[Contrastive, TrainingConfig]:
        """Views that differ, and how long they are small.

        Raises:
            ValueError: views that change nothing; neighbours of images, whose pixels do not tell
                what is alike.
        """
        config = config.for_shape(model.input_shape, strong=True)
        if self.neighbours and len(model.input_shape) == 3 and model.backbone is None:
            raise ValueError(
                f"expected neighbours with vectors, such as features of a frozen network before "
                f"the model, got {self.neighbours} for images of {model.input_shape}"
            )
        if config.views == Views() and not self.neighbours:
            raise ValueError(
                "expected views that change something for the contrastive objective, got none: two "
                "views of an item would be the same"
            )
        reconstruction, _ = self.reconstruction.settled(model, config)
        small_views = settled_small_views(self.small_views, model)
        return replace(self, small_views=small_views, reconstruction=reconstruction), config

    def task(self, setup: Setup, given: dict[str, Any]) -> ViewTask:
        """Views of every item, compared with those of the batch."""
        reconstructs = self.reconstruction_weight > 0
        strength = self.reconstruction.whitening or 0.0
        whitener = Whitener(strength if reconstructs else 0.0, setup.config.seed)

        def terms(views: Tensor, clean: Tensor, *, bypass: bool) -> Terms:
            return contrastive_objective(setup.model, views, clean, self, whitener=whitener.matrix)

        return ViewTask(
            setup,
            terms,
            n_views=self.n_views,
            neighbours=self.neighbours,
            small_views=self.small_views or 0.0,
            trains_decoder=reconstructs,
            by_batch=True,
            own_rate=True,
            whitener=whitener,
            shown="contrast",
            made=given.get("views"),
        )


def contrastive_objective(
    model: PQVAE,
    views: Tensor,
    clean: Tensor,
    settings: Contrastive,
    *,
    whitener: Tensor | None = None,
) -> Terms:
    """The contrastive loss between views, and what the settings add to it.

    Args:
        model: of codes of sub-vectors of one length.
        views: (V * n, *input_shape) uint8 or float: one view of every item after another, V >= 2.
        clean: (n, *input_shape) uint8 or float, the items; both are this process's share.
        settings: the weights.
        whitener: as for `reconstruction_objective`.
    """
    n = team.count(len(clean))
    n_views = team.count(len(views)) // n
    z = team.gathered(model.encode(views), n, groups=n_views)
    quantized = model.quantize_latents(z)
    with torch.autocast(z.device.type, enabled=False):
        soft, p = soft_assignment(split(z, model.M), model.quantizer.codewords, settings.softness)
        q = soft.transpose(0, 1).flatten(1)
        contrast = nt_xent(z, q, n_items=n, temperature=settings.temperature)
        uneven = unevenness(p)
    loss = contrast + settings.diversity * uneven
    parts = {"contrast": contrast, "unevenness": uneven, "quantization": quantized.commitment_loss}
    if settings.reconstruction_weight:
        error, weighted = reconstruction_terms(
            model, quantized, clean, settings.reconstruction, whitener, n_views=n_views
        )
        loss = loss + settings.reconstruction_weight * weighted
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
