"""LatentIndex: the encoder, then FAISS, and nothing half done."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from faiss_pqvae import LatentIndex, index_factory
from faiss_pqvae.data.images import ImageFolder
from faiss_pqvae.data.images.decoder import Decoder
from faiss_pqvae.index.searching import check_k
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks, new_index_pq
from faiss_pqvae.training import TrainingConfig

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT


class Interrupted:
    """A source of images that raises in the reading of its second chunk."""

    dtype = np.dtype(np.uint8)

    def __init__(self, images: np.ndarray, error: BaseException) -> None:
        self.images, self.shape, self.error = images, images.shape, error
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        self.reads += 1
        if self.reads > 1:
            raise self.error
        return self.images[rows]


def _codes(index: LatentIndex) -> np.ndarray:
    codes = faiss.vector_to_array(index.faiss_index.codes)
    return codes.reshape(index.ntotal, index.sa_code_size())


def _equal(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


# -- searching


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("nbits", [4, 8])
@pytest.mark.parametrize("shape", [(1, 8, 8), (12,)], ids=str)
def test_search__is_the_encoder_and_then_faiss(make_index, make_items, shape, nbits, metric):
    index = make_index(shape, 4, nbits, metric, n=60)
    native = new_index_pq(index.model.codebooks(), metric)
    with torch.inference_mode():
        xb, xq = (
            index.model.encode(torch.from_numpy(make_items(n, shape, seed))).numpy()
            for n, seed in ((60, 0), (9, 1))
        )
    native.add(xb)
    assert _equal(index.search(make_items(9, shape, 1), 5), native.search(xq, 5))


@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("nbits", [4, 8])
def test_search__sdc_is_adc_of_the_quantized_query(make_index, make_items, nbits, metric):
    index = make_index((1, 8, 8), 4, nbits, metric, n=60)
    queries = make_items(9, seed=1)
    adc = index.search(queries, 60)
    quantized = index.sa_decode(index.sa_encode(queries))
    D, I = index.faiss_index.search(quantized, 60)  # noqa: E741
    index.search_type = "sdc"
    sdc_D, sdc_I = index.search(queries, 60)
    scale = np.abs(D).max()
    np.testing.assert_allclose(sdc_D, D, rtol=1e-5, atol=1e-5 * scale)
    # The same distance to every item, in whatever order ties come.
    by_id = np.take_along_axis(D, I.argsort(1), 1), np.take_along_axis(sdc_D, sdc_I.argsort(1), 1)
    np.testing.assert_allclose(*by_id, rtol=1e-5, atol=1e-5 * scale)
    assert not np.allclose(sdc_D, adc[0], rtol=1e-3)


@pytest.mark.parametrize("search_type", ["adc", "sdc"])
def test_search__does_not_depend_on_the_batches(make_index, make_items, search_type):
    index = make_index(n=40)
    index.search_type = search_type
    queries = make_items(9, seed=1)
    D, I = index.search(queries, 5)  # noqa: E741
    index.batch_size = 4
    batched_D, batched_I = index.search(queries, 5)
    np.testing.assert_allclose(batched_D, D, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(batched_I, I)


def test_search__of_what_was_added_is_decoded_nearest(make_index, make_items):
    index = make_index(M=4, n=50)
    index.search_type = "sdc"
    D, I = index.search(make_items(50), 1)  # noqa: E741
    np.testing.assert_allclose(D, 0, atol=1e-6)  # processors add up in orders of their own
    np.testing.assert_array_equal(_codes(index)[I[:, 0]], _codes(index))


def test_search__beyond_ntotal_pads_with_minus_one(make_index, make_items):
    D, I = make_index(n=3).search(make_items(2, seed=1), 5)  # noqa: E741
    assert D.shape == I.shape == (2, 5)
    assert (np.sort(I[:, :3]) == [0, 1, 2]).all()
    assert (I[:, 3:] == -1).all()


@pytest.mark.parametrize("search_type", ["adc", "sdc"])
def test_search__of_an_empty_index_finds_nothing(make_index, make_items, search_type):
    index = make_index()
    index.search_type = search_type
    _, I = index.search(make_items(2), 3)  # noqa: E741
    assert (I == -1).all()


@pytest.mark.parametrize("search_type", ["adc", "sdc"])
def test_search__from_four_threads_is_as_from_one(make_index, make_items, search_type):
    index = make_index(n=100)
    index.search_type = search_type
    queries = [make_items(20, seed=seed) for seed in range(1, 17)]
    expected = [index.search(x, 7) for x in queries]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: index.search(x, 7), queries))
    assert all(_equal(a, b) for a, b in zip(found, expected, strict=True))


# -- adding


@pytest.mark.parametrize("batch_size", [1, 7])
def test_add__in_batches_is_add_at_once(make_index, make_items, batch_size):
    index = make_index()
    index.batch_size = batch_size
    index.add(make_items(30))
    np.testing.assert_array_equal(_codes(index), _codes(make_index(n=30)))


def test_add__twice_appends(make_index, make_items):
    index = make_index(n=10)
    index.add(make_items(5, seed=1))
    np.testing.assert_array_equal(_codes(index)[:10], index.sa_encode(make_items(10)))
    np.testing.assert_array_equal(_codes(index)[10:], index.sa_encode(make_items(5, seed=1)))


def test_add__takes_floats_in_every_form(make_index, make_items):
    x = make_items(10).astype(np.float32) / 255
    x.flags.writeable = False
    expected = _codes(make_index(n=10))
    for given in (x, torch.from_numpy(x.copy()), x.astype(np.float64), np.asfortranarray(x)):
        index = make_index()
        index.add(given)
        np.testing.assert_array_equal(_codes(index), expected)


def test_add__takes_reversed_views(make_index, make_items):
    index = make_index()
    index.add(make_items(10)[::-1])
    np.testing.assert_array_equal(_codes(index), _codes(make_index(n=10))[::-1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_items__are_never_written(make_index, make_items, tmp_path, dtype):
    index = make_index(n=5)
    x = (make_items(10) / 255).astype(dtype) if dtype == np.float32 else make_items(10)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    locked = x.copy()
    locked.flags.writeable = False
    tensor, array = torch.from_numpy(x.copy()), x.copy()
    for given in (mapped, locked, tensor, array):
        index.add(given)
        index.search(given, 2)
        index.sa_encode(given)
        np.testing.assert_array_equal(np.asarray(given), x)
    assert (tmp_path / "x.npy").read_bytes()[-x.nbytes :] == x.tobytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk"), MemoryError()])
def test_add__interrupted_adds_nothing(make_index, make_items, error):
    index = make_index(n=5)
    index.batch_size = 4
    before = _codes(index)
    source = Interrupted(make_items(12, seed=1), error)
    with pytest.raises(type(error)):
        index.add(source)
    assert source.reads == 2
    np.testing.assert_array_equal(_codes(index), before)
    index.add(make_items(3, seed=2))
    np.testing.assert_array_equal(_codes(index)[5:], index.sa_encode(make_items(3, seed=2)))


def test_add__takes_a_source(make_index, make_items):
    index = make_index()
    index.add(Interrupted(make_items(8), KeyboardInterrupt()))  # one chunk: never interrupted
    np.testing.assert_array_equal(_codes(index), _codes(make_index(n=8)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_add__of_a_bad_pixel_in_the_last_batch_adds_nothing(make_index, make_items, value):
    index = make_index(n=5)
    index.batch_size = 4
    before = _codes(index)
    x = make_items(10).astype(np.float32) / 255
    x[9, 0, 7, 7] = value
    with pytest.raises(ValueError, match="row 9"):
        index.add(x)
    assert index.ntotal == 5
    np.testing.assert_array_equal(_codes(index), before)


# -- every other bad input

CALLS = {
    "add": lambda index, x: index.add(x),
    "search": lambda index, x: index.search(x, 2),
    "sa_encode": lambda index, x: index.sa_encode(x),
    "encode": lambda index, x: index.encode(x),
    "train": lambda index, x: index.train(x, progress=False),
}


def _refused(index: LatentIndex, call: str, x: Any, error: type[Exception], match: str) -> None:
    before = _codes(index)
    with pytest.raises(error, match=match):
        CALLS[call](index, x)
    np.testing.assert_array_equal(_codes(index), before)


@pytest.fixture
def index_for(make_index):
    """An index on which a call would succeed."""

    def make(call: str) -> LatentIndex:
        if call == "train":
            return index_factory((1, 8, 8), "PQVAE2x4")
        return make_index(n=3)

    return make


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("call", CALLS)
def test_items__rejects_values_that_are_not_finite(index_for, call, value):
    x = np.zeros((6, 1, 8, 8), np.float32)
    x[2, 0, 3, 3] = value
    _refused(index_for(call), call, x, ValueError, "row 2")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", [(5, 64), (5, 3, 8, 8), (5, 1, 8, 9), (1, 8, 8), (5,), ()])
def test_items__rejects_other_shapes(index_for, call, shape):
    x = np.zeros(shape, np.float32)
    _refused(index_for(call), call, x, ValueError, r"of shape \(n, 1, 8, 8\)")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [np.int64, np.int8, bool, object, "U3", np.complex64], ids=str)
def test_items__rejects_other_dtypes(index_for, call, dtype):
    x = np.zeros((5, 1, 8, 8)).astype(dtype)
    _refused(index_for(call), call, x, TypeError, "uint8 or float")


@pytest.mark.parametrize("call", CALLS)
def test_items__rejects_tensors_of_integers(index_for, call):
    x = torch.zeros(5, 1, 8, 8, dtype=torch.int32)
    _refused(index_for(call), call, x, TypeError, "uint8 or float")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("x", [None, "images", {0.0}, 3])
def test_items__rejects_what_is_no_array(index_for, call, x):
    _refused(index_for(call), call, x, TypeError, "as an array")


def test_train__rejects_no_items(index_for):
    x = np.zeros((0, 1, 8, 8), np.uint8)
    _refused(index_for("train"), "train", x, ValueError, "at least one item")


@pytest.mark.parametrize("k", [0, -1])
def test_search__rejects_k_below_one(make_index, make_items, k):
    with pytest.raises(ValueError, match="k >= 1"):
        make_index(n=3).search(make_items(2), k)


@pytest.mark.parametrize("k", [1.0, 2.5, True, np.True_, "3", None])
def test_search__rejects_k_that_is_no_integer(make_index, make_items, k):
    with pytest.raises(TypeError):
        make_index(n=3).search(make_items(2), k)


def test_check_k__takes_integers_of_numpy():
    assert check_k(np.int32(3)) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda index: index.add(np.zeros((2, 1, 8, 8), np.uint8)),
        lambda index: index.search(np.zeros((2, 1, 8, 8), np.uint8), 1),
        lambda index: index.encode(np.zeros((2, 1, 8, 8), np.uint8)),
        lambda index: index.sa_encode(np.zeros((2, 1, 8, 8), np.uint8)),
        lambda index: index.sa_decode(np.zeros((2, 2), np.uint8)),
        lambda index: index.decode(np.zeros((2, 8), np.float32)),
    ],
)
def test_untrained_index__refuses(make_index, call):
    index = make_index(trained=False)
    with pytest.raises(ValueError, match="not trained yet"):
        call(index)
    assert index.ntotal == 0


def test_search_type__rejects_another(make_index):
    index = make_index()
    with pytest.raises(ValueError, match="'adc' or 'sdc', got 'exact'"):
        index.search_type = "exact"
    assert index.search_type == "adc"


def test_constructor__rejects_another_metric(make_model):
    with pytest.raises(ValueError, match="METRIC_L2"):
        LatentIndex(make_model(), faiss.METRIC_L1)


def test_constructor__rejects_a_native_index_of_other_sizes(make_model):
    model = make_model(M=2)
    with pytest.raises(ValueError, match="d=8"):
        LatentIndex(model, faiss_index=faiss.IndexPQ(16, 4, 8))
    with pytest.raises(ValueError, match="metric_type"):
        LatentIndex(model, IP, faiss_index=new_index_pq(model.codebooks(), L2))


def test_constructor__rejects_sizes_that_faiss_cannot_search(make_model):
    # Not only after a training.
    with pytest.raises(ValueError, match="dsub=2 with nbits=1"):
        LatentIndex(make_model((1, 8, 8), 2, 1, dsub=2, trained=False))


# -- training


def test_train__makes_the_index_that_its_model_describes(make_items):
    from faiss_pqvae import ModelConfig, TrainingConfig

    index = index_factory(
        (1, 8, 8),
        "PQVAE2x3",
        model=ModelConfig(width=4, dsub=3),
        training=TrainingConfig(epochs=2, batch_size=16, precision="float32", device="cpu"),
    )
    assert not index.is_trained
    index.train(make_items(64), progress=False)
    assert index.is_trained
    assert extract_codebooks(index.faiss_index) == index.model.codebooks()
    assert [event["event"] for event in index.history] == ["start", "epoch", "epoch", "end"]
    index.add(make_items(64))
    assert index.search(make_items(3), 2)[1].shape == (3, 2)


class _Fit:
    """In the place of a training, of which it keeps what it was asked."""

    def __init__(self, call: Callable[..., Any], given: dict[str, Any] | None = None) -> None:
        self.call, self.given, self.asked = call, given or {}, []

    def check(self, n: int, **given: Any) -> dict[str, Any]:
        self.asked.append({"n": n, **given})
        return self.given

    def __call__(self, model: Any, x: Any, **options: Any) -> list[dict[str, Any]]:
        return self.call(model, x, **options)


def test_train__rejects_an_index_that_holds_items(make_index, make_items):
    index = make_index(n=3)
    index.fit = pytest.fail
    _refused(index, "train", make_items(8), ValueError, "3 items")


def test_train__rejects_an_index_without_a_fit(make_index, make_items):
    with pytest.raises(ValueError, match="index_factory"):
        make_index().train(make_items(8))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("diverged")])
def test_train__failing_leaves_the_trained_index_as_it_was(make_index, make_items, error):
    index = make_index()
    codebooks, weights = index.model.codebooks(), index.model.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    model, native = index.model, index.faiss_index

    def fit(model: Any, x: Any, **options: Any) -> list[dict[str, Any]]:
        with torch.no_grad():
            for value in model.state_dict().values():
                value.zero_()
        raise error

    index.fit = _Fit(fit)
    with pytest.raises(type(error)):
        index.train(make_items(8))
    assert index.model is model
    assert index.faiss_index is native
    assert index.model.codebooks() == codebooks == extract_codebooks(index.faiss_index)
    after = index.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    "description", ["PQVAE2x4", "PQVAE2x4fs", "IVF2,PQVAE2x4", "HNSW4,PQVAE2x4"]
)
def test_train__keeps_weights_that_were_loaded(make_model, make_items, description):
    config = make_model().config
    index = index_factory((1, 8, 8), description, model=config)
    trained = make_model(nbits=4)
    index.model.load_state_dict(trained.state_dict())
    index.fit = pytest.fail
    index.train(make_items(90), progress=False)
    assert index.is_trained
    assert extract_codebooks(index.faiss_index) == trained.codebooks()
    index.add(make_items(5))
    assert index.search(make_items(5), 1)[1].shape == (5, 1)


def test_train__again_after_reset(make_index, make_items, make_model):
    index = make_index(n=3)
    other = make_model(seed=9)
    index.fit = _Fit(lambda model, x, **options: model.load_state_dict(other.state_dict()) and [])
    index.reset()
    index.train(make_items(8))
    assert extract_codebooks(index.faiss_index) == other.codebooks() == index.model.codebooks()


def test_train__hands_folder_and_progress_on(make_index, make_items, tmp_path):
    index = make_index()
    seen = {}
    index.fit = _Fit(lambda model, x, **options: seen.update(options) or [{"event": "end"}])
    index.train(make_items(8), folder=tmp_path, progress=False)
    content = seen.pop("content")
    assert isinstance(content, str)
    assert seen == {"folder": tmp_path, "progress": False}
    assert index.history == [{"event": "end"}]


@pytest.mark.parametrize("kept", [True, False])
def test_train__decodes_images_once(make_items, tmp_path, monkeypatch, kept):
    for number, pixels in enumerate(make_items(20)):
        Image.fromarray(pixels[0]).save(tmp_path / f"{number}.png")
    decoded = []
    image = Decoder.image
    monkeypatch.setattr(Decoder, "image", lambda *given: decoded.append(given[-1]) or image(*given))
    index = index_factory((1, 8, 8), "PQVAE2x4,RFlat", training=TrainingConfig(epochs=3))
    folder = tmp_path / "training" if kept else None
    index.train(ImageFolder(tmp_path, mode="L"), folder=folder, progress=False)
    assert len(decoded) == len(set(decoded)) == 20
    assert not kept or {path.suffix for path in folder.iterdir()} <= {".pt", ".jsonl"}


def test_train__hands_on_what_was_checked(make_index, make_items):
    index, seen = make_index(), {}
    index.fit = _Fit(lambda model, x, **options: seen.update(options) or [], {"labels": "checked"})
    queries = make_items(3)
    given = {"labels": [0, 1] * 4, "word_vectors": "vectors", "queries": queries}
    index.train(make_items(8), **given, progress=False)
    assert index.fit.asked == [{"n": 8, **given}]
    assert seen == {"folder": None, "progress": False, "content": None, "labels": "checked"}


def test_train__refuses_labels_before_it_reads(make_index):
    class Unread:
        shape, dtype = (8, 1, 8, 8), np.dtype(np.float32)

        def __len__(self) -> int:
            return 8

        def __getitem__(self, rows: Any) -> Any:
            raise AssertionError("read")

    class Strict(_Fit):
        def check(self, n: int, **given: Any) -> dict[str, Any]:
            raise ValueError("expected no labels")

    index = make_index()
    index.fit = Strict(pytest.fail)
    with pytest.raises(ValueError, match="expected no labels"):
        index.train(Unread(), [1] * 8, progress=False)


# -- codes and what the index tells about itself


def test_reconstruct__is_the_decoded_code(make_index):
    index = make_index(n=5)
    expected = index.sa_decode(_codes(index))
    for key in (0, 4, np.int64(2)):
        np.testing.assert_array_equal(index.reconstruct(key), expected[key])


@pytest.mark.parametrize("key", [-1, 5])
def test_reconstruct__rejects_unknown_ids(make_index, key):
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        make_index(n=5).reconstruct(key)


def test_reconstruct__rejects_what_is_no_integer(make_index):
    with pytest.raises(TypeError):
        make_index(n=5).reconstruct(1.0)


@pytest.mark.parametrize(("M", "nbits", "size"), [(2, 8, 2), (3, 4, 2), (4, 6, 3), (2, 12, 3)])
def test_sa_codes__sizes(make_index, make_items, M, nbits, size):
    index = make_index((1, 8, 8), M, nbits)
    codes = index.sa_encode(make_items(5))
    assert index.sa_code_size() == size
    assert codes.shape == (5, size)
    assert codes.dtype == np.uint8
    assert index.sa_decode(codes).shape == (5, 4 * M)
    assert index.ntotal == 0


def test_sa_decode__inverts_sa_encode_on_codewords(make_index, make_items):
    index = make_index(M=3)
    latents = index.sa_decode(index.sa_encode(make_items(5)))
    np.testing.assert_array_equal(
        index.faiss_index.sa_encode(latents), index.sa_encode(make_items(5))
    )


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.int8])
def test_sa_decode__rejects_other_dtypes(make_index, dtype):
    with pytest.raises(TypeError, match="uint8"):
        make_index().sa_decode(np.zeros((2, 2), dtype))


@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 1), (1, 2, 2)])
def test_sa_decode__rejects_other_shapes(make_index, shape):
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        make_index().sa_decode(np.zeros(shape, np.uint8))


def test_decode__gives_items(make_index, make_items):
    index = make_index((3, 8, 8), n=5)
    index.batch_size = 2
    items = index.decode(index.sa_decode(_codes(index)))
    assert items.shape == (5, 3, 8, 8)
    assert items.dtype == np.float32
    assert items.min() >= 0
    assert items.max() <= 1


def test_decode__rejects_bad_latents(make_index):
    index = make_index()
    with pytest.raises(ValueError, match=r"latents of shape \(n, 8\)"):
        index.decode(np.zeros((2, 7), np.float32))
    with pytest.raises(ValueError, match="finite latents"):
        index.decode(np.full((2, 8), np.nan, np.float32))


@pytest.mark.parametrize("metric", [L2, IP])
def test_properties(make_index, metric):
    index = make_index((3, 8, 8), 4, 6, metric, n=7)
    assert (index.d, index.ntotal, index.metric_type) == (192, 7, metric)
    assert (index.faiss_index.d, index.input_shape) == (16, (3, 8, 8))
    assert index.is_trained
    assert not make_index(trained=False).is_trained
    assert "PQVAE4x6" in repr(index)
    assert "ntotal=7" in repr(index)


def test_reset__forgets_items_and_keeps_the_training(make_index, make_items):
    index = make_index(n=5)
    index.reset()
    assert index.ntotal == 0
    assert index.is_trained
    index.add(make_items(5))
    np.testing.assert_array_equal(_codes(index), _codes(make_index(n=5)))


def test_copy_and_pickle__search_alike(make_index, make_items):
    index = make_index((1, 8, 8), 2, 8)
    index.add(make_items(50))
    index.search_type = "sdc"
    D, I = index.search(make_items(5), 3)  # noqa: E741
    for twin in (copy.deepcopy(index), pickle.loads(pickle.dumps(index))):
        again = twin.search(make_items(5), 3)
        np.testing.assert_array_equal(again[0], D)
        np.testing.assert_array_equal(again[1], I)


def test_add__float_images_beyond_one_raise(make_index, make_items):
    index = make_index((1, 8, 8), 2, 4)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        index.add(255 * make_items(5).astype(np.float32))
    assert index.ntotal == 0


def test_init__takes_no_residuals_for_latents(make_index):
    model = make_index().model
    native = faiss.index_factory(model.latent_dim, f"IVF4,PQ{model.M}x{model.nbits}np")
    with pytest.raises(ValueError, match="by_residual=False"):
        LatentIndex(model, faiss_index=native)
    native.by_residual = False
    assert not LatentIndex(model, faiss_index=native).is_trained


def test_train__of_a_trained_model_fits_what_is_missing(make_index, make_items):
    model = make_index().model
    native = faiss.index_factory(model.latent_dim, f"IVF4,PQ{model.M}x{model.nbits}np")
    native.by_residual = False
    index = LatentIndex(model, faiss_index=native)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    index.train(make_items(200), progress=False)
    assert index.is_trained
    assert all((index.model.state_dict()[name] == value).all() for name, value in weights.items())
    index.add(make_items(50))
    index.nprobe = 4
    assert index.search(make_items(50), 1)[1].shape == (50, 1)
