"""The plan of the house in numbers: files a room, floors, circles, lines, who names an objective.

    python benchmarks/house.py [REVISION_OR_FOLDER ...] [--json FILE]

One column a tree: the working tree, a git revision or another folder; without an argument the
working tree. It reads the text of the files, with Python's standard library alone. The rows:

files: of Python in a room (a folder), `__init__.py` among them, without the rooms inside it.
floors: modules on the longest chain of imports, each of which imports the next, wherever in a file
    an import stands. Of rooms: what lies directly in a folder, be it a file or a folder, is one;
    in the house, which is the package as it is installed, training and eval are one each.
circles: groups that import each other, directly or not. A circle counts as one floor.
names an objective: a file with the name of an objective as a string of its own, or that asks for
    `.contrastive` or `.supervised`; without the tests.
asks for a kind: calls of `isinstance` with one of FAISS's indexes, `faiss.Index...`.
lines: of files, and of classes from the first decorator to the last line.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

PACKAGE = "faiss_pqvae"
CODE = (PACKAGE, "training", "eval")  # folder at the top; the last two are packages of the first
OBJECTIVES = {"reconstruction", "contrastive", "dqn", "dpq", "ranking"}
OBJECTIVE_QUESTIONS = {"contrastive", "supervised"}
FILES_OF_INTEREST = (f"{PACKAGE}/cli/evaluate.py", "training/loop.py")
CLASSES_OF_INTEREST = ("LatentIndex", "Store", "ModelConfig")
REPOSITORY = Path(__file__).resolve().parents[1]

Graph = dict[str, set[str]]
Numbers = dict[str, Any]


def measure(root: Path) -> Numbers:
    """All numbers of one tree.

    Args:
        root: folder with `faiss_pqvae`, `training` and `eval`.

    Returns:
        Rows in order: integers, "NAME, LINES" of what is largest, None for what is not there.

    Raises:
        FileNotFoundError: none of the three folders is there.
        SyntaxError: a file that is no Python.
    """
    texts = _texts(root, CODE)
    if not texts:
        raise FileNotFoundError(f"expected the folders {', '.join(CODE)} in {root}, found none")
    trees = {path: ast.parse(text, path) for path, text in texts.items()}
    lines = {path: _count_lines(text) for path, text in texts.items()}
    classes = dict(sorted(_classes(trees)))
    tests = {path: _count_lines(text) for path, text in _texts(root, ("tests",)).items()}
    named = [path for path, tree in trees.items() if names_objective(tree)]
    rooms = Counter(f"{Path(path).parent.as_posix()}/" for path in texts)
    largest = max(rooms, key=lambda room: rooms[room])
    return {
        "files, largest room": f"{largest}, {rooms[largest]}",
        **{f"files, {room}": count for room, count in sorted(rooms.items())},
        **_graph_numbers(trees),
        "lines, largest file": _largest(lines),
        "lines, largest class": _largest(classes),
        **{f"lines, {name}": classes.get(name) for name in CLASSES_OF_INTEREST},
        **{f"lines, {name}": lines.get(name) for name in FILES_OF_INTEREST},
        "names an objective, files": len(named),
        **{
            f"names an objective, {folder}/": sum(path.startswith(f"{folder}/") for path in named)
            for folder in CODE
        },
        "names an objective, outside training/objectives/": sum(
            not path.startswith("training/objectives/") for path in named
        ),
        "asks for a kind, questions": sum(map(kind_questions, trees.values())),
        "asks for a kind, files": sum(kind_questions(tree) > 0 for tree in trees.values()),
        "lines in all, code": sum(lines.values()),
        **{
            f"lines in all, {folder}/": sum(
                count for path, count in lines.items() if path.startswith(f"{folder}/")
            )
            for folder in CODE
        },
        "lines in all, tests/": sum(tests.values()),
    }


def _graph_numbers(trees: dict[str, ast.Module]) -> Numbers:
    modules = {module_name(path): tree for path, tree in trees.items()}
    packages = {module_name(path) for path in trees if Path(path).name == "__init__.py"}
    graph = import_graph(modules, packages)
    graphs = {"rooms of the house": rooms_graph(graph, PACKAGE)}
    for folder in CODE[1:]:
        graphs[f"rooms of {folder}/"] = rooms_graph(graph, package_name(folder))
    graphs["modules"] = graph
    return {
        **{f"floors, {what}": floors(arrows) for what, arrows in graphs.items()},
        **{f"circles, {what}": len(circles(arrows)) for what, arrows in graphs.items()},
    }


def _texts(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Text of every Python file, by its path from the root."""
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((root / folder).rglob("*.py"))
    }


def _count_lines(text: str) -> int:
    return len(text.splitlines())


def _classes(trees: dict[str, ast.Module]) -> list[tuple[str, int]]:
    """Name and lines of every class; of two with one name the longer one comes last."""
    found = []
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                first = min([node.lineno, *(part.lineno for part in node.decorator_list)])
                found.append((node.name, (node.end_lineno or first) - first + 1))
    return found


def _largest(lines: dict[str, int]) -> str | None:
    if not lines:
        return None
    name = max(lines, key=lambda name: lines[name])
    return f"{name}, {lines[name]}"


# -- what a file says


def names_objective(tree: ast.AST) -> bool:
    """Whether code has an objective's name as a string, or asks a configuration which it is."""
    return any(
        (isinstance(node, ast.Constant) and node.value in OBJECTIVES)
        or (isinstance(node, ast.Attribute) and node.attr in OBJECTIVE_QUESTIONS)
        for node in ast.walk(tree)
    )


