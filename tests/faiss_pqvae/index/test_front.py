"""A frozen network of somebody else in front of an index, and its features."""

import copy
import errno
import fcntl
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from faiss_pqvae import LatentIndex
from faiss_pqvae.files import write_checked
from faiss_pqvae.index.features import keep_features
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.gpu import distribute
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.model.backbone import Backbone
from faiss_pqvae.native import faiss

IMAGE = (3, 8, 8)
F = 6  # features


class Network(nn.Module):
    """Counts the items that it sees; its running statistics would move in training mode."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.LazyLinear(2)
            )
            self.layers(torch.zeros(2, *IMAGE))
            self.layers[1].reset_running_stats()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.layers(x).mean(2)[:, :3] * 5  # (n, 3, 2)


def _front(seed: int = 0, **options: Any) -> Front:
    front = Front(Backbone(Network(seed), trainable=False, **options), IMAGE)
    front.backbone.module.seen = 0
    return front


def _images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *IMAGE), dtype=np.uint8)


def _weights(front: Front) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in front.backbone.state_dict().items()}


def _assert_unchanged(front: Front, before: dict[str, Tensor]) -> None:
    after = front.backbone.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def _in_16_bits(features: np.ndarray) -> np.ndarray:
    return features.astype(np.float16).astype(np.float32)


def _features(front: Front, x: np.ndarray) -> np.ndarray:
    return front.apply(torch.from_numpy(x)).numpy()


# -- the front


def test_front__gives_what_the_network_gives() -> None:
    front = _front(mean=0.5, deviation=0.25)
    x = torch.from_numpy(_images(5))
    front.backbone.module.eval()
    with torch.no_grad():
        expected = front.backbone.module((x.float() / 255 - 0.5) / 0.25).flatten(1)
    found = front.apply(x)
    assert (front.input_shape, front.d_out) == (IMAGE, F)
    assert (found.shape, found.dtype) == ((5, F), torch.float32)
    torch.testing.assert_close(found.clone(), expected)


def test_front__sees_so_many_items_at_a_time() -> None:
    front = _front()
    whole = front.apply(torch.from_numpy(_images(7)))
    sizes = []
    front.backbone.module.register_forward_hook(lambda _, x, __: sizes.append(len(x[0])))
    front.chunk_bytes = 3 * 4 * 3 * 8 * 8
    torch.testing.assert_close(front.apply(torch.from_numpy(_images(7))), whole)
    assert sizes == [3, 3, 1]


def test_front__stays_as_it_was_whatever_its_owner_does() -> None:
    front = _front()
    before = _weights(front)
    expected = _features(front, _images(9))
    front.backbone.module.train()
    np.testing.assert_array_equal(_features(front, _images(9)), expected)
    _assert_unchanged(front, before)


def test_front__leaves_its_owners_network_as_it_was() -> None:
    front = _front()
    front.backbone.module.train()
    front.backbone.module.layers[0].eval()
    modes = [module.training for module in front.backbone.modules()]
    front.apply(torch.from_numpy(_images(2)))
    assert [module.training for module in front.backbone.modules()] == modes
    assert all(p.requires_grad for p in front.backbone.parameters())
    assert all(p.grad is None for p in front.backbone.parameters())


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        (nn.Identity(), TypeError, "expected a Backbone, got Identity"),
        (Backbone(nn.Identity()), ValueError, "trainable=False"),
        (
            Backbone(nn.Linear(3, 2), trainable=False),
            ValueError,
            r"expected an encoder for items of shape \(3, 8, 8\)",
        ),
    ],
)
def test_front__refuses(backbone: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Front(backbone, IMAGE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_front__refuses_features_that_are_not_finite(value: float) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 2, value, x)

    front = Front(Backbone(Broken(), trainable=False), (4,))
    x = torch.zeros(3, 4)
    assert front.apply(x).shape == (3, 4)
    x[1, 2] = 3
    with pytest.raises(ValueError, match=r"finite features below 1e18 .*Broken.* 1 of 3 items"):
        front.apply(x)


def test_front__refuses_another_number_of_features() -> None:
    front = _front()
    front.backbone.module.layers = nn.Identity()
    with pytest.raises(ValueError, match=r"expected 6 features an item from .*Network, got 24"):
        front.apply(torch.from_numpy(_images(2)))


def test_front__is_known_by_what_it_does() -> None:
    assert _front() == _front()
    assert _front() != _front(seed=1)
    assert _front() != _front(mean=0.5)
    assert _front() != Front(_front().backbone, (3, 7, 7))
    assert _front() != "front"
    assert repr(_front()).endswith("test_front:Network', (3, 8, 8) to 6)")


# -- its features, kept


def test_keep_features__in_memory() -> None:
    front, x = _front(), _images(25)
    kept = keep_features(x, front, batch_size=10, progress=False)
    assert type(kept) is np.ndarray
    np.testing.assert_array_equal(
        kept, np.concatenate([_features(front, x[i : i + 10]) for i in (0, 10, 20)])
    )


def test_keep_features__beyond_memory_are_in_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    x, size = _images(25), 4 * 25 * F
    found = [keep_features(x, _front(), memory_bytes=limit) for limit in (size, size - 1)]
    assert not isinstance(found[0], np.memmap)
    assert isinstance(found[1], np.memmap)
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[1][np.array([7, 3])], found[0][[7, 3]])
    assert not found[1].flags.writeable


@pytest.mark.parametrize("memory_bytes", [0, 2**30])
def test_keep_features__are_computed_once(tmp_path: Path, memory_bytes: int) -> None:
    front, x, folder = _front(), _images(25), tmp_path / "new" / "folder"
    how = {"memory_bytes": memory_bytes, "progress": False}
    first = keep_features(x, front, folder, **how)
    assert front.backbone.module.seen == 25
    again = keep_features(x.copy(), front, folder, batch_size=4, **how)
    assert front.backbone.module.seen == 25
    np.testing.assert_array_equal(again[:], first[:])
    np.testing.assert_array_equal(first[:], _in_16_bits(keep_features(x, front)))
    assert first.dtype == np.float32
    (path,) = folder.iterdir()
    assert np.load(path).dtype == np.float16
    assert isinstance(again, np.ndarray) == (memory_bytes > 0)
    assert [path.name[:9] for path in folder.iterdir()] == ["features-"]


def _other_byte(x: np.ndarray, front: Front) -> tuple[Any, Front]:
    x = x.copy()
    x[-1, -1, -1, -1] ^= 1
    return x, front


@pytest.mark.parametrize(
    "other",
    [
        _other_byte,
        lambda x, front: (x[:-1], front),
        lambda x, front: (x[::-1], front),
        lambda x, front: (x.astype(np.float32) / 255, front),
        lambda x, front: (x, _front(seed=1)),
        lambda x, front: (x, _front(deviation=2)),
    ],
)
def test_keep_features__of_something_else_are_computed(tmp_path: Path, other: Any) -> None:
    x = _images(25)
    keep_features(x, _front(), tmp_path, progress=False)
    x, front = other(x, _front())
    found = keep_features(x, front, tmp_path, progress=False)
    assert front.backbone.module.seen == len(x)
    np.testing.assert_array_equal(found, _in_16_bits(keep_features(x, front)))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "shape"])
def test_keep_features__a_damaged_file_is_replaced(tmp_path: Path, damage: str) -> None:
    front, x = _front(), _images(25)
    expected = keep_features(x, front, tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "shape":
        np.save(path, expected[:-1])
    else:
        path.write_bytes({"cut": whole[:-3], "empty": b"", "noise": whole[::-1]}[damage])
    np.testing.assert_array_equal(keep_features(x, front, tmp_path), expected)
    assert path.read_bytes() == whole
    assert front.backbone.module.seen == 50


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
@pytest.mark.parametrize("batch_size", [5, 4])
def test_keep_features__after_an_interruption_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, batch_size: int
) -> None:
    front, x = _front(), _images(25)
    expected = keep_features(x, front)
    apply, calls = front.apply, []

    def failing(items: Tensor) -> Tensor:
        calls.append(len(items))
        if len(calls) == 3:
            raise error
        return apply(items)

    monkeypatch.setattr(front, "apply", failing)
    with pytest.raises(type(error)):
        keep_features(x, front, tmp_path, batch_size=5, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {".features.new", ".features.state"}
    front.backbone.module.seen = 0
    found = keep_features(x, front, tmp_path, batch_size=batch_size, progress=False)
    assert front.backbone.module.seen == 15
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["features-"]


def _interrupted(x: np.ndarray, folder: Path) -> None:
    """Leaves the features of all items but the last five, and the word that they are there."""
    front = _front()
    apply = front.apply

    def failing(items: Tensor) -> Tensor:
        if np.array_equal(items.numpy(), x[-5:]):
            raise KeyboardInterrupt
        return apply(items)

    front.apply = failing  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        keep_features(x, front, folder, batch_size=5, progress=False)


@pytest.mark.parametrize(
    "other",
    ["items", "network", "fewer", "cut", "cut a little", "no state", "other state", "newer"],
)
def test_keep_features__of_something_else_begin_anew(tmp_path: Path, other: str) -> None:
    x, front = _images(25), _front(seed=1 if other == "network" else 0)
    _interrupted(x, tmp_path)
    if other == "items":
        x[3] += 1
    elif other == "fewer":
        x = x[:10]
    elif other == "cut":
        os.truncate(tmp_path / ".features.new", 200)
    elif other == "cut a little":
        size = (tmp_path / ".features.new").stat().st_size
        os.truncate(tmp_path / ".features.new", size - 1)
    elif other == "newer":
        write_checked(tmp_path / ".features.state", b"[1]")
    elif other == "no state":
        (tmp_path / ".features.state").unlink()
    elif other == "other state":
        (tmp_path / ".features.state").write_bytes(b"half a word")
    found = keep_features(x, front, tmp_path, progress=False)
    assert front.backbone.module.seen == len(x)
    np.testing.assert_array_equal(found, _in_16_bits(keep_features(x, front)))
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["features-"]


class Scaled(Network):
    """Features of any size, but for what is made of zeros."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


