"""`evaluate` of data of one's own, with methods of one's own, and of an index that exists."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faiss_pqvae import LatentIndex
from faiss_pqvae.cli import main
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.own import OwnData
from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.native import faiss
from faiss_pqvae.training.objectives import query_map

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
        (["--index", "missing"], "missing does not exist; expected a bundle"),
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
        *("PQ-VAE, re-ranked", "IVF4,PQ-VAE, re-ranked"),
        *("IVF4,PQ2", "OPQ2,IVF4,PQ2"),
    }
    assert all(len(row["keys"]) == 2 for row in rows.values())  # a training a seed
    assert {search for name, search in rows if name == "IVF4,PQ-VAE"} == {"nprobe=1", "nprobe=4"}
    assert {row["bytes_per_vector"] for row in rows.values()} == {2, 3}
    # With all lists visited, an inverted file over the same codes finds the same distances; which
    # of many items of one code it returns is its own choice.
    for all_lists, flat in (
        (("IVF4,PQ-VAE", "nprobe=4"), ("PQ-VAE", "adc")),
        (("IVF4,PQ-VAE, re-ranked", "nprobe=4,k_factor=1"), ("PQ-VAE, re-ranked", "k_factor=1")),
    ):
        found = [tmp_path / "run" / "raw" / f"{rows[key]['key']}.npz" for key in (all_lists, flat)]
        np.testing.assert_array_equal(*(np.load(file)["D"] for file in found))
    assert {row["trained_on"] for row in results["rows"]} == {"base: 400 items"}
    folders = {path.parent.parent.name for path in (tmp_path / "run").rglob("trained.pt")}
    assert folders == {
        f"pqvae-16{suffix}{seed}" for suffix in ("", "-lambda1") for seed in ("", "-seed3")
    }
    assert (tmp_path / "run" / "pqvae-16" / "config.json").exists()
    assert not (tmp_path / "run" / "pqvae-16-seed3" / "config.json").exists()


def test_evaluate__with_filters(tmp_path, capsys):
    x = np.random.default_rng(0).standard_normal((430, 8), dtype=np.float32)
    np.save(tmp_path / "items.npy", x[:400])
    np.save(tmp_path / "queries.npy", x[400:])
    np.save(tmp_path / "labels.npy", np.arange(400) % 4)
    np.save(tmp_path / "asked.npy", np.arange(30) % 4)
    results = evaluated(
        *("--dataset", str(tmp_path / "items.npy"), "--queries", str(tmp_path / "queries.npy")),
        *("--filter-labels", str(tmp_path / "labels.npy")),
        *("--query-filter-labels", str(tmp_path / "asked.npy"), "--filters", "0.2"),
        *("--bits", "32", "--methods", "Exact L2", "PQ", "learned", *FAST),
        *("--distance", "inner_product", "--model.objective", "ranking", "--ranking.epochs", "1"),
        out=tmp_path / "run",
    )
    found = {(row["method"], row["search"], row["among"]): row for row in results["filtered"]}
    for among, n_items in (("20 % of the items", 80), ("items of the query's label", 100)):
        assert found["PQ-VAE", "adc", among]["how"] == "selector"  # where FAISS's PQ has none
        assert found["PQ", "adc", among]["how"] == "oversampling"
        assert found["Exact inner product", "exact", among]["metrics"]["1-recall@1"] == 1
        assert {row["n_items"] for key, row in found.items() if key[2] == among} == {n_items}
    assert "Searches with a filter:" in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count('<td class="t">20 % of the items</td>') == len(found) // 2


MINE = """
import numpy as np
from faiss_pqvae.eval.methods.method import Method

