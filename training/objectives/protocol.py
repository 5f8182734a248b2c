"""What the training loop asks: how codes are learned, and how good the model is by now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from faiss_pqvae.model import team
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE
from faiss_pqvae.model.product import Update
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.types import BoolArray

from ..config import Precision, TrainingConfig
from ..data.items import Items, Rows
from ..kept import Kept

Self = TypeVar("Self", bound="Objective")


class Terms(NamedTuple):
    """The loss of a batch and its parts.

    Of several processes each has its own, see `faiss_pqvae.model.team`: the mean over them is what
    is minimised.

    Attributes:
        loss: scalar, what is minimised.
        parts: scalars by name, for the log.
        latents: (n, latent_dim) what the bottleneck got of the whole batch, without gradient.
        ids: (n, M) int64 codewords chosen; None while the bottleneck is bypassed.
    """

    loss: Tensor
    parts: dict[str, Tensor]
    latents: Tensor
    ids: Tensor | None


class Way(NamedTuple):
    """How far a training is, and how far it goes: in steps, or in seconds of a budget."""

    at: float
    end: float


class Validation(NamedTuple):
    """How good a model is on the validation part.

    Attributes:
        values: "loss" and its parts by name, means over the part.
        distance_ratio: see `faiss_pqvae.model.clustering.distance_ratio`.
        counts: whether this model may be kept if its loss is the lowest so far.
        facts: more for the log.
    """

    values: dict[str, float]
    distance_ratio: float
    counts: bool
    facts: dict[str, Any]


class Setup(NamedTuple):
    """What a task is made for.

    Attributes:
        model: to be trained, on its device.
        x: (n, *input_shape) uint8 or float: what it is trained with, checked.
        config: settings of the loop, settled.
        device: where items are read to.
        progress: draw bars, where standard error is a terminal.
        pretrained: whether the encoder's weights are another model's.
        kept: where results of long phases before the first step outlive an interruption; it is
            open from `Task.start` or `Task.load` on.
    """

    model: PQVAE
    x: Any
    config: TrainingConfig
    device: torch.device
    progress: bool
    pretrained: bool
    kept: Kept


class Task(Protocol):
    """A training that is under way.

    Attributes:
        items: training and validation part.
        examples: (n,) int64, what an epoch goes through, in any order.
        batch_size: examples of a step, at most `examples`.
        epochs: at most so many; of 0 the start, which gives a loss, is all.
        patience: epochs without a lower loss after which the training stops; 0 never stops.
        resumes_within_epochs: whether a checkpoint within an epoch holds all of the state.
        precision: of the networks; "auto" until `start`.
        shown: the validated value that a progress bar shows.
    """

    items: Items
    examples: Rows
    batch_size: int
    epochs: int
    patience: int
    resumes_within_epochs: bool
    precision: Precision
    shown: str

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer moves; "highest" is a group's own learning rate."""
        ...

    def start(self) -> tuple[dict[str, Any], float | None]:
        """Prepares the model, once.

        Returns:
            Facts for the log, and the loss that a trained model has to be below, if there is one.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What `start` and the steps left behind, apart from the model; for a checkpoint."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Takes what `state` gave; the model is loaded before."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What is learned from besides items and settings: plain values that must agree later."""
        ...

    def terms(self, examples: Rows, step: int, way: Way, generator: torch.Generator) -> Terms:
        """The objective of a batch of the examples."""
        ...

    def after_step(self, terms: Terms, step: int, generator: torch.Generator) -> None:
        """What follows the optimizer's step."""
        ...

    def after_epoch(self) -> None:
        """What follows an epoch's last step, before it is validated; the model is in eval mode."""
        ...

    def validate(self) -> Validation:
        """Measures the model as it stands."""
        ...

    def finish(self) -> dict[str, Any] | None:
        """What follows the last step, with the best weights in the model.

        Returns:
            Facts for the log, if there are any.
        """
        ...

    def release(self) -> None:
        """Leaves the model as one that is not being trained."""
        ...


class Objective(Protocol):
    """How codes are learned: a frozen dataclass of settings, which the command line shows.

    Attributes:
        title: what an evaluation calls its codes.
        code: what the grammar calls them; "PQVAE" may have any objective of that code.
        learns_from: names of what it is given besides the items, such as "labels". With "coarse"
            among them it can code what coarse centroids leave over of the items, where some are
            given (see `linear_start.Coarse`): its encoder has to be a matrix then.
    """

    title: str
    code: str
    learns_from: tuple[str, ...]

    def spec(self, *, unit: bool, metric: Metric | None) -> CodeSpec:
        """What its codes are.

        Args:
            unit: whether latents of length 1 are wished for.
            metric: what they shall be compared by; None leaves the choice.

        Raises:
            ValueError: a metric that its codes are not made for.
        """
        ...

    def networks(self, config: ModelConfig, input_shape: tuple[int, ...]) -> ModelConfig:
        """The settings of the model with what it needs, or is learned best with, filled in.

        Raises:
            ValueError: settings that it cannot be learned with.
        """
        ...

    def check(self, n: int, given: dict[str, Any]) -> dict[str, Any]:
        """What a training is given besides its n items, checked and in one form.

        Args:
            n: number of items.
            given: by the names of `learns_from`, None where there is nothing; what came out of
                this method goes through it unchanged.

        Raises:
            TypeError, ValueError: something wrong or missing.
        """
        ...

    def settled(self: Self, model: PQVAE, config: TrainingConfig) -> tuple[Self, TrainingConfig]:
        """Its settings and the loop's with everything filled in that depends on the model.

        Raises:
            ValueError: settings that do not go together, or not with the model.
        """
        ...

    def task(self, setup: Setup, given: dict[str, Any]) -> Task:
        """A training with these settings, settled, and what `check` returned."""
        ...


def items_of(setup: Setup, *, most: int | None = None, labelled: BoolArray | None = None) -> Items:
    """Training and validation part of what a task is made for; for the options see `Items`."""
    return Items(
        setup.x,
        setup.model.input_shape,
        validation_fraction=setup.config.validation_fraction,
        most=most,
        labelled=labelled,
        seed=setup.config.seed,
        device=setup.device,
    )


def values_of(terms: Terms) -> dict[str, float]:
    """The loss and its parts, means of all processes, brought from the device at once."""
    named = {"loss": terms.loss, **terms.parts}
    values = team.mean(torch.stack([value.detach().float() for value in named.values()]))
    return dict(zip(named, values.double().tolist(), strict=True))


def learned_apart(
    name: str,
    config: ModelConfig,
    input_shape: tuple[int, ...],
    *,
    update: Update,
    fits_decoder: bool,
    advice: str = "",
) -> ModelConfig:
    """The settings of a model whose codes tell apart what looks alike.

    Args:
        name: of the objective.
        config: of the model.
        input_shape: of an item.
        update: the one way in which its codewords learn.
        fits_decoder: whether the decoder is fitted after the training, by least squares.
        advice: what ends the message about another decoder.

    Raises:
        ValueError: another update, or a decoder that cannot be fitted.
    """
    if config.update not in (None, update):
        raise ValueError(
            f"expected update {update!r} with the objective {name!r}, got {config.update!r}"
        )
    if config.decoder != "linear" and fits_decoder:
        raise ValueError(
            f"expected a linear decoder with the objective {name!r}, got {config.decoder!r}{advice}"
        )
    encoder = config.encoder or ("resnet" if len(input_shape) == 3 else "mlp")
    return replace(config, encoder=encoder, update=update)
