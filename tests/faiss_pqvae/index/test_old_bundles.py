"""Bundles that earlier versions wrote, kept here: they are read, and find what they found then.

Beside every folder of `bundles/` is a JSON file with what the version that wrote it made of three
queries, and the commit of that version. The bundles are never written anew: a version that cannot
read one of them has broken its users' files. Those of format 1 are of IndexPQ only, the kind it was
made for; format2-early is of the time when vectors had an "mlp" encoder by default, which their
configuration does not name.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.cli import main

BUNDLES = Path(__file__).with_name("bundles")
NAMES = sorted(path.stem for path in BUNDLES.glob("*.json"))
RTOL, ATOL = 1e-5, 1e-6
# A fast scan rounds its tables to 8 bits: one rounding that falls the other way is a step.
FAST_SCAN_RTOL = 1e-2


def _expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((BUNDLES / f"{name}.json").read_text())
    return found


def _queries(expected: dict[str, Any]) -> np.ndarray:
    images = len(expected["input_shape"]) == 3
    return np.array(expected["queries"], np.uint8 if images else np.float32)


def _check_search(index: fpq.LatentIndex, expected: dict[str, Any], search_type: str) -> None:
    """Fails unless distances are the same, and ids but for ties."""
    index.search_type = search_type
    D, I = index.search(_queries(expected), expected["k"])  # noqa: E741 - FAISS's names
    D_old, I_old = (np.array(expected[search_type][name]) for name in "DI")
    rtol = FAST_SCAN_RTOL if "fs" in expected["description"] else RTOL
    np.testing.assert_allclose(D, D_old, rtol=rtol, atol=ATOL)
    for row, row_old, distances in zip(I, I_old, D_old, strict=True):
        # What was not among them can only be one of several at the last place.
        before = dict(zip(row_old, distances, strict=True))
        was_at = [before.get(found, distances[-1]) for found in row]
        np.testing.assert_allclose(was_at, distances, rtol=2 * rtol, atol=2 * ATOL)
        assert len(set(row)) == len(row)


def _check(index: fpq.LatentIndex, expected: dict[str, Any]) -> None:
    for name in ("description", "metric_type", "ntotal", "search_type", "k_factor"):
        assert getattr(index, name) == expected[name]
    assert list(index.input_shape) == expected["input_shape"]
    assert index.sa_code_size() == expected["sa_code_size"]
    q = _queries(expected)
    np.testing.assert_allclose(index.encode(q), expected["latents"], rtol=RTOL, atol=1e-5)
    assert index.sa_encode(q).tolist() == expected["codes"]
    ids, x = expected["reconstruct"]["ids"], np.array(expected["reconstruct"]["x"])
    np.testing.assert_allclose(index.reconstruct_batch(ids), x, rtol=RTOL, atol=ATOL)
    decoded = index.decode(x.astype(np.float32)).reshape(len(x), -1)[:1]
    np.testing.assert_allclose(decoded, expected["decoded"], rtol=RTOL, atol=1e-5)
    for search_type in ("adc", "sdc"):
        _check_search(index, expected, search_type)
    index.search_type = expected["search_type"]


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_bundles__are_there_and_small():
    assert len(NAMES) >= 25
    assert {path.name for path in BUNDLES.iterdir() if path.is_dir()} == set(NAMES)
    formats = [json.loads((BUNDLES / name / "config.json").read_text())["format"] for name in NAMES]
    assert set(formats) == {1, 2}
    files = [path for path in BUNDLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 400_000


@pytest.mark.parametrize("name", NAMES)
def test_read__finds_what_it_found(name):
    before = _contents(BUNDLES / name)
    _check(fpq.read_index(BUNDLES / name), _expected(name))
    assert _contents(BUNDLES / name) == before


@pytest.mark.parametrize("name", [name for name in NAMES if "fast-scan" not in name])
def test_read__mapped_into_memory(name):
    _check(fpq.read_index(BUNDLES / name, mmap=True), _expected(name))


@pytest.mark.parametrize("name", NAMES)
def test_write__in_its_place_reads_the_same(name, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLES / name, folder)
    old = fpq.read_index(folder)
    fpq.write_index(old, folder)
    new = fpq.read_index(folder)
    _check(new, _expected(name))
    q = _queries(_expected(name))
    for a, b in zip(old.search(q, 5), new.search(q, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    written = json.loads((folder / "config.json").read_text())
    named = {file["name"] for file in written["files"].values()}
    assert {path.name for path in folder.iterdir()} == {"config.json", *named}
    fpq.write_index(new, tmp_path / "again")  # and so on, to the byte
    again = _contents(tmp_path / "again")
    assert {name: again[name] for name in named} == {
        name: _contents(folder)[name] for name in named
    }


@pytest.mark.parametrize("name", NAMES)
def test_info__says_what_is_inside(name, capsys):
    main(["info", str(BUNDLES / name)])
    printed = capsys.readouterr().out
    expected = _expected(name)
    assert expected["description"] in printed
    assert f"{expected['ntotal']} of {expected['sa_code_size']} bytes" in printed
