"""Names for things: by name, by reference, by entry point, or the thing itself."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from faiss_pqvae import registry
from faiss_pqvae.registry import Registry, is_ours


class Thing:
    """Something to register."""

    class Inner:
        """An attribute of an attribute."""


def another():
    """Something else."""


@pytest.fixture
def things():
    """A registry of two things, whose home has nothing more to register."""
    found = Registry("thing", "test.things", __name__)
    found.register("one")(Thing)
    found.register("two")(another)
    return found


@pytest.fixture
def offered(monkeypatch):
    """What installed packages offer in the group, by name."""
    points = {}

    def entry_points(*, group):
        return [EntryPoint(name, value, group) for name, value in points.get(group, {}).items()]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    return points.setdefault("test.things", {})


# -- get


def test_get__by_name_by_reference_and_the_thing_itself(things):
    assert things.get("one") is Thing
    assert things.get("two") is another
    assert things.get(f"{__name__}:another").__name__ == "another"
    assert things.get("collections:OrderedDict.fromkeys")({1: 2}) is not None
    thing = object()
    assert things.get(thing) is thing
    assert things.get(None) is None


def test_get__by_entry_point(things, offered):
    offered["three"] = "json:dumps"
    import json

    assert things.get("three") is json.dumps
    assert things.names() == ["one", "two", "three"]


def test_get__ours_goes_before_an_entry_point_of_the_same_name(things, offered):
    offered["one"] = "json:dumps"
    assert things.get("one") is Thing
    assert things.names() == ["one", "two"]


def test_get__a_wrong_name_says_what_there_is(things, offered):
    offered["three"] = "a.package.that.is.broken:thing"
    expected = "a thing of 'one', 'two', 'three', or 'package.module:attribute', got 'four'"
    with pytest.raises(ValueError, match=expected):
        things.get("four")


@pytest.mark.parametrize(
    "reference",
    [
        "nowhere.at.all:thing",
        "json:nothing",
        "json:dumps.nothing",
        ":thing",
        "json:",
        ".json:dumps",
    ],
)
def test_get__a_reference_that_leads_nowhere(things, reference):
    with pytest.raises(ValueError, match=r"a thing as 'package\.module:attribute', got"):
        things.get(reference)


def test_get__an_entry_point_that_leads_nowhere_names_it(things, offered):
    offered["three"] = "nowhere.at.all:thing"
    with pytest.raises(ValueError, match=r"'three' .* offers as 'nowhere\.at\.all:thing'"):
        things.get("three")


# -- register


def test_register__returns_the_thing(things):
    assert things.register("three")(len) is len
    assert things.get("three") is len


@pytest.mark.parametrize("name", ["", "a:b", ":"])
def test_register__a_name_that_cannot_be_looked_up(things, name):
    with pytest.raises(ValueError, match="without ':'"):
        things.register(name)


def test_register__a_taken_name(things):
    with pytest.raises(ValueError, match="the name 'one' is taken by another thing"):
        things.register("one")(another)
    assert things.get("one") is Thing
    with pytest.raises(ValueError, match="taken"):
        things.register("one")(object())


def test_register__the_same_thing_of_a_module_that_is_imported_again(things):
    again = type("Thing", (), {"__module__": Thing.__module__, "__qualname__": "Thing"})
    things.register("one")(again)
    assert things.get("one") is again


# -- registered and name_of


def test_registered__imports_nothing_that_a_package_offers(things, offered, monkeypatch):
    offered["three"] = "antigravity:fly"
    monkeypatch.delitem(sys.modules, "antigravity", raising=False)
    assert things.registered("three") is None
    assert things.registered("antigravity:fly") is None
    assert things.registered("one") is Thing
    assert "three" in things.names()
    assert "antigravity" not in sys.modules


def test_name_of__is_the_name_or_the_reference(things):
    assert things.name_of(Thing) == "one"
    assert things.name_of(Thing.Inner) == f"{__name__}:Thing.Inner"
    things.register("again")(Thing)
    assert things.name_of(Thing) == "one"


def test_name_of__leads_back(things):
    import json

    assert things.get(things.name_of(json.dumps)) is json.dumps


# -- ours


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        ("encoders", {"conv", "linear", "mlp", "residual-mlp", "resnet", "resnet18"}),
        ("decoders", {"conv", "linear", "mlp"}),
        ("objectives", {"reconstruction", "contrastive", "ranking", "dqn", "dpq"}),
    ],
)
def test_names__ours_are_there_without_an_import_by_hand(kind, ours):
    code = f"from faiss_pqvae.registry import {kind}; print(*{kind}.names())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ours <= set(done.stdout.split())


def test_is_ours__by_the_package():
    assert is_ours(Registry)
    assert not is_ours(Thing)
    assert not is_ours(None)
    assert not is_ours(len)


@pytest.mark.parametrize("kind", ["encoders", "decoders", "objectives", "methods", "datasets"])
def test_get__of_a_misspelt_name_says_which_was_meant(kind: str) -> None:
    known: Registry = getattr(registry, kind)
    name = known.names()[-1]
    with pytest.raises(ValueError, match=f"did you mean {name!r}"):
        known.get(f"{name}x")
