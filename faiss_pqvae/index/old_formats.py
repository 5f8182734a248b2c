"""Configurations of bundles as earlier versions wrote them, brought to the present form."""

from __future__ import annotations

from typing import Any

# What a code is followed from what it was learned by.
_SPECS: dict[str, dict[str, str]] = {
    "reconstruction": {"name": "PQVAE", "structure": "product", "latents": "free"},
    "contrastive": {"name": "PQVAE", "structure": "product", "latents": "unit parts"},
    "dqn": {"name": "DQN", "structure": "product", "latents": "unit"},
    "dpq": {"name": "DPQ", "structure": "residual", "latents": "short"},
}
# Settings of a training that the model's had among them; serving never read them.
_LEARNING = (
    "lambda_",
    "beta",
    "temperature",
    "softness",
    "diversity",
    "reconstruction_weight",
)


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """A bundle's configuration of format 1 or 2 as one of format 3.

    Args:
        config: as it was read; it stays as it is.

    Raises:
        KeyError, TypeError, AttributeError: something that no version wrote.
    """
    model = config["model"]
    networks = {name: value for name, value in model["config"].items() if name not in _LEARNING}
    networks.setdefault("objective", "reconstruction")  # the only one there was
    spec = dict(_SPECS[networks["objective"]], metric=config["metric"])
    if networks.get("unit_latents") and spec["latents"] in ("free", "short"):
        spec["latents"] = "unit"
    if networks.get("encoder") is None and len(model["input_shape"]) == 1:
        networks["encoder"] = "mlp"  # written when that was the default
    return {**config, "spec": spec, "model": {**model, "config": networks}}
