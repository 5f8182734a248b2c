"""Inverted files with several nprobe, through the runner."""

import numpy as np
import pytest

from faiss_pqvae.eval.data.brute_force import nearest
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.measure.runner import run
from faiss_pqvae.eval.methods.inverted import inverted_files, list_bytes, list_count
from faiss_pqvae.eval.metrics.recalls import pareto
from faiss_pqvae.native import faiss


@pytest.mark.parametrize("nlist", [1, 2, 256, 257, 65536, 65537])
def test_list_bytes__is_what_faiss_counts(nlist: int) -> None:
    index = faiss.IndexIVFPQ(faiss.IndexFlatL2(8), 8, nlist, 4, 8)
    assert index.sa_code_size() == 4 + list_bytes(nlist)


def test_list_count__by_hand() -> None:
    # 2 sqrt(300,000) = 1,095; of 600 vectors 600 / 39 = 15 lists can be trained.
    assert [list_count(n) for n in (1, 50, 600, 10_000, 300_000)] == [1, 1, 8, 256, 1024]


def test_inverted_files__have_rows_and_settings() -> None:
    plain, rotated, additive = inverted_files(8, 30, 256, nprobes=(16, 1, 16, 300))
    assert plain.config["factory"] == "Pad32,IVF256,PQ8np"
    assert rotated.config["factory"] == "OPQ8_32,IVF256,PQ8np"
    assert [method.name for method in (plain, rotated)] == ["IVF256,PQ8", "OPQ8,IVF256,PQ8"]
    assert additive.config["factory"] == "IVF256,RQ7x8_Nqint8"
    assert additive.name == "IVF256,RQ8, norm inside"
    assert len(inverted_files(2, 30, 256)) == 2
    for method in (plain, rotated, additive):
        assert (method.bits, method.searches) == (72, ("nprobe=1", "nprobe=16"))
        assert method.build((30,)).sa_code_size() == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"M": 0}, "M >= 1 and d >= 1, got M = 0"),
        ({"nlist": 0}, "nlist >= 1, got 0"),
        ({"nprobes": (0, 1)}, r"nprobe from 1 to 4, got \[0, 1\]"),
        ({"nprobes": (5,)}, r"nprobe from 1 to 4, got \[5\]"),
    ],
)
def test_inverted_files__reject_bad_input(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inverted_files(**{"M": 2, "d": 4, "nlist": 4, **arguments})
    with pytest.raises(ValueError, match="n >= 1 vectors, got 0"):
        list_count(0)


def test_run__recall_rises_with_nprobe(rng: np.random.Generator, tmp_path) -> None:
    x = rng.standard_normal((700, 4), dtype=np.float32)
    q = rng.standard_normal((40, 4), dtype=np.float32)
    truth = nearest(q, x, 100, progress=False)
    data = VectorData("made", "made", "made", x, x, q, "l2", truth)
    results = run(data, inverted_files(2, 4, 16, nprobes=(1, 4, 16)), tmp_path, k=100)
    assert [row.search for row in results.rows] == ["nprobe=1", "nprobe=4", "nprobe=16"] * 2
    for rows in (results.rows[:3], results.rows[3:]):
        # A list has 44 of 700 vectors: with nprobe = 1 FAISS pads, and those are misses.
        found = [row.metrics["100-recall@100"] for row in rows]
        assert found == sorted(found)
        assert found[0] < 0.5 < 0.7 < found[2]
        assert {row.bytes_per_vector for row in rows} == {3}
    points = [(row.metrics["1-recall@1"], 40 / row.search_s) for row in results.rows]
    assert 1 <= len(pareto(np.array(points))) <= 6


def test_inverted_files__rq_is_scanned_by_tables_of_its_lists(rng: np.random.Generator) -> None:
    x = rng.standard_normal((900, 4), dtype=np.float32)
    *_, method = inverted_files(3, 4, 4, nprobes=(4,))
    index = method.build((4,))
    index.train(x)
    index.add(x)
    index.nprobe = 4
    D, I = index.search(x[:50], 10)  # noqa: E741 - FAISS's name
    distances = ((x[:50, None] - x[I]) ** 2).sum(-1)
    assert (np.arange(50)[:, None] == I).any(1).mean() > 0.9
    assert np.abs(D - distances).mean() < 0.2 * distances.mean()
