"""How speed and memory are measured, with clocks and indexes that can be predicted."""

from types import SimpleNamespace

import numpy as np
import pytest

from faiss_pqvae.eval.measure import memory, speed
from faiss_pqvae.eval.measure.memory import PeakMemory
from faiss_pqvae.eval.measure.speed import measured_speed


class Clocked:
    """Takes as long as it is told by a clock that does nothing but what it is told."""

    def __init__(self, seconds):
        self.seconds, self.now, self.asked = seconds, 0.0, []

    def perf_counter(self):
        return self.now

    def search(self, xq, k):
        self.asked.append(len(xq))
        self.now += self.seconds(len(self.asked), len(xq))


@pytest.fixture
def data():
    return SimpleNamespace(queries=np.zeros((1000, 4), np.float32))


def test_measured_speed__the_median_batch_and_the_slowest_single_queries(data, monkeypatch):
    index = Clocked(lambda call, rows: 0.001 if call % 50 else 0.005)
    monkeypatch.setattr(speed, "time", index)
    batches = [(400, 0.4), (400, 8.0), (400, 0.5), (200, 0.01)]
    found = measured_speed(data, index, 10, batches)
    assert found.queries_per_s == 800  # of 0.5 s, of three calls of 400
    assert set(index.asked) == {1}  # three timings are enough
    assert found.n_single == speed.SINGLE
    assert found.latency_ms == pytest.approx({"p50": 1, "p95": 1, "p99": 5})


def test_measured_speed__repeats_a_single_batch_and_keeps_to_its_time(data, monkeypatch):
    index = Clocked(lambda call, rows: 0.02 * rows / 100)
    monkeypatch.setattr(speed, "time", index)
    found = measured_speed(data, index, 10, [(100, 0.04)])
    assert index.asked.count(100) == 2
    assert found.queries_per_s == 5000
    slow = Clocked(lambda call, rows: 1.0)
    monkeypatch.setattr(speed, "time", slow)
    found = measured_speed(data, slow, 10, [(1000, 50.0)])
    assert slow.asked == [1] * (speed.WARM_UP + speed.LEAST_SINGLE)
    assert (found.queries_per_s, found.n_single) == (20, speed.LEAST_SINGLE)


def test_peak_memory__is_what_was_held_at_most():
    with PeakMemory() as before:
        pass
    with PeakMemory() as found:
        block = np.ones(100 << 20, np.uint8)
        del block
    assert before.peak_bytes < 20 << 20
    assert 90 << 20 < found.peak_bytes < 160 << 20


def test_peak_memory__is_unknown_where_the_system_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    with PeakMemory() as found:
        pass
    assert found.peak_bytes is None
