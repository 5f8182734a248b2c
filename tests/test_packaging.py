"""What is installed: the wheel, built from a source archive, built from a copy of the tree."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import faiss_pqvae as fpq

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "faiss_pqvae": "faiss_pqvae",
    "training": "faiss_pqvae/training",
    "eval": "faiss_pqvae/eval",
}
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
# Of these setuptools would take tests/test*.py.
NOT_PACKED = ("tests", "results", "docs", "examples", "benchmarks")
# The version is read from a text: nothing of the package is imported, and so no torch.
BUILD = """
import sys
from setuptools import build_meta
print(build_meta.build_{what}({out!r}))
assert not {{"torch", "faiss", "faiss_pqvae"}} & set(sys.modules)
"""


def _build(what: str, tree: Path, out: Path) -> Path:
    out.mkdir()
    command = [sys.executable, "-c", BUILD.format(what=what, out=str(out))]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source archive, unpacked."""
    place = tmp_path_factory.mktemp("packaging")
    tree = place / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in NOT_PACKED:
        (tree / name).mkdir()
        (tree / name / "__init__.py").touch()
        for path in [path for path in (ROOT / name).iterdir() if path.is_file()][:3]:
            shutil.copy(path, tree / name)
    shutil.copy(ROOT / "tests/test_packaging.py", tree / "tests")
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    with tarfile.open(_build("sdist", tree, place / "sdist")) as archive:
        archive.extractall(place / "source", filter="data")
    (source,) = (place / "source").iterdir()
    return source


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return _build("wheel", source, source.parent.parent / "wheel")


def test_source__has_what_the_wheel_is_built_from_and_nothing_else(source):
    made = {"PKG-INFO", "setup.cfg", "faiss_pqvae.egg-info"}
    assert {path.name for path in source.iterdir()} == {*FOLDERS, *FILES, *made}


def test_version__is_in_one_place():
    for name in ("pyproject.toml", "setup.py"):
        assert fpq.__version__ not in (ROOT / name).read_text(encoding="utf-8")
    assert re.fullmatch(r"\d+\.\d+\.\d+", fpq.__version__)


def test_wheel__has_the_three_folders_and_nothing_else(wheel):
    expected = {
        (Path(package) / path.relative_to(ROOT / folder)).as_posix()
        for folder, package in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".html", ".typed")
    }
    assert {"faiss_pqvae/py.typed", "faiss_pqvae/eval/report/report.html"} <= expected
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_wheel__says_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    info = f"faiss_pqvae-{fpq.__version__}.dist-info"
    metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert metadata["Version"] == fpq.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert len(metadata.get_all("Project-URL")) == 4
    description = metadata.get_payload()
    assert "FAISS indexes below one bit a dimension" in description
    for target in re.findall(r"\]\(([^)\s]+)\)", description):
        assert target.startswith("https://")
        _, inside, path = target.partition("/main/")
        assert not inside or (ROOT / path).exists()
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert b"faiss-pqvae = faiss_pqvae.cli:main" in archive.read(f"{info}/entry_points.txt")


def test_wheel__needs_no_faiss_but_that_of_an_extra(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = email.message_from_bytes(
        archive.read(f"faiss_pqvae-{fpq.__version__}.dist-info/METADATA")
    )
    requires = metadata.get_all("Requires-Dist")
    required = {line.split(">")[0] for line in requires if "extra ==" not in line}
    assert required == {"torch", "numpy", "scipy", "tqdm", "safetensors", "tyro"}
    assert [line for line in requires if line.startswith(("faiss-cpu", "faiss-gpu"))] == [
        'faiss-cpu>=1.15.1; extra == "cpu"',
        'faiss-gpu>=1.15.1; extra == "gpu"',
    ]


def test_wheel__unpacked_is_importable_and_knows_its_version(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import importlib.metadata, faiss_pqvae, faiss_pqvae.training, faiss_pqvae.eval as e;"
        "print(faiss_pqvae.__version__, importlib.metadata.version('faiss-pqvae'));"
        "print(faiss_pqvae.__file__, e.__file__, sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    versions, *files = done.stdout.splitlines()
    assert versions.split() == [fpq.__version__] * 2
    assert files == [str(tmp_path / f"faiss_pqvae/{name}__init__.py") for name in ("", "eval/")]
