"""The scripts of `benchmarks/` import each other as what lies in their folder."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session")
def behind() -> Callable[[str, type, Path], type]:
    """Makes a harness's algorithm, over a stand-in for what its base class promises."""

    def made(harness: str, base: type, folder: Path) -> type:
        with pytest.MonkeyPatch.context() as patch:
            parts = [harness, "algorithms", "base", "module"]
            for i in range(len(parts)):
                name = ".".join(parts[: i + 1])
                stand_in = ModuleType(name)
                stand_in.__path__ = []  # a package
                patch.setitem(sys.modules, name, stand_in)
            stand_in.BaseANN = base  # type: ignore[attr-defined]
            spec = importlib.util.spec_from_file_location(f"{harness}_module", folder / "module.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        constructor: type = module.FaissPQVAE
        return constructor

    return made


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
