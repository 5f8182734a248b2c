"""What the commands read: images of a folder and of Parquet, by the same options."""

import inspect
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tyro
from PIL import Image

from faiss_pqvae.cli import main
from faiss_pqvae.cli.add import add
from faiss_pqvae.cli.build import build
from faiss_pqvae.cli.reading import (
    Images,
    image_arguments,
    labels_of_places,
    open_for,
    open_labelled,
)
from faiss_pqvae.cli.search import search
from faiss_pqvae.cli.train import train
from faiss_pqvae.cli.tune import tune
from faiss_pqvae.data.open import ImageOptions
from faiss_pqvae.eval.data.own import OwnData
from faiss_pqvae.index.bundle import read_index
from faiss_pqvae.native.ids import stored_ids

N = 24
FAST = [
    *("--model.width", "4", "--model.dsub", "2", "--training.epochs", "1"),
    *("--training.batch-size", "8", "--training.precision", "float32"),
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Of two classes and of several sizes; the third of a class is broken."""
    rng = np.random.default_rng(0)
    for i in range(N):
        path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 9 + i % 3, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "cat" / "04.png").write_text("text")
    return tmp_path / "photos"


@pytest.fixture
def table(photos: Path) -> Path:
    """The same in a column that is not called image, beside labels that are text."""
    paths = sorted(photos.rglob("*.png"))
    labels = [None if i == 0 else path.parent.name for i, path in enumerate(paths)]
    columns = {"img": [path.read_bytes() for path in paths], "label": pa.array(labels)}
    pq.write_table(pa.table(columns), photos.parent / "x.parquet")
    return photos.parent / "x.parquet"


@pytest.mark.parametrize("kind", ["photos", "table"])
def test_open_for__in_size_and_channels_of_the_index(
    kind: str, request: pytest.FixtureRequest, make_index: Any
) -> None:
    data = str(request.getfixturevalue(kind))
    index = make_index()  # of (1, 8, 8)
    with pytest.raises(ValueError, match=r"cannot read .* as an image: .*--skip-broken"):
        open_for(index, data, ImageOptions())[:]
    source: Any = open_for(index, data, ImageOptions(skip_broken=True))
    assert source[:].shape == (N - 1, 1, 8, 8)
    assert source.ids.tolist() == [i for i in range(N) if i != 2]
    with pytest.raises(ValueError, match=r"size \(8, 8\), as the index was trained with"):
        open_for(index, data, ImageOptions(size=(7, 7)))


@pytest.mark.parametrize("kind", ["photos", "table"])
def test_open_labelled__labels_are_read_when_asked_for(
    kind: str, request: pytest.FixtureRequest
) -> None:
    data = str(request.getfixturevalue(kind))
    items, labels = open_labelled(data, ImageOptions(size=(8, 8), skip_broken=True))
    expected = [0] * (N // 2 - 1) + [1] * (N // 2)
    expected[0] = -1 if kind == "table" else 0
    assert labels().tolist() == expected  # type: ignore[union-attr]
    given = np.arange(N)
    np.testing.assert_array_equal(labels_of_places(items, given), np.delete(given, 2))
    np.testing.assert_array_equal(labels_of_places(items, given[:-1]), given[:-1])


@pytest.mark.parametrize("labelled", [True, False])
def test_open_labelled__vectors_in_parquet_have_labels_too(tmp_path: Path, labelled: bool) -> None:
    for name, text in (("2", ["b", "a"]), ("10", [None, "b"])):
        table = {"v": [[1.0, 2.0], [3.0, 4.0]], **({"label": text} if labelled else {})}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    _, labels = open_labelled(str(tmp_path), ImageOptions())
    found = labels()
    assert (None if found is None else found.tolist()) == ([1, 0, -1, 1] if labelled else None)


def test_open_labelled__data_sets_have_no_options_of_images() -> None:
    with pytest.raises(ValueError, match=r"to read with size=\(8, 8\), got mnist5k: there"):
        open_labelled("mnist5k", ImageOptions(size=(8, 8)))


def test_open_labelled__what_is_missing_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pics/nope does not exist"):
        open_labelled(str(tmp_path / "pics" / "nope"), ImageOptions(size=(8, 8)))


@pytest.mark.parametrize(
    "images",
    [
        ImageOptions(),
        ImageOptions((8, 9), "L", orient=False, skip_broken=True, column="img"),
        ImageOptions(size=(1, 2)),
    ],
)
def test_image_arguments__are_what_the_commands_take(images: ImageOptions) -> None:
    def command(*, images: Images = ImageOptions()) -> ImageOptions:  # noqa: B008 - frozen
        return images

    assert tyro.cli(command, args=image_arguments(images)) == images


@pytest.mark.parametrize("command", [train, build, add, search, tune])
def test_commands__take_the_options_of_images(command: Any) -> None:
    assert inspect.signature(command).parameters["images"].annotation == "Images"


def test_own_data__has_the_options_of_images() -> None:
    images = ImageOptions((8, 9), "L", orient=False, skip_broken=True, column="img")
    own = OwnData(size=(8, 9), mode="L", orient=False, skip_broken=True, column="img")
    assert (own.images, OwnData().images) == (images, ImageOptions())


def test_train_build__of_parquet_with_text_labels(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    reading = ["--skip-broken", "--column", "img"]
    options = ["--factory", "DPQ2x4", "--size", "8", "8", "--mode", "L", *reading]
    main(["train", str(table), str(out), *options, *FAST, "--model.encoder", "mlp"])
    assert read_index(out).input_shape == (1, 8, 8)
    assert sorted(path.name for path in (out / "training").glob("images*")) == []
    main(["build", str(out), str(table), *reading])
    ids = stored_ids(read_index(out).faiss_index)
    assert sorted(ids.tolist()) == [i for i in range(N) if i != 2]  # places among all rows


def test_train__turns_photographs_unless_told_otherwise(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    left_dark = Image.new("L", (8, 8))
    left_dark.paste(255, (4, 0, 8, 8))
    buffer = io.BytesIO()
    left_dark.save(buffer, "PNG", exif=exif)
    pq.write_table(pa.table({"image": [buffer.getvalue()]}), tmp_path / "x.parquet")
    upright, as_stored = (
        open_labelled(str(tmp_path / "x.parquet"), ImageOptions(orient=orient)).items[:][0, 0]
        for orient in (True, False)
    )
    np.testing.assert_array_equal(as_stored, np.asarray(left_dark))
    np.testing.assert_array_equal(upright, np.asarray(left_dark).T)
