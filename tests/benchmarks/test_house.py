"""The numbers of the house, counted by hand on a made-up tree."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import house
import pytest

FILES = {
    "faiss_pqvae/__init__.py": "from faiss_pqvae.top import f\n",
    "faiss_pqvae/top.py": """\
import faiss
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.training import fit


def f(x):
    return isinstance(x, faiss.IndexPQ | faiss.IndexIVF) or isinstance(x, (int, faiss.Index))
""",
    "faiss_pqvae/model/__init__.py": "",
    "faiss_pqvae/model/config.py": """\
from faiss_pqvae import base


@decorator
class ModelConfig:
    '''The objective, contrastive or not: prose names none.'''

    objective = "reconstruction"
""",
    "faiss_pqvae/base.py": "import json\n\n\nclass Small:\n    pass\n",
    "training/__init__.py": "from .loop import fit\n",
    "training/loop.py": "from .objectives import a\nfrom faiss_pqvae.base import Small\n",
    "training/objectives/__init__.py": "",
    "training/objectives/a.py": """\
def f(config):
    from ..loop import g
    return g(config.supervised)
""",
    "eval/__init__.py": "import faiss_pqvae\n",
    "tests/test_a.py": "OBJECTIVE = 'contrastive'\n\nx = 1\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_measure__counts_as_a_reader_does(tree):
    assert house.measure(tree) == {
        "files, largest room": "faiss_pqvae/, 3",
        "files, eval/": 1,
        "files, faiss_pqvae/": 3,
        "files, faiss_pqvae/model/": 2,
        "files, training/": 2,
        "files, training/objectives/": 2,
        # eval, __init__, top, training, base; loop and objectives are a circle below training.
        "floors, rooms of the house": 5,
        "floors, rooms of training/": 2,
        "floors, rooms of eval/": 1,
        # eval, __init__, top, training, loop with a, base.
        "floors, modules": 6,
        "circles, rooms of the house": 0,
        "circles, rooms of training/": 1,
        "circles, rooms of eval/": 0,
        "circles, modules": 1,
        "lines, largest file": "faiss_pqvae/model/config.py, 8",
        "lines, largest class": "ModelConfig, 5",
        "lines, LatentIndex": None,
        "lines, Store": None,
        "lines, ModelConfig": 5,
        "lines, faiss_pqvae/cli/evaluate.py": None,
        "lines, training/loop.py": 2,
        "names an objective, files": 2,
        "names an objective, faiss_pqvae/": 1,
        "names an objective, training/": 1,
        "names an objective, eval/": 0,
        "names an objective, outside training/objectives/": 1,
        "asks for a kind, questions": 2,
        "asks for a kind, files": 1,
        "lines in all, code": 28,
        "lines in all, faiss_pqvae/": 21,
        "lines in all, training/": 6,
        "lines in all, eval/": 1,
        "lines in all, tests/": 3,
    }


@pytest.mark.parametrize(
    ("arrows", "floors", "circles"),
    [
        ({}, 0, []),
        ({"a": "", "b": ""}, 1, []),
        ({"a": "bc", "b": "c", "c": ""}, 3, []),
        ({"a": "b", "b": "a", "c": "a", "d": "c"}, 3, ["ab"]),
        ({"a": "b", "b": "c", "c": "a", "d": "e", "e": "d"}, 1, ["abc", "de"]),
    ],
)
def test_floors_and_circles(arrows, floors, circles):
    graph = {name: set(targets) for name, targets in arrows.items()}
    assert house.floors(graph) == floors
    assert house.circles(graph) == [set(circle) for circle in circles]


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("x = 'dqn'", True),
        ("def f() -> Literal['ranking']: ...", True),
        ("model.contrastive", True),
        ("if config.supervised: pass", True),
        ("'''dqn is an objective'''", False),
        ("dqn = contrastive = 1", False),
        ("x = 'DQN'", False),
        ("from .objectives.contrastive import x", False),
        ("# 'dqn'", False),
    ],
)
def test_names_objective(code, named):
    assert house.names_objective(ast.parse(code)) is named


@pytest.mark.parametrize(
    ("code", "questions"),
    [
        ("isinstance(x, faiss.IndexPQ)", 1),
        ("isinstance(x, (faiss.IndexPQ, faiss.IndexIVF)); isinstance(y, faiss.Index)", 2),
        ("isinstance(x, faiss.IDSelector)", 0),
        ("isinstance(x, other.IndexPQ)", 0),
        ("faiss.IndexPQ(8, 4, 8)", 0),
    ],
)
def test_kind_questions(code, questions):
    assert house.kind_questions(ast.parse(code)) == questions


def test_table__rows_that_one_tree_lacks():
    table = house.table({"a": {"files, x/": 1, "lines": 22}, "b": {"files, w/": 3, "lines": None}})
    assert [line.split() for line in table.splitlines()] == [
        ["a", "b"],
        ["files,", "w/", "-", "3"],
        ["files,", "x/", "1", "-"],
        ["lines", "22", "-"],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_main__of_a_revision_and_a_folder(tree, tmp_path, monkeypatch, capsys):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"], ["tag", "before"]):
        subprocess.run([*git, *command], cwd=tree, check=True)
    (tree / "eval" / "new.py").write_text("x = 1\n")
    monkeypatch.setattr(house, "REPOSITORY", tree)
    out = tmp_path / "numbers.json"
    house.main(["before", str(tree), "--json", str(out)])
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["before", "working", "tree"]
    assert next(row.split() for row in rows if "files, eval/" in row) == [
        "files,",
        "eval/",
        "1",
        "2",
    ]
    written = json.loads(out.read_text())["trees"]
    assert written["working tree"] == house.measure(tree)
    assert written["before"]["lines in all, eval/"] == 1


@pytest.mark.parametrize("name", ["no-such-revision", "."])
def test_main__what_is_no_tree_ends_with_a_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"house.py: expected"):
        house.main([name])


def test_main__needs_python_alone():
    """Of this very tree, without the site's packages."""
    command = [sys.executable, "-I", "-S", house.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "lines, LatentIndex" in done.stdout
