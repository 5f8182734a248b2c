"""The table of kinds: what a line of it has to say, whichever kind it is."""

from pathlib import Path

import pytest

from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.layout import FILES, LAYOUTS
from faiss_pqvae.native.inject import new_residual_index
from faiss_pqvae.native.kinds import KINDS, kind_of, known_kind

every_kind = pytest.mark.parametrize("name", KINDS)


@every_kind
def test_kind__has_the_name_of_a_class_of_faiss(name: str) -> None:
    assert issubclass(getattr(faiss, name), faiss.Index)
    assert KINDS[name].name == name


def test_kind_of__goes_by_the_class_itself() -> None:
    assert kind_of(faiss.IndexPQ(8, 2, 4)) is KINDS["IndexPQ"]
    pqr = faiss.IndexIVFPQR(faiss.IndexFlatL2(8), 8, 4, 2, 4, 2, 4)  # an IndexIVFPQ, and more
    assert isinstance(pqr, faiss.IndexIVFPQ)
    assert known_kind(pqr) is None
    with pytest.raises(TypeError, match="got IndexIVFPQR"):
        kind_of(pqr)


@pytest.mark.parametrize("kind", ["PQ", "PQfs", "IVF", "IVFfs", "HNSW", "RQ"])
def test_kind__of_every_index_that_the_other_tests_are_about(make_native, kind) -> None:
    index = new_residual_index(8, 2, 4) if kind == "RQ" else make_native(kind, 4, faiss.METRIC_L2)
    found = kind_of(index)
    assert found.stores
    written = faiss.serialize_index(index).tobytes()
    assert written[:4].decode() == found.file


def test_kind__in_files_has_a_layout_of_its_own() -> None:
    files = [kind.file for kind in KINDS.values() if kind.file]
    assert len(set(files)) == len(files)
    assert set(files) <= FILES["index"] & set(LAYOUTS)
    assert all(LAYOUTS[kind.file] is kind.layout for kind in KINDS.values() if kind.file)


def test_kind__lists_itself_from_a_file_of_its_own() -> None:
    folder = Path(kind_of.__code__.co_filename).parent
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    for name in KINDS:
        (own,) = [stem for stem, text in texts.items() if f'    name="{name}",' in text]
        assert f"    {own},\n" in texts["__init__"]
