"""A pure FAISS index of a LatentIndex: the same results without torch, and a life of its own."""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faiss_pqvae import PQVAE, LatentIndex, index_factory
from faiss_pqvae.index.export import encoder_transforms
from faiss_pqvae.index.refine import StoredVectors
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
LARGE = 2**40
D_IN = 12

# Every kind of index, and every part around it.
DESCRIPTIONS = [
    "PQVAE3x6",
    "PQVAE4x4fs",
    "IVF4,PQVAE3x6",
    "IVF4,PQVAE4x4fs",
    "HNSW8,PQVAE3x6",
    "IDMap2,PQVAE3x6",
    "IDMap,IVF4,PQVAE3x6",
    "IDMap2,HNSW8,PQVAE3x8",
    "L2norm,PCA8,PQVAE3x6",
    "IDMap2,RR20,IVF4,PQVAE3x6",
    "ITQ6,PQVAE3x6",
    "PQVAE3x6,RFlat",
    "IVF4,PQVAE3x6,RFlat",
    "IDMap2,IVF4,PQVAE4x4fs,RFlat",
    "L2norm,PCA8,HNSW8,PQVAE3x6,Refine(SQfp16)",
]

Make = Callable[..., LatentIndex]


@pytest.fixture(scope="module")
def make(make_model: Callable[..., PQVAE], make_items: Callable[..., np.ndarray]) -> Make:
    """A trained index of a description with 200 items in it."""

    def make_one(
        description: str, metric: Any = L2, shape: tuple[int, ...] = (D_IN,), **config: Any
    ) -> LatentIndex:
        parsed = index_factory(shape, description, metric)
        transforms = parsed.transforms and parsed.transforms.trained(make_items(300, shape), "x")
        model = make_model(
            shape if transforms is None else (transforms.d_out,),
            parsed.model.M,
            parsed.model.nbits,
            unit_latents=metric == "cosine",
            **{"encoder": "linear", **config},
        )
        like = index_factory(shape, description, metric, model=model.config)
        refine = "decoder" if like.refiner else None
        if isinstance(like.refiner, StoredVectors):
            refine = like.refiner.index
        index = LatentIndex(
            model,
            like.metric_type,
            faiss_index=like.faiss_index,
            transforms=transforms,
            refine_index=refine,
        )
        index.description = description
        if not index.is_trained:
            index.train(make_items(300, shape, 5), progress=False)
        index.k_factor = 3.0
        if "IVF" in description:
            index.nprobe = 2
        _add(index, make_items(200, shape))
        return index

    return make_one


def _add(index: LatentIndex, x: np.ndarray) -> None:
    if "IDMap" in index.description:
        index.add_with_ids(x, np.arange(index.ntotal, index.ntotal + len(x)) + LARGE)
    else:
        index.add(x)


def _flat(x: np.ndarray) -> np.ndarray:
    """What a pure FAISS index takes for items: float32 vectors, images in [0, 1]."""
    return (x / np.float32(255) if x.ndim == 4 else x).reshape(len(x), -1).astype(np.float32)


def _check_alike(
    found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]
) -> None:
    """Same distances, and same ids but for what is equally far."""
    D, I = expected  # noqa: E741
    scale = np.abs(D).max()
    np.testing.assert_allclose(found[0], D, rtol=1e-3, atol=1e-3 * scale)
    assert (found[1] == I).mean() > 0.97
    for row, column in np.argwhere(found[1] != I):
        gap = np.abs(np.delete(D[row], column) - D[row, column]).min()
        assert gap < 1e-3 * scale or column == D.shape[1] - 1


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_to_faiss__searches_items_alike(make, make_items, description, metric):
    index = make(description, metric)
    queries = make_items(20, (D_IN,), 1)
    pure = index.to_faiss()
    assert isinstance(pure, faiss.Index)
    assert (pure.d, pure.ntotal, pure.metric_type, pure.is_trained) == (D_IN, 200, metric, True)
    _check_alike(pure.search(queries, 5), index.search(queries, 5))
    assert extract_codebooks(pure) == index.model.codebooks()


@pytest.mark.parametrize("description", ["PQVAE3x6", "IVF4,PQVAE3x6", "RR,PQVAE3x6"])
def test_to_faiss__of_cosine_brings_latents_to_length_1(make, make_items, description):
    index = make(description, "cosine")
    queries = make_items(20, (D_IN,), 1)
    pure = index.to_faiss()
    _check_alike(pure.search(queries, 5), index.search(queries, 5))
    names = [
        type(faiss.downcast_VectorTransform(pure.chain.at(i))).__name__
        for i in range(pure.chain.size())
    ]
    assert names[-2:] == ["LinearTransform", "NormalizationTransform"]


