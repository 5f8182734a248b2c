"""What a training begins with: its device, fresh weights or another model's, a precision."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from faiss_pqvae.model import team
from faiss_pqvae.model.pqvae import PQVAE

from .config import Precision

_BFLOAT16_GAIN = 1.2  # below this the noise of a measurement decides


@torch.no_grad()
def take_over(model: PQVAE, pretrained: PQVAE) -> None:
    """Takes the weights of another model's encoder, wherever they have the same shape.

    Between code lengths that is everything but the last layer.

    Args:
        model: whose encoder changes.
        pretrained: trained, with the same kind and width of encoder over the same items.

    Raises:
        ValueError: an untrained model, another encoder, or other items.
    """
    if not pretrained.is_trained:
        raise ValueError("expected a trained model to start from, got an untrained one")
    for name in ("encoder", "width", "standardize"):
        own, other = getattr(model.config, name), getattr(pretrained.config, name)
        if own != other:
            raise ValueError(f"expected a model with {name}={own!r} to start from, got {other!r}")
    if model.input_shape != pretrained.input_shape:
        raise ValueError(
            f"expected a model for items of shape {model.input_shape} to start from, got one for "
            f"{pretrained.input_shape}"
        )
    weights = model.encoder.state_dict()
    for name, value in pretrained.encoder.state_dict().items():
        if weights[name].shape == value.shape:
            weights[name].copy_(value)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one, else the CPU.

    Of several processes each takes a card of its own.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda") if team.size() == 1 else team.local_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"expected a device such as 'auto', 'cpu', 'cuda', got {name!r}"
        ) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch sees no CUDA device here")
    return device


def reset_parameters(model: PQVAE, seed: int) -> None:
    """Draws every weight of ours anew from the seed, whatever the model went through before.

    A network that was handed in keeps its weights.
    """
    kept = {id(module) for given in model.handed_in() for module in given.modules()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
            if reset is not None and id(module) not in kept:
                reset()
    model.query_map = None
    model.fitted.fill_(False)


def faster_precision(model: PQVAE, batch: Tensor) -> Precision:
    """Times training passes of a copy of the model in float32 and under bfloat16 autocast.

    Args:
        model: left as it is.
        batch: (n, *input_shape) items on the model's device.

    Returns:
        "bfloat16" when its shortest time is lower by the factor 1.2, else "float32".
    """
    trial = copy.deepcopy(model).train()
    best = {"float32": math.inf, "bfloat16": math.inf}
    # In turn, and the shortest of several: what else the machine does only ever adds time.
    for _ in range(6):
        for precision in best:
            started = time.perf_counter()
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                loss = trial.decoder(trial.encode(batch)).float().square().mean()
            loss.backward()
            if batch.device.type == "cuda":
                torch.cuda.synchronize()
            best[precision] = min(best[precision], time.perf_counter() - started)
    faster = best["float32"] > _BFLOAT16_GAIN * best["bfloat16"]
    return team.agreed("bfloat16" if faster else "float32")
