"""Data of one's own: folders of images, Parquet, .npy, and functions of other packages."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.sparse
import torch
from PIL import Image

from faiss_pqvae.eval import load
from faiss_pqvae.eval.data import own as own_module
from faiss_pqvae.eval.data.classes import classes_of
from faiss_pqvae.eval.data.held import Taken, rows_of
from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.neighbours import VectorData
from faiss_pqvae.eval.data.own import OwnData
from faiss_pqvae.eval.data.splits import few_labels, same_number, same_share

N = 60
LABELS = np.arange(N) % 3
SEVERAL = np.stack([np.arange(N) % 2 == 0, np.arange(N) % 3 == 0, np.arange(N) % 7 == 0], axis=1)


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (N, 3, 4, 5), dtype=np.uint8)


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((N, 6), dtype=np.float32)


def write_folder(root: Path, x: np.ndarray, labels: np.ndarray, names: str = "abc") -> Path:
    for number, (image, label) in enumerate(zip(x, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    return root


def write_parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def encoded(x: np.ndarray, folder: Path) -> list[dict[str, object]]:
    found = []
    for image in x:
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / "one.png")
        found.append({"bytes": (folder / "one.png").read_bytes(), "path": None})
    return found


def same_items(data: LabelledData, x: np.ndarray, labels: np.ndarray) -> None:
    """Every item is there once, with its label, and no query is in the database."""
    items = np.concatenate([data.database[:], data.queries[:]])
    found = np.concatenate([data.database_labels, data.query_labels])
    assert len(items) == len(x)
    for item, label in zip(items, found, strict=True):
        (at,) = np.flatnonzero((x == item).reshape(len(x), -1).all(axis=1))
        np.testing.assert_array_equal(labels[at], label)


# A folder of images per class --------------------------------------------------------------------


def test_load__folder_of_images_per_class_draws_queries(x: np.ndarray, tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", x, LABELS)
    data = load(tmp_path / "photos")
    assert isinstance(data, LabelledData)
    assert (len(data.database), len(data.queries), data.class_names) == (54, 6, ("a", "b", "c"))
    same_items(data, x, LABELS)
    assert np.bincount(data.query_labels).tolist() == [2, 2, 2]
    assert data.train is data.database
    how = "6 queries drawn, of every class the same share (seed 0)"
    assert data.description == f"photos (60 items of 3 classes); {how}"
    assert data.protocol == f"own data: {how}"
    again = load(tmp_path / "photos")
    np.testing.assert_array_equal(again.queries, data.queries)
    more = load(tmp_path / "photos", n_queries=21, n_database=20)
    assert (len(more.queries), len(more.database)) == (21, 20)
    assert "20 of 39 database items" in more.protocol


def test_load__folder_with_queries_in_another(x: np.ndarray, tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", x[:50], LABELS[:50])
    queries = write_folder(tmp_path / "asked", x[50:], LABELS[50:] % 2, names="bc")
    data = load(photos, own=OwnData(queries=queries, size=(8, 8)))
    assert data.database.shape == (50, 3, 8, 8)
    assert data.class_names == ("a", "b", "c")
    assert set(data.query_labels) == {1, 2}
    assert data.protocol == "own data: 10 queries given, asked"


def test_load__images_without_classes_need_labels(x: np.ndarray, tmp_path: Path) -> None:
    for number in range(4):
        Image.fromarray(x[number].transpose(1, 2, 0)).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match=r"expected labels of .* or queries"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"without them only vectors \(n, d\)"):
        load(tmp_path, own=OwnData(queries=tmp_path))


# Parquet -----------------------------------------------------------------------------------------


def test_load__parquet_with_columns_of_any_name(vectors: np.ndarray, tmp_path: Path) -> None:
    text = [("cat", "dog", "owl")[label] for label in LABELS]
    path = write_parquet(tmp_path / "x.parquet", vec=list(vectors), other=list(vectors), kind=text)
    data = load(path, own=OwnData(column="vec", label_column="kind"))
    assert data.class_names == ("cat", "dog", "owl")
    same_items(data, vectors, LABELS)
    with pytest.raises(ValueError, match="expected options of images"):
        load(path, own=OwnData(column="vec", label_column="kind", size=(4, 4)))
    with pytest.raises(ValueError, match=r"a column 'tag' in .*, got \['vec', 'other', 'kind'\]"):
        load(path, own=OwnData(column="vec", label_column="tag"))
    with pytest.raises(
        ValueError, match=r"a column 'pixels' in .*, got \['vec', 'other', 'kind'\]"
    ):
        load(path, own=OwnData(column="pixels", label_column="kind"))
    with pytest.raises(
        ValueError, match=r"got \['vec', 'other'\]; name one as x\.parquet/COLUMN, or by --column"
    ):
        load(path, own=OwnData(label_column="kind"))


def test_load__parquet_of_images_and_names(x: np.ndarray, tmp_path: Path) -> None:
    table = pa.table({"image": encoded(x, tmp_path), "label": pa.array(LABELS)})
    names = {"info": {"features": {"label": {"names": ["z", "y", "x"]}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, tmp_path / "x.parquet")
    data = load(tmp_path / "x.parquet")
    assert data.class_names == ("z", "y", "x")  # in the order of the data
    same_items(data, x, LABELS)


@pytest.mark.parametrize("as_text", [False, True])
def test_load__parquet_with_lists_of_labels(x: np.ndarray, tmp_path: Path, as_text: bool) -> None:
    names = np.array(["sky", "sea", "sun"] if as_text else [7, 3, 11])
    lists = [names[row].tolist() for row in SEVERAL]
    path = write_parquet(tmp_path / "x.parquet", photo=encoded(x, tmp_path), tags=lists)
    data = load(path, own=OwnData(column="photo", label_column="tags"))
    assert data.class_names == (("sea", "sky", "sun") if as_text else ("3", "7", "11"))
    order = [1, 0, 2]
    same_items(data, x, SEVERAL[:, order])
    assert data.query_labels.any(axis=1).all()


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["abc"[label] for label in LABELS]).dictionary_encode(),
        pa.array(LABELS.astype(float)),
        pa.array(LABELS, pa.uint16()),
        pa.array(["abc"[label] for label in LABELS], pa.string_view()),
    ],
)
def test_load__parquet_with_labels_of_other_types(
    x: np.ndarray, tmp_path: Path, column: pa.Array
) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"img": encoded(x, tmp_path), "label": column}), path)
    data = load(path)
    assert len(data.class_names) == 3
    same_items(data, x, LABELS)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_load__parquet_says_where_labels_are_missing(
    vectors: np.ndarray, tmp_path: Path, missing: float | None
) -> None:
    labels = pa.array([missing, *LABELS[1:].astype(float).tolist()])
    path = write_parquet(tmp_path / "x.parquet", v=list(vectors), label=labels)
    with pytest.raises(ValueError, match=r"label in every row of the column 'label' .* 1 nulls"):
        load(path)


@pytest.mark.parametrize("as_table", [True, False])
def test_load__images_without_the_broken_ones(
    x: np.ndarray, tmp_path: Path, as_table: bool
) -> None:
    photos = write_folder(tmp_path / "photos", x, LABELS * 0)  # in order, in one folder
    files = sorted(photos.rglob("*.png"))
    files[7].write_text("text")
    if as_table:  # whose own labels hinder nobody
        labels = pa.array([0.5, None] * 30)
        table = {"img": [file.read_bytes() for file in files], "label": labels}
        photos = tmp_path / "x.parquet"
        pq.write_table(pa.table(table), photos)
    np.save(tmp_path / "y.npy", LABELS)
    own = OwnData(labels=tmp_path / "y.npy", size=x.shape[2:])
    with pytest.raises(ValueError, match=r"cannot read .* as an image: .*--skip-broken"):
        load(photos, own=own)
    data = load(photos, own=replace(own, skip_broken=True))
    same_items(data, np.delete(x, 7, axis=0), np.delete(LABELS, 7))
    grey = load(photos, own=replace(own, skip_broken=True, mode="L"))
    assert grey.database.shape[1:] == (1, *x.shape[2:])


def test_load__many_images_are_decoded_once_into_a_file(
    x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "photos", x, LABELS)
    monkeypatch.setattr(own_module, "HELD_BYTES", 0)
    asked = OwnData(queries=tmp_path / "photos")
    data = load(tmp_path / "photos", own=asked)
    assert isinstance(data.database, np.memmap)
    np.testing.assert_array_equal(data.database, x[LABELS.argsort(kind="stable")])


def test_load__parquet_below_a_folder_in_natural_order_without_hidden_files(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for number, rows in ((2, slice(0, 20)), (10, slice(20, N))):
        path = tmp_path / "data" / f"part-{number}.parquet"
        write_parquet(path, v=list(vectors[rows]), label=LABELS[rows])
    write_parquet(tmp_path / "data" / "_part-11.parquet", v=list(vectors), label=LABELS)
    (tmp_path / "data" / ".tmp-0.parquet").write_bytes(b"half a file")
    same_items(load(tmp_path), vectors, LABELS)
    own = OwnData(queries=tmp_path / "data" / "part-2.parquet")
    np.testing.assert_array_equal(load(tmp_path, own=own).database, vectors)


@pytest.mark.parametrize("column", [None, "dim*"])
@pytest.mark.parametrize("label", ["label", "dim_label", "6"])
def test_load__parquet_of_one_column_a_dimension(
    vectors: np.ndarray, tmp_path: Path, column: str | None, label: str
) -> None:
    columns = {f"dim{i}": vectors[:, i] for i in range(6)}
    write_parquet(tmp_path / "x.parquet", id=np.arange(N), **columns, **{label: LABELS})
    own = OwnData(column=column, label_column=label)
    same_items(load(tmp_path / "x.parquet", own=own), vectors, LABELS)


def test_load__folder_of_npy_shards(vectors: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for number, rows in ((2, slice(0, 20)), (10, slice(20, N))):
        np.save(folder / f"{number}.npy", vectors[rows])
    np.save(folder / ".3.npy", vectors)
    np.save(tmp_path / "y.npy", LABELS)
    same_items(load(folder, own=OwnData(labels=tmp_path / "y.npy")), vectors, LABELS)


def test_load__parquet_says_what_is_missing(vectors: np.ndarray, tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", v=list(vectors), label=[None, *LABELS[1:].tolist()]
    )
    with pytest.raises(ValueError, match=r"a label in every row of the column 'label' .* 1 nulls"):
        load(path)


# .npy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [LABELS, SEVERAL])
def test_load__npy_with_labels_in_a_file(
    vectors: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", vectors)
    np.save(tmp_path / "y.npy", labels)
    data = load(tmp_path / "x.npy", own=OwnData(labels=tmp_path / "y.npy"))
    assert data.class_names == ("0", "1", "2")
    same_items(data, vectors, labels)


def test_load__folder_of_npy(vectors: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "items.npy", vectors[:50])
    np.save(tmp_path / "labels.npy", 5 - LABELS[:50])
    same_items(load(tmp_path), vectors[:50], 2 - LABELS[:50])
    np.save(tmp_path / "queries.npy", vectors[50:])
    with pytest.raises(ValueError, match=r"expected labels of .*queries\.npy, too"):
        load(tmp_path)
    np.save(tmp_path / "query_labels.npy", 5 - LABELS[50:])
    data = load(tmp_path)
    assert isinstance(data, LabelledData)
    assert data.class_names == ("3", "4", "5")
    np.testing.assert_array_equal(data.queries, vectors[50:])
    np.testing.assert_array_equal(data.query_labels, 2 - LABELS[50:])


def test_load__a_data_set_in_a_group_of_hdf5(vectors: np.ndarray, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["emb/clip"], file["emb/few"] = vectors, vectors[:4]
    np.save(tmp_path / "y.npy", LABELS)
    path = tmp_path / "x.hdf5" / "emb"
    same_items(load(path / "clip", own=OwnData(labels=tmp_path / "y.npy")), vectors, LABELS)
    data = load(str(path / "clip"), own=OwnData(queries=path / "few"), cache=tmp_path)
    np.testing.assert_array_equal(data.queries, vectors[:4])


def test_load__npy_with_queries_and_no_labels_is_judged_by_neighbours(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", vectors[:50])
    np.save(tmp_path / "q.npy", vectors[50:])
    own = OwnData(queries=tmp_path / "q.npy")
    data = load(tmp_path / "x.npy", own=own, cache=tmp_path)
    assert isinstance(data, VectorData)
    table = ((vectors[50:, None].astype(float) - vectors[:50]) ** 2).sum(-1)
    np.testing.assert_array_equal(data.truth.I, table.argsort(axis=1))


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("dtypes", ["f8 f4", "f4 f2", "f4 >f8"])
def test_load__queries_may_be_floats_of_another_size(
    vectors: np.ndarray, tmp_path: Path, dtypes: str, labelled: bool
) -> None:
    parts = zip("xq", dtypes.split(), (vectors[:50], vectors[50:]), strict=True)
    for name, dtype, x in parts:
        np.save(tmp_path / f"{name}.npy", x.astype(dtype))
    np.save(tmp_path / "y.npy", LABELS[:50])
    np.save(tmp_path / "z.npy", LABELS[50:])
    paths = [tmp_path / "y.npy", tmp_path / "z.npy"] if labelled else []
    data = load(
        tmp_path / "x.npy", own=OwnData(tmp_path / "q.npy", *paths), cache=tmp_path / "cache"
    )
    assert data.database.dtype == data.queries.dtype == np.float32
    np.testing.assert_array_equal(data.queries[:], vectors[50:].astype(dtypes[-2:]))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (LABELS[:5], ValueError, "expected 60 labels in .*one an item of .*, got 5"),
        (LABELS - 1, ValueError, "a label for every item, from 0 on, got -1"),
        (LABELS * 0, ValueError, "two classes or more"),
        (LABELS.astype(np.float32), TypeError, r"or text \(n,\).* write labels\.astype\(int\)"),
    ],
)
def test_load__rejects_labels_that_do_not_fit(
    vectors: np.ndarray, tmp_path: Path, labels: np.ndarray, error: type, message: str
) -> None:
    np.save(tmp_path / "x.npy", vectors)
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(error, match=message):
        load(tmp_path / "x.npy", own=OwnData(labels=tmp_path / "y.npy"))


# Functions ---------------------------------------------------------------------------------------


def test_load__takes_what_a_function_returns(vectors: np.ndarray, tmp_path: Path) -> None:
    drawn = load(lambda: (vectors, LABELS))
    same_items(drawn, vectors, LABELS)
    whole = load(lambda: (vectors[:50], SEVERAL[:50], vectors[50:], SEVERAL[50:]))
    np.testing.assert_array_equal(whole.query_labels, SEVERAL[50:])
    parts = {
        "database": vectors[:40],
        "labels": LABELS[:40],
        "queries": vectors[40:],
        "query_labels": LABELS[40:],
        "train": vectors[:30],
        "train_labels": LABELS[:30],
        "class_names": ["x", "y", "z"],
        "description": "toys",
    }
    data = load(lambda: parts)
    assert (data.class_names, data.description) == (("x", "y", "z"), "toys")
    np.testing.assert_array_equal(data.labels_to_train, LABELS[:30])
    found = load(lambda: {"database": vectors[:50], "queries": vectors[50:]}, cache=tmp_path)
    assert isinstance(found, VectorData)
    part = load(lambda: found, n_database=20, n_queries=3, cache=tmp_path)
    assert (len(part.database), len(part.queries), part.depth) == (20, 3, 20)
    assert load(lambda: found) is found


def test_load__takes_what_people_have_in_memory(vectors: np.ndarray, tmp_path: Path) -> None:
    frame = pd.DataFrame(vectors)
    text = pd.Series(np.array(["cat", "dog", "owl"])[LABELS])
    for items in (frame, [*vectors], [*torch.from_numpy(vectors)], vectors.astype(">f8")):
        data = load(lambda items=items: (items, text))
        assert data.class_names == ("cat", "dog", "owl")
        same_items(data, vectors, LABELS)
    parts = {"database": frame[:50], "queries": [*vectors[50:]], "train": frame[:30]}
    ids = np.arange(50)[None].repeat(10, axis=0)
    for neighbors in (ids, torch.from_numpy(ids), ids.astype(">i4")):
        found = load(lambda n=neighbors: {**parts, "neighbors": n}, cache=tmp_path)
        assert isinstance(found, VectorData)
        np.testing.assert_array_equal(found.queries, vectors[50:])
    with pytest.raises(TypeError, match=r"expected neighbors as ids .* got float64"):
        load(lambda: {**parts, "neighbors": ids + 0.5})
    with pytest.raises(TypeError, match=r"expected database as a dense array.*x\.toarray\(\)"):
        load(lambda: (scipy.sparse.csr_array(vectors), LABELS))


def test_load__options_without_effect_are_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "items.npy", vectors)
    np.save(tmp_path / "labels.npy", LABELS)
    for name in ("neighbors", "filter_labels", "texts"):
        own = OwnData(labels=tmp_path / "labels.npy", **{name: tmp_path / "none.npy"})
        with pytest.raises(ValueError, match=f"expected no --{name.replace('_', '-')} with labels"):
            load(tmp_path / "items.npy", own=own)
    arrays = {"database": vectors, "labels": LABELS, "qrels": [(0, 0, 1)], "metric": "l2"}
    with pytest.raises(ValueError, match=r"expected no \['metric', 'qrels'\] beside labels"):
        load(lambda: arrays)


def test_load__real_relevance_of_a_function_and_of_a_folder(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    judged = [(0, 4, 2), (9, 1, 1)]
    parts = {"database": vectors[:50], "queries": vectors[50:], "qrels": judged}
    np.save(tmp_path / "items.npy", vectors[:50].astype(np.float16))
    np.save(tmp_path / "queries.npy", vectors[50:].astype(np.float16))
    (tmp_path / "qrels.tsv").write_text("0 4 2\n9 1 1\n")
    beside = replace(OwnData(), queries=tmp_path / "queries.npy", qrels=tmp_path / "qrels.tsv")
    found = np.tile(np.arange(10), (10, 1))
    expected = np.zeros(10)
    expected[[0, 9]] = 1 / np.log2(6), 1 / np.log2(3)
    for data in (
        load(lambda: parts, cache=tmp_path),
        load(tmp_path, cache=tmp_path),
        load(tmp_path / "items.npy", own=beside, cache=tmp_path),
    ):
        np.testing.assert_allclose(data.scores(found, 10).per_query["ndcg@10"], expected)
        assert data.database.dtype == np.float32
    np.save(tmp_path / "labels.npy", LABELS[:50])
    for own in (OwnData(), OwnData(qrels=tmp_path / "qrels.tsv")):
        path = tmp_path if own == OwnData() else tmp_path / "items.npy"
        with pytest.raises(ValueError, match="expected --queries and no labels beside the judg"):
            load(path, own=own, cache=tmp_path)


def test_load__qrels_by_ids_of_ones_own(vectors: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    np.save(folder / "items.npy", vectors[:50])
    np.save(folder / "queries.npy", vectors[50:])
    (folder / "item_ids.txt").write_text("\n".join(f"d{i}" for i in range(50)))
    (folder / "query_ids.txt").write_text("\n".join(f"q{i}" for i in range(10)))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq3\td7\t1\n")
    for name, rows, letter in (("items", vectors[:50], "d"), ("queries", vectors[50:], "q")):
        ids = [f"{letter}{i}" for i in range(len(rows))]
        table = pa.table({"_id": ids, "x": [*rows.astype(np.float32)]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    trec = tmp_path / "qrels.trec"
    trec.write_text("q3 0 d7 1\n")
    named = OwnData(queries=tmp_path / "queries.parquet", qrels=trec, id_column="_id")
    for data in (
        load(folder, cache=tmp_path),
        load(tmp_path / "items.parquet", own=named, cache=tmp_path),
    ):
        assert (data.qrels.queries.tolist(), data.qrels.items.tolist()) == ([3], [7])
        assert "what is judged to be, of 1 queries" in data.relevant
    for own, message in (
        (replace(named, qrels=None), "expected --qrels beside ids of queries or items"),
        (replace(named, query_ids=folder / "item_ids.txt"), "expected 10 ids, one an item of .*50"),
        (replace(named, id_column="none"), "none"),
    ):
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "items.parquet", own=own, cache=tmp_path)
    with pytest.raises(ValueError, match="expected Parquet for a column '_id' of ids, got"):
        load(folder / "items.npy", own=replace(named, queries=folder / "queries.npy"))


def test_load__by_another_distance_and_known_neighbours(
    vectors: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items, queries = tmp_path / "items.npy", tmp_path / "queries.npy"
    np.save(items, vectors[:50])
    np.save(queries, vectors[50:])
    own = OwnData(queries=queries, distance="inner_product")
    data = load(items, own=own, cache=tmp_path / "a")
    expected = (vectors[50:] @ vectors[:50].T).argmax(axis=1)
    np.testing.assert_array_equal(data.truth.I[:, 0], expected)
    np.save(tmp_path / "truth.npy", data.truth.I)
    known = replace(own, neighbors=tmp_path / "truth.npy")
    again = load(items, own=known, cache=tmp_path / "b")
    np.testing.assert_array_equal(again.truth.I, data.truth.I)
    assert "is not used" not in caplog.text
    np.save(tmp_path / "truth.npy", np.zeros((10, 50), np.int64))
    cosine = load(items, own=replace(known, distance="cosine"), cache=tmp_path / "c")
    assert "the ground truth of the data set is not used: expected distinct ids" in caplog.text
    np.testing.assert_allclose(np.linalg.norm(cosine.database, axis=1), 1, rtol=1e-5)
    np.save(tmp_path / "labels.npy", LABELS[:50])
    np.save(tmp_path / "asked.npy", LABELS[50:])
    labels = {"labels": tmp_path / "labels.npy", "query_labels": tmp_path / "asked.npy"}
    with pytest.raises(ValueError, match="expected no --distance with labels, which"):
        load(items, own=replace(known, **labels), cache=tmp_path)


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        (3, TypeError, "to return LabelledData, VectorData, a tuple or a mapping"),
        ((1, 2, 3), ValueError, "got 3 parts"),
        ({"x": 1}, ValueError, "with 'database' and keys of"),
        ({"database": 1}, ValueError, "expected 'labels' or 'queries'"),
        ({"database": 1, "labels": LABELS, "queries": 1}, ValueError, "expected 'query_labels'"),
    ],
)
def test_load__says_what_a_function_should_return(found: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load(lambda: found)


def test_load__by_the_reference_of_another_package(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "x.npy", vectors)
    source = f"import numpy\ndef toys():\n    return numpy.load({str(tmp_path / 'x.npy')!r}), "
    (tmp_path / "own_toys.py").write_text(f"{source}numpy.arange({N}) % 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = load("own_toys:toys")
    assert data.name == "own_toys:toys"
    same_items(data, vectors, LABELS)
    sys.modules.pop("own_toys")
    with pytest.raises(ValueError, match=r"expected a data set as .package\.module:attribute."):
        load("own_toys:nothing")
    with pytest.raises(ValueError, match="expected a path to read"):
        load("mnist5k", own=OwnData(column="x"))


# Draws -------------------------------------------------------------------------------------------


def test_same_share__keeps_the_classes_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    drawn = same_share(labels, 32)
    assert np.bincount(labels[drawn]).tolist() == [20, 10, 2]
    for size in (0, 160):
        with pytest.raises(ValueError, match=f"n_queries from 1 to 159, got {size}"):
            same_share(labels, size)
    nothing = np.zeros((9, 2), bool)
    nothing[:4, 0] = True
    assert same_share(nothing, 3)[4:].sum() == 0


def test_same_number__of_several_classes_draws_nothing_twice() -> None:
    drawn = same_number(SEVERAL, 4, ("a", "b", "c"), np.random.default_rng(0))
    assert drawn.sum() == 12
    assert (SEVERAL[drawn].sum(axis=0) >= 4).all()


def test_few_labels__of_several_classes(vectors: np.ndarray) -> None:
    whole = load(lambda: (vectors[:40], SEVERAL[:40], vectors[40:], SEVERAL[40:]))
    data = few_labels(whole, labelled_per_class=2, queries_per_class=1)
    assert (len(data.queries), len(data.database), len(data.train)) == (3, 51, 57)
    known = data.labels_to_train
    assert known is not None
    assert known.dtype == np.bool_
    assert known.any(axis=1).tolist() == [True] * 6 + [False] * 51
    assert data.default_k == 51


def test_rows_of__leaves_large_sources_where_they_are(vectors: np.ndarray) -> None:
    rows = np.array([5, 2, 9])
    few, many = rows_of(vectors, rows), rows_of(vectors, rows, held_bytes=10)
    assert isinstance(many, Taken)
    assert (many.shape, len(many), many.dtype) == ((3, 6), 3, np.float32)
    np.testing.assert_array_equal(many[:], few)
    np.testing.assert_array_equal(many[np.array([2, 0])], vectors[[9, 5]])


def test_classes_of__numbers_all_parts_alike() -> None:
    (one, two), names = classes_of([np.array(["b", "a"]), np.array(["c", "b"])])
    assert (one.tolist(), two.tolist(), names) == ([1, 0], [2, 1], ("a", "b", "c"))
    (one, two), names = classes_of([[[1], [2, 3]], [[], [3]]])
    np.testing.assert_array_equal(one, [[True, False, False], [False, True, True]])
    np.testing.assert_array_equal(two, [[False] * 3, [False, False, True]])
    with pytest.raises(TypeError, match="of one kind in all parts, got"):
        classes_of([np.array([1, 2]), np.zeros((2, 2), bool)])
    with pytest.raises(ValueError, match=r"as many classes in all parts, got \[2, 3\]"):
        classes_of([np.zeros((2, 2), bool), np.zeros((2, 3), bool)])
    with pytest.raises(ValueError, match="of 0 and 1 alone: give bool"):
        classes_of([[[0, 1], [1, 0]]])  # of which each item would be of both classes
    with pytest.raises(ValueError, match=r"labels below 2\*\*63, got 9223372036854775809"):
        classes_of([np.array([2**63 + 1, 3], np.uint64)])
    with pytest.raises(ValueError, match="labels up to 1, got 2"):
        classes_of([np.array([0, 2])], [("a", "b")])
