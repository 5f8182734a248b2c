"""A model for what it shall learn, and objectives by name."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass, replace
from typing import Any, Literal, cast

from torch import nn

from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.spec import Metric
from faiss_pqvae.registry import objectives

from .objectives.protocol import Objective

Codes = Literal["product", "sums", "decoded"]

_USUAL = "reconstruction"
_OF_VECTORS: dict[Codes, str] = {"product": "ranking", "sums": "additive", "decoded": "synthesis"}


def resolved_objective(key: Any = None) -> Objective:
    """An objective with its settings.

    Args:
        key: a registered name, "package.module:attribute", an objective, or its class, which then
            has its default settings; None is the reconstruction.

    Raises:
        TypeError: something that is no objective.
        ValueError: a name or reference that leads nowhere.
    """
    found: Any = objectives.get(_USUAL if key is None else key)
    if isinstance(found, type):
        found = found()
    wanted = ("title", "code", "learns_from", "spec", "networks", "check", "settled", "task")
    lacking = [name for name in wanted if not hasattr(found, name)]
    if lacking:
        raise TypeError(
            f"expected an objective, which has {', '.join(wanted)}; {type(found).__name__} lacks "
            f"{', '.join(lacking)}"
        )
    if not is_dataclass(found):
        raise TypeError(
            f"expected an objective as a dataclass of its settings, got {type(found).__name__}"
        )
    try:
        json.dumps(asdict(cast(Any, found)))
    except TypeError as error:
        raise TypeError(
            f"expected settings that JSON can hold, for the log, in {found}: {error}"
        ) from error
    objective: Any = found
    return cast(Objective, objective)


def objective_for(
    code: str, config: ModelConfig, input_shape: tuple[int, ...], *, codes: Codes = "product"
) -> str:
    """The name of the objective that a code has if none is named.

    Args:
        code: what the grammar calls it.
        config: of the model.
        input_shape: of an item.
        codes: those of vectors that find the most where they are stored: of sub-vectors, sums of
            codewords of all dimensions, or what a decoder ranks again. Sub-vectors whose dimension
            `ModelConfig.dsub` names are product codes.

    Raises:
        ValueError: a code that no objective has.
    """
    linear = (config.encoder or "linear", config.decoder) == ("linear", "linear")
    if resolved_objective().code == code:
        if config.dsub is not None:
            codes = "product"
        return _OF_VECTORS[codes] if len(input_shape) == 1 and linear else _USUAL
    for name in objectives.names():
        if getattr(objectives.get(name), "code", None) == code:
            return name
    raise ValueError(f"no objective has codes that are called {code}")


def new_model(
    input_shape: tuple[int, ...],
    M: int,
    nbits: int,
    config: ModelConfig | None = None,
    *,
    objective: Any = None,
    metric: Metric | None = None,
    encoder: nn.Module | None = None,
    decoder: nn.Module | None = None,
) -> PQVAE:
    """An untrained model that can learn an objective.

    Args:
        input_shape: (c, h, w) or (d,).
        M: number of sub-quantizers, or of levels.
        nbits: bits of each.
        config: networks and bottleneck; what is None is filled in.
        objective: as `resolved_objective` takes it; None takes that of the configuration.
        metric: what its codes shall be compared by; None leaves it to the objective.
        encoder: see `PQVAE`.
        decoder: see `PQVAE`.

    Raises:
        TypeError, ValueError: what the objective, or the model, refuses.
    """
    config = config or ModelConfig()
    if encoder is not None and config.encoder is None:
        encoder = encoder if isinstance(encoder, Backbone) else Backbone(encoder)
        config = replace(config, encoder=encoder.reference)  # and not one of ours
    found = resolved_objective(config.objective if objective is None else objective)
    spec = found.spec(unit=config.unit_latents, metric=metric)
    config = found.networks(config, input_shape)
    config = replace(config, objective=objectives.name_of(type(found)))
    return PQVAE(input_shape, M, nbits, config, spec=spec, encoder=encoder, decoder=decoder)


def checked(objective: Objective, n: int, given: dict[str, Any]) -> dict[str, Any]:
    """What a training is given besides its n items, checked and in one form.

    Args:
        objective: decides what that may be.
        n: number of items.
        given: by name, None where there is nothing; what this function returned goes through it
            unchanged.

    Raises:
        TypeError, ValueError: something wrong, missing, or not asked for.
    """
    name = objectives.name_of(type(objective))
    for what, value in given.items():
        if value is not None and what not in objective.learns_from:
            raise ValueError(
                f"expected no {what.replace('_', ' ')} for the objective {name!r}, got some"
            )
    return objective.check(n, {what: given.get(what) for what in objective.learns_from})


def check_codes(model: PQVAE, objective: Objective) -> None:
    """Refuses a model that was built for other codes than an objective's.

    Raises:
        ValueError: another spec, or networks that the objective cannot train.
    """
    wanted = objective.spec(unit=model.config.unit_latents, metric=model.spec.metric)
    wanted = replace(wanted, by_residual=model.spec.by_residual)  # the data's matter, see `fit`
    if wanted != model.spec:
        name = objectives.name_of(type(objective))
        raise ValueError(
            f"expected a model of {wanted} for the objective {name!r}, got {model.spec}: make it "
            "by training.new_model with this objective"
        )
    objective.networks(model.config, model.input_shape)
