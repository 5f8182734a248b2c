"""The gallery of texts: what is found for queries, from lines of a file."""

import gzip

import numpy as np
import pytest

from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.own import OwnData
from faiss_pqvae.eval.data.texts import Lines, beginning, ordered_spread
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.choice import rows_of
from faiss_pqvae.eval.report.page import rebuild_report, write_report

N, NQ = 60, 20


@pytest.fixture
def own(tmp_path):
    x = np.random.default_rng(0).standard_normal((N + NQ, 4), dtype=np.float32)
    np.save(tmp_path / "items.npy", x[:N])
    np.save(tmp_path / "queries.npy", x[N:])
    lines = "\n".join(f"item <{i}> of {N}" for i in range(N))
    (tmp_path / "items.txt.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "queries.txt").write_text("".join(f"query {i}\n" for i in range(NQ)))
    (tmp_path / "qrels.tsv").write_text("".join(f"{q} {q + 1} 1\n" for q in range(NQ)))
    return OwnData(
        queries=tmp_path / "queries.npy",
        texts=tmp_path / "items.txt.gz",
        query_texts=tmp_path / "queries.txt",
        qrels=tmp_path / "qrels.tsv",
    )


def test_write_report__shows_texts_and_what_is_relevant(own, tmp_path):
    data = load(tmp_path / "items.npy", own=own, cache=tmp_path)
    results = run(data, rows_of(data, names=("Exact L2", "LSH"), lengths=(8,)), tmp_path, k=20)
    page = write_report(results, data, tmp_path).read_text()
    assert "What is found at 8 bits" in page
    assert "item &lt;" in page
    places = ordered_spread(NQ, 8, 0)
    for place in places:
        assert f"<b>query {place}</b>" in page
    near = data.truth.I[places, :5]
    hits = (near == places[:, None] + 1).sum()
    exact = page.split("Exact L2 <span")[1:]
    assert sum(part.split("</ol>")[0].count('class="hit"') for part in exact) == hits
    before = (tmp_path / "report.html").read_bytes()
    assert rebuild_report(tmp_path).read_bytes() == before
    assert rebuild_report(tmp_path, data).read_bytes() == before


def test_load__texts_follow_parts(own, tmp_path):
    path = tmp_path / "items.npy"
    half = load(path, own=own, cache=tmp_path, train_on="half")
    assert half.texts[0] == f"item <{N // 2}> of {N}"
    part = load(path, own=own, cache=tmp_path, n_database=10, n_queries=5)
    whole = load(path, own=own, cache=tmp_path)
    for item in range(10):
        (row,) = np.flatnonzero((whole.database == part.database[item]).all(axis=1))
        assert part.texts[item] == whole.texts[row]
    assert part.query_texts.rows.tolist() == sorted(part.query_texts.rows)


def test_lines__say_what_is_wrong(own, tmp_path):
    (tmp_path / "queries.txt").write_text("only one\n")
    with pytest.raises(ValueError, match=r"expected 20 lines of text in .* one a query, got 1"):
        load(tmp_path / "items.npy", own=own, cache=tmp_path)
    (tmp_path / "bad.txt.gz").write_bytes(gzip.compress(b"text")[:-9] + b"123456789")
    with pytest.raises(ValueError, match=r"cannot read .*bad\.txt\.gz as lines of text"):
        Lines(tmp_path / "bad.txt.gz")[0]
    with pytest.raises(FileNotFoundError):
        Lines(tmp_path / "none.txt")[0]
    with pytest.raises(ValueError, match="expected more than 7 lines in"):
        Lines(tmp_path / "queries.txt", np.array([7]))[0]


def test_beginning__is_cut_at_a_word():
    assert beginning("a  b\nc") == "a b c"
    assert beginning("one two three", 9) == "one two …"
