"""Sources: what is read from disk, in which order, and what is refused."""

import builtins
import io
import json
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from faiss_pqvae.data.open import ImageFolder, ParquetImages, Source, chunks, open_source

CLASSES = ("cat", "dog")


def _pixels(seed: int, height: int = 5, width: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _write_parquet(
    path: Path,
    images: list[bytes | None],
    labels: list[int | None] | None = None,
    names: tuple[str, ...] | None = CLASSES,
    **options: object,
) -> Path:
    columns: dict[str, pa.Array] = {
        "image": pa.array(
            [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)],
            type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
    }
    if labels is not None:
        columns["label"] = pa.array(labels, type=pa.int64())
    table = pa.table(columns)
    if names is not None:
        features = {
            "image": {"_type": "Image"},
            "label": {"names": list(names), "_type": "ClassLabel"},
        }
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    pq.write_table(table, path, **options)
    return path


@pytest.fixture
def classes_folder(tmp_path: Path) -> Path:
    _save(tmp_path / "dog" / "a.png", _pixels(0))
    _save(tmp_path / "cat" / "deep" / "b.PNG", _pixels(1))
    _save(tmp_path / "cat" / "a.png", _pixels(2))
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    (tmp_path / "dog" / "._a.png").write_bytes(b"a hidden file")
    return tmp_path


# Arrays ------------------------------------------------------------------------------------------


def test_open_source__maps_npy_read_only(tmp_path: Path) -> None:
    expected = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "x.npy", expected)
    source = open_source(tmp_path / "x.npy")
    assert isinstance(source, np.memmap)
    assert not source.flags.writeable
    assert (len(source), source.shape, source.dtype) == (4, (4, 3), np.float32)
    np.testing.assert_array_equal(source[1:3], expected[1:3])
    np.testing.assert_array_equal(source[np.array([3, 0])], expected[[3, 0]])


def test_open_source__accepts_a_string(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.uint8))
    assert open_source(str(tmp_path / "x.npy")).shape == (2, 3)


def test_open_source__names_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.npy does not exist; expected a \.npy"):
        open_source(tmp_path / "missing.npy")


def test_open_source__rejects_an_unknown_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"expected a \.npy file.*got suffix '\.csv'"):
        open_source(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([["a", 1]], dtype=object), "object"),
        (np.array([["a", "b"]]), "expected numbers"),
        (np.zeros((2, 2), np.complex64), "expected numbers"),
        (np.zeros(3), r"expected shape \(n, \.\.\.\)"),
        (np.zeros((0, 3)), "at least one item"),
    ],
)
def test_open_source__rejects_other_arrays(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "x.npy")


