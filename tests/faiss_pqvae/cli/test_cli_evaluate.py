"""`evaluate` of data of one's own, with methods of one's own, and of an index that exists."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faiss_pqvae import LatentIndex
from faiss_pqvae.cli import main
from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.native import faiss

FAST = [
    *("--model.width", "4", "--model.dsub", "2", "--training.epochs", "1"),
    *("--training.batch-size", "16", "--training.precision", "float32"),
]


def evaluated(*arguments: str, out: Path) -> dict:
    main(["evaluate", "--out", str(out), *arguments])
    return json.loads((out / "results.json").read_text())


@pytest.fixture
def photos(tmp_path):
    """60 images in a folder a class."""
    rng = np.random.default_rng(0)
    for number in range(60):
        folder = tmp_path / "photos" / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (9, 8 + number % 2, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_evaluate__a_folder_of_images_per_class(photos, tmp_path, capsys):
    arguments = ["--dataset", str(photos), "--size", "8", "8", "--n-queries", "12", "--bits", "32"]
    methods = ["--methods", "Exact L2", "PQ", "learned"]
    results = evaluated(*arguments, *methods, *FAST, out=tmp_path / "run")
    assert (results["dataset"], results["n_database"], results["n_queries"]) == ("photos", 48, 12)
    assert "12 queries drawn, of every class the same share" in results["data"]
    assert {row["method"] for row in results["rows"]} == {"Exact L2", "PQ", "PQ-VAE"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Nearest images" in page
    (tmp_path / "run" / "report_inputs.json").unlink()
    main(["report", str(tmp_path / "run"), "--dataset", str(photos), "--size", "8", "8"])
    assert "Nearest images" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("objective", ["dqn", "dpq"])
def test_evaluate__several_labels_an_item_are_learned_from_and_judged(objective, tmp_path):
    rng = np.random.default_rng(0)
    tags = [[name for name in ("sea", "sky", "sun") if rng.random() < 0.6] for _ in range(90)]
    vectors = rng.standard_normal((90, 6), dtype=np.float32)
    pq.write_table(pa.table({"vec": list(vectors), "tags": tags}), tmp_path / "x.parquet")
    results = evaluated(
        *("--dataset", str(tmp_path / "x.parquet"), "--label-column", "tags", "--bits", "8"),
        *("--methods", "Exact L2", "learned", "--model.objective", objective, *FAST),
        out=tmp_path / "run",
    )
    rows = {row["method"]: row["metrics"] for row in results["rows"]}
    assert results["data"].startswith("x.parquet (90 items of 3 classes)")
    assert 0 < rows[objective.upper()]["map@81"] <= 1


def test_evaluate__a_method_of_another_package(tmp_path, monkeypatch):
    (tmp_path / "other_package.py").write_text(
        "from faiss_pqvae.eval.methods.build import from_factory\n"
        "def mine(request):\n"
        "    yield from_factory('Mine', request.bits, request.d, 'PQ4np', seed=request.seed)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    results = evaluated(
        *("--dataset", "mnist5k", "--n-database", "300", "--n-queries", "20", "--bits", "32"),
        *("--methods", "PQ", "other_package:mine"),
        out=tmp_path / "run",
    )
    assert [row["method"] for row in results["rows"]] == ["PQ", "PCA+PQ", "Mine"]


def test_evaluate__an_index_that_exists(make_model, tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((90, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", x[:80])
    np.save(tmp_path / "q.npy", x[80:])
    data = ["--dataset", str(tmp_path / "x.npy"), "--queries", str(tmp_path / "q.npy")]
    native = faiss.IndexFlatL2(8)
    faiss.write_index(native, str(tmp_path / "flat.faiss"))
    results = evaluated(*data, "--index", str(tmp_path / "flat.faiss"), out=tmp_path / "native")
    rows = {row["method"]: row for row in results["rows"]}
    assert set(rows) == {"IndexFlatL2 (FAISS file flat.faiss)", "Exact L2"}
    assert all(row["metrics"]["1-recall@1"] == 1 for row in rows.values())
    index = LatentIndex(make_model((8,), 2, 4))
    index.add(x[:70])
    write_index(index, tmp_path / "b")
    with pytest.raises(SystemExit):
        main(["evaluate", *data, "--index", str(tmp_path / "b"), "--out", str(tmp_path / "r")])
    assert "with the 80 items of the database, got 70 items" in capsys.readouterr().err
    index.add(x[70:80])
    write_index(index, tmp_path / "b")
    evaluated(*data, "--index", str(tmp_path / "b"), out=tmp_path / "ours")
    assert "(bundle b)" in capsys.readouterr().out
    assert read_index(tmp_path / "b").ntotal == 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-column", "tag"], "got ['vec', 'label']"),
        (["--labels", "missing.npy"], "missing.npy"),
        (["--methods", "HNSW"], "expected a method of"),
        (["--index", "missing"], "got nothing at missing"),
        (["--nlist", "4", "--also-lambdas", "1"], "reconstruction objective only"),
    ],
)
def test_evaluate__says_what_is_wrong_with_data_of_ones_own(options, message, tmp_path, capsys):
    vectors = np.random.default_rng(0).standard_normal((60, 8), dtype=np.float32)
    table = pa.table({"vec": list(vectors), "label": np.arange(60) % 2})
    pq.write_table(table, tmp_path / "x.parquet")
    command = ["evaluate", "--dataset", str(tmp_path / "x.parquet"), "--out", str(tmp_path / "r")]
    with pytest.raises(SystemExit):
        main([*command, *options])
    assert message in capsys.readouterr().err


def test_evaluate__lambdas_seeds_and_inverted_lists(tmp_path):
    x = np.random.default_rng(0).standard_normal((420, 8), dtype=np.float32)
    np.save(tmp_path / "x.npy", x[:400])
    np.save(tmp_path / "q.npy", x[400:])
    results = evaluated(
        *("--dataset", str(tmp_path / "x.npy"), "--queries", str(tmp_path / "q.npy")),
        *("--bits", "16", "--nlist", "4", "--seeds", "0", "3", "--also-lambdas", "1"),
        *("--methods", "IVF", "learned", "--model.encoder", "mlp", *FAST),
        out=tmp_path / "run",
    )
    rows = {(row["method"], row["search"]): row for row in results["rows"]}
    ours = {"PQ-VAE", "PQ-VAE, lambda 1"}
    assert {name for name, _ in rows} == {
        *ours,
        *(f"IVF4,{name}" for name in ours),
        *("IVF4,PQ2", "OPQ2,IVF4,PQ2"),
    }
    assert all(len(row["keys"]) == 2 for row in rows.values())  # a training a seed
    assert {search for name, search in rows if name == "IVF4,PQ-VAE"} == {"nprobe=1", "nprobe=4"}
    assert {row["bytes_per_vector"] for row in rows.values()} == {2, 3}
    # With all lists visited, an inverted file over the same codes finds the same.
    assert rows["IVF4,PQ-VAE", "nprobe=4"]["metrics"] == rows["PQ-VAE", "adc"]["metrics"]
    folders = {path.parent.parent.name for path in (tmp_path / "run").rglob("checkpoint.pt")}
    assert folders == {
        f"pqvae-16{suffix}{seed}" for suffix in ("", "-lambda1") for seed in ("", "-seed3")
    }
    assert (tmp_path / "run" / "pqvae-16" / "config.json").exists()
    assert not (tmp_path / "run" / "pqvae-16-seed3" / "config.json").exists()