def kind_questions(tree: ast.AST) -> int:
    """How often code asks whether something is one of FAISS's indexes."""
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and len(node.args) == 2
        and any(map(_is_native_kind, ast.walk(node.args[1])))
        for node in ast.walk(tree)
    )


def _is_native_kind(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr.startswith("Index")
        and isinstance(node.value, ast.Name)
        and node.value.id == "faiss"
    )


# -- who imports whom


def package_name(folder: str) -> str:
    """The name that a folder at the top is installed by."""
    return folder if folder == PACKAGE else f"{PACKAGE}.{folder}"


def module_name(path: str) -> str:
    """The name that a file is imported by, from its path: training/loop.py and so on."""
    top, *parts = Path(path).with_suffix("").parts
    if parts[-1:] == ["__init__"]:
        parts.pop()
    return ".".join((package_name(top), *parts))


def import_graph(modules: dict[str, ast.Module], packages: Iterable[str] = ()) -> Graph:
    """What each module imports of the others.

    That importing a.b runs a/__init__.py is left out: it would join everything to everything.

    Args:
        modules: syntax trees by name.
        packages: the names that are folders, from where relative imports count.
    """
    packages = set(packages)
    graph: Graph = {}
    for module, tree in modules.items():
        graph[module] = set()
        for name in _imported(tree, module, is_package=module in packages):
            while name not in modules and "." in name:
                name = name.rpartition(".")[0]
            if name in modules and name != module:
                graph[module].add(name)
    return graph


def _imported(tree: ast.Module, module: str, *, is_package: bool) -> list[str]:
    """Full names of everything that is imported."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            up = node.level - is_package
            origin = parts[: len(parts) - up] if node.level else []
            origin += [node.module] if node.module else []
            found += [".".join((*origin, alias.name)) for alias in node.names]
    return found


def rooms_graph(graph: Graph, package: str) -> Graph:
    """The arrows between what lies directly in a package; arrows out of it are left out."""
    rooms: Graph = {}
    for module, targets in graph.items():
        if _within(module, package):
            reached = {_room(target, package) for target in targets if _within(target, package)}
            here = _room(module, package)
            rooms.setdefault(here, set()).update(reached - {here})
    return rooms


def _room(module: str, package: str) -> str:
    return module.removeprefix(package).removeprefix(".").partition(".")[0] or "__init__"


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def circles(graph: Graph) -> list[set[str]]:
    """The groups of two or more that reach each other."""
    return [group for group in _groups(graph) if len(group) > 1]


def floors(graph: Graph) -> int:
    """Length of the longest chain, counted in modules; a circle is one of them."""
    group_of = {name: frozenset(group) for group in _groups(graph) for name in group}
    height: dict[frozenset[str], int] = {}

    def climb(group: frozenset[str]) -> int:
        if group not in height:
            below = {group_of[target] for name in group for target in graph[name]} - {group}
            height[group] = 1 + max(map(climb, below), default=0)
        return height[group]

    return max(map(climb, group_of.values()), default=0)


def _groups(graph: Graph) -> list[set[str]]:
    """Strongly connected components."""
    reached = {name: _reached(graph, name) for name in graph}
    groups: list[set[str]] = []
    seen: set[str] = set()
    for name in graph:
        if name not in seen:
            groups.append({name} | {other for other in reached[name] if name in reached[other]})
            seen |= groups[-1]
    return groups


def _reached(graph: Graph, name: str) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        new = graph[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


# -- trees and their table


def opened(tree: str) -> AbstractContextManager[Any]:
    """A folder with the files of a tree, while the context lasts.

    Args:
        tree: a folder, or else a revision of the repository that this script is in.

    Raises:
        ValueError: neither.
    """
    if Path(tree).is_dir():
        return nullcontext(tree)
    try:
        archive = subprocess.run(
            ["git", "archive", "--format=tar", tree],
            cwd=REPOSITORY,
            capture_output=True,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode().strip()
        raise ValueError(f"expected a folder or a git revision, got {tree!r}: {reason}") from error
    folder = tempfile.TemporaryDirectory()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder.name, filter="data")
    return folder


def table(columns: dict[str, Numbers]) -> str:
    """Numbers of several trees side by side, as text; a row of a tree that lacks it is "-"."""
    names = list(dict.fromkeys(name for numbers in columns.values() for name in numbers))
    groups = list(dict.fromkeys(name.split(",")[0] for name in names))

    def place(name: str) -> tuple[int, str]:
        group = name.split(",")[0]
        is_room = group == "files" and name.endswith("/")
        return groups.index(group), name if is_room else ""  # rooms by name, the rest as it came

    rows = [["", *columns]]
    for name in sorted(names, key=place):
        values = (numbers.get(name) for numbers in columns.values())
        rows.append([name, *("-" if value is None else str(value) for value in values)])
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table, and writes its numbers where a file is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="*", metavar="REVISION_OR_FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    columns = {}
    try:
        for tree in options.trees or [str(REPOSITORY)]:
            with opened(tree) as folder:
                here = Path(folder).resolve() == REPOSITORY
                columns["working tree" if here else tree] = measure(Path(folder))
    except (OSError, ValueError, SyntaxError) as error:
        sys.exit(f"house.py: {error}")
    if options.json is not None:
        command = shlex.join(["python", "benchmarks/house.py", *given])
        contents = json.dumps({"command": command, "trees": columns}, indent=2)
        options.json.write_text(f"{contents}\n", encoding="utf-8")
    print(table(columns))


if __name__ == "__main__":
    main()
