"""What a command holds: its own memory and that of the processes it began."""

import subprocess
import sys

import numpy as np
import pytest

from faiss_pqvae.cli import held_memory
from faiss_pqvae.cli.held_memory import HeldMemory, processes_below

MB = 1 << 20
CHILD = "import sys; held = b'x' * (200 << 20); print(len(held), flush=True); sys.stdin.read()"

pytestmark = pytest.mark.skipif(
    not (held_memory._PROC / "self/smaps_rollup").exists(), reason="the system does not say"
)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(held_memory, "_SAMPLE_S", 0.01)


def test_held_memory__is_what_was_held_within_the_block(often):
    with HeldMemory() as before:
        pass
    with HeldMemory() as held:
        x = np.ones(100 * MB, np.uint8)
        held._over.wait(0.1)
        del x
    with HeldMemory() as after:
        pass
    assert held.peak_bytes - before.peak_bytes > 90 * MB
    assert after.peak_bytes < held.peak_bytes - 90 * MB


def test_held_memory__counts_processes_that_were_begun(often):
    with HeldMemory() as before:
        pass
    with (
        HeldMemory() as held,
        subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child,
    ):
        assert child.stdout.readline().strip() == b"%d" % (200 * MB)
        assert child.pid in processes_below(held_memory.os.getpid())
        held._over.wait(0.1)
        child.stdin.close()
    assert held.peak_bytes - before.peak_bytes > 190 * MB


def test_held_memory__nothing_where_the_system_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(held_memory, "_PROC", tmp_path)
    with HeldMemory() as held:
        pass
    assert held.peak_bytes == 0
