"""Who may import whom: reads the imports of every module and fails on an arrow the wrong way."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = "faiss_pqvae"
ROOT = Path(__file__).parents[1]
FOLDERS = {
    PACKAGE: ROOT / "faiss_pqvae",
    f"{PACKAGE}.training": ROOT / "training",
    f"{PACKAGE}.eval": ROOT / "eval",
}
CLI, TRAINING, EVAL = f"{PACKAGE}.cli", f"{PACKAGE}.training", f"{PACKAGE}.eval"
NATIVE = tuple(
    f"{PACKAGE}.native{part}"
    for part in ("", "_additive", "_checks", "_io", "_layout", "_product", "_walk")
)
SEARCH = ("scan", "kernels", "stored", "changes", "ids", "search_parameters", "store")
SCANS = tuple(f"{PACKAGE}.{name}" for name in (*SEARCH, "gpu_layout"))
ABOVE = tuple(f"{PACKAGE}.{name}" for name in ("gpu", "factory", "bundle"))
INDEXES = (*NATIVE, *SCANS, f"{PACKAGE}.index", *ABOVE)

# From each of these modules, none of those can be reached, directly or through others.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    **{
        f"{PACKAGE}.{name}": ("torch", "faiss")
        for name in (
            *("codebooks", "files", "packing", "grammar"),
            *("sources", "rows", "images", "vectors", "tables"),
        )
    },
    **{
        f"{PACKAGE}.{name}": ("faiss", *NATIVE, f"{PACKAGE}.index")
        for name in ("quantizer", "networks", "model", "inputs")
    },
    **dict.fromkeys(NATIVE, (f"{PACKAGE}.model",)),
    **dict.fromkeys(SCANS, (f"{PACKAGE}.model", f"{PACKAGE}.index")),
    **dict.fromkeys(
        (f"{PACKAGE}.transforms", f"{PACKAGE}.refine", f"{PACKAGE}.export"),
        (TRAINING, f"{PACKAGE}.index"),
    ),
    f"{PACKAGE}.index": (TRAINING, *ABOVE),
    f"{PACKAGE}.gpu": (TRAINING, EVAL),
    TRAINING: ("faiss", EVAL, *INDEXES),
    EVAL: (TRAINING,),
}

Graph = dict[str, set[str]]


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _modules() -> dict[str, str]:
    """Source text by module name, of all three folders."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found[name] = path.read_text(encoding="utf-8")
    return found


@functools.cache
def _imports(source: str) -> tuple[str, ...]:
    """Full names of everything imported, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"expected absolute imports, got line {node.lineno}"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def _graph(modules: dict[str, str]) -> Graph:
    """What each module imports: our modules by name, all else by its top-level package."""
    graph: Graph = {}
    for module, source in modules.items():
        graph[module] = set()
        for name in _imports(source):
            target = name
            while target not in modules and "." in target:
                target = target.rpartition(".")[0]
            graph[module].add(target)
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
    for module in graph:
        reached = _reached(graph, module)
        for origin, targets in FORBIDDEN.items():
            if _within(module, origin):
                found += [
                    f"{module} -> {name}"
                    for name in sorted(reached)
                    if any(_within(name, target) for target in targets)
                ]
        if not _within(module, CLI) and module != f"{PACKAGE}.__main__":
            direct = [name for name in graph[module] if _within(name, CLI)]
            found += [f"{module} -> {name}" for name in direct]
            if all(any(_within(name, side) for name in reached) for side in (TRAINING, EVAL)):
                found.append(f"{module} -> {TRAINING} and {EVAL}")
    return found


def test_arrows__run_the_right_way() -> None:
    assert violations(_modules()) == []


def test_arrows__every_rule_is_about_modules_that_exist() -> None:
    modules = _modules()
    assert set(FORBIDDEN) <= set(modules)
    targets = {name for names in FORBIDDEN.values() for name in names} - {"torch", "faiss"}
    assert targets <= set(modules)


PLANTED = [
    ("codebooks", "import torch.nn as nn"),
    ("sources", "def f():\n    from torch import Tensor"),
    ("files", "import faiss"),
    ("rows", "from faiss_pqvae.native import faiss"),
    ("files", "from faiss_pqvae.quantizer import assign"),  # torch by way of another module
    ("quantizer", "import faiss.contrib"),
    ("networks", "from faiss_pqvae.native import faiss"),
    ("model", "from faiss_pqvae import index"),
    ("inputs", "from faiss_pqvae.index import LatentIndex"),
    ("native", "from faiss_pqvae.model import PQVAE"),
    ("packing", "from faiss_pqvae.native import faiss"),
    ("scan", "from faiss_pqvae.index import LatentIndex"),
    ("kernels", "from faiss_pqvae.model import PQVAE"),
    ("index", "import faiss_pqvae.training"),
    ("index", "from faiss_pqvae.factory import parse"),  # which imports training
    ("index", "from faiss_pqvae.gpu import index_cpu_to_gpu"),
    ("gpu", "from faiss_pqvae.factory import index_factory"),
    ("gpu_layout", "from faiss_pqvae.index import LatentIndex"),
    ("training.loop", "if True:\n    import faiss"),
    ("training.loop", "from faiss_pqvae import read_index"),
    ("training.views", "from faiss_pqvae.eval import metrics"),
    ("eval.metrics", "from faiss_pqvae.training.config import TrainingConfig"),
    ("bundle", "from faiss_pqvae.cli import main"),
    ("factory", "from faiss_pqvae.eval.metrics import Ranking"),
]


@pytest.mark.parametrize(("module", "line"), PLANTED)
def test_arrows__a_planted_violation_is_found(module: str, line: str) -> None:
    modules = {f"{PACKAGE}.cli": "", **_modules()}
    name = f"{PACKAGE}.{module}"
    modules[name] += f"\n{line}\n"
    assert any(found.startswith(f"{name} -> ") for found in violations(modules))


def test_arrows__relative_imports_are_found() -> None:
    with pytest.raises(AssertionError, match="absolute imports, got line 1"):
        violations({f"{PACKAGE}.files": "from . import model"})
