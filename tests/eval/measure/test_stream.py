"""Run-books: steps that are possible, ids that stay, recall of what is there."""

import json

import numpy as np
import pytest

from faiss_pqvae.cli import main
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.runbook import Step, check_runbook, read_runbook, window
from faiss_pqvae.eval.measure import stream
from faiss_pqvae.eval.measure.stream import read_stream, run_stream
from faiss_pqvae.eval.methods.choice import rows_of
from faiss_pqvae.eval.methods.flat import FlatPixels
from faiss_pqvae.eval.methods.method import Method
from faiss_pqvae.eval.report.text import stream_table
from faiss_pqvae.native import faiss

N, NQ, D = 300, 20, 8


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((N + NQ, D), dtype=np.float32)


@pytest.fixture
def data(x, tmp_path):
    return load(lambda: {"database": x[:N], "queries": x[N:]}, cache=tmp_path / "cache")


def test_window__keeps_half_of_the_items():
    steps = window(100)
    check_runbook(steps, 100)
    assert [step.operation for step in steps].count("search") == 10
    held = sum(
        (step.end - step.start) * {"insert": 1, "delete": -1, "search": 0}[step.operation]
        for step in steps
    )
    assert held == 50
    with pytest.raises(ValueError, match="at least 10 items"):
        window(9)


BOOK = [
    {"operation": "insert", "start": 0, "end": 200},
    {"operation": "delete", "start": 50, "end": 100},
    {"operation": "search"},
]


def test_read_runbook__of_several_data_sets(tmp_path):
    path = tmp_path / "book.json"
    other = [BOOK[0], BOOK[2]]
    path.write_text(json.dumps({"mine": {"1": BOOK[0], "2": BOOK[2], "max_pts": 9}, "b": BOOK}))
    assert len(read_runbook(path, N, "mine")) == len(other)
    assert len(read_runbook(path, N, "b")) == len(BOOK)
    with pytest.raises(ValueError, match=r"expected steps for x in .*, got those of mine, b"):
        read_runbook(path, N, "x")
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"cannot read .*book\.json as a run-book"):
        read_runbook(path, N)


@pytest.mark.parametrize("form", ["list", "numbered", "named", "yaml"])
def test_read_runbook__as_people_write_them(form, tmp_path):
    numbered = {str(i): step for i, step in enumerate(BOOK, 1)}
    named = {"msturing-1M": {**numbered, "max_pts": 200}}
    path = tmp_path / ("book.yaml" if form == "yaml" else "book.json")
    content = {"list": BOOK, "numbered": numbered, "named": named, "yaml": named}[form]
    if form == "yaml":
        pytest.importorskip("yaml")
    path.write_text(json.dumps(content))  # which is YAML, too
    steps = [Step("insert", 0, 200), Step("delete", 50, 100), Step("search")]
    assert read_runbook(path, N) == steps


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("no JSON", "cannot read .* as a run-book"),
        ("3", "expected a list of steps in .*, got int"),
        ('[{"operation": "replace"}]', "expected an operation of .* in step 1, got"),
        (
            '[{"operation": "insert", "start": 0.5, "end": 2}]',
            "integers as start and end of step",
        ),
        ('[{"operation": "insert", "start": 0, "end": 999}]', "items from 0 to 299 in step 1"),
        ('[{"operation": "delete", "start": 0, "end": 9}]', "that are there to go in step 1"),
        ('[{"operation": "search"}]', "items before the search in step 1, got none"),
        ('[{"operation": "insert", "start": 0, "end": 9}]', "a search among the steps, got none"),
        (json.dumps([BOOK[0], BOOK[0]]), "new items in step 2, got some that are there"),
    ],
)
def test_read_runbook__says_what_is_wrong(steps, message, tmp_path):
    (tmp_path / "book.json").write_text(steps)
    with pytest.raises(ValueError, match=message):
        read_runbook(tmp_path / "book.json", N)


