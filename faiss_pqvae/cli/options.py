"""What the commands that train have in common: an objective's own options, under its name."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from faiss_pqvae.cli.option_errors import as_declared, naming_options
from faiss_pqvae.index.factory import Training, index_factory
from faiss_pqvae.index.handed_in import backbone_of
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.registry import objectives
from faiss_pqvae.training.build import objective_for, resolved_objective
from faiss_pqvae.training.objectives.protocol import Objective

OBJECTIVE = "--model.objective"
# Where options went that were the model's or the loop's before objectives had their own.
_FORMER = {
    "--model.lambda-": "--reconstruction.lambda_",
    "--model.beta": "--reconstruction.beta",
    "--training.whitening": "--reconstruction.whitening",
    "--training.warmup-steps": "--reconstruction.warmup-steps",
    "--model.temperature": "--contrastive.temperature",
    "--model.softness": "--contrastive.softness",
    "--model.diversity": "--contrastive.diversity",
    "--model.reconstruction-weight": "--contrastive.reconstruction-weight",
    "--training.n-views": "--contrastive.n-views",
    "--training.small-views": "--contrastive.small-views",
}


class Learning:
    """The settings of objectives that a command was given.

    Args:
        settings: by the name under which the options are shown.
    """

    def __init__(self, settings: Mapping[str, Objective]) -> None:
        self._settings = dict(settings)

    def objective(self, code: str, model: ModelConfig, input_shape: tuple[int, ...]) -> Objective:
        """What is learned: the one that was named, or else the one of a code and of such items.

        Args:
            code: what the grammar calls the code.
            model: networks and bottleneck.
            input_shape: of what the model gets.

        Raises:
            ValueError: options of another objective, which would have no effect.
        """
        (found,) = self._of([model.objective or objective_for(code, model, input_shape)])
        return found

    def of_vectors(
        self, code: str, model: ModelConfig, input_shape: tuple[int, ...]
    ) -> tuple[Objective, Objective | None, Objective]:
        """What a code of 8 sub-quantizers learns; product codes beside it; and before a decoder.

        For the arguments and errors see `objective`; items are vectors.

        Returns:
            What descriptions make: by tables alone, and where a decoder ranks candidates again.
            Between them what product codes learn, if it is not the same. An objective that is
            named is learned everywhere.
        """
        plain = product = again = model.objective or objective_for(code, model, input_shape)
        if model.objective is None:
            plain, again = (
                _usual(input_shape, f"{code}8{refined}", model) for refined in ("", ",RDecoder")
            )
        tables, parts, decoded = self._of([plain, product, again])
        return tables, None if parts == tables else parts, decoded

    def _of(self, keys: Sequence[str]) -> list[Objective]:
        """The objectives of some names, with the settings that were given; none in vain."""
        chosen = [resolved_objective(key) for key in keys]
        for name, settings in self._settings.items():
            if not isinstance(settings, tuple(map(type, chosen))) and settings != type(settings)():
                given = " ".join(options_of(name, settings, type(settings)()))
                learned = " or ".join(dict.fromkeys(repr(_shown(key)) for key in keys))
                raise ValueError(
                    f"expected options of the objective {learned}, which is learned here, "
                    f"got {given}: it would have no effect; {OBJECTIVE} names another one"
                )
        return [
            next((given for given in self._settings.values() if isinstance(given, type(one))), one)
            for one in chosen
        ]

    def index(
        self, input_shape: tuple[int, ...], factory: str, metric: Any, **options: Any
    ) -> LatentIndex:
        """An untrained index with these settings; for the arguments see `index_factory`.

        Raises:
            ValueError: as `objective`, and as `index_factory`.
        """
        usual = index_factory(input_shape, factory, metric, **options)
        assert isinstance(usual.fit, Training)
        model = dataclasses.replace(
            usual.model.config, objective=objectives.name_of(type(usual.fit.objective))
        )
        settings = self.objective(usual.model.spec.name, model, usual.model.input_shape)
        if settings == usual.fit.objective:
            return usual
        if (backbone := backbone_of(usual)) is not None:  # which may have been downloaded
            options["encoder"] = backbone
        return index_factory(input_shape, factory, metric, objective=settings, **options)


def _usual(input_shape: tuple[int, ...], factory: str, model: ModelConfig) -> str:
    """The name of the objective that a description has if none is named."""
    fit = index_factory(input_shape, factory, model=model).fit
    assert isinstance(fit, Training)
    return objectives.name_of(type(fit.objective))


def with_objectives(command: Callable[..., None], arguments: Sequence[str]) -> Callable[..., None]:
    """A command with the options of the objective that its arguments name; of all, if none.

    Args:
        command: with a parameter of the type `Learning`, or without, which stays as it is.
        arguments: of the command line.
    """
    parameters = inspect.signature(command).parameters
    names = [n for n, p in parameters.items() if p.annotation in (Learning, Learning.__name__)]
    if not names:
        return command
    shown = _shown_kinds(arguments)
    named = [(name, naming_options(kind, f"{name}.")) for name, kind in shown]
    fields = [(name, kind, dataclasses.field(default_factory=kind)) for name, kind in named]
    group = dataclasses.make_dataclass("Objectives", fields, frozen=True)
    annotation: Any = Annotated[group, tyro.conf.arg(name="")]

    @functools.wraps(command)
    def run(*given: Any, **options: Any) -> None:
        settings = {name: as_declared(getattr(options[names[0]], name)) for name, _ in shown}
        command(*given, **{**options, names[0]: Learning(settings)})

    del run.__wrapped__  # whose signature is another one
    own = parameters[names[0]].replace(annotation=annotation, default=group())
    changed = [own if name == names[0] else p for name, p in parameters.items()]
    run.__signature__ = inspect.Signature(changed)  # type: ignore[attr-defined]
    hints = inspect.get_annotations(command, eval_str=True)
    run.__annotations__ = {**hints, names[0]: annotation}
    return run


def _shown_kinds(arguments: Sequence[str]) -> list[tuple[str, type]]:
    """Names and classes of the objectives whose options are shown."""
    named = _value_of(OBJECTIVE, arguments)
    if named is not None:
        return [(_shown(named), type(resolved_objective(named)))]
    found = ((name, objectives.registered(name)) for name in objectives.names())
    return [(_shown(name), kind) for name, kind in found if isinstance(kind, type)]


def _shown(key: str) -> str:
    """A name that options can begin with: of "package.module:Attribute" the attribute."""
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", key.rpartition(":")[2])
    name = re.sub(r"\W", "_", words).lower()
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"of_{name}"


def _value_of(option: str, arguments: Sequence[str]) -> str | None:
    for at, argument in enumerate(arguments):
        if argument == option and at + 1 < len(arguments):
            return arguments[at + 1]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return None


def with_present_names(command: Callable[..., None], arguments: Sequence[str]) -> list[str]:
    """A command line in which options have the names that they have now, and in this command.

    Networks are named alike in all commands: --encoder is --model.encoder where there is no other.
    """
    own = inspect.signature(command).parameters
    others = {"encoder", "decoder"} - {*own}
    present = {**_FORMER, **{f"--{name}": f"--model.{name}" for name in others}}
    found = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        spelled = option.replace("_", "-") if option.startswith("--") else option
        found.append(present[spelled] + equals + value if spelled in present else argument)
    return found


def options_of(prefix: str, settings: Any, usual: Any) -> list[str]:
    """The arguments that turn one configuration into another.

    Args:
        prefix: of the options.
        settings: a dataclass.
        usual: another one of its class.
    """
    options: list[str] = []
    nested: list[str] = []
    for field in dataclasses.fields(settings):
        value, other = getattr(settings, field.name), getattr(usual, field.name)
        name = field.name.replace("_", "-")
        if value == other:
            continue
        if isinstance(value, bool):
            options.append(f"--{prefix}.{name if value else f'no-{name}'}")
        elif dataclasses.is_dataclass(value) and dataclasses.is_dataclass(other):
            options += options_of(f"{prefix}.{name}", value, other)
        elif dataclasses.is_dataclass(value):  # a subcommand, after all options
            kind: Any = type(value)
            nested.append(f"{prefix}.{name}:{_kebab(kind.__name__)}")
            nested += options_of(f"{prefix}.{name}", value, kind())
        else:
            options += [f"--{prefix}.{name}", str(value)]
    return [*options, *nested]


def _kebab(name: str) -> str:
    return re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()
