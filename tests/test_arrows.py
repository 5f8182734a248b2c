"""Who may know whom, room by room: reads every import and fails on an arrow the wrong way."""

import ast
import functools
from pathlib import Path

import pytest

from faiss_pqvae.registry import datasets, methods, objectives

PACKAGE = "faiss_pqvae"
ROOT = Path(__file__).parents[1]
FOLDERS = {
    PACKAGE: ROOT / "faiss_pqvae",
    f"{PACKAGE}.training": ROOT / "training",
    f"{PACKAGE}.eval": ROOT / "eval",
}
FOUNDATIONS = (
    "arguments",
    "checkout",
    "codebooks",
    "extras",
    "files",
    "foreign",
    "messages",
    "progress",
    "registry",
    "types",
)
ROOMS = ("data", "model", "native", "index", "scale", "cli", "training", "eval")

# From a room, none of those can be reached, directly or through others.
FORBIDDEN = {
    **dict.fromkeys(FOUNDATIONS, ("torch", "faiss", *ROOMS)),
    "data": ("faiss", "model", "native", "index", "scale", "training", "eval"),
    "model": ("faiss", "data", "native", "index", "scale", "training", "eval"),
    "native": ("data", "model", "index", "scale", "training", "eval"),
    "index": ("scale", "training", "eval"),
    "scale": ("training", "eval"),
    "training": ("faiss", "native", "index", "scale", "eval"),
}
# The evaluation knows of ours what anyone imports, and what knows no learning and no search.
SEEN_BY_EVAL = (*FOUNDATIONS, "data")
# From a module, nothing that registers itself in a room can be reached: it is looked up by name.
LOOKED_UP = {"training.loop": "training.objectives", "eval.measure.runner": "eval"}
# FAISS comes to it through one module.
EVAL_FAISS = "eval.faiss_library"
# The modules that join what the rooms around them keep apart, and what they may know.
JOINS = {"index.factory": "training", "index.opq": "training"}

Graph = dict[str, set[str]]


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _full(room: str) -> str:
    return room if room in ("torch", "faiss") else f"{PACKAGE}.{room}"


def _modules() -> dict[str, str]:
    """Source text by module name, of all three folders."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts))
            found[name] = path.read_text(encoding="utf-8")
    return found


@functools.cache
def _imports(module: str, source: str) -> tuple[tuple[str, bool], ...]:
    """Full names of everything imported, wherever in the file, and whether by a relative name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = module.split(".")[: -node.level] if node.level else []
            origin += [node.module] if node.module else []
            found += [(".".join((*origin, alias.name)), bool(node.level)) for alias in node.names]
    return tuple(found)


def _graph(modules: dict[str, str]) -> Graph:
    """What each module imports: our modules by name, all else by its top-level package."""
    graph: Graph = {}
    for module, source in modules.items():
        graph[module] = set()
        for name, _ in _imports(module, source):
            target = name
            while target not in modules and f"{target}.__init__" not in modules and "." in target:
                target = target.rpartition(".")[0]
            graph[module].add(target if target in modules else f"{target}.__init__")
            if target not in modules and f"{target}.__init__" not in modules:
                graph[module] = {*graph[module], target} - {f"{target}.__init__"}
    return graph


def _reached(graph: Graph, module: str) -> set[str]:
    """Everything a module imports, directly or not.

    That importing a.b runs a/__init__.py is left out: it would join everything to everything.
    """
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def violations(modules: dict[str, str]) -> list[str]:
    """One line for each arrow that runs the wrong way."""
    graph = _graph(modules)
    found = []
    for room, targets in FORBIDDEN.items():
        for module in (name for name in graph if _within(name, _full(room))):
            wrong = set(targets) - {JOINS.get(module.removeprefix(f"{PACKAGE}."))}
            found += [
                f"{module} -> {name}"
                for name in sorted(_reached(graph, module))
                if any(_within(name, _full(target)) for target in wrong)
            ]
    found += outside_of_the_face(modules)
    for origin, room in LOOKED_UP.items():
        found += [
            f"{_full(origin)} -> {name}"
            for name in sorted(_reached(graph, _full(origin)))
            if _within(name, _full(room)) and ".register(" in modules.get(name, "")
        ]
    for module, names in graph.items():
        if not any(_within(module, f"{PACKAGE}.{part}") for part in ("cli", "__main__")):
            found += [f"{module} -> {name}" for name in names if _within(name, f"{PACKAGE}.cli")]
    return found


def outside_of_the_face(modules: dict[str, str]) -> list[str]:
    """What the evaluation imports of this package and should not know, and FAISS past its door."""
    face = {f"{PACKAGE}.{name}" for name in _public(modules[f"{PACKAGE}.__init__"])}
    rooms = [_full(room) for room in ("eval", *SEEN_BY_EVAL)]
    found = []
    for module in (name for name in modules if _within(name, _full("eval"))):
        for name, _ in _imports(module, modules[module]):
            seen = name in face or name == PACKAGE or any(_within(name, room) for room in rooms)
            past = _within(name, "faiss") and module != _full(EVAL_FAISS)
            if past or (_within(name, PACKAGE) and not seen):
                found.append(f"{module} -> {name}")
    return found