def test_run_stream__every_kind_of_index_keeps_its_ids(data, tmp_path):
    names = ("Exact L2", "PQ", "OPQ", "RQ", "LSH", "IVF", "ITQ", "FastScan", "SQ")
    methods = rows_of(data, names=names, lengths=(32,), nlist=4)
    found = run_stream(data, methods, window(N), tmp_path, k=10)
    flows = {(flow.method, flow.search): flow for flow in found.flows}
    assert flows["Exact L2", "exact"].recalls["1-recall@1"] == [1.0] * 10
    for method, search in (("PQ", "adc"), ("OPQ4,IVF4,PQ4", "nprobe=4"), ("IVF4,PQ4", "nprobe=4")):
        assert min(flows[method, search].recalls["1-recall@10"]) > 0.6
        assert flows[method, search].delete_us > 0
    assert {one.method: one.reason for one in found.left_out} == {
        "RQ, decoded": "nothing deletes its items",
        **dict.fromkeys(
            ("PQ FastScan", "RQ FastScan, norm inside"),
            "FAISS mixes codes that it removed into those that come next",
        ),
    }
    assert found.n_items == [30, 60, 90, 120, *[150] * 6]
    assert read_stream(tmp_path / "stream.json") == found
    again = run_stream(data, methods, window(N), tmp_path, k=10)
    assert again.flows == found.flows
    with pytest.raises(ValueError, match="no method can be measured: RQ, decoded: nothing deletes"):
        run_stream(data, [m for m in methods if m.name == "RQ, decoded"], window(N), tmp_path)


def test_run_stream__a_method_is_trained_once_and_nothing_is_where_all_is_stored(
    data, tmp_path, monkeypatch
):
    methods = rows_of(data, names=("IVF",), lengths=(32,), nlist=4)
    trained = []
    train = FlatPixels.train
    monkeypatch.setattr(
        FlatPixels, "train", lambda self, x: (trained.append(self), train(self, x))[1]
    )
    found = run_stream(data, methods, window(N), tmp_path, k=10)
    assert len(trained) == len(methods) < len(found.flows)
    monkeypatch.undo()  # a method of other code is another one
    found = run_stream(data, methods, window(N), tmp_path, k=10)
    monkeypatch.setattr(stream, "nearest", None)  # would be called
    assert run_stream(data, methods, window(N), tmp_path, k=10).flows == found.flows


def test_run_stream__every_seed_has_its_flow(data, tmp_path):
    methods = rows_of(data, names=("PQ",), lengths=(32,), seeds=(0, 1))
    found = run_stream(data, methods, window(N), tmp_path, k=10)
    assert [flow.seed for flow in found.flows] == [0, 1]
    lines = stream_table(found).splitlines()
    assert sum(line.startswith("PQ, seed 1 ") for line in lines) == 1


def test_run_stream__refuses_what_was_deleted(data, tmp_path):
    class Keeping:
        def train(self, x):
            self.index = faiss.IndexFlatL2(D)

        def flowing(self):
            return self

        def insert(self, x, ids):
            self.index.add(x)

        def delete(self, ids):
            pass

        def search(self, xq, k):
            return self.index.search(xq, k)

        def sa_code_size(self):
            return 4 * D

    method = Method("keeping", 32 * D, lambda shape: Keeping(), {})
    other = rows_of(data, names=("PQ",), lengths=(32,))
    found = run_stream(data, [method, *other], window(N), tmp_path)
    (wrong,) = found.left_out
    assert wrong.failed
    assert "which was deleted" in wrong.reason
    assert [flow.method for flow in found.flows] == ["PQ"]


def test_evaluate__under_a_runbook(x, tmp_path, capsys):
    np.save(tmp_path / "items.npy", x[:N])
    np.save(tmp_path / "queries.npy", x[N:])
    (tmp_path / "book.json").write_text(json.dumps(BOOK))
    command = [
        *("evaluate", "--dataset", str(tmp_path / "items.npy"), "--out", str(tmp_path / "run")),
        *("--queries", str(tmp_path / "queries.npy"), "--bits", "32"),
        *("--methods", "Exact L2", "learned", "--runbook", str(tmp_path / "book.json")),
        *("--model.objective", "ranking", "--ranking.epochs", "1", "--training.epochs", "1"),
    ]
    main(command)
    printed = capsys.readouterr().out
    assert "among the items that are there, under 3 steps:" in printed
    found = read_stream(tmp_path / "run" / "stream.json")
    ours = {flow.search: flow for flow in found.flows if flow.method == "PQ-VAE"}
    assert ours.keys() == {"adc", "sdc"}
    assert ours["adc"].recalls["1-recall@10"][0] > 0.6
    assert found.n_items == [150]
    main(["report", str(tmp_path / "run")])
    assert "under 3 steps:" in capsys.readouterr().out
    for options in (("--filters", "0.5"), ("--index", str(tmp_path / "items.npy"))):
        with pytest.raises(SystemExit, match="2"):
            main([*command, *options])
        assert "neither --index nor --filters with a run-book" in capsys.readouterr().err
