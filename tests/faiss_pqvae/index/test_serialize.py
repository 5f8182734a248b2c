"""Bundles as bytes: what a folder guarantees, without one."""

import io
import zipfile
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import faiss_pqvae as fpq
from faiss_pqvae import LatentIndex, deserialize_index, index_factory, serialize_index
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.native import faiss


@pytest.fixture(scope="module")
def index(make_index) -> LatentIndex:
    index: LatentIndex = make_index(n=20)
    index.search_type = "sdc"
    return index


@pytest.fixture(scope="module")
def data(index) -> np.ndarray:
    return serialize_index(index)


def _assert_alike(found: LatentIndex, expected: LatentIndex, x: np.ndarray) -> None:
    for a, b in zip(found.search(x, 5), expected.search(x, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("description", "ntotal", "metric_type", "search_type", "k_factor"):
        assert getattr(found, name) == getattr(expected, name)


def test_serialize__gives_what_faiss_gives(index, data):
    own = faiss.serialize_index(index.faiss_index)
    assert (data.dtype, data.ndim) == (own.dtype, own.ndim)
    np.testing.assert_array_equal(serialize_index(index), data)  # nothing of the clock


@pytest.mark.parametrize("form", [np.asarray, bytes, bytearray, memoryview, np.ndarray.copy])
def test_deserialize__takes_bytes_in_every_form(index, data, make_items, form):
    _assert_alike(deserialize_index(form(data)), index, make_items(4, seed=3))


@pytest.mark.parametrize(
    ("kind", "id_map", "refine"),
    [
        ("IVF", "IDMap2", "flat"),
        ("HNSW", "", None),
        ("PQ", "IDMap", "decoder"),
        ("IVFfs", "", None),
    ],
)
def test_deserialize__of_every_kind(make_identity, make_items, kind, id_map, refine):
    refine = faiss.IndexFlatL2(8) if refine == "flat" else refine
    index = make_identity(kind, 4, faiss.METRIC_L2, id_map, refine=refine)
    x = make_items(40, (8,))
    ids = np.arange(40) * 7 + 2**40
    index.add_with_ids(x, ids) if id_map else index.add(x)
    index.k_factor = 3
    again = deserialize_index(serialize_index(index))
    _assert_alike(again, index, x[:5])
    again.add_with_ids(x, ids + 1) if id_map else again.add(x)  # the files are gone by now
    assert len(again) == 80


def test_deserialize__of_the_names_of_items(index):
    index.items = fpq.Items.of_names([f"{number}.jpg" for number in range(20)])
    again = deserialize_index(serialize_index(index))
    index.items = None
    assert again.items is not None
    assert again.items.names(np.array([3, 19])).tolist() == ["3.jpg", "19.jpg"]


def test_deserialize__of_transforms(make_model, make_items):
    x = make_items(40, (8,))
    transforms = Transforms.from_description(8, "PCA6").trained(x, "vectors")
    index = LatentIndex(make_model((6,), encoder="linear"), transforms=transforms)
    index.add(x)
    _assert_alike(deserialize_index(serialize_index(index)), index, x[:5])


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_deserialize__wants_an_encoder_that_is_not_ours(make_model, make_items):
    backbone = fpq.Backbone(_Encoder(), trainable=False)
    front = Front(backbone, (8,))
    index = LatentIndex(make_model((6,), encoder="linear"), front=front)
    x = make_items(40, (8,))
    index.add(x)
    data = serialize_index(index)
    with pytest.raises(ValueError, match="has to be handed in"):
        deserialize_index(data)
    with pytest.raises(ValueError, match="is not the one that the codes were learned behind"):
        deserialize_index(data, encoder=fpq.Backbone(_Encoder(), trainable=False))
    _assert_alike(deserialize_index(data, encoder=backbone), index, x[:5])


def test_serialize__refuses_what_a_folder_refuses(index):
    with pytest.raises(ValueError, match="expected a trained index"):
        serialize_index(index_factory(8, "PQVAE2"))
    with pytest.raises(TypeError, match="expected a LatentIndex to write, got IndexPQ"):
        serialize_index(index.faiss_index)


@pytest.mark.parametrize("place", np.linspace(0, 1, 40))
def test_deserialize__of_a_flipped_bit_is_refused_or_the_same(index, data, make_items, place):
    altered = data.copy()
    altered[int(place * (len(data) - 1))] ^= 4
    try:
        found = deserialize_index(altered)
    except ValueError as error:
        assert "expected" in str(error) or "damaged" in str(error)  # noqa: PT017 - or the same
    else:  # a byte of the archive that says nothing, such as a time
        _assert_alike(found, index, make_items(4, seed=3))


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99, 0.9999])
def test_deserialize__refuses_truncated_bytes(data, share):
    with pytest.raises(ValueError, match=r"serialize_index gives, got altered or truncated"):
        deserialize_index(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("text", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        (np.zeros(3, np.int8), TypeError, r"got an array \(3,\) of int8"),
        (np.zeros((3, 1), np.uint8), TypeError, r"got an array \(3, 1\) of uint8"),
        (b"", ValueError, "got others$"),
        (faiss.serialize_index(faiss.IndexFlatL2(3)), ValueError, "faiss.deserialize_index reads"),
    ],
)
def test_deserialize__refuses_other_things(given: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        deserialize_index(given)


def _archive(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, file in files.items():
            archive.writestr(name, file)
    return content.getvalue()


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "sub/escaped", "..", "sub/"])
def test_deserialize__writes_nowhere_else(data, name):
    with zipfile.ZipFile(io.BytesIO(data.tobytes())) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    with pytest.raises(ValueError, match="got another archive, of"):
        deserialize_index(_archive({**files, name: b"x"}))


def test_deserialize__refuses_archives_that_could_unfold(data):
    with zipfile.ZipFile(io.BytesIO(data.tobytes())) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    assert len(deserialize_index(_archive(files))) == 20
    with pytest.raises(ValueError, match="got another archive"):
        deserialize_index(_archive(files, zipfile.ZIP_DEFLATED))


def test_deserialize__checks_the_hashes(data):
    with zipfile.ZipFile(io.BytesIO(data.tobytes())) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    name = next(name for name in files if name.startswith("index-"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    with pytest.raises(ValueError, match=f"damaged bundle in the bytes: {name} was altered"):
        deserialize_index(_archive(files))
