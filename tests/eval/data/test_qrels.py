"""Judgements of relevance: read, cut to parts, and looked up."""

from pathlib import Path

import numpy as np
import pytest

from faiss_pqvae.eval.data.qrels import Qrels, as_qrels, read_qrels

# Query 0 has two relevant items, query 2 three, query 1 none.
ROWS = [(2, 7, 1), (0, 3, 1), (2, 5, 3), (0, 9, 2), (2, 0, 2)]


@pytest.fixture
def qrels() -> Qrels:
    return as_qrels(ROWS)


def test_grades_of__what_was_found(qrels: Qrels) -> None:
    found = np.array([[9, 1, 3, -1], [3, 9, 0, 7], [8, 0, 5, 3]])
    expected = [[2, 0, 1, 0], [0, 0, 0, 0], [0, 2, 3, 0]]
    assert qrels.grades_of(found).tolist() == expected
    assert as_qrels(np.zeros((0, 3))).grades_of(found).tolist() == np.zeros((3, 4)).tolist()


def test_ideal__the_highest_grades_first(qrels: Qrels) -> None:
    assert qrels.ideal(3, 4).tolist() == [[2, 1, 0, 0], [0, 0, 0, 0], [3, 2, 1, 0]]
    assert qrels.ideal(3, 2).tolist() == [[2, 1], [0, 0], [3, 2]]
    assert as_qrels(np.zeros((0, 3))).ideal(2, 1).tolist() == [[0], [0]]


def test_part__places_are_those_among_what_is_left(qrels: Qrels) -> None:
    part = qrels.part(queries=np.array([2, 1]), items=np.array([5, 9, 7, 1]))
    assert sorted(zip(part.queries, part.items, part.grades, strict=True)) == [
        *((0, 0, 3), (0, 2, 1))
    ]
    whole = qrels.part()
    assert whole.items.tolist() == qrels.items.tolist()


@pytest.mark.parametrize("head", ["", "query\trow\tgrade\n"])
def test_read_qrels__with_names_or_without(head: str, qrels: Qrels, tmp_path: Path) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(head + "".join(f"{q}\t{item}\t{grade}\n" for q, item, grade in ROWS))
    found = read_qrels(path)
    for name, value in vars(qrels).items():
        np.testing.assert_array_equal(getattr(found, name), value)
        assert getattr(found, name).dtype == value.dtype


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1\n", r"a query, an item and a grade, or of TREC's four columns; got lines of \[2\]"),
        ("query\titem\tgrade\n", "got no line of them"),
        ("0 1 1\n0 0 1 1\n", r"got lines of \[3, 4\] columns"),
        ("0 1 1\n0 x 1\n", "cannot read .*qrels.tsv: .* got 'x' of the items, which is no place"),
        ("0 1 1\n0 2 x\n", "could not convert string to float: 'x'"),
        (
            "0 1.5 1\n",
            "got '1.5' of the items, which is no place from 0 on: give the ids of all items",
        ),
        ("0 1 nan\n", "expected grades from 0"),
        ("-1 1 1\n", "got '-1' of the queries, which is no place"),
        ("0 1 1\n0 1 2\n", "a judgement once, got query 0 and item 1 twice"),
    ],
)
def test_read_qrels__says_what_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_qrels(tmp_path / "qrels.tsv")
    with pytest.raises(FileNotFoundError):
        read_qrels(tmp_path / "none.tsv")


def test_read_qrels__trec_and_beir_with_ids(tmp_path: Path) -> None:
    path = tmp_path / "qrels"
    names = {"query_ids": ["q one", "q2"], "item_ids": np.array([70, 7, 5])}
    path.write_text("query-id\tcorpus-id\tscore\nq2\t7\t2\nq one\t5\t1\n")
    beir = read_qrels(path, **names)
    path.write_text("q2 0 7 2\n\nq1 Q0 5 1\nq1 0 70 -2\n")
    trec = read_qrels(path, query_ids=["q1", "q2"], item_ids=["70", "7", "5"])
    for found in (beir, trec):
        assert found.queries[:2].tolist() == [1, 0]
        assert found.items[:2].tolist() == [1, 2]
    assert trec.grades.tolist() == [2, 1, 0]  # TREC's -2 is spam
    assert trec.n_relevant(3).tolist() == [1, 1, 0]
    path.write_text("q1\t5\t1\nq9\t5\t1\nq8\t5\t1\n")
    with pytest.raises(ValueError, match=r"got 2 of the queries that are none of its 1, .* 'q9'"):
        read_qrels(path, query_ids=["q1"], item_ids=["5"])
    with pytest.raises(ValueError, match=r"ids of items of which every item has its own, got '5'"):
        read_qrels(path, query_ids=["q1", "q9", "q8"], item_ids=["5", "5"])


def test_as_qrels__wants_numbers() -> None:
    with pytest.raises(TypeError, match="expected qrels of numbers"):
        as_qrels(np.array([["a", "b", "1"]]))


def test_check__what_is_judged_is_there(qrels: Qrels) -> None:
    qrels.check(3, 10)
    with pytest.raises(ValueError, match="of queries from 0 to 1, got 2"):
        qrels.check(2, 10)
    with pytest.raises(ValueError, match="of items from 0 to 8, got 9"):
        qrels.check(3, 9)
