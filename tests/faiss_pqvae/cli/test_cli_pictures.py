"""Photographs in a shell, for an encoder that says how it wants to see them."""

import numpy as np
import pytest
import torch
from PIL import Image

import faiss_pqvae as fpq
from faiss_pqvae.cli import main
from faiss_pqvae.cli.reading import open_for
from faiss_pqvae.scale.job import begin, read_job

TRAIN = ["--factory", "PQVAE2x3", "--training.epochs", "1", "--training.precision", "float32"]
ENCODER = ["--encoder", "cropping:make"]


@pytest.fixture(autouse=True)
def cropping(tmp_path, monkeypatch):
    (tmp_path / "cropping.py").write_text(
        "import torch\n"
        "from faiss_pqvae import Backbone\n"
        "def make(input_shape, latent_dim, *, width):\n"
        "    torch.manual_seed(0)\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.Flatten())\n"
        "    return Backbone(net, trainable=False, size=8, crop=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(24):
        pixels = generator.integers(0, 256, (20 + number % 3, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def middle_of(path):
    image = Image.open(path)
    left = (40 - image.height) // 2
    box = (left, 0, left + image.height, image.height)
    small = image.resize((8, 8), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small).transpose(2, 0, 1)


@pytest.mark.parametrize("size", [[], ["--size", "8", "8"]], ids=["several sizes", "a size"])
def test_train_and_build__see_the_middle_of_photographs(photos, tmp_path, capsys, size):
    bundle = tmp_path / "bundle"
    main(["train", str(photos), str(bundle), *TRAIN, *ENCODER, *size])
    index = fpq.read_index(bundle, encoder="cropping:make")
    assert index.crops
    seen = open_for(index, str(photos))[:3]
    for pixels, path in zip(seen, sorted(photos.iterdir()), strict=False):
        np.testing.assert_array_equal(pixels, middle_of(path))
    # What it was trained with were the same pictures.
    (kept,) = (bundle / "training").glob("features-*.npy")
    features = index.front.apply(torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(np.load(kept)[:3].astype("f4"), features, atol=2e-3)
    main(["build", str(bundle), str(photos), *ENCODER])
    main(["search", str(bundle), str(photos / "03.png"), *ENCODER, "--k", "1"])
    assert "03.png" in capsys.readouterr().out


def test_build_add_and_search__take_arrays_all_the_same(photos, tmp_path):
    bundle = tmp_path / "bundle"
    x = np.random.default_rng(1).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    arrays = str(tmp_path / "x.npy")
    main(["train", arrays, str(bundle), *TRAIN, *ENCODER])
    for command in ("build", "add", "search"):
        main([command, str(bundle), arrays, *ENCODER])


def test_shards__of_photographs_are_cropped_and_of_arrays_are_not(photos, tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    index = fpq.index_factory(
        (3, 8, 8),
        "PQVAE2x3",
        encoder="efficientnet-lite0",
        model=fpq.ModelConfig(encoder="mlp", width=8, dsub=4),
        training=fpq.TrainingConfig(epochs=1, precision="float32"),
    )
    index.train(x, progress=False)
    np.save(tmp_path / "x.npy", x)
    assert begin(index, tmp_path / "x.npy", tmp_path / "a", 2).images.crop is None
    begin(index, photos, tmp_path / "b", 2)
    assert read_job(tmp_path / "b").images.crop is True


def test_train__of_photographs_as_the_encoder_does_not_want_them_is_refused(
    photos, tmp_path, capsys
):
    arguments = [str(photos), str(tmp_path / "o"), *TRAIN, *ENCODER, "--size", "8", "8"]
    with pytest.raises(SystemExit):
        main(["train", *arguments, "--crop", "False"])
    assert "expected photographs cropped, as cropping:make wants them" in capsys.readouterr().err
