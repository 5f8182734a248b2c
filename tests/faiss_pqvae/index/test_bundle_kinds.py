"""Bundles of every kind of index, their ids, and what their configuration may say."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from faiss_pqvae import PQVAE, LatentIndex, index_factory, read_index, write_index
from faiss_pqvae.index.bundle import read_config
from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.native import faiss

L2 = faiss.METRIC_L2
D, N = 8, 30
BIG = np.array([2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**40, 2**40 + 1, 2**52, 2**62, 2**63 - 1])
DESCRIPTIONS = [
    "PQVAE4x4",
    "PQVAE4x4fs",
    "PQVAE2x10",
    "IVF4,PQVAE4x4",
    "IVF4,PQVAE4x4fs",
    "IVF4_HNSW8,PQVAE4x4",
    "HNSW8,PQVAE4x4",
    "IDMap,PQVAE4x5",
    "IDMap2,IVF4,PQVAE4x4",
    "L2norm,PCA6,PQVAE2x4",
    "PCAW6,PQVAE2x4",
    "ITQ6,PQVAE2x4",
    "OPQ2,RR8,PQVAE2x4",
    "PQVAE4x4,RFlat",
    "IVF4,PQVAE4x4,Refine(SQ8)",
    "IDMap2,IVF4,PQVAE4x4,Refine(PQ8x8)",
    "HNSW8,PQVAE4x4,Refine(SQfp16)",
    "IVF4,PQVAE4x4,RDecoder",
    "IDMap2,L2norm,IVF4,PQVAE4x4fs,RFlat",
]


def _x(n: int = N, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


def _takes_ids(index: LatentIndex) -> bool:
    return isinstance(index.faiss_index, faiss.IndexIDMap | faiss.IndexIVF)


@torch.no_grad()
def _fit(model: PQVAE, x: Any, **options: Any) -> list[dict[str, Any]]:
    """Stands for a training, in no time."""
    codewords = model.quantizer.codewords
    codewords.copy_(torch.randn(codewords.shape, generator=torch.Generator().manual_seed(0)))
    model.fitted.fill_(True)
    return []


def _trained(description: str) -> LatentIndex:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        index = index_factory(D, description, model=ModelConfig(encoder="linear", dsub=2))
    _fit.check, _fit.takes_coarse = lambda n, **given: {}, True
    index.fit = _fit
    index.train(_x(1300), progress=False)
    return index


def _build(description: str) -> LatentIndex:
    index = _trained(description)
    if isinstance(index.faiss_index, faiss.IndexIDMap):
        index.add_with_ids(_x(), np.arange(N) + 2**41)
    else:
        index.add(_x())
    return index


@pytest.fixture(scope="module")
def build() -> Callable[[str], LatentIndex]:
    """Trained indexes, each trained once."""
    made: dict[str, LatentIndex] = {}

    def get(description: str) -> LatentIndex:
        if description not in made:
            made[description] = _build(description)
        return made[description]

    return get


def _found(index: LatentIndex) -> list[bytes]:
    q = _x(5, 4)
    found = [*index.search(q, 4), index.encode(q), *index.search_and_reconstruct(q, N + 1)]
    return [array.tobytes() for array in found]


def _edit(folder: Path, *change: Any) -> None:
    """Sets values of the configuration, and its hash: keys and a value, or keys alone to remove."""
    config = json.loads((folder / "config.json").read_text())
    config.pop("sha256")
    *outer, last, value = change
    place = config
    for key in outer:
        place = place[key]
    place[last] = value
    content = json.dumps(config, sort_keys=True).encode()
    config["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def _replace(folder: Path, role: str, content: bytes) -> None:
    """Gives a file of the bundle another content, and its hash."""
    name = read_config(folder)["files"][role]["name"]
    (folder / name).write_bytes(content)
    _edit(folder, "files", role, "sha256", hashlib.sha256(content).hexdigest())


def _content(folder: Path, role: str) -> bytes:
    return (folder / read_config(folder)["files"][role]["name"]).read_bytes()


@pytest.fixture
def folder(tmp_path: Path, build: Callable[[str], LatentIndex]) -> Path:
    write_index(build("PQVAE4x4"), tmp_path)
    return tmp_path


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_read__of_every_kind(build, tmp_path, description):
    index = build(description)
    index.k_factor = 2.5
    write_index(index, tmp_path)
    again = read_index(tmp_path)
    assert _found(again) == _found(index)
    assert (again.description, again.k_factor) == (description, 2.5)
    new = np.array([2**45, 2**50])
    for each in (again, index):
        if _takes_ids(each):
            each.add_with_ids(_x(2, 8), new)
        else:
            each.add(_x(2, 8))
    # FAISS does not write how the levels of a graph are drawn: it grows on otherwise.
    assert _found(again) == _found(index) or "HNSW8" in description.split(",")
    write_index(again, tmp_path)  # over itself
    assert _found(read_index(tmp_path)) == _found(again)


@pytest.mark.parametrize("description", ["PCA6,PQVAE2x4", "PCAW6,PQVAE2x4", "RR8,PQVAE4x4"])
def test_read__turns_transforms_back_as_before(build, tmp_path, description):
    index = build(description)
    write_index(index, tmp_path)
    z = index.encode(_x(3))

    def decoded(each: LatentIndex) -> Any:
        try:
            return each.decode(z).tobytes()
        except ValueError as error:  # a whitening cannot be turned back
            return type(error)

    assert decoded(read_index(tmp_path)) == decoded(index)


@pytest.mark.parametrize("description", ["IVF4,PQVAE4x4", "IVF4,PQVAE4x4,RFlat"])
@pytest.mark.parametrize("mmap", [False, True])
def test_read__with_a_direct_map(tmp_path, description, mmap):
    index = _build(description)
    index.faiss_index.make_direct_map()
    write_index(index, tmp_path)
    again = read_index(tmp_path, mmap=mmap)
    assert again.faiss_index.direct_map.type == faiss.DirectMap.Array
    np.testing.assert_array_equal(again.reconstruct_n(), index.reconstruct_n())


# -- large ids


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize(
    ("kind", "id_map", "refine"),
    [
        ("PQ", "IDMap2", None),
        ("PQ", "IDMap", "flat"),
        ("IVF", "", None),
        ("IVF", "", "ids"),
        ("IVF", "IDMap2", "decoder"),
        ("IVFfs", "", None),
        ("HNSW", "IDMap2", "flat"),
        ("PQfs", "IDMap2", None),
    ],
)
def test_read__keeps_ids_of_64_bits(make_identity, tmp_path, kind, id_map, refine, mmap):
    if mmap and kind.endswith("fs"):
        return  # FAISS cannot map these
    refiners = {"flat": faiss.IndexFlatL2(D), "decoder": "decoder", None: None}
    refiners["ids"] = faiss.index_factory(D, "IDMap2,Flat")
    index = make_identity(kind, 4, L2, id_map, refine=refiners[refine])
    x = _x(len(BIG))
    index.add_with_ids(x, BIG)
    write_index(index, tmp_path)
    again = read_index(tmp_path, mmap=mmap)
    I_ = again.search(x, len(BIG))[1]
    np.testing.assert_array_equal(I_, index.search(x, len(BIG))[1])
    assert set(I_.ravel()) <= {*BIG, -1}
    np.testing.assert_array_equal(again.reconstruct_batch(BIG), index.reconstruct_batch(BIG))
    with pytest.raises(ValueError, match="expected ids that are stored"):
        again.reconstruct(2**32 + 1)
    if mmap or kind == "HNSW":
        return
    assert again.remove_ids(np.array([2**40, 2**62, 0])) == 2
    assert not np.isin(again.search(x, len(BIG))[1], [2**40, 2**62]).any()
    write_index(again, tmp_path)
    kept = np.setdiff1d(BIG, [2**40, 2**62])
    np.testing.assert_array_equal(
        read_index(tmp_path).reconstruct_batch(kept), index.reconstruct_batch(kept)
    )


# -- the configuration


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, 5e-324, 1 / 3])
def test_config__floats_survive(make_index, tmp_path, value):
    index = make_index(n=3, ema_decay=value)
    write_index(index, tmp_path)
    assert read_index(tmp_path).model.config.ema_decay == value
    assert read_config(tmp_path)["model"]["config"]["ema_decay"] == value


@pytest.mark.parametrize("value", [1.7976931348623157e308, 4 / 3, 1.0, 2**53 + 1.0])
def test_config__large_floats_survive(make_index, tmp_path, value):
    index = make_index(n=3)
    index.k_factor = value
    write_index(index, tmp_path)
    assert read_index(tmp_path).k_factor == value


@pytest.mark.parametrize(
    "name", ["Größe 8", "\U0001f40d,PQVAE", "a\u2028b\x00\x7f", "\ud800", '"\\']
)
def test_config__strings_survive(make_index, tmp_path, name):
    index = make_index(n=3)
    index.description = name
    write_index(index, tmp_path)
    assert read_index(tmp_path).description == name


def test_config__numbers_of_numpy(make_index, tmp_path):
    index = make_index(n=3)
    index.k_factor = np.float32(1.5)
    write_index(index, tmp_path)
    assert read_index(tmp_path).k_factor == 1.5


@pytest.mark.parametrize("key", ["k_factor", "ntotal", "factory", "versions"])
def test_config__edited_by_hand_says_so(folder, key):
    config = json.loads((folder / "config.json").read_text())
    config[key] = 3
    (folder / "config.json").write_text(json.dumps(config))
    for read in (read_config, read_index):
        with pytest.raises(
            ValueError, match=r"config\.json was altered.*read_index and write_index"
        ):
            read(folder)


def test_config__formatted_anew_is_the_same(folder, build):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert _found(read_index(folder)) == _found(build("PQVAE4x4"))


def test_config__no_format_goes_around_its_hash(folder):
    config = json.loads((folder / "config.json").read_text())
    config.update(format=1, search_type="sdc")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json was altered"):
        read_index(folder)


def test_config__nested_without_end(folder):
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="damaged bundle"):
        read_index(folder)


@pytest.mark.parametrize("value", [0, 0.5, -1, float("nan"), float("inf"), "2", None, []])
def test_config__refuses_another_k_factor(folder, value):
    _edit(folder, "k_factor", value)
    with pytest.raises(ValueError, match="expected k_factor >= 1"):
        read_index(folder)


@pytest.mark.parametrize("value", [-1, 1.5, float("nan"), "2", None, True, []])
def test_config__refuses_another_effort(folder, value):
    _edit(folder, "effort", value)
    with pytest.raises(ValueError, match=r"expected an integer effort >= 0 in config\.json"):
        read_index(folder)


@pytest.mark.parametrize("value", [3, None, ["PQVAE4x4"]])
def test_config__refuses_another_description(folder, value):
    _edit(folder, "factory", value)
    with pytest.raises(ValueError, match="expected a string as factory"):
        read_index(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("M", 10**9),
        ("M", 10**30),
        ("M", 4.0),
        ("M", True),
        ("M", "4"),
        ("nbits", 4.0),
        ("input_shape", [2**40]),
        ("input_shape", [2**30]),
        ("input_shape", [8.0]),
        ("input_shape", [3, 2**20, 2**20]),
        ("input_shape", []),
        ("input_shape", 8),
    ],
)
def test_config__takes_no_memory_for_sizes_that_are_claimed(folder, key, value):
    _edit(folder, "model", key, value)
    with pytest.raises(ValueError, match=r"expected|do not fit|misuses"):
        read_index(folder)


@pytest.mark.parametrize(("key", "value"), [("dsub", 10**8), ("dsub", 1.5), ("width", 2**40)])
def test_config__takes_no_memory_for_networks_that_are_claimed(folder, key, value):
    _edit(folder, "model", "config", key, value)
    with pytest.raises(ValueError, match=r"expected|do not fit|misuses"):
        read_index(folder)


# -- parts that do not fit together


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_read__refuses_weights_that_are_not_finite(folder, value):
    weights = safetensors.torch.load(_content(folder, "model"))
    weights["encoder.map.bias"][0] = value
    _replace(folder, "model", safetensors.torch.save(weights))
    with pytest.raises(ValueError, match="expected finite weights"):
        read_index(folder)


def test_read__refuses_weights_of_another_type(folder):
    content = _content(folder, "model")
    assert b'"dtype":"F32"' in content
    _replace(folder, "model", content.replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))
    with pytest.raises(ValueError, match="do not fit the configuration"):
        read_index(folder)


@pytest.mark.parametrize("description", ["PQVAE4x4", "IVF4,PQVAE4x4"])
def test_read__refuses_an_untrained_index(build, tmp_path, description):
    write_index(build(description), tmp_path)
    index = faiss.deserialize_index(np.frombuffer(_content(tmp_path, "index"), np.uint8))
    index.reset()
    index.is_trained = False
    _replace(tmp_path, "index", faiss.serialize_index(index).tobytes())
    with pytest.raises(ValueError, match="expected a trained index"):
        read_index(tmp_path)


@pytest.mark.parametrize(
    ("description", "value"),
    [
        ("PQVAE4x4", "stored"),
        ("PQVAE4x4,RFlat", None),
        ("PQVAE4x4,RFlat", "decoder"),
        ("PQVAE4x4", "other"),
        ("PQVAE4x4", 1),
        ("PQVAE4x4", []),
    ],
)
def test_read__refuses_a_refinement_without_its_file(build, tmp_path, description, value):
    write_index(build(description), tmp_path)
    _edit(tmp_path, "refine", value)
    with pytest.raises(ValueError, match="expected a file to refine with or none"):
        read_index(tmp_path)


def test_read__refuses_other_items_to_refine_with(build, tmp_path):
    write_index(build("IVF4,PQVAE4x4,Refine(SQ8)"), tmp_path)
    refine = faiss.deserialize_index(np.frombuffer(_content(tmp_path, "refine"), np.uint8))
    ids = faiss.vector_to_array(refine.id_map)
    ids[0] = 12345
    faiss.copy_array_to_vector(ids, refine.id_map)
    _replace(tmp_path, "refine", faiss.serialize_index(refine).tobytes())
    with pytest.raises(ValueError, match="expected the ids of the items to refine with"):
        read_index(tmp_path)


def test_read__refuses_transforms_to_another_dimension(build, tmp_path):
    write_index(build("L2norm,PCA6,PQVAE2x4"), tmp_path)
    other = faiss.index_factory(D, "L2norm,Flat")
    _replace(tmp_path, "transforms", faiss.serialize_index(other).tobytes())
    with pytest.raises(ValueError, match="expected transforms that give vectors of"):
        read_index(tmp_path)


def test_write__refuses_what_could_not_be_read(build, tmp_path):
    index = _trained("IVF32(HNSW8_PQ4x4np),PQVAE4x4")
    write_index(build("PQVAE4x4"), tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="a bundle cannot hold this IndexIVFPQ"):
        write_index(index, tmp_path)
    assert sorted(tmp_path.iterdir()) == before


# -- items beyond what FAISS computes with


@pytest.mark.parametrize("description", ["PQVAE4x4", "IVF4,PQVAE4x4", "IVF4,PQVAE4x4,RFlat"])
@pytest.mark.parametrize("scale", [1e21, 1e36])
def test_add__refuses_items_whose_distances_overflow(make_identity, tmp_path, description, scale):
    """An inverted file would count them, but hold them in none of its lists."""
    index = _build(description)
    with pytest.raises(ValueError, match="expected items with latents below 1e18"):
        index.add(_x(3) * np.float32(scale))
    assert index.ntotal == N
    write_index(index, tmp_path)
    assert _found(read_index(tmp_path)) == _found(index)


def test_search__looks_at_no_more_candidates_than_there_are(build):
    index = build("PQVAE4x4,RFlat")
    index.k_factor = 1e300
    np.testing.assert_array_equal(index.search(_x(2), 3)[1][:, 0], [0, 1])
