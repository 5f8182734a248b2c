"""Errors of settings name options."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import tyro

from faiss_pqvae.cli.option_errors import (
    OptionError,
    as_declared,
    naming_options,
    with_named_options,
)


@dataclass(frozen=True)
class Settings:
    """Of something.

    Attributes:
        n_items: how many.
        lambda_: how much.
    """

    n_items: int = 3
    lambda_: float = 1.0

    def __post_init__(self) -> None:
        if self.n_items < 1:
            raise ValueError(f"expected n_items >= 1, got {self.n_items} n_items")
        if self.lambda_ < 0:
            raise ValueError("expected lambda_ >= 0 for items-lambda_-x")


@dataclass(frozen=True)
class Free:
    """Of anything."""

    n_items: int = 0


def command(
    *,
    some: Settings = Settings(),
    bare: Annotated[Settings, tyro.conf.arg(name="")] = Settings(),
    x: int = 0,
) -> None:
    """Does nothing."""
    given.append((some, bare, x))


given: list[tuple[Settings, Settings, int]] = []


def run(*arguments: str) -> None:
    tyro.cli(with_named_options(command), args=arguments)


def test_with_named_options__gives_the_settings_as_declared() -> None:
    given.clear()
    run("--some.n-items", "2", "--lambda_", "0.5", "--x", "4")
    assert given == [(Settings(2), Settings(lambda_=0.5), 4)]
    assert [type(one) for one in given[0]] == [Settings, Settings, int]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--some.n-items", "0"), "expected --some.n-items >= 1, got 0 n_items"),
        (("--n-items", "-1"), "expected --n-items >= 1, got -1 n_items"),
        (("--some.lambda_", "-1"), "expected --some.lambda_ >= 0 for items-lambda_-x"),
    ],
)
def test_with_named_options__names_the_option(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError) as error:
        run(*arguments)
    assert str(error.value) == message


def test_with_named_options__keeps_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for one in (command, with_named_options(command)):
        with pytest.raises(SystemExit):
            tyro.cli(one, args=["--help"], prog="x")
        helps.append(capsys.readouterr().out)
    assert "how many" in helps[0]
    assert helps[0] == helps[1]


def test_naming_options__of_settings_that_refuse_nothing() -> None:
    settings = naming_options(Free, "free.")(n_items=4)
    assert as_declared(settings) == Free(4)
