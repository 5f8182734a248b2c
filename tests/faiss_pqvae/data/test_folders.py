"""What of a folder is its data: kinds, hidden files, order."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faiss.contrib import vecs_io
from PIL import Image

from faiss_pqvae.data.images import ImageFolder
from faiss_pqvae.data.open import open_source

X = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
CUTS = {1: slice(0, 5), 2: slice(5, 6), 10: slice(6, 12)}  # by the number in a file's name
HIDDEN = [".tmp-0", "_part-0", "._part-1", ".cache/part-0", "_temporary/0/part-0", "_delta_log/1"]


def write(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"x": list(x)}), path)
    elif path.suffix == ".npy":
        np.save(path, x)
    else:
        vecs_io.fvecs_write(str(path), x)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".fvecs"])
def test_open_source__shards_come_in_natural_order_without_hidden_files(
    tmp_path: Path, suffix: str
) -> None:
    root = tmp_path / ".home" / "_mine"  # a folder that was named is not hidden
    for number, cut in CUTS.items():
        write(root / f"part-{number}{suffix}", X[cut])
    for name in HIDDEN:
        write(root / f"{name}{suffix}", 100 + X)
    for name in ("_SUCCESS", "_metadata", "_common_metadata", ".part-1.parquet.crc"):
        (root / name).write_bytes(b"")
    source = open_source(root)
    np.testing.assert_array_equal(source[:], X)
    np.testing.assert_array_equal(source[np.array([11, 5, 0])], X[[11, 5, 0]])
    names = [f"part-{number}{suffix}" for number in CUTS]
    assert source.parts == [(root / name, n) for name, n in zip(names, [5, 1, 6], strict=True)]


@pytest.mark.parametrize(
    "names",
    [
        ["data/train-1.parquet", "data/train-2.parquet", "data/train-10.parquet"],
        ["split=a/2/0.parquet", "split=a/10/0.parquet", "split=b/0.parquet"],
        ["1.parquet", "2/x.parquet", "10.PARQUET"],
    ],
    ids=str,
)
def test_open_source__parquet_lies_at_any_depth(tmp_path: Path, names: list[str]) -> None:
    for name, cut in zip(names, CUTS.values(), strict=True):
        write(tmp_path / Path(name).with_suffix(".parquet"), X[cut])
        (tmp_path / Path(name).with_suffix(".parquet")).rename(tmp_path / name)
    (tmp_path / "README.md").write_text("no data")
    np.testing.assert_array_equal(open_source(tmp_path)[:], X)


def test_open_source__follows_links_but_not_around_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.parquet", X)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "data")
    np.testing.assert_array_equal(open_source(tmp_path / "data")[:], X)
    (tmp_path / "data" / "z.parquet").symlink_to(tmp_path / "nowhere.parquet")
    with pytest.raises(FileNotFoundError, match=r"z\.parquet"):
        open_source(tmp_path / "data")


def test_open_source__shards_in_the_only_folder_below(tmp_path: Path) -> None:
    write(tmp_path / "img_emb" / "0.npy", X)
    np.testing.assert_array_equal(open_source(tmp_path)[:], X)
    write(tmp_path / "text_emb" / "0.npy", X)
    with pytest.raises(ValueError, match=r"in one folder, got 1 in .*img_emb.*: name one"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (X[:, :2], r"\(12, 3\) float32 in .*1\.npy and \(12, 2\) float32 in .*2\.npy"),
        (X.astype(np.float64), r"float32 in .*1\.npy and \(12, 3\) float64 in .*2\.npy"),
    ],
    ids=["dimension", "dtype"],
)
def test_open_source__shards_that_differ_are_both_named(
    tmp_path: Path, other: np.ndarray, message: str
) -> None:
    write(tmp_path / "1.npy", X)
    write(tmp_path / "2.npy", other)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


def test_open_source__base_and_query_are_no_shards(tmp_path: Path) -> None:
    write(tmp_path / "sift_base.fvecs", X)
    write(tmp_path / "sift_query.fvecs", X)
    with pytest.raises(ValueError, match=r"differ by a number alone.*sift_base\.fvecs, sift_q"):
        open_source(tmp_path)


def test_open_source__items_beside_their_labels(tmp_path: Path) -> None:
    write(tmp_path / "items.npy", X)
    write(tmp_path / "labels.npy", np.arange(12))
    np.testing.assert_array_equal(open_source(tmp_path)[:], X)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no data in .*expected images \(\.avif, .*\.npy, \.parquet.*got no file that is not"),
        (["a.csv", "b.csv", "sub/c.txt"], r"no data in .*, got 2 \.csv, 1 \.txt$"),
        (["x.hdf5"], r"the name of one file of vectors, got 1 \.hdf5$"),
        (["_x.parquet", ".y.npy"], r"no data in .*got 1 \.parquet$"),
        (["0.npy", "1.npy", "x.fvecs"], r"of one format in .*, got 1 \.fvecs, 2 \.npy: name a f"),
        (["a/x.jpg", "data/0.parquet"], r"images or \.parquet .*got both \(1 \.jpg, 1 \.parquet"),
    ],
)
def test_open_source__says_what_a_folder_holds_instead(
    tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize("place", ["metadata.parquet", "cat/metadata.parquet"])
def test_open_source__images_beside_their_metadata_are_images(tmp_path: Path, place: str) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (4, 5)).save(tmp_path / "cat" / "a.png")
    pq.write_table(pa.table({"file_name": ["a.png"], "score": [0.5]}), tmp_path / place)
    source = open_source(tmp_path)
    assert isinstance(source, ImageFolder)
    assert source.shape == (1, 3, 5, 4)


def test_open_source__a_folder_of_metadata_alone_is_a_table(tmp_path: Path) -> None:
    write(tmp_path / "metadata.parquet", X)
    np.testing.assert_array_equal(open_source(tmp_path)[:], X)
