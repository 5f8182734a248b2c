"""A folder of pictures: order, classes, what is told of broken files, and what is left out."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faiss_pqvae.data.open import ImageFolder, Source, open_source

CLASSES = ("cat", "dog")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_image_folder__sorts_and_labels(classes_folder: Path, pixels: Any) -> None:
    source: Source = open_source(classes_folder)
    assert isinstance(source, ImageFolder)
    assert (len(source), source.shape, source.dtype) == (3, (3, 3, 5, 4), np.uint8)
    assert source.class_names == CLASSES
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1]
    for i, seed in enumerate([2, 1, 0]):
        np.testing.assert_array_equal(source[i : i + 1][0], pixels(seed).transpose(2, 0, 1))


def test_image_folder__has_no_labels_without_class_folders(
    classes_folder: Path, pixels: Any
) -> None:
    save(classes_folder / "top.png", pixels(3))
    source = ImageFolder(classes_folder)
    assert (len(source), source.labels, source.class_names) == (4, None, None)


@pytest.mark.parametrize(
    "rows",
    [
        slice(None),
        slice(1, None),
        slice(None, None, -2),
        slice(5, 9),
        np.array([2, 0, 2]),
        np.array([-1], dtype=np.int64),
        np.array([], dtype=np.int64),
    ],
)
def test_image_folder__selects_rows_as_numpy_does(
    classes_folder: Path, rows: slice | np.ndarray
) -> None:
    source = ImageFolder(classes_folder)
    np.testing.assert_array_equal(source[rows], source[:][rows])


def test_image_folder__rejects_rows_that_are_not_there(classes_folder: Path) -> None:
    source = ImageFolder(classes_folder)
    with pytest.raises(IndexError, match="expected rows from -3 to 2, got 3"):
        source[np.array([3])]
    with pytest.raises(TypeError, match="slice or a 1-D int64 array, got int"):
        source[0]  # type: ignore[index]
    with pytest.raises(TypeError, match="got 1-D float64"):
        source[np.array([0.0])]


def test_image_folder__names_files_of_another_size(classes_folder: Path, pixels: Any) -> None:
    save(classes_folder / "dog" / "z.png", pixels(4, 6, 7))
    with pytest.raises(ValueError, match=r"z\.png \(6, 7\); pass size=\(height, width\)"):
        ImageFolder(classes_folder)


def test_image_folder__resizes(classes_folder: Path) -> None:
    save(classes_folder / "dog" / "z.png", np.full((64, 48, 3), 200, np.uint8))
    source = ImageFolder(classes_folder, size=(8, 6))
    assert source.shape == (4, 3, 8, 6)
    assert source[:].shape == source.shape
    np.testing.assert_array_equal(source[3:], np.full((1, 3, 8, 6), 200))


def test_image_folder__reads_one_channel(tmp_path: Path, pixels: Any) -> None:
    gray = pixels(0)[:, :, 0]
    save(tmp_path / "a.png", gray)
    np.testing.assert_array_equal(ImageFolder(tmp_path, mode="L")[:], gray[None, None])
    np.testing.assert_array_equal(ImageFolder(tmp_path)[:], np.repeat(gray[None, None], 3, axis=1))


def test_image_folder__rejects_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(ValueError, match=r"no images in .*expected files \..*, got notes\.txt"):
        ImageFolder(tmp_path)


def test_image_folder__rejects_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"missing does not exist; expected a folder of images"
    ):
        ImageFolder(tmp_path / "missing")


def test_image_folder__rejects_a_file_that_is_no_image(classes_folder: Path) -> None:
    (classes_folder / "dog" / "z.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"z\.jpg as an image"):
        ImageFolder(classes_folder)
    with pytest.raises(ValueError, match=r"z\.jpg as an image"):
        ImageFolder(classes_folder, size=(4, 4))[:]


def test_image_folder__rejects_a_truncated_image(tmp_path: Path, pixels: Any, png: Any) -> None:
    whole = png(pixels(0, 40, 40))
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    source = ImageFolder(tmp_path)
    with pytest.raises(ValueError, match=r"a\.png as an image"):
        source[:]


def test_image_folder__names_the_missing_extra(
    classes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "faiss-pqvae\[images\]"'):
        ImageFolder(classes_folder)


# What is skipped ---------------------------------------------------------------------------------


def test_image_folder__counts_and_names_what_is_skipped(
    classes_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(9):
        (classes_folder / "cat" / f"{i}.txt").write_text("no image")
    source = ImageFolder(classes_folder)
    assert [path.name for path in source.skipped] == [*(f"{i}.txt" for i in range(9)), "notes.txt"]
    (message,) = caplog.messages
    assert message.endswith(
        "10 skipped that are no images: "
        + ", ".join(f"cat/{i}.txt" for i in range(5))
        + " and 5 more"
    )


def test_image_folder__classes_may_be_links(tmp_path: Path, pixels: Any) -> None:
    save(tmp_path / "kept" / "a.png", pixels(0))
    save(tmp_path / "photos" / "dog" / "a.png", pixels(1))
    (tmp_path / "photos" / "cat").symlink_to(tmp_path / "kept")
    source = ImageFolder(tmp_path / "photos")
    assert source.class_names == CLASSES
    np.testing.assert_array_equal(source[:1][0], pixels(0).transpose(2, 0, 1))


def test_image_folder__one_picture_alone(tmp_path: Path, pixels: Any) -> None:
    save(tmp_path / "q.png", pixels(0))
    source = open_source(tmp_path / "q.png", like=(1, 6, 7))
    assert (source.shape, source.labels) == ((1, 1, 6, 7), None)


# Broken files ------------------------------------------------------------------------------------


@pytest.fixture
def with_broken(classes_folder: Path, png: Any, pixels: Any) -> Path:
    """Two of five files are broken, one of them only behind its header."""
    (classes_folder / "cat" / "0.jpg").write_text("text")
    whole = png(pixels(3, 40, 40))
    (classes_folder / "dog" / "z.png").write_bytes(whole[: len(whole) // 2])
    return classes_folder


@pytest.mark.parametrize("size", [None, (5, 4), (8, 8)])
def test_image_folder__lists_all_broken_files_at_once(
    with_broken: Path, size: tuple[int, int] | None
) -> None:
    message = r"(?s)2 of 5 images .*0\.jpg as an image.*z\.png as an image.*--skip-broken"
    with pytest.raises(ValueError, match=message):
        # One row is asked for, and all are told of.
        ImageFolder(with_broken, size)[:1]


@pytest.mark.parametrize("skip_broken", [True, False])
def test_image_folder__does_not_advise_to_skip_all(tmp_path: Path, skip_broken: bool) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ValueError, match=r"a\.png as an image.*nothing else is there$"):
        ImageFolder(tmp_path, (4, 4), skip_broken=skip_broken)[:]


def test_image_folder__skips_broken_files_and_keeps_places(
    with_broken: Path, pixels: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = ImageFolder(with_broken, (5, 4), skip_broken=True)
    assert source.ids is not None
    assert (source.ids.tolist(), source.ids.dtype, source.total) == ([1, 2, 3], np.int64, 5)
    assert [path.name for path in source.paths] == ["a.png", "b.PNG", "a.png"]
    assert source.labels is not None
    assert source.labels.tolist() == [0, 0, 1]
    expected = np.stack([pixels(seed).transpose(2, 0, 1) for seed in (2, 1, 0)])
    np.testing.assert_array_equal(source[:], expected)
    assert "left out 2 of 5 images: cannot read" in caplog.messages[-1]


def test_image_folder__skips_broken_files_without_a_size(classes_folder: Path) -> None:
    (classes_folder / "cat" / "0.jpg").write_text("text")
    source = ImageFolder(classes_folder, skip_broken=True)
    assert (source.shape, source.total) == ((3, 3, 5, 4), 4)
    assert ImageFolder(classes_folder / "dog", skip_broken=True).ids is None


@pytest.mark.parametrize("size", [None, (8, 8)])
def test_image_folder__all_broken_is_an_error(tmp_path: Path, size: tuple[int, int] | None) -> None:
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"a\.jpg as an image: it is in no format"):
        ImageFolder(tmp_path, size, skip_broken=True)


def test_image_folder__other_sizes_are_not_broken(classes_folder: Path, pixels: Any) -> None:
    save(classes_folder / "dog" / "z.png", pixels(4, 6, 7))
    with pytest.raises(ValueError, match=r"z\.png \(6, 7\); pass size"):
        ImageFolder(classes_folder, skip_broken=True)


def test_image_folder__size_is_that_of_the_upright_picture(tmp_path: Path, pixels: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(0)).save(tmp_path / "a.png", exif=exif)
    save(tmp_path / "b.png", pixels(1, 4, 5))
    assert ImageFolder(tmp_path).shape == (2, 3, 4, 5)
    with pytest.raises(ValueError, match="one size"):
        ImageFolder(tmp_path, orient=False)
