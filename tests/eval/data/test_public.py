"""Public sets by name: opened where they are, else what goes where."""

import h5py
import numpy as np
import pytest

from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.sets.public import PUBLIC
from faiss_pqvae.registry import datasets


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FAISS_PQVAE_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sift1m",
            r"put sift_base.fvecs, .* from ftp://ftp\.irisa\.fr/.*/sift\.tar\.gz into .*/sift",
        ),
        ("glove-100-angular", r"put glove-100-angular\.hdf5 from http://ann-benchmarks\.com/glove"),
        (
            "yi-128-ip",
            r"from https://huggingface\.co/datasets/vector-index-bench/vibe/.*/yi-128-ip",
        ),
        ("deep10m", r"put base\.10M\.fbin, query\.public\.10K\.fbin from https://storage\.yandex"),
    ],
)
def test_load__says_what_goes_where(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        load(name)


def test_load__says_where_from_also_without_a_folder(monkeypatch):
    monkeypatch.delenv("FAISS_PQVAE_DATA")
    with pytest.raises(ValueError, match=r"set the environment .*; sift1m comes from ftp://ftp\."):
        load("sift1m")


def test_load__all_names_are_registered():
    assert {*datasets.names()} >= PUBLIC


@pytest.mark.parametrize(
    ("name", "distance", "metric", "scaled"),
    [
        ("agnews-mxbai-1024-euclidean", "euclidean", "l2", False),
        ("glove-200-cosine", "cosine", "l2", True),
        ("yahoo-minilm-384-normalized", "normalized", "l2", False),
        ("llama-128-ip", "ip", "inner_product", False),
        ("lastfm-64-dot", "dot", "inner_product", False),
    ],
)
def test_load__of_hdf5_by_the_distance_that_it_names(name, distance, metric, scaled, folder):
    x = np.random.default_rng(0).standard_normal((120, 8), dtype=np.float32)
    with h5py.File(folder / f"{name}.hdf5", "w") as file:
        file["train"], file["test"] = x[:110], x[110:]
        file.attrs["distance"] = distance
    data = load(name, cache=folder)
    assert data.metric == metric
    lengths = np.linalg.norm(data.database, axis=1)
    assert np.allclose(lengths, 1) == scaled


def test_load__of_fvecs_and_of_big_ann(folder):
    x = np.random.default_rng(0).standard_normal((120, 8), dtype=np.float32)
    (folder / "sift").mkdir()
    (folder / "deep10m").mkdir()
    parts = {"base": x[:110], "query": x[110:]}
    files = {"base": "base.10M.fbin", "query": "query.public.10K.fbin"}
    for part, rows in parts.items():
        heads = np.full((len(rows), 1), 8, "<i4")
        whole = np.hstack([heads.view("<f4"), rows])
        (folder / "sift" / f"sift_{part}.fvecs").write_bytes(whole.tobytes())
        head = np.array(rows.shape, "<u4").tobytes()
        (folder / "deep10m" / files[part]).write_bytes(head + rows.tobytes())
    found = [load(name, cache=folder) for name in ("sift1m", "deep10m")]
    for data in found:
        np.testing.assert_array_equal(data.database, x[:110])
        np.testing.assert_array_equal(data.truth.I, found[0].truth.I)
    ids = found[0].truth.I.astype("<u4")
    truth = np.array(ids.shape, "<u4").tobytes() + ids.tobytes() + found[0].truth.D.tobytes()
    (folder / "deep10m" / "deep-10M.bin").write_bytes(truth)
    again = load("deep10m", cache=folder / "other")
    np.testing.assert_array_equal(again.truth.I, found[0].truth.I)
