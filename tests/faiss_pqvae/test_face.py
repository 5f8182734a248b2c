"""The face: its names are imported when they are asked for, and all lists of them agree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import faiss_pqvae as fpq

FACE = Path(fpq.__file__)
# What commands need that look at nothing but their arguments.
LIGHT = """
import sys
import faiss_pqvae
assert {"faiss_pqvae", "faiss_pqvae.checkout"} == {n for n in sys.modules if n[:5] == "faiss"}
assert "numpy" not in sys.modules
faiss_pqvae.Codebooks, faiss_pqvae.encoders
from faiss_pqvae.cli import main
for arguments in (["--help"], ["--version"], ["serach"], [], ["search", "--help"],
                  ["build", "--help"], ["info", "--help"], ["add", "--help"]):
    try:
        main(arguments)
    except SystemExit:
        pass
heavy = {"torch", "faiss", "scipy", "matplotlib", "PIL", "pyarrow", "h5py", "pandas", "jinja2"}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def test_all__is_what_readers_of_types_see_and_what_is_imported() -> None:
    tree = ast.parse(FACE.read_text(encoding="utf-8"))
    (seen,) = (node for node in tree.body if isinstance(node, ast.If))
    homes = {
        alias.name: str(node.module)
        for node in seen.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == {name: f"faiss_pqvae.{home}" for name, home in fpq._HOME_OF.items()}
    assert sorted(homes) == sorted(fpq.__all__)


@pytest.mark.parametrize("name", [*fpq.__all__, "index", "native", "training", "eval"])
def test_face__has_every_name(name: str) -> None:
    found = getattr(fpq, name)
    assert name in dir(fpq)
    assert found is getattr(fpq, name)


def test_face__refuses_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'faiss_pqvae' has no attribute 'indx'"):
        _ = fpq.indx
    with pytest.raises(ImportError, match="cannot import name 'read_indx'"):
        from faiss_pqvae import read_indx  # noqa: F401


def test_import__and_the_commands_help_need_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], check=True, capture_output=True, text=True, cwd=FACE.parent
    )
    *_, heavy = done.stderr.split("\n")[:-1]
    assert heavy == ""
    assert "did you mean 'search'?" in done.stderr
    assert f"faiss-pqvae {fpq.__version__}" in done.stdout
    assert "Print what a bundle holds" in done.stdout
