"""Transforms before the encoder: fitted once, applied to everything, undone where that can be."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from faiss_pqvae import LatentIndex, ModelConfig, TrainingConfig, index_factory
from faiss_pqvae.data.batches import check_items
from faiss_pqvae.index.refine import StoredVectors
from faiss_pqvae.index.transforms import Transformed, Transforms
from faiss_pqvae.native import faiss

D_IN = 12
LINEAR = ModelConfig(encoder="linear", dsub=4)
SHORT = TrainingConfig(epochs=1, batch_size=64, precision="float32", device="cpu")
CHAINS = [
    "L2norm",
    "PCA4",
    "PCAR4",
    "PCAW4",
    "RR",
    "RR20",
    "ITQ",
    "ITQ4",
    "Pad20",
    "L2norm,PCA4,RR",
]


def _native(description: str, x: np.ndarray) -> Any:
    """FAISS's own chain, trained by FAISS."""
    index = faiss.index_factory(D_IN, f"{description},Flat")
    index.train(x)
    return index


@pytest.mark.parametrize("description", [*CHAINS, "OPQ2_4"])
def test_trained__is_as_faiss_trains(make_items, description):
    x, queries = make_items(300, (D_IN,)), make_items(9, (D_IN,), 1)
    transforms = Transforms.from_description(D_IN, description)
    assert transforms.is_trained == (description in ("L2norm", "Pad20"))
    fitted = transforms.trained(x, "training data")
    native = _native(description, x)
    expected = queries
    for i in range(native.chain.size()):
        expected = native.chain.at(i).apply(expected)
    found = fitted.apply(torch.from_numpy(queries))
    np.testing.assert_array_equal(found.numpy(), expected)
    assert (fitted.d_in, fitted.d_out) == (D_IN, expected.shape[1])
    assert fitted.is_trained


@pytest.mark.parametrize("description", [*CHAINS, "OPQ2_4"])
def test_copy_and_pickle__before_and_after_the_training(make_items, description):
    x, queries = make_items(300, (D_IN,)), torch.from_numpy(make_items(9, (D_IN,), 1))
    transforms = Transforms.from_description(D_IN, description)
    expected = transforms.trained(x, "training data").apply(queries)
    for twin in (copy.deepcopy(transforms), pickle.loads(pickle.dumps(transforms))):
        fitted = twin.trained(x, "training data")
        assert torch.equal(fitted.apply(queries), expected)
        for again in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
            assert again.is_trained
            assert torch.equal(again.apply(queries), expected)
            # And once more, from the beginning.
            assert torch.equal(again.trained(x, "training data").apply(queries), expected)


def test_trained__leaves_the_untrained_one(make_items):
    transforms = Transforms.from_description(D_IN, "PCA4")
    fitted = transforms.trained(make_items(50, (D_IN,)), "training data")
    assert (transforms.is_trained, fitted.is_trained) == (False, True)