class Mine:
    sign = 1.0
    def train(self, x): self.x = np.asarray(x[:]).reshape(len(x), -1)
    def add(self, x): pass
    def search(self, xq, k):
        D = self.sign * ((xq.reshape(len(xq), 1, -1) - self.x) ** 2).sum(-1)
        I = np.argsort(D, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(D, I, 1).astype("float32"), I
    def sa_code_size(self): return 4

def rows(request):
    yield Method("Mine", 32, lambda shape: Mine())
"""


@pytest.fixture
def few(tmp_path, monkeypatch):
    """The arguments for 100 vectors and 10 queries; a module of methods can be written."""
    x = np.random.default_rng(0).standard_normal((110, 40), dtype=np.float32)
    np.save(tmp_path / "x.npy", x[:100])
    np.save(tmp_path / "q.npy", x[100:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield ["--dataset", "x.npy", "--queries", "q.npy", "--bits", "32"]
    sys.modules.pop("few_methods", None)


def write_methods(text):
    Path("few_methods.py").write_text(text)
    sys.modules.pop("few_methods", None)
    importlib.invalidate_caches()


def test_evaluate__few_items(few, tmp_path, capsys):
    names = ["Exact L2", "LSH", "Spectral Hashing", "ITQ", "PQ", "OPQ", "RQ"]
    results = evaluated(*few, "--methods", *names, out=tmp_path / "run")
    assert {row["method"] for row in results["rows"]} == {
        *("Exact L2", "LSH", "Spectral Hashing", "ITQ")
    }
    assert {one["method"] for one in results["left_out"]} == {
        *("PQ", "OPQ", "RQ, norm inside", "RQ, decoded")
    }
    said = capsys.readouterr().out
    assert (
        "OPQ, 32 bits: k-means of 256 codewords needs at least 256 training items, got 100" in said
    )
    page = (tmp_path / "run" / "report.html").read_text()
    assert "RQ, decoded, 32 bits: k-means of 256 codewords" in page
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *few, "--methods", "PQ", "OPQ", "--out", str(tmp_path / "none")])
    error = capsys.readouterr().err
    assert "faiss-pqvae: no method can be measured: PQ, 32 bits: k-means of 256 codewords" in error
    assert len(error.splitlines()) == 1


def test_evaluate__a_method_that_fails_is_told_after_the_others(few, tmp_path, capsys):
    write_methods(MINE.replace("self.sign *", "self.sing *"))
    methods = ["--methods", "few_methods:rows", "Exact L2"]
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *few, *methods, "--out", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert "methods failed: Mine, 32 bits: AttributeError: 'Mine' object has no" in said.err
    assert "(few_methods.py, line 10)" in said.err
    assert "Traceback" not in said.err
    assert "Exact L2" in said.out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == ["Exact L2"]
    assert results["left_out"][0]["failed"]
    assert (tmp_path / "run" / "report.html").exists()


def test_evaluate__other_code_is_measured_and_the_same_is_not(few, tmp_path, caplog):
    caplog.set_level("INFO")
    command = [*few, "--methods", "few_methods:rows"]

    def score(*options):
        caplog.clear()
        (row,) = evaluated(*command, *options, out=tmp_path / "run")["rows"]
        return row["metrics"]["1-recall@1"], "using stored results of Mine" in caplog.text

    write_methods(MINE)
    assert score() == (1.0, False)
    write_methods(f"# a comment\n{MINE}")
    assert score() == (1.0, True)
    assert score("--fresh") == (1.0, False)
    write_methods(MINE.replace("sign = 1.0", "sign = -1.0"))
    assert score() == (0.0, False)


@pytest.mark.parametrize("made", ["None", "['Mine']", "3", "[Method]"])
def test_evaluate__rows_of_ones_own_have_to_be_methods(few, tmp_path, capsys, made):
    write_methods(f"{MINE}\ndef wrong(request):\n    return {made}\n")
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *few, "--methods", "few_methods:wrong", "--out", str(tmp_path / "r")])
    error = capsys.readouterr().err
    assert "expected a Method or several of 'few_methods:wrong', got" in error


def test_evaluate__refuses_an_index_before_it_reads_data(few, tmp_path, capsys, monkeypatch):
    Path("text.index").write_text("no index")
    monkeypatch.setattr("faiss_pqvae.cli.evaluate.load", lambda *a, **b: pytest.fail("it read"))
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *few, "--index", "text.index", "--out", str(tmp_path / "r")])
    assert "cannot read text.index as a FAISS index" in capsys.readouterr().err


def test_evaluate__a_function_that_makes_no_rows_is_named(few, tmp_path, capsys):
    write_methods("def wrong(request):\n    yield {}['x']\n")
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", *few, "--methods", "few_methods:wrong", "--out", str(tmp_path / "r")])
    error = capsys.readouterr().err
    said = "the method 'few_methods:wrong' makes no rows: KeyError: 'x' (few_methods.py, line 2)"
    assert said in error


def test_evaluate__trained_on_one_half_with_judged_relevance(tmp_path, capsys):
    """The page is written again with the data, which are then halved, too."""
    x = np.random.default_rng(0).standard_normal((130, 8), dtype=np.float32)
    np.save(tmp_path / "items.npy", x[:120])
    np.save(tmp_path / "queries.npy", x[120:])
    (tmp_path / "qrels.tsv").write_text("0\t7\t1\n1\t100\t1\n")
    options = ["--dataset", str(tmp_path)]
    out = tmp_path / "run"
    methods = ["--methods", "Exact L2", "LSH", "--bits", "16", "--train-on", "half"]
    results = evaluated(*options, *methods, out=out)
    assert results["n_database"] == 60
    rows = {row["method"]: row for row in results["rows"]}
    assert (rows["LSH"]["trained_on"], rows["Exact L2"]["trained_on"]) == ("half: 60 items", "")
    rank = 1 + int((((x[60:120] - x[121]) ** 2).sum(1) < ((x[100] - x[121]) ** 2).sum()).sum())
    ceiling = 0.1 / np.log2(rank + 1) if rank <= 10 else 0  # one query of ten has something there
    assert rows["Exact L2"]["metrics"]["ndcg@10"] == pytest.approx(ceiling)
    said = capsys.readouterr().out
    assert "nDCG@10 %" in said
    assert "half: 60" in said
    page = (out / "report.html").read_text()
    assert "exact search is the ceiling" in page
    assert "half: 60" in page
    main(["report", str(out), *options])
    assert (out / "report.html").read_text() == page
    with pytest.raises(SystemExit):
        main(["evaluate", "--out", str(out), *options, *methods[:-1], "learn"])
    assert "train on 'base', or on 'half'" in capsys.readouterr().err


VECTORS = [
    *("--training.epochs", "1", "--training.batch-size", "16"),
    *("--ranking.anchors", "32", "--ranking.rounds", "1", "--bits", "16", "--methods", "learned"),
]


def test_evaluate__learns_from_queries_that_do_not_measure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(query_map, "_ROUNDS", 1)
    rng = np.random.default_rng(0)
    x, others = (rng.standard_normal((n, 8), dtype=np.float32) for n in (300, 80))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "q.npy", others[:20].astype(np.float16))
    np.save(tmp_path / "others.npy", others[20:])
    np.save(tmp_path / "all.npy", others.astype(np.float16))
    monkeypatch.chdir(tmp_path)
    arguments = ["--dataset", "x.npy", "--queries", "q.npy", *VECTORS]
    evaluated(*arguments, "--train-queries", "others.npy", out=tmp_path / "run")
    log = (tmp_path / "run" / "pqvae-16" / "training" / "log.jsonl").read_text()
    found = json.loads(log.splitlines()[-1])["queries"]
    assert (found["queries"], found["held_out"]) == (42, 18)
    wrong = {
        "got one of the queries of x in row 0 of all.npy": ["--train-queries", "all.npy"],
        "with a learned code to train, got no such row": [
            *("--train-queries", "others.npy", "--methods", "Exact L2")
        ],
        "training queries for the objective 'reconstruction'": [
            *("--train-queries", "others.npy", "--encoder", "mlp")
        ],
    }
    for message, options in wrong.items():
        given = arguments[:4] if "mlp" in options else arguments
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", "--out", "none", *given, *options])
        assert message in capsys.readouterr().err


def test_evaluate__of_what_a_frozen_network_makes_of_images(photos, tmp_path, monkeypatch):
    (tmp_path / "frozen_network.py").write_text(
        "import torch\n"
        "from faiss_pqvae import Backbone\n"
        "seen = []\n"
        "class Means(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        seen.append(len(x))\n"
        "        return x.reshape(len(x), 12, -1).mean(2)\n"
        "def make(input_shape, latent_dim, *, width):\n"
        "    return Backbone(Means(), trainable=False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["--dataset", str(photos), "--size", "8", "8", "--n-queries", "12", "--bits", "32"]
    arguments += ["--features", "frozen_network:make", "--methods", "Exact L2", "LSH", "learned"]
    results = evaluated(*arguments, *FAST, out=tmp_path / "run")
    assert results["dataset"] == "photos, features of frozen_network:make"
    assert results["data"].endswith("12 features an image, of frozen_network:make")
    rows = {row["method"]: row for row in results["rows"]}
    assert rows["Exact L2"]["bytes_per_vector"] == 4 * 12
    shown = json.loads((tmp_path / "run" / "report_inputs.json").read_text())
    assert len(shown["gallery"]["queries"]) == 10  # the pictures, beside what was found
    assert {"LSH", "PQ-VAE"} <= set(rows)
    bundles = [path.parent for path in (tmp_path / "run").glob("*/config.json")]
    assert bundles
    for bundle in bundles:
        index = read_index(bundle, encoder="frozen_network:make")
        assert index.input_shape == (3, 8, 8)  # what is left is an index of pictures
    found = {path.parent.name: np.load(path) for path in tmp_path.glob("run/features/*/*.npy")}
    assert {name: len(features) for name, features in found.items()} == {
        "database": 48,
        "queries": 12,
    }
    seen = importlib.import_module("frozen_network").seen
    seen.clear()
    again = evaluated(*arguments, *FAST, out=tmp_path / "run")
    assert again["rows"] == results["rows"]
    assert max(seen) <= 2  # the trial and the probe: features are kept
    # Views of the pictures, kept, and learned from.
    more = ["--kept-views", "2", "--model.objective", "contrastive"]
    results = evaluated(*arguments, *FAST, *more, out=tmp_path / "views")
    assert {"PQ-VAE, contrastive", "LSH"} <= {row["method"] for row in results["rows"]}
    assert {len(np.load(path)) for path in tmp_path.glob("views/features/views/*.npy")} == {96}


def test_evaluate__features_of_the_database_are_those_of_training_items_that_it_ends(
    tmp_path, monkeypatch
):
    """With few labels the database is a view of the end of what is trained with."""
    (tmp_path / "pictures.py").write_text(
        "import numpy as np\n"
        "import torch\n"
        "from faiss_pqvae import Backbone\n"
        "from faiss_pqvae.eval.data.labelled import LabelledData\n"
        "def data():\n"
        "    generator = np.random.default_rng(0)\n"
        "    x = generator.integers(0, 256, (90, 3, 4, 4), dtype=np.uint8)\n"
        "    y = np.arange(90) % 3\n"
        "    known = np.where(np.arange(70) < 30, y[:70], -1)\n"
        "    return LabelledData(name='few', protocol='few', description='', train=x[:70],\n"
        "        database=x[30:70], database_labels=y[30:70], queries=x[70:],\n"
        "        query_labels=y[70:], class_names=('a', 'b', 'c'), train_labels=known)\n"
        "def make(input_shape, latent_dim, *, width):\n"
        "    torch.manual_seed(0)\n"
        "    layers = torch.nn.Flatten(), torch.nn.Linear(48, 8)\n"
        "    return Backbone(torch.nn.Sequential(*layers), trainable=False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["--dataset", "pictures:data", "--features", "pictures:make", "--bits", "16"]
    arguments += ["--methods", "Exact L2", "learned", "--model.objective", "dqn", *FAST]
    results = evaluated(*arguments, out=tmp_path / "run")
    assert results["n_database"] == 40
    found = {path.parent.name: np.load(path) for path in tmp_path.glob("run/features/*/*.npy")}
    assert {name: len(features) for name, features in found.items()} == {"train": 70, "queries": 20}
    # Likewise where its last parts learn along.
    evaluated(*arguments, "--model.fine-tuned", "1", out=tmp_path / "tuned")
    names = {path.parent.name for path in tmp_path.glob("tuned/features/*/*.npy")}
    assert names == {"train", "queries", "train-maps", "queries-maps"}


@pytest.mark.parametrize("objective", ["contrastive", "dqn", "dpq"])
def test_evaluate__the_last_parts_of_a_network_learn_along(
    photos, tmp_path, monkeypatch, capsys, objective
):
    (tmp_path / "two_parts.py").write_text(
        "import torch\n"
        "from faiss_pqvae import Backbone\n"
        "def make(input_shape, latent_dim, *, width):\n"
        "    torch.manual_seed(0)\n"
        "    parts = torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.Flatten()\n"
        "    net = torch.nn.Sequential(parts[0], torch.nn.Sequential(parts[1], "
        "torch.nn.Linear(36, 10)))\n"
        "    return Backbone(net, trainable=False)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["--dataset", str(photos), "--size", "8", "8", "--n-queries", "12", "--bits", "32"]
    arguments += ["--features", "two_parts:make", "--kept-views", "2", *FAST]
    arguments += ["--methods", "Exact L2", "PQ", "learned", "--model.objective", objective]
    results = evaluated(*arguments, "--model.fine-tuned", "1", out=tmp_path / "run")
    rows = {row["method"]: row for row in results["rows"]}
    assert rows["Exact L2"]["bytes_per_vector"] == 4 * 10  # features of the whole network
    learned = next(row for name, row in rows.items() if name not in ("Exact L2", "PQ"))
    assert learned["config"]["model"]["encoder"] == "two_parts:make"
    # The bundle is one of pictures: it finds in them what the rows found in their features.
    name = {"contrastive": "pqvae", "dqn": "dqn", "dpq": "dpq"}[objective]
    index = read_index(tmp_path / "run" / f"{name}-32", encoder="two_parts:make")
    assert index.input_shape == (3, 8, 8)
    assert index.ntotal == 48
    data = load(str(photos), n_queries=12, own=OwnData(size=(8, 8)))
    codes = index.sa_encode(data.database)
    kept = faiss.vector_to_array(index.faiss_index.codes).reshape(codes.shape)
    assert (codes == kept).mean() > 0.9  # features were kept as float16
    shapes = {path.parent.name: np.load(path).shape for path in tmp_path.glob("run/features/*/*")}
    assert shapes == {
        "database": (48, 10),
        "queries": (12, 10),
        "database-maps": (48, 36),
        "queries-maps": (12, 36),
        "views-maps": (96, 36),
    }
    again = evaluated(*arguments, "--model.fine-tuned", "1", out=tmp_path / "run")
    assert again["rows"] == results["rows"]
    with pytest.raises(SystemExit):
        main(["evaluate", *arguments, "--model.fine-tuned", "2", "--out", str(tmp_path / "all")])
    assert "expected --model.fine-tuned below 2" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["vectors", "learns along"])
def test_evaluate__features_are_refused(photos, tmp_path, monkeypatch, capsys, kind):
    (tmp_path / "tuned.py").write_text(
        "import torch\ndef make(shape, latent_dim, *, width): return torch.nn.Flatten()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 8)))
    x = str(tmp_path / "x.npy")
    given, message = {
        "vectors": ((x, "--queries", x), "expected images with labels to make features of, got"),
        "learns along": ((str(photos), "--size", "8", "8"), "expected a frozen network to make"),
    }[kind]
    arguments = ["--dataset", *given, "--features", "tuned:make", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit):
        main(["evaluate", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --kept-views with --features, got it without"),
        (("--features", "x:y", "--methods", "PQ"), "expected --kept-views with a learned code"),
        (("--features", "x:y"), "expected --kept-views with --model.objective contrastive, dqn"),
        (
            ("--features", "x:y", "--model.objective", "ranking"),
            "contrastive, dqn or dpq, got ranking",
        ),
    ],
)
def test_evaluate__kept_views_are_refused_before_they_are_made(
    photos, tmp_path, capsys, options, message
):
    arguments = ["--dataset", str(photos), "--size", "8", "8", "--out", str(tmp_path / "o")]
    with pytest.raises(SystemExit):
        main(["evaluate", *arguments, "--kept-views", "2", *options])
    assert message in capsys.readouterr().err
