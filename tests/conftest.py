"""What the tests share: one thread, and small indexes that need no training."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from faiss_pqvae import PQVAE, LatentIndex, ModelConfig
from faiss_pqvae.native import faiss
from faiss_pqvae.registry import Registry
from faiss_pqvae.training import new_model

# A busy machine is slow, not wrong; and a run that failed can be repeated.
settings.register_profile("seeded", deadline=None, derandomize=True)
settings.load_profile("seeded")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--jury", action="store_true", help="every combination of tests marked jury")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --jury, leaves out the combinations of a test in which it has seen every value."""
    if config.getoption("--jury"):
        return
    seen: dict[Any, set[Any]] = defaultdict(set)  # by test
    kept, left_out = [], []
    for item in items:
        values = _values(item)
        test = (item.path, item.name.partition("[")[0])
        (kept if not values or values - seen[test] else left_out).append(item)
        seen[test] |= values
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def _values(item: pytest.Item) -> set[Any]:
    """The values that a combination is made of; none of a test that is never thinned.

    One with the attribute `jury` says itself what it is made of.
    """
    if item.get_closest_marker("jury") is None or not hasattr(item, "callspec"):
        return set()
    return {
        (name, part if isinstance(part, Hashable) else id(part))
        for name, value in item.callspec.params.items()
        for part in getattr(value, "jury", (value,))
    }


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(torch_threads)
    faiss.omp_set_num_threads(faiss_threads)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured speeds of scans are kept for the tests, not for the user who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def register() -> Iterator[Callable[[Registry[Any], str, Any], None]]:
    """Registers something under a name, for the test alone."""
    done: list[tuple[Registry[Any], str]] = []

    def put(registry: Registry[Any], name: str, thing: Any) -> None:
        registry.register(name)(thing)
        done.append((registry, name))

    yield put
    for registry, name in done:
        registry.unregister(name)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def make_items() -> Callable[..., np.ndarray]:
    """Random items (n, *shape): uint8 images, float32 vectors."""

    def make(n: int, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if len(shape) == 3:
            return rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        return rng.standard_normal((n, *shape), dtype=np.float32)

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PQVAE]:
    """A PQ-VAE that counts as trained: weights from a seed, codewords spread like its latents."""

    def make(
        shape: tuple[int, ...] = (1, 8, 8),
        M: int = 2,
        nbits: int = 8,
        *,
        seed: int = 0,
        trained: bool = True,
        **config: Any,
    ) -> PQVAE:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            model = new_model(shape, M, nbits, ModelConfig(**{"dsub": 4, "width": 4, **config}))
            if trained:
                items = torch.rand(64, *shape)
                model.fit_normalization(items)
                z = model.eval().encode(items)
                codewords = model.quantizer.codewords
                codewords.copy_(torch.randn(codewords.shape) * z.std() + z.mean())
                model.quantizer.project()
                model.fitted.fill_(True)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_index(
    make_model: Callable[..., PQVAE], make_items: Callable[..., np.ndarray]
) -> Callable[..., LatentIndex]:
    """An index over such a model, with n random items in it."""

    def make(
        shape: tuple[int, ...] = (1, 8, 8),
        M: int = 2,
        nbits: int = 8,
        metric_type: int = faiss.METRIC_L2,
        *,
        n: int = 0,
        **model: Any,
    ) -> LatentIndex:
        index = LatentIndex(make_model(shape, M, nbits, **model), metric_type)
        if n:
            index.add(make_items(n, shape))
        return index

    return make