class _Bomb:
    """Unpickling this raises; nothing may try."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return builtins.exec, ("raise SystemError('unpickled')",)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", pickle.dumps(_Bomb()), b"PK\3\4" + bytes(90)]
)
def test_open_source__rejects_a_file_that_is_no_npy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected a complete \.npy file"):
        open_source(tmp_path / "x.npy")


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((4, 3), np.float32))
    return buffer.getvalue()


def test_open_source__rejects_every_truncated_npy(tmp_path: Path) -> None:
    raw = _npy()
    for kept in range(0, len(raw), 5):
        (tmp_path / "x.npy").write_bytes(raw[:kept])
        with pytest.raises(ValueError, match=r"x\.npy"):
            open_source(tmp_path / "x.npy")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.integers(0, 127), byte=st.integers(0, 255))
def test_open_source__a_damaged_header_reads_nothing_outside_the_file(
    tmp_path: Path, at: int, byte: int
) -> None:
    raw = bytearray(_npy())
    raw[at] = byte
    (tmp_path / "x.npy").write_bytes(raw)
    try:
        source = open_source(tmp_path / "x.npy")
    except ValueError:
        return
    assert source[:].nbytes <= len(raw)


# chunks ------------------------------------------------------------------------------------------


def test_chunks__covers_everything_in_order() -> None:
    x = np.arange(14).reshape(7, 2)
    parts = list(chunks(x, 3))
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts), x)


def test_chunks__rejects_zero_rows() -> None:
    with pytest.raises(ValueError, match="positive"):
        list(chunks(np.zeros((2, 2)), 0))


# ImageFolder -------------------------------------------------------------------------------------


def test_image_folder__sorts_and_labels(classes_folder: Path) -> None:
    source: Source = open_source(classes_folder)
    assert isinstance(source, ImageFolder)
    assert (len(source), source.shape, source.dtype) == (3, (3, 3, 5, 4), np.uint8)
    assert source.class_names == CLASSES
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [0, 0, 1]
    for i, seed in enumerate([2, 1, 0]):
        np.testing.assert_array_equal(source[i : i + 1][0], _pixels(seed).transpose(2, 0, 1))


def test_image_folder__has_no_labels_without_class_folders(classes_folder: Path) -> None:
    _save(classes_folder / "top.png", _pixels(3))
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


def test_image_folder__names_files_of_another_size(classes_folder: Path) -> None:
    _save(classes_folder / "dog" / "z.png", _pixels(4, 6, 7))
    with pytest.raises(ValueError, match=r"z\.png \(6, 7\); pass size=\(height, width\)"):
        ImageFolder(classes_folder)


def test_image_folder__resizes(classes_folder: Path) -> None:
    _save(classes_folder / "dog" / "z.png", np.full((64, 48, 3), 200, np.uint8))
    source = ImageFolder(classes_folder, size=(8, 6))
    assert source.shape == (4, 3, 8, 6)
    assert source[:].shape == source.shape
    np.testing.assert_array_equal(source[3:], np.full((1, 3, 8, 6), 200))


def test_image_folder__reads_one_channel(tmp_path: Path) -> None:
    gray = _pixels(0)[:, :, 0]
    _save(tmp_path / "a.png", gray)
    np.testing.assert_array_equal(ImageFolder(tmp_path, mode="L")[:], gray[None, None])
    np.testing.assert_array_equal(ImageFolder(tmp_path)[:], np.repeat(gray[None, None], 3, axis=1))


def test_image_folder__drops_transparency(tmp_path: Path) -> None:
    rgba = np.dstack([_pixels(0), np.full((5, 4), 7, np.uint8)])
    _save(tmp_path / "a.png", rgba)
    palette = Image.fromarray(_pixels(0)).convert("P")
    palette.save(tmp_path / "b.png", transparency=bytes([0, 128]))
    images = ImageFolder(tmp_path)[:]
    np.testing.assert_array_equal(images[0], _pixels(0).transpose(2, 0, 1))
    np.testing.assert_array_equal(images[1], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


def test_image_folder__rejects_16_bits(tmp_path: Path) -> None:
    _save(tmp_path / "a.png", np.full((3, 3), 40_000, np.uint16))
    with pytest.raises(ValueError, match=r"a\.png.*expected 8 bits a channel"):
        ImageFolder(tmp_path)[:]


def test_image_folder__rejects_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data in .*expected images \(\.bmp.*got no file"):
        open_source(tmp_path)


def test_image_folder__rejects_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder of images"):
        ImageFolder(tmp_path / "missing")


def test_image_folder__rejects_a_file_that_is_no_image(classes_folder: Path) -> None:
    (classes_folder / "dog" / "z.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"z\.jpg as an image"):
        ImageFolder(classes_folder)
    with pytest.raises(ValueError, match=r"z\.jpg as an image"):
        ImageFolder(classes_folder, size=(4, 4))[:]


def test_image_folder__rejects_a_truncated_image(tmp_path: Path) -> None:
    whole = _png(_pixels(0, 40, 40))
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    source = ImageFolder(tmp_path)
    with pytest.raises(ValueError, match=r"a\.png as an image"):
        source[:]


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4, 4, 3)])
def test_image_folder__rejects_a_bad_size(classes_folder: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="positive size"):
        ImageFolder(classes_folder, size=size)


def test_image_folder__rejects_an_unknown_mode(classes_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"mode of \['L', 'RGB'\], got 'CMYK'"):
        ImageFolder(classes_folder, mode="CMYK")  # type: ignore[arg-type]


def test_image_folder__names_the_missing_extra(
    classes_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "faiss-pqvae\[eval\]"'):
        ImageFolder(classes_folder)


# ParquetImages -----------------------------------------------------------------------------------


def test_parquet_images__reads_the_hugging_face_layout(tmp_path: Path) -> None:
    path = _write_parquet(tmp_path / "x.parquet", [_png(_pixels(i)) for i in range(3)], [1, 0, -1])
    source: Source = open_source(path)
    assert isinstance(source, ParquetImages)
    assert (len(source), source.shape, source.dtype) == (3, (3, 3, 5, 4), np.uint8)
    assert source.class_names == CLASSES
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [1, 0, -1]
    for i in range(3):
        np.testing.assert_array_equal(source[i : i + 1][0], _pixels(i).transpose(2, 0, 1))


def test_parquet_images__joins_files_and_row_groups(tmp_path: Path) -> None:
    encoded = [_png(_pixels(i)) for i in range(5)]
    paths = [
        _write_parquet(tmp_path / "b.parquet", encoded[3:], [1, 1]),
        _write_parquet(tmp_path / "a.parquet", encoded[:3], [0, 1, 0], row_group_size=1),
        _write_parquet(tmp_path / "empty.parquet", [], []),
    ]
    source = open_source(tmp_path)
    assert isinstance(source, ParquetImages)
    rows = np.array([4, 0, 3, 2])
    expected = np.stack([_pixels(i).transpose(2, 0, 1) for i in rows])
    np.testing.assert_array_equal(source[rows], expected)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 0, 1, 1]
    in_given_order = ParquetImages(paths[:2])
    np.testing.assert_array_equal(in_given_order[:1][0], _pixels(3).transpose(2, 0, 1))


def test_parquet_images__takes_plain_binary_without_labels(tmp_path: Path) -> None:
    table = pa.table({"pixels": pa.array([_png(_pixels(0))], type=pa.large_binary())})
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetImages(tmp_path / "x.parquet", image_column="pixels", mode="L")
    assert source[:].shape == (1, 1, 5, 4)
    assert (source.labels, source.class_names) == (None, None)


def test_parquet_images__resizes_or_refuses_other_sizes(tmp_path: Path) -> None:
    images = [_png(_pixels(0)), _png(_pixels(1, 9, 9))]
    path = _write_parquet(tmp_path / "x.parquet", images)
    with pytest.raises(ValueError, match=r"row 1 of .*\(5, 4\), got \(9, 9\); pass size"):
        ParquetImages(path)[:]
    assert ParquetImages(path, size=(6, 6))[:].shape == (2, 3, 6, 6)


def test_parquet_images__rejects_an_unreadable_image(tmp_path: Path) -> None:
    path = _write_parquet(tmp_path / "x.parquet", [_png(_pixels(0)), b"text"])
    with pytest.raises(ValueError, match=r"row 1 of .*x\.parquet as an image"):
        ParquetImages(path)[:]


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        ([None], [0], CLASSES, "1 nulls"),
        ([b"x"], [None], CLASSES, "expected a label in every row"),
        ([b"x"], [2], CLASSES, "labels from -1 to 1 for 2 class names, got 2"),
        ([b"x"], [-2], CLASSES, "got -2"),
        ([], [], CLASSES, "at least one row"),
    ],
)
def test_parquet_images__rejects_bad_columns(
    tmp_path: Path,
    images: list[bytes | None],
    labels: list[int | None],
    names: tuple[str, ...],
    message: str,
) -> None:
    path = _write_parquet(tmp_path / "x.parquet", images, labels, names)
    with pytest.raises(ValueError, match=message):
        ParquetImages(path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"other": [1]}, r"expected a column 'image', got \['other'\]"),
        ({"image": ["text"]}, "expected encoded images as binary, got string"),
        ({"image": [{"path": "x"}]}, r"the field 'bytes', got \['path'\]"),
        ({"image": [b"x"], "label": ["cat"]}, "expected integer labels, got string"),
    ],
)
def test_parquet_images__rejects_other_layouts(
    tmp_path: Path, column: dict[str, list[object]], message: str
) -> None:
    pq.write_table(pa.table(column), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        ParquetImages(tmp_path / "x.parquet")


def test_parquet_images__rejects_files_that_disagree(tmp_path: Path) -> None:
    image = _png(_pixels(0))
    first = _write_parquet(tmp_path / "a.parquet", [image], [0])
    other = _write_parquet(tmp_path / "b.parquet", [image], [0], ("dog", "cat"))
    unlabelled = _write_parquet(tmp_path / "c.parquet", [image])
    with pytest.raises(ValueError, match="same class names"):
        ParquetImages([first, other])
    with pytest.raises(ValueError, match="labels in all 2 files, got them in 1"):
        ParquetImages([first, unlabelled])


@pytest.mark.parametrize("kept", [0, 3, 40, -20])
def test_parquet_images__rejects_a_truncated_file(tmp_path: Path, kept: int) -> None:
    path = _write_parquet(tmp_path / "x.parquet", [_png(_pixels(0))] * 3, [0, 1, 0])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"x\.parquet"):
        ParquetImages(path)


def test_parquet_images__rejects_damage_in_a_page(tmp_path: Path) -> None:
    path = _write_parquet(tmp_path / "x.parquet", [_png(_pixels(0))] * 3, [0, 1, 0])
    raw = bytearray(path.read_bytes())
    raw[4:24] = struct.pack("20B", *[255] * 20)
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"x\.parquet"):
        ParquetImages(path)


def test_parquet_images__rejects_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.parquet"):
        ParquetImages(tmp_path / "missing.parquet")
    with pytest.raises(ValueError, match=r"at least one \.parquet file"):
        ParquetImages(tmp_path)
