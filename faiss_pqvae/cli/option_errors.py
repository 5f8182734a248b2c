"""Errors of settings that name the option they are about."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args


class OptionError(Exception):
    """A value that settings refuse. No ValueError: tyro shows those under names of its own."""


def with_named_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose groups of settings, which are dataclasses, say which option is wrong."""
    hints = inspect.get_annotations(command, eval_str=True)
    parameters = dict(inspect.signature(command).parameters)
    own = {}
    for name, hint in hints.items():
        kind, *marks = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            # In the commands a group with marks is one whose options have no prefix.
            naming = naming_options(kind, "" if marks else f"{name}.")
            own[name] = Annotated[naming, *marks] if marks else naming
            default = naming(**_values(parameters[name].default))
            parameters[name] = parameters[name].replace(annotation=own[name], default=default)

    @functools.wraps(command)
    def run(*given: Any, **options: Any) -> None:
        plain = {name: as_declared(options[name]) for name in own}
        command(*given, **{**options, **plain})

    del run.__wrapped__  # whose signature is another one
    run.__annotations__ = {**hints, **own}
    run.__signature__ = inspect.Signature([*parameters.values()])  # type: ignore[attr-defined]
    return run


def naming_options(kind: type, prefix: str) -> Any:
    """Settings as they are, but that an error in them names an option.

    Args:
        kind: a dataclass.
        prefix: what its options begin with.
    """
    check = getattr(kind, "__post_init__", lambda settings: None)
    options = {name: f"--{prefix}{name[:-1].replace('_', '-')}{name[-1]}" for name in _names(kind)}

    def __post_init__(self: Any) -> None:  # noqa: N807 - what dataclasses call
        try:
            check(self)
        except ValueError as error:
            expected, got, value = str(error).partition(", got ")
            for name, option in options.items():
                expected = re.sub(rf"\b{name}\b(?!-)", option, expected)
            raise OptionError(expected + got + value) from error

    return type(kind.__name__, (kind,), {"__post_init__": __post_init__, "__doc__": kind.__doc__})


def as_declared(settings: Any) -> Any:
    """Settings of `naming_options` as those of the class that it was given."""
    return type(settings).__mro__[1](**_values(settings))


def _names(settings: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)]


def _values(settings: Any) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _names(settings)}