def test_trained__of_too_few_vectors_says_so(make_items):
    transforms = Transforms.from_description(D_IN, "OPQ2_4")
    with pytest.raises(ValueError, match="cannot train OPQMatrix on 20 vectors"):
        transforms.trained(make_items(20, (D_IN,)), "training data")


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, np.float32])
def test_apply__takes_every_dtype_and_changes_no_input(make_items, dtype):
    x = (10 * np.abs(make_items(20, (D_IN,)))).astype(dtype)
    given = torch.from_numpy(x.copy())
    found = Transforms.from_description(D_IN, "L2norm").apply(given)
    as_float = x.astype(np.float32)
    expected = as_float / np.linalg.norm(as_float, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize(
    ("description", "exact"),
    [
        ("RR", True),
        ("RR20", True),
        ("Pad20", True),
        ("PCA12", True),
        ("PCAR12", True),
        ("L2norm", False),
    ],
)
def test_reverse__undoes(make_items, description, exact):
    x = make_items(200, (D_IN,))
    transforms = Transforms.from_description(D_IN, description).trained(x, "training data")
    back = transforms.reverse(transforms.apply(torch.from_numpy(x)).numpy())
    assert np.allclose(back, x, atol=1e-4) == exact
    if not exact:  # the length is gone
        np.testing.assert_allclose(back, x / np.linalg.norm(x, axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("description", ["PCAW4", "ITQ", "RR,PCAW4", "PCAW4,L2norm"])
def test_reverse__says_what_cannot_be_undone(make_items, description):
    x = make_items(200, (D_IN,))
    transforms = Transforms.from_description(D_IN, description).trained(x, "training data")
    name = "ITQTransform" if description == "ITQ" else "PCAMatrix"
    with pytest.raises(ValueError, match=f"{name} cannot be undone"):
        transforms.reverse(transforms.apply(torch.from_numpy(x)).numpy())


# -- in an index


class Source:
    """Vectors that are read in pieces only."""

    dtype = np.dtype(np.float32)

    def __init__(self, x: np.ndarray, most: int) -> None:
        self.x, self.shape, self.most, self.rows_read = x, x.shape, most, 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        piece = self.x[rows]
        assert len(piece) <= self.most
        self.rows_read += len(piece)
        return piece


def _index(description: str, metric: Any = faiss.METRIC_L2) -> LatentIndex:
    return index_factory(D_IN, description, metric, model=LINEAR, training=SHORT)


@pytest.mark.parametrize("coarse", ["", "IVF4,", "IDMap2,", "HNSW4,"])
@pytest.mark.parametrize("description", ["L2norm,PCA4", "RR20"])
def test_index__applies_them_to_all_that_it_reads(make_items, description, coarse):
    x, queries = make_items(200, (D_IN,)), make_items(9, (D_IN,), 1)
    id_map, coarse = ("IDMap2,", "") if coarse == "IDMap2," else ("", coarse)
    index = _index(f"{id_map}{description},{coarse}PQVAE3x4")
    assert not index.is_trained
    index.train(x, progress=False)
    native = _native(description, x)
    chain = [native.chain.at(i) for i in range(native.chain.size())]

    def transformed(vectors: np.ndarray) -> torch.Tensor:
        for transform in chain:
            vectors = transform.apply(vectors)
        return torch.from_numpy(vectors)

    # The model was trained behind them: what its codewords stand for lies around their output ...
    y = transformed(x)
    assert index.model.input_shape == (chain[-1].d_out,)
    with torch.inference_mode():
        decoded = index.model.decode(torch.from_numpy(index.sa_decode(index.sa_encode(x))))
    np.testing.assert_allclose(decoded.mean(0), y.mean(0), atol=0.03)
    # ... and sees queries and items behind them.
    with torch.inference_mode():
        z, zq = (index.model.encode(transformed(vectors)).numpy() for vectors in (x, queries))
    np.testing.assert_allclose(index.encode(queries), zq, atol=1e-6)
    if id_map:
        index.add_with_ids(x, np.arange(200))
    else:
        index.add(x)
    expected = copy.deepcopy(index.faiss_index)
    expected.reset()
    expected.add_with_ids(z, np.arange(200)) if id_map else expected.add(z)
    found = index.search(queries, 5)
    np.testing.assert_allclose(found[0], expected.search(zq, 5)[0], rtol=1e-4, atol=1e-5)
    assert (found[1] == expected.search(zq, 5)[1]).mean() > 0.9
    codes = index.sa_encode(queries)
    assert (index.sa_decode(codes).shape, len(codes)) == ((9, 12), 9)


def test_index__decodes_through_them(make_items):
    x = make_items(200, (D_IN,))
    index = _index("RR,PQVAE3x4")
    index.train(x, progress=False)
    z = index.encode(x[:5])
    with torch.inference_mode():
        items = index.model.decode(torch.from_numpy(z)).numpy()
    decoded = index.decode(z)
    assert index.transforms is not None
    np.testing.assert_allclose(decoded, index.transforms.reverse(items), rtol=1e-5)
    np.testing.assert_allclose(index.transforms.apply(torch.from_numpy(decoded)), items, atol=1e-5)
    index = _index("PCAW4,PQVAE3x4")
    index.train(x, progress=False)
    with pytest.raises(ValueError, match="PCAMatrix cannot be undone"):
        index.decode(index.encode(x[:5]))


def test_index__reads_in_pieces(make_items):
    x = make_items(3000, (D_IN,))
    index = _index("IVF2,PQVAE3x4")
    source = Source(x, 1024)  # the training keeps what it trains with, and reads it so
    index.train(source, progress=False)
    assert source.rows_read > 3000
    index = _index("L2norm,PCA4,IVF2,PQVAE3x4,Refine(SQ8)")
    index.batch_size = 64
    # What transforms and the second index are fitted to is a sample, read at once: see below.
    source = Source(x, 3000)
    index.train(source, progress=False)
    assert source.rows_read > 3000
    source = Source(x, 64)
    index.add(source)
    assert (index.ntotal, source.rows_read) == (3000, 3000)
    index.search(Source(x, 64), 2)


def test_training__of_transforms_and_of_vectors_to_refine_with_reads_a_sample(make_items):
    source = Source(make_items(3000, (D_IN,)), 100)
    transforms = Transforms.from_description(D_IN, "PCA4")
    assert transforms.trained(source, "items", n_max=100).is_trained
    assert source.rows_read == 100
    vectors = StoredVectors(faiss.index_factory(D_IN, "SQ8"))
    vectors.train(source, "items", n_max=100)
    assert vectors.is_trained
    assert source.rows_read == 200


def test_index__of_a_trained_model_wants_trained_transforms(make_model):
    model = make_model((4,), encoder="linear")
    transforms = Transforms.from_description(D_IN, "PCA4")
    with pytest.raises(ValueError, match="the model was trained behind"):
        LatentIndex(model, transforms=transforms)
    with pytest.raises(ValueError, match=r"vectors of \(4,\), got 5 dimensions"):
        LatentIndex(model, transforms=Transforms.from_description(D_IN, "PCA5"))


@pytest.mark.parametrize("call", ["add", "search", "encode", "sa_encode"])
def test_untrained_index__refuses(make_items, call):
    index = _index("PCA4,PQVAE3x4")
    arguments = (make_items(3, (D_IN,)), *([1] if call == "search" else []))
    with pytest.raises(ValueError, match="not trained yet"):
        getattr(index, call)(*arguments)


def test_index__takes_items_of_the_raw_shape_only(make_items):
    index = _index("PCA4,PQVAE3x4")
    index.train(make_items(100, (D_IN,)), progress=False)
    with pytest.raises(ValueError, match=r"of shape \(n, 12\), got \(3, 4\)"):
        index.add(make_items(3, (4,)))
    x = make_items(3, (D_IN,))
    x[1, 2] = np.inf
    with pytest.raises(ValueError, match="row 1"):
        index.add(x)


@pytest.mark.parametrize("description", ["L2norm,PCA4,PQVAE3x4", "ITQ4,PQVAE3x4", "OPQ2,PQVAE3x4"])
def test_index__copy_and_pickle(make_items, description):
    x, queries = make_items(300, (D_IN,)), make_items(5, (D_IN,), 1)
    index = _index(description)
    twins = [copy.deepcopy(index), pickle.loads(pickle.dumps(index))]
    for twin in (index, *twins):  # untrained
        twin.train(x, progress=False)
        twin.add(x)
    D, I = index.search(queries, 3)  # noqa: E741
    for twin in (*twins, copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        found = twin.search(queries, 3)
        np.testing.assert_array_equal(found[1], I)
        np.testing.assert_array_equal(found[0], D)


def test_transformed__is_what_a_training_reads(make_items):
    x = make_items(50, (D_IN,))
    transforms = Transforms.from_description(D_IN, "PCA4").trained(x, "training data")
    rows = Transformed(x, transforms, "training data")
    check_items(rows, (4,), "training data")
    assert (len(rows), rows.shape) == (50, (50, 4))
    expected = transforms.apply(torch.from_numpy(x))
    for which in (slice(3, 9), np.array([4, 1, 1]), slice(None)):
        # FAISS's products depend, in their last bit, on how many rows there are.
        torch.testing.assert_close(rows[which], expected[which])


@pytest.mark.parametrize("description", [*CHAINS, "OPQ2_4"])
def test_eq__is_about_what_they_do(make_items, description):
    x = make_items(300, (D_IN,))
    fitted = Transforms.from_description(D_IN, description).trained(x, "training data")
    assert fitted == pickle.loads(pickle.dumps(fitted))
    assert fitted == Transforms.from_description(D_IN, description).trained(x, "training data")
    assert fitted != Transforms.from_description(D_IN, "L2norm,L2norm")
    assert fitted != None  # noqa: E711 - compared, not identified
    if "PCA" in description:
        other = make_items(300, (D_IN,), 1)
        assert fitted != Transforms.from_description(D_IN, description).trained(other, "data")


def test_merge__refuses_other_transforms(make_items):
    x = make_items(300, (D_IN,))
    index = index_factory(D_IN, "PCA4,PQVAE2x4", model=LINEAR, training=SHORT)
    index.train(x, progress=False)
    other = copy.deepcopy(index)
    assert other.transforms is not None
    other.transforms = other.transforms.trained(2 * x + 1, "training data")
    for each in (index, other):
        each.add(x[:5])
    with pytest.raises(ValueError, match="same transforms"):
        index.merge_from(other)
    assert (index.ntotal, other.ntotal) == (5, 5)
    index.merge_from(copy.deepcopy(index))
    assert index.ntotal == 10
