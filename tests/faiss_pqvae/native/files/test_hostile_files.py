"""Mutated bundles are refused, or read to an index that works; nothing ends the process.

    FAISS_PQVAE_HOSTILE=10000 pytest tests/faiss_pqvae/native/files/test_hostile_files.py

tries as many as there are named; without the variable it is a part of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hostile.py")
MUTATIONS = int(os.environ.get("FAISS_PQVAE_HOSTILE", "400"))


@pytest.mark.timeout(60 + MUTATIONS // 10)
def test_read__survives_mutated_bundles(tmp_path: Path) -> None:
    with (tmp_path / "errors").open("wb") as errors:
        child = subprocess.run(
            [sys.executable, str(SCRIPT), "0", str(MUTATIONS)],
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=tmp_path,  # not the repository, where a folder has the name of the package
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    last = child.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    if child.returncode:
        trace = (tmp_path / "errors").read_text(errors="replace")[-4000:]
        pytest.fail(f"exit code {child.returncode} in mutation {last}\n{trace}")
    told = json.loads(last)
    assert told["failures"] == []
    outcomes = told["outcomes"]
    assert sum(outcomes.values()) == MUTATIONS
    # Both attackers came to both ends.
    for outcome in ("careless, refused", "careless, same", "careful, refused", "careful, read"):
        assert outcomes[outcome] > MUTATIONS // 200
    print(outcomes)