@pytest.mark.parametrize("factor", [1e6, 1e-6, 1e8])
def test_keep_features__that_16_bits_cannot_hold_have_32(tmp_path: Path, factor: float) -> None:
    front, x = Front(Backbone(Scaled(), trainable=False), IMAGE), _images(25)
    front.backbone.module.factor = factor
    found = keep_features(x, front, tmp_path, memory_bytes=0, progress=False)
    (path,) = tmp_path.iterdir()
    assert np.load(path).dtype == np.float32
    np.testing.assert_array_equal(found[:], keep_features(x, front))


def test_keep_features__in_a_file_are_rows_of_a_source(tmp_path: Path) -> None:
    kept = keep_features(_images(25), _front(), tmp_path, memory_bytes=0, progress=False)
    assert (kept.shape, len(kept), kept.dtype) == ((25, F), 25, np.float32)
    whole = kept[:]
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(kept[np.array([7, 3, 7])], whole[[7, 3, 7]])
    np.testing.assert_array_equal(kept[20:30], whole[20:])


def test_keep_features__of_a_file_that_was_given_its_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process ends between the opening of the file and the lock.
    lock = fcntl.flock

    def late(file: Any, how: int) -> None:
        (tmp_path / ".features.new").rename(tmp_path / "features-of-the-other.npy")
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(OSError, match="another process computes features in"):
        keep_features(_images(5), _front(), tmp_path, progress=False)
    assert (tmp_path / "features-of-the-other.npy").read_bytes() == b""


