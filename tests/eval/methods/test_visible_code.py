"""Which changes of code are seen, and which are none."""

import functools
import itertools
import sys
import types

import numpy as np
import pytest
import torch

from faiss_pqvae.eval.methods.baselines import baselines
from faiss_pqvae.eval.methods.visible_code import code_hash

HELPERS = "def shift(x):\n    return x + 1\n\ndef unused(x):\n    return x\n"
MINE = """
import functools
import helpers_of_mine
from helpers_of_mine import shift

LIMIT = 3
WEIGHTS = {"a": [1.0, 2.0]}

def scaled(x):
    return x * LIMIT + WEIGHTS["a"][0]

class Base:
    def add(self, x):
        self.x = scaled(x)

class Mine(Base):
    depth = 5
    def __init__(self, size, of=None):
        self.size, self.of = size, of
    @property
    def double(self):
        return 2 * self.size
    @staticmethod
    def whole(x):
        return int(x)
    @classmethod
    def made(cls):
        return cls(11)
    @functools.cached_property
    def table(self):
        return helpers_of_mine.shift(7)
    def search(self, xq, k, factor=6):
        return [shift(q) for q in xq]

class Slotted:
    __slots__ = ("size",)
    def __init__(self, size):
        self.size = size

def maker(size):
    def build(shape):
        return Mine(size)
    return build

def build(shape):
    return Mine(3)
"""
CHANGES = [
    ("LIMIT = 3", "LIMIT = 4"),
    ("[1.0, 2.0]", "[1.5, 2.0]"),
    ("x * LIMIT", "x - LIMIT"),
    ("self.x = scaled", "self.y = scaled"),
    ("depth = 5", "depth = 6"),
    ("2 * self.size", "3 * self.size"),
    ("int(x)", "float(x)"),
    ("cls(11)", "cls(12)"),
    ("shift(7)", "shift(8)"),
    ("factor=6", "factor=7"),
    ("[shift(q) for q in xq]", "[q for q in xq]"),
]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Imports a text as a module that stands beside its helpers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    numbers = itertools.count()

    def module(text=MINE, helpers=HELPERS):
        name = f"mine_{next(numbers)}"
        for one, content in ((name, text), ("helpers_of_mine", helpers)):
            (tmp_path / f"{one}.py").write_text(content)
            monkeypatch.delitem(sys.modules, one, raising=False)
        found = types.ModuleType("mine")  # the name stays
        sys.modules["mine"] = found
        found.__file__ = str(tmp_path / f"{name}.py")
        exec(compile(text, found.__file__, "exec"), found.__dict__)
        return found

    yield module
    sys.modules.pop("mine", None)
    sys.modules.pop("helpers_of_mine", None)


WAYS = {
    "function": lambda mine: mine.build,
    "class": lambda mine: mine.Mine,
    "closure": lambda mine: mine.maker(3),
    "partial": lambda mine: functools.partial(mine.Mine, 3),
    "method": lambda mine: mine.Mine(3).search,
    "object": lambda mine: mine.Mine(3),
}


@pytest.mark.parametrize("way", WAYS)
def test_code_hash__changes_with_all_that_can_be_seen(written, way):
    before = code_hash(WAYS[way](written()))
    assert code_hash(WAYS[way](written())) == before
    assert code_hash(WAYS[way](written(f"# a comment\n{MINE}"))) == before
    hashes = [code_hash(WAYS[way](written(MINE.replace(*change)))) for change in CHANGES]
    hashes.append(code_hash(WAYS[way](written(helpers=HELPERS.replace("x + 1", "x + 2")))))
    assert before not in hashes
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda mine: mine.maker(3), lambda mine: mine.maker(4)),
        (
            lambda mine: functools.partial(mine.Mine, 3),
            lambda mine: functools.partial(mine.Mine, 4),
        ),
        (lambda mine: mine.Mine(3).search, lambda mine: mine.Mine(4).search),
        (lambda mine: mine.Slotted(3), lambda mine: mine.Slotted(4)),
        (lambda mine: mine.maker(np.zeros(3)), lambda mine: mine.maker(np.arange(3.0))),
        (lambda mine: mine.maker({1: "a"}), lambda mine: mine.maker({1: "b"})),
        (lambda mine: mine.maker(torch.zeros(3)), lambda mine: mine.maker(torch.ones(3))),
        (
            lambda mine: mine.Mine(3, network(0)).search,
            lambda mine: mine.Mine(3, network(1)).search,
        ),
    ],
)
def test_code_hash__changes_with_what_an_object_or_a_closure_holds(written, one, other):
    mine = written()
    assert code_hash(one(mine)) == code_hash(one(mine))
    assert code_hash(one(mine)) != code_hash(other(mine))


def network(seed):
    generator = torch.Generator().manual_seed(seed)
    linear = torch.nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(2, 2, generator=generator))
        linear.bias.zero_()
    return torch.nn.Sequential(linear, torch.nn.ReLU())


def test_code_hash__takes_what_refers_to_itself_and_what_is_foreign():
    loop = types.SimpleNamespace()
    loop.self = [loop, sys, np.random.default_rng(0), torch.float32, len]
    assert len(code_hash(lambda shape: loop)) == 64


def test_code_hash__of_ours_does_not_depend_on_what_was_built():
    rows = baselines(64, (32,))
    before = [code_hash(row.build) for row in rows]
    rows[1].build((32,)).train(np.random.default_rng(0).standard_normal((99, 32)).astype("f4"))
    assert [code_hash(row.build) for row in baselines(64, (32,))] == before
    assert len(set(before)) == len(before)
