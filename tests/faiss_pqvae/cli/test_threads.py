"""How many threads a training gets beside other programs."""

import logging

import pytest
import torch

from faiss_pqvae.cli import threads
from faiss_pqvae.cli.threads import Look, choose_threads, look
from faiss_pqvae.native import faiss

STAT = """cpu  100 7 50 9000 5 1 2 3 0 0
cpu0 60 3 20 4000 2 1 1 1 0 0
cpu1 30 4 20 4000 3 0 1 2 0 0
cpu2 10 0 10 1000 0 0 0 0 0 0
intr 12345 0 1
"""


@pytest.fixture
def four_processors(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    torch.set_num_threads(4)
    faiss.omp_set_num_threads(4)


def test_busy_ticks__are_those_of_the_processors_that_may_be_used():
    assert threads._busy_ticks(STAT, {0}) == 60 + 20 + 1 + 1 + 1
    assert threads._busy_ticks(STAT, {1, 2}) == 30 + 20 + 0 + 1 + 2 + 10 + 10


@pytest.mark.parametrize(
    ("busy_s", "own_s", "expected"),
    [(2.0, 2.0, 4), (2.6, 2.0, 4), (3.9, 2.0, 3), (6.0, 2.0, 2), (8.0, 0.0, 1), (1.9, 2.0, 4)],
)
def test_choose_threads__leaves_what_others_keep_busy(
    four_processors, caplog, busy_s, own_s, expected
):
    with caplog.at_level(logging.INFO):
        choose_threads(Look(10.0, 100.0, 5.0), Look(12.0, 100.0 + busy_s, 5.0 + own_s))
    assert (torch.get_num_threads(), faiss.omp_get_max_threads()) == (expected, expected)
    assert [f"{expected} of 4 threads" in text for text in caplog.messages] == [True] * (
        expected < 4
    )


def test_choose_threads__leaves_what_somebody_decided(four_processors, monkeypatch):
    busy = Look(10.0, 100.0, 5.0), Look(12.0, 108.0, 5.0)
    choose_threads(None, busy[1])
    choose_threads(Look(11.9, 100.0, 5.0), busy[1])  # too short a time
    torch.set_num_threads(3)
    choose_threads(Look(10.0, 106.0, 5.0), busy[1])  # one processor: three are free
    assert torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    choose_threads(*busy)
    assert torch.get_num_threads() == 3


def test_look__only_grows():
    before = look()
    if before is None:
        pytest.skip("this system has no /proc/stat")
    after = look()
    assert all(b >= a for a, b in zip(before, after, strict=True))