def test_keep_features__by_two_processes_are_refused(tmp_path: Path) -> None:
    with (tmp_path / ".features.new").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="another process computes features in"):
            keep_features(_images(5), _front(), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".features.new"]


def test_keep_features__what_a_killed_process_left_goes_away(tmp_path: Path) -> None:
    (tmp_path / ".features.1.new").write_bytes(b"half")  # as versions did that began anew
    (tmp_path / "log.jsonl").write_bytes(b"")
    keep_features(_images(5), _front(), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert (names[0][:9], names[1]) == ("features-", "log.jsonl")


def test_keep_features__of_items_with_nan_are_refused() -> None:
    x = _images(25).astype(np.float32) / 255
    x[13, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="expected finite pictures, got NaN or infinity in row 13"):
        keep_features(x, _front(), what="pictures", batch_size=10)


# -- an index behind it


class Fit:
    """In the place of a training: takes the weights of a model, and keeps what it saw."""

    takes_coarse = False

    def __init__(self, like: Any) -> None:
        self.like, self.x = like, None

    def check(self, n: int, **given: Any) -> dict[str, Any]:
        return {}

    def __call__(self, model: Any, x: Any, **options: Any) -> list[dict[str, Any]]:
        self.x = x
        model.load_state_dict(self.like.state_dict())
        return [{"event": "end", "elapsed_s": 1.0}]


def _transforms(d_in: int, d_out: int) -> Transforms:
    rotation = faiss.RandomRotationMatrix(d_in, d_out)
    rotation.init(3)
    return Transforms(faiss.IndexPreTransform(rotation, faiss.IndexFlatL2(d_out)))


Pair = tuple[LatentIndex, LatentIndex]


@pytest.fixture
def make_pair(make_model: Callable[..., Any]) -> Callable[..., Pair]:
    """An index behind a front, and one of the same parts that takes features."""

    def make(kind: str = "", **options: Any) -> Pair:
        d = 4 if kind == "transforms" else F
        model = make_model((d,), nbits=4, encoder="linear", **options)
        pair = []
        for front in (_front(), None):
            parts: dict[str, Any] = {"front": front}
            if kind == "transforms":
                parts["transforms"] = _transforms(F, 4)
            if kind == "refined":
                parts["refine_index"] = faiss.IndexFlatL2(F)
            if kind == "decoder":
                parts["refine_index"] = "decoder"
            pair.append(LatentIndex(copy.deepcopy(model), **parts))
        return pair[0], pair[1]

    return make


@pytest.mark.parametrize("kind", ["", "transforms", "refined", "decoder"])
def test_index__behind_a_front_finds_what_the_features_find(make_pair, kind):
    index, plain = make_pair(kind)
    before = _weights(index.front)
    x = _images(40)
    features = _features(index.front, x)
    index.add(x)
    plain.add(features)
    assert (index.input_shape, index.d, plain.d) == (IMAGE, 192, F)
    for name in ("encode", "sa_encode"):
        np.testing.assert_array_equal(getattr(index, name)(x), getattr(plain, name)(features))
    for found, expected in zip(index.search(x[:7], 5), plain.search(features[:7], 5), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(
        index.compute_residual(x[3], 3), plain.compute_residual(features[3], 3), atol=1e-6
    )
    decoded = index.decode(index.encode(x))
    assert decoded.shape == (40, F)
    np.testing.assert_array_equal(decoded, plain.decode(plain.encode(features)))
    _assert_unchanged(index.front, before)


def test_index__behind_a_front_refuses_features_themselves(make_pair):
    index, _ = make_pair()
    with pytest.raises(ValueError, match=r"expected items to add of shape \(n, 3, 8, 8\)"):
        index.add(np.zeros((4, F), np.float32))


def test_index__refuses_a_front_of_other_sizes(make_model):
    with pytest.raises(ValueError, match=r"front that gives vectors of \(5,\), got 6 features"):
        LatentIndex(make_model((5,)), front=_front())
    with pytest.raises(ValueError, match=r"front that gives vectors of \(5,\), got 6 features"):
        LatentIndex(make_model((4,)), transforms=_transforms(5, 4), front=_front())
    with pytest.raises(ValueError, match=r"refine with of d=6 and .*, got d=192"):
        LatentIndex(make_model((F,)), refine_index=faiss.IndexFlatL2(192), front=_front())


@pytest.mark.parametrize("with_folder", [False, True])
def test_train__behind_a_front_reads_its_features_once(make_model, tmp_path, with_folder):
    like = make_model((4,), nbits=4, encoder="linear")
    model = make_model((4,), nbits=4, encoder="linear", trained=False)
    quantizer = faiss.IndexFlatL2(model.latent_dim)
    native = faiss.IndexIVFPQ(quantizer, model.latent_dim, 3, 2, 4)
    native.by_residual = False
    index = LatentIndex(
        model,
        fit=Fit(like),
        faiss_index=native,
        transforms=Transforms.from_description(F, "PCA4"),
        refine_index=faiss.IndexScalarQuantizer(F, faiss.ScalarQuantizer.QT_8bit),
        front=_front(),
    )
    before, x = _weights(index.front), _images(60)
    folder = tmp_path / "run" if with_folder else None
    index.train(x, folder=folder, progress=False)
    assert index.front.backbone.module.seen == 60
    seen = _features(index.front, x)
    seen = _in_16_bits(seen) if with_folder else seen
    expected = index.transforms.apply(torch.from_numpy(seen)).numpy()
    np.testing.assert_array_equal(index.fit.x[:], expected)
    assert index.is_trained
    assert with_folder == bool(list(tmp_path.glob("run/features-*.npy")))
    index.add(x)
    D, I = index.search(x[:5], 1)  # noqa: E741
    assert index.ntotal == 60
    assert (D.shape, I.min() >= 0) == ((5, 1), True)
    _assert_unchanged(index.front, before)


def test_train__behind_a_front_refuses_nan_before_anything_is_trained(make_model):
    index = LatentIndex(make_model((F,), trained=False), fit=Fit(None), front=_front())
    x = _images(9).astype(np.float32) / 255
    x[4, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=r"expected finite training data, .* in row 4"):
        index.train(x, progress=False)
    assert index.fit.x is None


@pytest.mark.parametrize("again", [copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
def test_copy__finds_the_same(make_pair, again):
    index, _ = make_pair("refined")
    index.add(_images(30))
    before = _weights(index.front)
    other = again(index)
    for found, expected in zip(
        other.search(_images(4), 3), index.search(_images(4), 3), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert other.front == index.front
    assert (other.front is index.front) == (again is copy.deepcopy)
    _assert_unchanged(other.front, before)


def test_index__names_its_front(make_pair):
    index, plain = make_pair()
    assert repr(index).endswith(f", search_type='adc', front={index.front!r})")
    assert "front" not in repr(plain)


def test_merge__takes_the_same_front_only(make_model):
    model = make_model((F,), nbits=4)
    indexes = [LatentIndex(model, front=_front(seed)) for seed in (0, 0, 1)]
    for index in indexes:
        index.add(_images(5))
    with pytest.raises(ValueError, match=r"expected an index behind Front.*, got one behind Front"):
        indexes[0].merge_from(indexes[2])
    with pytest.raises(ValueError, match=r"expected an index behind Front.*, got one behind None"):
        indexes[0].merge_from(LatentIndex(model))
    indexes[0].merge_from(indexes[1])
    assert [index.ntotal for index in indexes] == [10, 0, 5]


def test_to_faiss__takes_features(make_pair):
    index, plain = make_pair("transforms")
    index.add(_images(30))
    features = _features(index.front, _images(4, seed=1))
    exported = index.to_faiss()
    plain.add(_features(index.front, _images(30)))
    assert exported.d == F
    np.testing.assert_array_equal(exported.search(features, 3)[1], plain.search(features, 3)[1])


def test_gpu_index__encodes_behind_a_front(make_pair):
    index, _ = make_pair()
    index.add(_images(30))
    copied = distribute(
        index, torch.device("cpu"), [faiss.clone_index], shard=False, nlist=4
    )  # all but the copy to a GPU
    queries = _images(4, seed=1)
    np.testing.assert_array_equal(copied.encode(queries), index.encode(queries))
    np.testing.assert_allclose(copied.search(queries, 3)[0], index.search(queries, 3)[0], atol=1e-5)
    assert copied.input_shape == IMAGE
    assert copied.gather(faiss.clone_index).front is index.front