@pytest.mark.parametrize("description", ["PQVAE3x6", "IDMap2,IVF4,PQVAE3x6,RFlat"])
def test_to_faiss__of_images_takes_pixels_in_0_to_1(make, make_items, description):
    shape = (3, 4, 4)
    index = make(description, L2, shape, standardize=False)
    queries = make_items(20, shape, 1)
    pure = index.to_faiss()
    assert pure.d == 48
    _check_alike(pure.search(_flat(queries), 5), index.search(queries, 5))


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((D_IN,), {"encoder": "mlp"}),
        ((D_IN,), {"encoder": "linear", "objective": "contrastive"}),
        ((1, 8, 8), {"encoder": "conv"}),
        ((1, 8, 8), {}),
    ],
)
@pytest.mark.parametrize("description", ["PQVAE3x6", "IDMap2,IVF4,PQVAE3x6"])
def test_to_faiss__of_other_encoders_takes_latents(make, make_items, description, shape, config):
    index = make(description, L2, shape, **config)
    queries = make_items(20, shape, 1)
    pure = index.to_faiss()
    assert pure.d == 12
    assert type(pure) is type(index.faiss_index)
    D, I = pure.search(index.encode(queries), 5)  # noqa: E741
    expected = index.search(queries, 5)
    np.testing.assert_array_equal(I, expected[1])
    np.testing.assert_allclose(D, expected[0], rtol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_encoder_transforms__are_the_encoder_far_from_zero(make_model, normalize):
    shape = (D_IN,)
    model = make_model(shape, encoder="linear", normalize_latents=normalize)
    x = torch.randn(50, D_IN, generator=torch.Generator().manual_seed(0)) + 100
    model.fit_normalization(x)
    if normalize:  # moving statistics of a training
        model.latent_norm.running_mean.uniform_(-1, 1)
        model.latent_norm.running_var.uniform_(0.1, 2)
    transforms = encoder_transforms(model)
    assert transforms is not None
    z = x.numpy()
    for transform in transforms:
        z = transform.apply(z)
    with torch.inference_mode():
        np.testing.assert_allclose(z, model.encode(x), atol=1e-3)


def test_encoder_transforms__are_none_for_what_is_not_linear(make_model):
    assert encoder_transforms(make_model((D_IN,), encoder="mlp")) is None
    assert encoder_transforms(make_model((1, 8, 8), encoder="linear")) is None
    assert encoder_transforms(make_model((D_IN,), encoder="linear", objective="dpq")) is None
    assert encoder_transforms(make_model((1, 8, 8), encoder="linear", standardize=False))


# -- a file that needs no torch

CHILD = """
import json, sys
import faiss, numpy as np
assert not {"torch", "faiss_pqvae"} & set(sys.modules)
for name in sys.argv[1:]:
    index = faiss.read_index(f"{name}.faiss")
    queries, D, I = (np.load(f"{name}.npz")[key] for key in "qDI")
    found = index.search(queries, I.shape[1])
    print(json.dumps([bool((found[1] == I).all()), bool(np.allclose(found[0], D, rtol=1e-5))]))
    more = index.ntotal
    if isinstance(index, faiss.IndexIDMap):
        index.add_with_ids(queries, np.arange(len(queries)) + 7)
    else:
        index.add(queries)
    print(json.dumps([index.ntotal - more == len(queries), type(index).__name__]))
assert not {"torch", "faiss_pqvae"} & set(sys.modules)
"""


def test_to_faiss__survives_in_a_process_without_torch(make, make_items, tmp_path: Path):
    names = []
    queries = make_items(20, (D_IN,), 1)
    for number, description in enumerate(DESCRIPTIONS):
        pure = make(description).to_faiss()
        names.append(str(tmp_path / str(number)))
        faiss.write_index(pure, f"{names[-1]}.faiss")
        D, I = pure.search(queries, 5)  # noqa: E741
        np.savez(f"{names[-1]}.npz", q=queries, D=D, I=I)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[::2] == [[True, True]] * len(DESCRIPTIONS)
    assert [added for added, _ in lines[1::2]] == [True] * len(DESCRIPTIONS)
    kinds = dict(zip(DESCRIPTIONS, [kind for _, kind in lines[1::2]], strict=True))
    assert kinds["PQVAE3x6"] == "IndexPreTransform"
    assert kinds["PQVAE3x6,RFlat"].startswith("IndexRefine")
    assert kinds["IDMap2,IVF4,PQVAE4x4fs,RFlat"] == "IndexIDMap2"


# -- independence


@pytest.mark.parametrize("description", [*DESCRIPTIONS, "IVF4(HNSW4),PQVAE3x6"])
def test_to_faiss__lives_alone(make, make_items, description):
    index = make(description)
    queries = make_items(20, (D_IN,), 1)
    before = index.search(queries, 5)
    pure = index.to_faiss()
    expected = pure.search(queries, 5)
    # What happens to the copy does not happen to the index ...
    if "IDMap" in description:
        pure.add_with_ids(queries, np.arange(20))
    else:
        pure.add(queries)
    assert (pure.ntotal, index.ntotal) == (220, 200)
    pure.reset()
    again = index.search(queries, 5)
    np.testing.assert_array_equal(again[1], before[1])
    np.testing.assert_array_equal(again[0], before[0])
    # ... and the other way round, to its very end.
    pure = index.to_faiss()
    _add(index, queries)
    if "HNSW" not in description:
        index.remove_ids(np.arange(50))
    index.reset()
    del index, before
    gc.collect()
    noise = [np.full(2**16, np.nan, np.float32) for _ in range(50)]  # over what was freed
    found = pure.search(queries, 5)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])
    assert len(noise) == 50


