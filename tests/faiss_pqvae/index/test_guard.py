"""After `register`, functions of FAISS say what to write for an index of ours, and no more."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import faiss_pqvae as fpq
from faiss_pqvae.index.gpu import distribute
from faiss_pqvae.index.guard import INSTEAD
from faiss_pqvae.native import faiss

# As people call them; the index is the one of ours.
CALLS: dict[str, Callable[[Any], Any]] = {
    "write_index": lambda index: faiss.write_index(index, "photos.faiss"),
    "serialize_index": lambda index: faiss.serialize_index(index),
    "clone_index": lambda index: faiss.clone_index(index),
    "index_cpu_to_all_gpus": lambda index: faiss.index_cpu_to_all_gpus(index),
    "index_cpu_to_gpus_list": lambda index: faiss.index_cpu_to_gpus_list(index, gpus=[0]),
    "index_cpu_to_gpu_multiple_py": lambda index: faiss.index_cpu_to_gpu_multiple_py([], index),
    "downcast_index": lambda index: faiss.downcast_index(index),
    "extract_index_ivf": lambda index: faiss.extract_index_ivf(index),
    "try_extract_index_ivf": lambda index: faiss.try_extract_index_ivf(index),
    "search_centroid": lambda index: faiss.search_centroid(index, None, 1, None),
    "search_and_return_centroids": lambda index: faiss.search_and_return_centroids(index),
    "shard_ivf_index_centroids": lambda index: faiss.shard_ivf_index_centroids(index),
    "merge_into": lambda index: faiss.merge_into(faiss.IndexFlatL2(3), index, True),
    "check_compatible_for_merge": lambda index: faiss.check_compatible_for_merge(index, index),
    "search_with_parameters": lambda index: faiss.search_with_parameters(index, None, 1),
    "range_search_with_parameters": lambda index: faiss.range_search_with_parameters(index, 0, 1),
    "ParameterSpace.initialize": lambda index: faiss.ParameterSpace().initialize(index),
    "ParameterSpace.set_index_parameter": lambda index: faiss.ParameterSpace().set_index_parameter(
        index, "nprobe", 4
    ),
    "ParameterSpace.set_index_parameters": (
        lambda index: faiss.ParameterSpace().set_index_parameters(index, "nprobe=4")
    ),
    "ParameterSpace.explore": lambda index: faiss.ParameterSpace().explore(index, None, None),
    "IndexIDMap.__init__": lambda index: faiss.IndexIDMap(index),
    "IndexIDMap2.__init__": lambda index: faiss.IndexIDMap2(index),
    "IndexRefine.__init__": lambda index: faiss.IndexRefine(index, faiss.IndexFlatL2(8)),
    "IndexRefineFlat.__init__": lambda index: faiss.IndexRefineFlat(index),
    "IndexPreTransform.__init__": lambda index: faiss.IndexPreTransform(
        faiss.NormalizationTransform(8), index
    ),
    "IndexShards.add_shard": lambda index: faiss.IndexShards(8).add_shard(index),
    "IndexShards.addIndex": lambda index: faiss.IndexShards(8).addIndex(index),
    "IndexReplicas.add_replica": lambda index: faiss.IndexReplicas(8).add_replica(index),
    "IndexReplicas.addIndex": lambda index: faiss.IndexReplicas(8).addIndex(index),
}
OF_GPU_BUILDS = {"index_cpu_to_gpu", "index_cpu_to_gpu_multiple", "index_gpu_to_cpu"}


def _members() -> list[dict[str, Any]]:
    owners = [faiss, *(kind for _, kind in inspect.getmembers(faiss, inspect.isclass))]
    return [dict(vars(owner)) for owner in owners]


@pytest.fixture
def _registered() -> Iterator[None]:
    fpq.register()
    yield
    fpq.unregister()


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("name", CALLS)
def test_guard__says_what_to_write(make_index, name):
    index = make_index((8,), n=3, encoder="linear")
    with pytest.raises(TypeError, match="takes indexes of FAISS's own, got a LatentIndex") as error:
        CALLS[name](index)
    message = str(error.value)
    assert message.startswith(f"faiss.{name.removesuffix('.__init__')} ")
    assert "index.to_faiss()" in message
    assert INSTEAD[name] in message


def test_guard__knows_all_calls():
    assert set(INSTEAD) == set(CALLS) | OF_GPU_BUILDS


@pytest.mark.usefixtures("_registered")
def test_guard__of_an_index_on_a_gpu(make_index):
    index = make_index((8,), n=3, encoder="linear")
    copied = distribute(index, torch.device("cpu"), [faiss.clone_index], shard=False, nlist=2)
    with pytest.raises(TypeError, match=r"got a GpuLatentIndex: use faiss_pqvae\.write_index"):
        faiss.write_index(copied, "photos.faiss")


def test_register__twice_is_undone_by_once():
    before = _members()
    fpq.register()
    once = _members()
    fpq.register()
    assert _members() == once != before
    fpq.unregister()
    assert _members() == before


@pytest.mark.usefixtures("_registered")
def test_guard__leaves_faiss_s_own_alone(tmp_path):
    index = faiss.index_factory(8, "IVF2,Flat")
    x = np.random.default_rng(0).standard_normal((80, 8), dtype=np.float32)
    index.train(x)
    index.add(x)
    faiss.write_index(index, str(tmp_path / "index"))
    faiss.ParameterSpace().set_index_parameter(index, "nprobe", 2)
    for same in (
        faiss.clone_index(index),
        faiss.extract_index_ivf(index),
        faiss.IndexIDMap2(faiss.IndexFlatL2(8)),
    ):
        assert same.d == 8
    read = faiss.read_index(str(tmp_path / "index"))
    read.nprobe = 2
    np.testing.assert_array_equal(read.search(x, 3)[1], index.search(x, 3)[1])
