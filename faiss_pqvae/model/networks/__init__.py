"""Encoders and decoders by name, one file a network.

Every encoder maps normalised inputs (n, *input_shape) to latents (n, latent_dim), every decoder the
other way; any two go together. Registered is a function
`make(input_shape, latent_dim, *, width) -> nn.Module`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.folding import fold_norms
from faiss_pqvae.model.networks import (  # noqa: F401 - they register
    conv,
    efficientnet,
    linear,
    mlp,
    resnet,
)
from faiss_pqvae.model.networks.linear import Linear
from faiss_pqvae.registry import Registry, decoders, encoders, is_ours

_PRETRAINED = (efficientnet.efficientnet_lite0,)


class Headed(nn.Module):
    """A network that was handed in, and a matrix from its features to latents.

    Args:
        backbone: the network.
        n_features: that it gives.
        latent_dim: dimension of the latents.
    """

    def __init__(self, backbone: Backbone, n_features: int, latent_dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Linear((n_features,), (latent_dim,))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, *input_shape) uint8 or float to (n, latent_dim) float."""
        out: torch.Tensor = self.head(self.backbone(x))
        return out


def evaluating_fast(backbone: Backbone) -> Backbone:
    """A frozen network that gives the same features, but for rounding, in about half the time.

    Of a network of ours, whose batch normalisation is folded into its convolutions, a copy; any
    other as it is.
    """
    convolutions = (efficientnet.SamePadded,)
    if not any(isinstance(module, convolutions) for module in backbone.modules()):
        return backbone
    found = copy.deepcopy(backbone)
    fold_norms(found, convolutions)
    return found


def is_named_ours(registry: Registry[Any], key: Any) -> bool:
    """Whether a network is one of ours, by its name: nothing else is built from a name in a file.

    Args:
        registry: of encoders or of decoders.
        key: anything that may stand for a network.
    """
    return (
        isinstance(key, str)
        and is_ours(registry.registered(key))
        and not is_pretrained(registry, key)
    )


def is_pretrained(registry: Registry[Any], key: Any) -> bool:
    """Whether a name is of a network of ours that others have trained: it is a `Backbone`.

    Such a name in a file may be followed, too: what it makes are weights of an installed package.
    """
    return registry is encoders and isinstance(key, str) and registry.registered(key) in _PRETRAINED


def resolved_encoder(
    key: Any, input_shape: tuple[int, ...], latent_dim: int, *, width: int
) -> Backbone:
    """Somebody's encoder as a `Backbone`, from what stands for it.

    Args:
        key: a registered name, "package.module:attribute", a module, or a function or class
            `make(input_shape, latent_dim, *, width)` that makes one.
        input_shape: (c, h, w) or (d,).
        latent_dim: dimension of the latents; it may give other features.
        width: as of our own networks.

    Raises:
        TypeError: something that neither is nor makes a module.
        ValueError: a name or reference that leads nowhere.
    """
    module = _module(encoders, key, input_shape, latent_dim, width=width)
    backbone = module if isinstance(module, Backbone) else Backbone(module)
    if isinstance(key, str) and not backbone.is_named:
        backbone.reference, backbone.is_named = key, True  # what to pass again
    backbone.made_with = {"latent_dim": latent_dim, "width": width}
    return backbone


def resolved_decoder(
    key: Any, input_shape: tuple[int, ...], latent_dim: int, *, width: int
) -> nn.Module:
    """Somebody's decoder, from what stands for it; as `resolved_encoder`."""
    return _module(decoders, key, input_shape, latent_dim, width=width)


def _module(
    registry: Registry[Any], key: Any, input_shape: tuple[int, ...], latent_dim: int, *, width: int
) -> nn.Module:
    found: Any = registry.get(key)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found(input_shape, latent_dim, width=width)
        except TypeError as error:
            raise TypeError(
                f"expected as {registry.kind} a torch.nn.Module, or a function "
                f"make(input_shape, latent_dim, *, width) that makes one: {error}"
            ) from error
    if not isinstance(found, nn.Module):
        raise TypeError(
            f"expected a name, 'package.module:attribute' or a torch.nn.Module as {registry.kind}, "
            f"got {type(found).__name__}"
        )
    return found


@torch.no_grad()
def check_decoder(decoder: nn.Module, latent_dim: int, input_shape: tuple[int, ...]) -> None:
    """Runs somebody's decoder once, on zeros.

    Raises:
        ValueError: a network that does not make items (n, *input_shape) of (n, latent_dim).
    """
    trial = copy.deepcopy(decoder).eval()
    device = next((p.device for p in decoder.parameters()), torch.device("cpu"))
    try:
        found = trial(torch.zeros(2, latent_dim, device=device))
    except Exception as error:  # whatever somebody's network raises
        raise ValueError(
            f"expected a decoder of latents with {latent_dim} dimensions, but "
            f"{type(decoder).__name__} cannot take them: {error}"
        ) from error
    shape = tuple(getattr(found, "shape", ()))
    if shape != (2, *input_shape):
        raise ValueError(f"expected a decoder to items of shape {input_shape}, got {shape[1:]}")


def build_encoder(
    name: str, input_shape: tuple[int, ...], latent_dim: int, *, width: int
) -> nn.Module:
    """Builds one of our encoders.

    Args:
        name: of `faiss_pqvae.encoders`.
        input_shape: (c, h, w) for images, (d,) for vectors. "mlp", "linear" and
            "residual-mlp" take both, the others images of at least 4x4 pixels.
        latent_dim: dimension of the latents.
        width: channels of the first convolution (of those that follow twice as many, and so on)
            or units of a hidden layer; "linear" has none.

    Returns:
        A module from (n, *input_shape) to (n, latent_dim).

    Raises:
        ValueError: an unknown name, somebody else's network, or a shape that the network cannot
            take.
    """
    return _build(encoders, name, input_shape, latent_dim, width)


def build_decoder(
    name: str, input_shape: tuple[int, ...], latent_dim: int, *, width: int
) -> nn.Module:
    """Builds a decoder, from (n, latent_dim) to (n, *input_shape); see `build_encoder`."""
    return _build(decoders, name, input_shape, latent_dim, width)


def _build(
    registry: Registry[Any], name: str, input_shape: tuple[int, ...], latent_dim: int, width: int
) -> nn.Module:
    if not is_named_ours(registry, name):
        if ":" not in name and name not in registry.names():
            registry.get(name)  # says which names there are
        raise ValueError(
            f"the {registry.kind} {name!r} is not ours, and none is made because a name or a file "
            f"says so: hand it in, as index_factory(..., {registry.kind}=...) or "
            f"read_index(path, {registry.kind}=...)"
        )
    module: nn.Module = registry.get(name)(input_shape, latent_dim, width=width)
    return module