def _public(source: str) -> list[str]:
    """The names in a module's __all__."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def imports_by_the_long_way(modules: dict[str, str]) -> list[str]:
    """Imports by a full name of what lies in the same folder at the top, and relative ones else."""
    found = []
    for module, source in modules.items():
        top = ".".join(module.split(".")[:2])
        own = top in FOLDERS and top != PACKAGE
        found += [
            f"{module}: {name}"
            for name, relative in _imports(module, source)
            if relative != (own and _within(name, top))
        ]
    return found


def test_arrows__run_the_right_way() -> None:
    assert violations(_modules()) == []


def test_arrows__training_and_eval_import_relatively_inside_themselves() -> None:
    assert imports_by_the_long_way(_modules()) == []


def test_arrows__every_rule_is_about_rooms_that_exist() -> None:
    modules = _modules()
    named = {*FORBIDDEN, *(name for names in FORBIDDEN.values() for name in names)}
    for room in named - {"torch", "faiss"}:
        assert any(_within(module, _full(room)) for module in modules), room
    assert {_full(module) for module in JOINS} <= set(modules)


PLANTED = [
    ("codebooks", "import torch.nn as nn"),
    ("files", "def f():\n    from torch import Tensor"),
    ("files", "from faiss_pqvae.native import faiss"),
    ("files", "from faiss_pqvae.model.clustering import assign"),
    ("data.source", "import faiss"),
    ("data.open", "from faiss_pqvae.model.pqvae import PQVAE"),
    ("model.product", "import faiss.contrib"),
    ("model.networks.conv", "from faiss_pqvae.native import faiss"),
    ("model.pqvae", "from faiss_pqvae.index import bundle"),
    ("native.inject", "from faiss_pqvae.model.pqvae import PQVAE"),
    ("native.scan.scan", "from faiss_pqvae.index.latent_index import LatentIndex"),
    ("index.latent_index", "import faiss_pqvae.training"),
    ("index.latent_index", "from faiss_pqvae.index.factory import parse"),  # by way of it
    ("index.gpu", "from faiss_pqvae.index.factory import index_factory"),
    ("index.bundle", "from faiss_pqvae.cli import main"),
    ("index.factory", "from faiss_pqvae.eval.metrics.precision import Ranking"),
    ("training.loop", "if True:\n    import faiss"),
    ("training.loop", "from faiss_pqvae import read_index"),  # by way of the face
    ("training.loop", "from .objectives.dqn import DQN"),
    ("training.build", "from .objectives import Ranking"),  # which the loop imports
    ("eval.measure.searching", "from ..methods.itq import rows"),
    ("eval.measure.runner", "from ..data.sets import mnist"),
    ("training.data.views", "from faiss_pqvae.eval.metrics import precision"),
    ("eval.metrics.precision", "from faiss_pqvae.training.config import TrainingConfig"),
    ("eval.measure.runner", "from faiss_pqvae import training"),
    ("eval.measure.runner", "from faiss_pqvae.native import faiss"),
    ("eval.measure.runner", "import faiss"),
    ("eval.measure.raw", "from ...index.bundle import read_index"),
    ("eval.methods.learned", "from faiss_pqvae.index.latent_index import LatentIndex"),
    ("eval.methods.learned", "import faiss_pqvae.model.pqvae"),
    ("eval.methods.pq", "def f():\n    from faiss_pqvae.cli.options import Learning"),
    ("eval.data.load", "from faiss_pqvae.model.config import ModelConfig"),
]


@pytest.mark.parametrize(("module", "line"), PLANTED)
def test_arrows__a_planted_violation_is_found(module: str, line: str) -> None:
    modules = _modules()
    name = f"{PACKAGE}.{module}"
    modules[name] += f"\n{line}\n"
    before = violations(_modules())
    assert set(violations(modules)) - set(before)


@pytest.mark.parametrize(
    "line",
    [
        "import faiss_pqvae as fpq",
        "from faiss_pqvae import LatentIndex, read_index",
        "from faiss_pqvae.registry import methods",
        "from faiss_pqvae.data.source import Source",
        "from ..faiss_library import faiss",
    ],
)
def test_arrows__eval_may_know_the_face(line: str) -> None:
    modules = _modules()
    modules[f"{PACKAGE}.eval.measure.runner"] += f"\n{line}\n"
    assert outside_of_the_face(modules) == []


def names_in_code(source: str, names: set[str]) -> list[str]:
    """Names that stand in the code of a module as text, outside of its docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docstrings
    )
    return sorted(names & set(texts))


@pytest.mark.parametrize(
    "module",
    [
        "training.loop",
        "index.latent_index",
        "eval.measure.runner",
        "eval.measure.searching",
        "cli.evaluate",
        "cli.report",
    ],
)
def test_arrows__a_run_knows_no_objective_method_or_data_set_by_name(module: str) -> None:
    names = {*datasets.names(), *methods.names(), *objectives.names()}
    source = _modules()[f"{PACKAGE}.{module}"]
    assert names_in_code(source, names) == []
    planted = f"{source}\nx = ['mnist5k', 'ITQ']\n"
    assert names_in_code(planted, names) == ["ITQ", "mnist5k"]


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("training.loop", "from faiss_pqvae.training.config import TrainingConfig"),
        ("model.pqvae", "from .networks import MLP"),
        ("eval.measure.runner", "from .results import Results"),
    ],
)
def test_arrows__the_way_of_an_import_is_found(module: str, line: str) -> None:
    name = f"{PACKAGE}.{module}"
    modules = {name: f"{line}\n"}
    assert bool(imports_by_the_long_way(modules)) == (module != "eval.measure.runner")
