"""How many items each kind of index needs to learn from."""

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.eval.methods.binary import check_training
from faiss_pqvae.eval.methods.build import from_class, from_factory
from faiss_pqvae.eval.methods.learned_code import LearnedCode
from faiss_pqvae.eval.methods.method import TooFewItemsError
from faiss_pqvae.eval.methods.spectral import SpectralHashing

D = 20
# What FAISS 1.15 was seen to need with 20 dimensions: with fewer it raises, and OPQ writes beyond
# its memory, which ends the process at once or later.
NEEDS = [
    ("PQ4x4np", 16, "k-means of 16 codewords"),
    ("PQ4x5np", 32, "k-means of 32 codewords"),
    ("OPQ4_20,PQ4x3np", 20, "OPQ in 20 dimensions"),
    ("OPQ4_24,PQ4x3np", 24, "OPQ in 24 dimensions"),
    ("OPQ4_20,PQ4x5np", 32, "k-means of 32 codewords"),
    ("OPQ4_20,IVF2,PQ4x3np", 20, "OPQ in 20 dimensions"),
    ("IVF24,PQ4x3np", 24, "k-means of 24 inverted lists"),
    ("IVF4,PQ4x4np", 16, "k-means of 16 codewords"),
    ("RQ2x3", 20, "a residual quantizer of 20 dimensions"),
    ("RQ2x5", 32, "k-means of 32 codewords"),
    ("PRQ2x2x3", 10, "a residual quantizer of 10 dimensions"),
    ("PRQ2x2x4", 16, "k-means of 16 codewords"),
    ("ITQ16,LSH", 16, "ITQ to 16 bits"),
    ("PCA8,RR8,RaBitQ", 8, "a PCA to 8 dimensions"),
]


def trained(factory, n):
    index = from_factory("x", 8, D, factory).build((D,))
    index.train(np.random.default_rng(0).standard_normal((n, D), dtype=np.float32))
    return index.faiss_index


@pytest.mark.parametrize(("factory", "least", "what"), NEEDS)
def test_train__one_item_fewer_than_it_needs_is_refused(factory, least, what):
    message = f"{what} needs at least {least} training items, got {least - 1}"
    with pytest.raises(TooFewItemsError, match=message):
        trained(factory, least - 1)
    assert trained(factory, least).is_trained


@pytest.mark.parametrize("factory", ["Flat", "LSH16rt", "LSQ2x4"])
def test_train__of_what_needs_nothing(factory):
    assert trained(factory, 2).is_trained


@pytest.mark.parametrize(
    "method",
    [
        from_factory("PCA+PQ", 8, 300, "PCA256,PQ4x2np"),
        from_class("PCA+Spectral", SpectralHashing, bits=8, shape=(3, 10, 10), seed=0),
    ],
)
def test_train__of_what_stands_behind_a_pca(method):
    items = np.zeros((255, 300), np.float32)
    with pytest.raises(TooFewItemsError, match="a PCA to 256 dimensions needs at least 256"):
        method.build((300,)).train(items)


def test_train__counts_what_is_drawn():
    index = from_factory("x", 8, D, "PQ4x4np", train_limit=15).build((D,))
    with pytest.raises(TooFewItemsError, match="needs at least 16 training items, got 15"):
        index.train(np.zeros((100, D), np.float32))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_check_training__wants_two_that_differ(n):
    with pytest.raises(TooFewItemsError, match=f"2 different training items, got {n} of them"):
        check_training(np.ones((n, 3), np.float32), 3)


@pytest.mark.parametrize(
    ("nlist", "n", "message"),
    [
        (None, 3, "a training needs at least 4 training items, got 3"),
        (8, 7, "k-means of 8 inverted lists needs at least 8 training items, got 7"),
    ],
)
def test_train__of_a_learned_code(tmp_path, nlist, n, message):
    model = fpq.ModelConfig(encoder="mlp", dsub=2, width=4)
    code = LearnedCode(
        2, 4, model, fpq.TrainingConfig(), objective=fpq.Reconstruction(), folder=tmp_path
    )
    row = code.method(8, (16,)) if nlist is None else code.inverted_file(nlist, (16,))
    items = np.random.default_rng(0).standard_normal((n, 16), dtype=np.float32)
    with pytest.raises(TooFewItemsError, match=message):
        row.build((16,)).train(items)
