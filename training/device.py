"""What a training begins with: settings, its device, fresh weights, a precision."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.resnet import ResNet

from .config import LabelTraining, Precision, TrainingConfig, VectorTraining
from .data.views import Views
from .objectives.reconstruction import reconstruction_objective

_SMALL_VIEWS = 0.7  # of a training with a residual encoder
_QUANTIZATION = {"dqn": 0.1, "dpq": 0.3}
_BFLOAT16_GAIN = 1.2  # below this the noise of a measurement decides


def settled(config: TrainingConfig, model: PQVAE, *, at_a_start: bool) -> TrainingConfig:
    """The settings with all that depends on the model filled in.

    Args:
        config: settings.
        model: to be trained.
        at_a_start: whether vectors begin at a linear code and are trained for their ranking.

    Raises:
        ValueError: settings that do not go together, or not with the model.
    """
    objective, encoder = model.config.objective, model.config.encoder
    wanted = config.small_views
    views_differ = model.config.contrastive or model.config.supervised
    scales = views_differ and isinstance(model.encoder, ResNet)
    if wanted and not scales:
        raise ValueError(
            "expected small_views with a residual encoder and another objective than the "
            f"reconstruction, got {wanted} with {objective!r} and {encoder!r}"
        )
    small_views = (_SMALL_VIEWS if scales else 0.0) if wanted is None else wanted
    filled = config.for_shape(model.input_shape, contrastive=views_differ)
    filled = replace(filled, small_views=small_views)
    if model.config.supervised:
        return replace(filled, labels=_label_training(filled, objective))
    if config.labels is not None:
        raise ValueError(
            f"expected settings of labels with the objectives 'dqn' and 'dpq', got {objective!r}"
        )
    if not at_a_start:
        if config.vectors is not None:
            raise ValueError("expected starts with settings of vectors, got None")
        return filled
    if model.config.contrastive or filled.views != Views():
        raise ValueError(
            "expected a reconstruction objective without views for vectors that start at a linear "
            f"code, got {objective!r} with {filled.views}"
        )
    return replace(filled, vectors=config.vectors or VectorTraining(), precision="float32")


def _label_training(config: TrainingConfig, objective: str) -> LabelTraining:
    labels = config.labels or LabelTraining()
    if labels.contrast and config.views == Views():
        raise ValueError("expected views that change something for a contrast, got none")
    if labels.quantization is not None:
        return labels
    return replace(labels, quantization=_QUANTIZATION[objective])


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

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    """Draws every weight anew from the seed, whatever the model went through before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in model.modules():
            reset: Callable[[], None] | None = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
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
                terms = reconstruction_objective(trial, batch, batch, bypass=True)
            terms.loss.backward()  # type: ignore[no-untyped-call]
            if batch.device.type == "cuda":
                torch.cuda.synchronize()
            best[precision] = min(best[precision], time.perf_counter() - started)
    faster = best["float32"] > _BFLOAT16_GAIN * best["bfloat16"]
    return "bfloat16" if faster else "float32"
