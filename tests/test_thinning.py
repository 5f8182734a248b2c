"""What `make test` leaves out of the tests marked jury, and what it never does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

CONFTEST = str(Path(__file__).with_name("conftest.py"))


def _item(test: str, *, jury: bool = True, **params: Any) -> Any:
    return SimpleNamespace(
        path=Path("test_it.py"),
        name=f"{test}[{len(params)}]",
        get_closest_marker=lambda name: pytest.mark.jury if jury and name == "jury" else None,
        **({"callspec": SimpleNamespace(params=params)} if params else {}),
    )


def _thinned(config: pytest.Config, items: list[Any], *, jury: bool = False) -> list[Any]:
    """What is run of some items; what is not is told to pytest."""
    left_out: list[Any] = []
    fake = SimpleNamespace(
        getoption=lambda name: jury,
        hook=SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items)),
    )
    plugin: Any = config.pluginmanager.get_plugin(CONFTEST)
    run = list(items)
    plugin.pytest_collection_modifyitems(fake, run)
    assert sorted(map(items.index, run + left_out)) == list(range(len(items)))
    return run


def test_thinning__keeps_every_value_in_every_test(pytestconfig: pytest.Config) -> None:
    hows = (0, [1], [2])  # lists are told apart by who they are
    grid = [
        _item(test, kind=kind, how=how)
        for test in ("add", "search")
        for kind in ("PQ", "IVF", "HNSW")
        for how in hows
    ]
    run = _thinned(pytestconfig, grid)
    assert len(run) == 2 * (3 + 3 - 1)
    for test in ("add", "search"):
        own = [item.callspec.params for item in run if item.name.startswith(test)]
        assert {params["kind"] for params in own} == {"PQ", "IVF", "HNSW"}
        assert [params["how"] for params in own][:3] == list(hows)
    assert _thinned(pytestconfig, grid, jury=True) == grid


def test_thinning__takes_a_value_apart_that_says_how(pytestconfig: pytest.Config) -> None:
    cases = [SimpleNamespace(jury=pair) for pair in [("a", 1), ("b", 1), ("b", 2), ("a", 2)]]
    run = _thinned(pytestconfig, [_item("add", case=case) for case in cases])
    assert [item.callspec.params["case"].jury for item in run] == [("a", 1), ("b", 1), ("b", 2)]


def test_thinning__leaves_other_tests_alone(pytestconfig: pytest.Config) -> None:
    items = [_item("add", jury=False, kind="PQ"), _item("add", jury=False, kind="PQ")]
    items += [_item("reset"), _item("reset")]
    assert _thinned(pytestconfig, items) == items