def test_to_faiss__after_removals_keeps_ids(make, make_items):
    queries = make_items(20, (D_IN,), 1)
    for description in ("IDMap2,PQVAE3x6", "IDMap,IVF4,PQVAE3x6,RFlat", "IDMap2,IVF4,PQVAE3x6"):
        index = make(description)
        index.remove_ids(np.arange(0, 200, 3) + LARGE)
        pure = index.to_faiss()
        assert pure.ntotal == index.ntotal == 133
        _check_alike(pure.search(queries, 5), index.search(queries, 5))
        if description.startswith("IDMap2,PQ"):  # FAISS's own removal moves no ids in lists
            gone = index.search(queries, 1)[1][:, 0]
            pure.check_consistency()
            assert pure.remove_ids(gone) == index.remove_ids(gone) == len({*gone})
            _check_alike(pure.search(queries, 5), index.search(queries, 5))


def test_to_faiss__of_an_empty_index_takes_items(make, make_items):
    for description in DESCRIPTIONS:
        index = make(description)
        index.reset()
        pure = index.to_faiss()
        x = make_items(30, (D_IN,), 3)
        _add(index, x)
        if "IDMap" in description:
            pure.add_with_ids(x, np.arange(30) + LARGE)
        else:
            pure.add(x)
        queries = make_items(10, (D_IN,), 1)
        found, expected = pure.search(queries, 3), index.search(queries, 3)
        np.testing.assert_array_equal(found[1] >= 0, expected[1] >= 0)
        if "HNSW" not in description:  # no two graphs are drawn alike
            assert (found[1] == expected[1]).mean() > 0.95


# -- refusals


def test_to_faiss__refuses_an_untrained_index():
    with pytest.raises(ValueError, match="not trained yet"):
        index_factory(D_IN, "PQVAE3x6").to_faiss()


def test_to_faiss__says_what_faiss_cannot_refine_with(make, make_items):
    index = make("PQVAE3x6,RDecoder")
    with pytest.warns(UserWarning, match="cannot run the decoder"):
        pure = index.to_faiss()
    index.refiner = None
    queries = make_items(10, (D_IN,), 1)
    np.testing.assert_array_equal(pure.search(queries, 5)[1], index.search(queries, 5)[1])
    with pytest.raises(ValueError, match="queries to length 1"):
        make("PQVAE3x6,RFlat", "cosine").to_faiss()


def test_to_faiss__refuses_ids_that_are_no_places_to_refine_with(make, make_items):
    index = make("IVF4,PQVAE3x6,RFlat")
    index.add_with_ids(make_items(2, (D_IN,), 3), [1000, 1001])
    with pytest.raises(ValueError, match="needs the ids 0, 1, 2"):
        index.to_faiss()
    index.refiner = None
    assert index.to_faiss().ntotal == 202


def test_to_faiss__of_a_latent_index_leaves_its_parts_out(make, make_items):
    # FAISS cannot encode: neither transforms nor refinement have a place there.
    index = make("L2norm,PCA8,PQVAE3x6,RFlat", encoder="mlp")
    pure = index.to_faiss()
    assert type(pure) is faiss.IndexPQ
    assert isinstance(index.transforms, Transforms)
    index.refiner = None
    queries = make_items(5, (D_IN,), 1)
    np.testing.assert_array_equal(
        pure.search(index.encode(queries), 3)[1], index.search(queries, 3)[1]
    )
