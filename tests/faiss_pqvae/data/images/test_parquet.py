"""Pictures in Parquet: the column, the rows, their labels, and what is refused."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faiss_pqvae.data.images import ImageOptions
from faiss_pqvae.data.open import ParquetImages, Source, open_source

CLASSES = ("cat", "dog")


def write_parquet(
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


def test_parquet_images__reads_the_hugging_face_layout(
    tmp_path: Path, pixels: Any, png: Any
) -> None:
    path = write_parquet(tmp_path / "x.parquet", [png(pixels(i)) for i in range(3)], [1, 0, -1])
    source: Source = open_source(path)
    assert isinstance(source, ParquetImages)
    assert (len(source), source.shape, source.dtype) == (3, (3, 3, 5, 4), np.uint8)
    assert source.class_names == CLASSES
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [1, 0, -1]
    for i in range(3):
        np.testing.assert_array_equal(source[i : i + 1][0], pixels(i).transpose(2, 0, 1))


def test_parquet_images__joins_files_and_row_groups(tmp_path: Path, pixels: Any, png: Any) -> None:
    encoded = [png(pixels(i)) for i in range(5)]
    paths = [
        write_parquet(tmp_path / "b.parquet", encoded[3:], [1, 1]),
        write_parquet(tmp_path / "a.parquet", encoded[:3], [0, 1, 0], row_group_size=1),
        write_parquet(tmp_path / "empty.parquet", [], []),
    ]
    source = open_source(tmp_path)
    assert isinstance(source, ParquetImages)
    rows = np.array([4, 0, 3, 2])
    expected = np.stack([pixels(i).transpose(2, 0, 1) for i in rows])
    np.testing.assert_array_equal(source[rows], expected)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 0, 1, 1]
    in_given_order = ParquetImages(paths[:2])
    np.testing.assert_array_equal(in_given_order[:1][0], pixels(3).transpose(2, 0, 1))


@pytest.mark.parametrize("number", [0, 3])
def test_parquet_images__of_files_without_rows_the_type_says_nothing(
    tmp_path: Path, pixels: Any, png: Any, number: int
) -> None:
    for i in (1, 2):
        table = pa.table({"picture": structs([png(pixels(i))]), "label": ["ab"[i - 1]]})
        pq.write_table(table, tmp_path / f"{i}.parquet")
    nothing = pa.table({"picture": pa.nulls(0), "label": pa.nulls(0)})
    pq.write_table(nothing, tmp_path / f"{number}.parquet")
    source = open_source(tmp_path)
    assert isinstance(source, ParquetImages)
    assert (source.labels.tolist(), source.class_names) == ([0, 1], ("a", "b"))
    np.testing.assert_array_equal(source[:][1], pixels(2).transpose(2, 0, 1))


def test_parquet_images__of_paths_alone_says_what_to_read(tmp_path: Path) -> None:
    column = pa.array([{"bytes": None, "path": "x.png"}])
    pq.write_table(pa.table({"image": column}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"1 nulls; .* beside the table, read their folder"):
        open_source(tmp_path / "x.parquet")


def test_parquet_images__takes_plain_binary_without_labels(
    tmp_path: Path, pixels: Any, png: Any
) -> None:
    table = pa.table({"pixels": pa.array([png(pixels(0))], type=pa.large_binary())})
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetImages(tmp_path / "x.parquet", image_column="pixels", mode="L")
    assert source[:].shape == (1, 1, 5, 4)
    assert (source.labels, source.class_names) == (None, None)


def test_parquet_images__resizes_or_refuses_other_sizes(
    tmp_path: Path, pixels: Any, png: Any
) -> None:
    images = [png(pixels(0)), png(pixels(1, 9, 9))]
    path = write_parquet(tmp_path / "x.parquet", images)
    with pytest.raises(ValueError, match=r"row 1 of .*\(5, 4\), got \(9, 9\); pass size"):
        ParquetImages(path)[:]
    assert ParquetImages(path, size=(6, 6))[:].shape == (2, 3, 6, 6)


def test_parquet_images__rejects_an_unreadable_image(tmp_path: Path, pixels: Any, png: Any) -> None:
    path = write_parquet(tmp_path / "x.parquet", [png(pixels(0)), b"text"])
    with pytest.raises(ValueError, match=r"row 1 of .*x\.parquet as an image"):
        ParquetImages(path)[:]


@pytest.mark.parametrize(
    ("images", "labels", "names", "message"),
    [
        ([None], [0], CLASSES, "1 nulls"),
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
    path = write_parquet(tmp_path / "x.parquet", images, labels, names)
    with pytest.raises(ValueError, match=message):
        ParquetImages(path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"other": [1]}, r"expected a column of images in .*, got \['other'\]"),
        ({"image": ["text"]}, "expected encoded images as binary, got string"),
        ({"image": [{"path": "x"}]}, r"the field 'bytes', got \['path'\]"),
    ],
)
def test_parquet_images__rejects_other_layouts(
    tmp_path: Path, column: dict[str, list[object]], message: str
) -> None:
    pq.write_table(pa.table(column), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        ParquetImages(tmp_path / "x.parquet")


def test_parquet_images__rejects_files_that_disagree(tmp_path: Path, pixels: Any, png: Any) -> None:
    image = png(pixels(0))
    first = write_parquet(tmp_path / "a.parquet", [image], [0])
    other = write_parquet(tmp_path / "b.parquet", [image], [0], ("dog", "cat"))
    unlabelled = write_parquet(tmp_path / "c.parquet", [image])
    for files, message in [
        ([first, other], "same class names"),
        ([first, unlabelled], "labels in all 2 files, got them in 1"),
    ]:
        source = ParquetImages(files)  # images are read all the same
        assert len(source[:]) == 2
        with pytest.raises(ValueError, match=message):
            source.labels  # noqa: B018


@pytest.mark.parametrize("kept", [0, 3, 40, -20])
def test_parquet_images__rejects_a_truncated_file(
    tmp_path: Path, kept: int, pixels: Any, png: Any
) -> None:
    path = write_parquet(tmp_path / "x.parquet", [png(pixels(0))] * 3, [0, 1, 0])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"x\.parquet"):
        ParquetImages(path)


def test_parquet_images__rejects_damage_in_a_page(tmp_path: Path, pixels: Any, png: Any) -> None:
    path = write_parquet(tmp_path / "x.parquet", [png(pixels(0))] * 3, [0, 1, 0])
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


# The column --------------------------------------------------------------------------------------


def structs(images: list[bytes | None]) -> pa.Array:
    rows = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary", "view", "dictionary"])
def test_open_source__finds_the_only_column_of_images(
    tmp_path: Path, png: Any, pixels: Any, kind: str
) -> None:
    images = [png(pixels(i)) for i in range(3)]
    column = {
        "struct": structs(images),
        "binary": pa.array(images),
        "large_binary": pa.array(images, pa.large_binary()),
        "view": pa.array(images, pa.binary_view()),
        "dictionary": pa.array(images).dictionary_encode(),
    }[kind]
    table = {"key": pa.array([b"a", b"b", b"c"]), "img": column, "label": ["x", None, "y"]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    for place in (tmp_path / "x.parquet", tmp_path / "x.parquet" / "img"):
        np.testing.assert_array_equal(open_source(place)[:][2], pixels(2).transpose(2, 0, 1))


def test_open_source__a_column_by_name(tmp_path: Path, png: Any, pixels: Any) -> None:
    table = {name: structs([png(pixels(i))]) for i, name in enumerate(["left", "right"])}
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({**table, "v": [[1.0, 2.0]]}), path)
    for options, place in [(ImageOptions(column="right"), path), (ImageOptions(), path / "right")]:
        np.testing.assert_array_equal(
            open_source(place, images=options)[:][0], pixels(1).transpose(2, 0, 1)
        )
    assert open_source(path, images=ImageOptions(column="v"))[:].tolist() == [[1, 2]]
    with pytest.raises(ValueError, match=r"'left', 'right'.* and vectors in \['v'\]: name one"):
        open_source(path)
    with pytest.raises(ValueError, match=r"one column of images .*'left', 'right'.*--column"):
        ParquetImages(path)
    with pytest.raises(ValueError, match="middle"):
        open_source(path, images=ImageOptions(column="middle"))


def test_open_source__parquet_takes_the_options_of_a_folder(
    tmp_path: Path, png: Any, pixels: Any
) -> None:
    path = tmp_path / "x.parquet"
    images = [png(pixels(0)), None, b"text", png(pixels(1, 30, 40))]
    pq.write_table(pa.table({"img": structs(images)}), path)
    options = ImageOptions(size=(6, 7), mode="L", skip_broken=True)
    source = open_source(path, images=options)
    assert isinstance(source, ParquetImages)
    assert source[:].shape == source.shape == (2, 1, 6, 7)
    assert source.ids is not None
    assert (source.ids.tolist(), source.total) == ([0, 3], 4)
    grey = open_source(path, images=ImageOptions(skip_broken=True), like=(1, 9, 9))
    assert grey.shape == (2, 1, 9, 9)
    with pytest.raises(ValueError, match=r"got 1 nulls; leave these out"):
        open_source(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ImageOptions(size=(4, 4)), r"size=\(4, 4\)"),
        (ImageOptions(orient=False, mode="L"), "mode='L', orient=False"),
    ],
)
def test_open_source__options_of_images_need_images(
    tmp_path: Path, options: ImageOptions, said: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    pq.write_table(pa.table({"v": [[1.0]]}), tmp_path / "x.parquet")
    for name in ("x.npy", "x.parquet"):
        with pytest.raises(
            ValueError, match=rf"expected options of images .* only, got {said} for"
        ):
            open_source(tmp_path / name, images=options)
        assert open_source(tmp_path / name, like=(3, 4, 4)).shape[0] in (1, 3)


@pytest.mark.parametrize("form", ["folder", "file", "parquet"])
def test_open_source__pictures_are_no_vectors(tmp_path: Path, form: str) -> None:
    """An index of vectors says so, before it asks for a size."""
    (tmp_path / "pictures").mkdir()
    picture = tmp_path / "pictures" / "a.png"
    Image.new("RGB", (5, 4)).save(picture)
    column = [{"bytes": picture.read_bytes(), "path": None}]
    pq.write_table(pa.table({"image": column}), tmp_path / "x.parquet")
    path = {"folder": picture.parent, "file": picture, "parquet": tmp_path / "x.parquet"}[form]
    with pytest.raises(ValueError, match=f"expected vectors of 8 dimensions, got images in {path}"):
        open_source(path, like=(8,))


# Labels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (pa.array(["dog", "cat", None]), CLASSES, [1, 0, -1]),
        (pa.array(["dog", "cat", None], pa.large_string()), CLASSES, [1, 0, -1]),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), CLASSES, [1, 0, 1]),
        (pa.array([3, None, 0]), None, [3, -1, 0]),
        (pa.array([3, 2, 0], pa.uint8()), None, [3, 2, 0]),
        (pa.array([3.0, float("nan"), 0.0]), None, [3, -1, 0]),
        (pa.array([3.0, None, 0.0]), None, [3, -1, 0]),
        (pa.array([True, False, None]), None, [1, 0, -1]),
        (pa.nulls(3), None, [-1, -1, -1]),
    ],
)
def test_parquet_images__labels_of_every_type(
    tmp_path: Path, png: Any, pixels: Any, labels: pa.Array, names: Any, expected: list[int]
) -> None:
    table = pa.table({"img": structs([png(pixels(i)) for i in range(3)]), "label": labels})
    pq.write_table(table, tmp_path / "x.parquet")
    source = ParquetImages(tmp_path / "x.parquet")
    assert source.labels is not None
    assert source.labels.dtype == np.int64
    assert (source.labels.tolist(), source.class_names) == (expected, names)


def test_parquet_images__text_is_numbered_over_all_files(
    tmp_path: Path, png: Any, pixels: Any
) -> None:
    for name, labels in [("a", ["owl", "cat"]), ("b", [None, "dog"]), ("c", [None, None])]:
        table = {"img": structs([png(pixels(0))] * 2), "label": labels}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    source = ParquetImages(tmp_path)
    assert source.labels is not None
    assert source.labels.tolist() == [2, 0, -1, 1, -1, -1]
    assert source.class_names == ("cat", "dog", "owl")
    assert source.parts == [(tmp_path / f"{name}.parquet", 2) for name in "abc"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0.5]), "whole numbers in 64 bits"),
        (pa.array([1 << 63], pa.uint64()), "whole numbers in 64 bits"),
        (pa.array([[1]]), r"whole floats or text, got list.*--labels FILE\.npy"),
        (pa.array([2]), "labels from -1 .* to 1 for 2 class names, got 2 to 2"),
        (pa.array([-2]), "got -2"),
    ],
)
def test_parquet_images__labels_hinder_only_who_asks_for_them(
    tmp_path: Path, png: Any, pixels: Any, labels: pa.Array, message: str
) -> None:
    path = write_parquet(tmp_path / "x.parquet", [png(pixels(0))])
    table = pq.read_table(path)
    pq.write_table(table.append_column("label", labels), path)
    source = ParquetImages(path)
    assert source[:].shape == (1, 3, 5, 4)
    with pytest.raises(ValueError, match=message):
        source.labels  # noqa: B018
