"""The scripts of `benchmarks/` import each other as what lies in their folder."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def vector_files(tmp_path):
    """Files of a base and of queries, of 8 dimensions."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((3, 8))
    paths = []
    for name, n in (("base", 800), ("queries", 90)):
        x = np.tanh(rng.standard_normal((n, 3)) @ mixing).astype(np.float32)
        np.save(tmp_path / f"{name}.npy", x)
        paths.append(str(tmp_path / f"{name}.npy"))
    return paths
