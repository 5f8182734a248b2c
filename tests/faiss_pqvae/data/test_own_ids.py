import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faiss_pqvae.data.own_ids import read_id_column, read_own_ids

BIG = 2**63 - 1


def _write(path, content):
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.npy", np.array([5, -7], np.int32), [5, -7]),
        ("a.npy", np.array([5, 7], ">u8"), [5, 7]),
        ("a.npy", np.array(["a", "bé"]), ["a", "bé"]),
        ("a.json", [BIG, -BIG - 1], [BIG, -BIG - 1]),
        ("a.json", ["1", "b"], ["1", "b"]),
        ("a.txt", f"5\n-7\n{BIG}\n", [5, -7, BIG]),
        ("a.txt", "007\r\n8", ["007", "8"]),
        ("a.txt", "\ufeffbé\n b\n", ["bé", " b"]),
    ],
)
def test_read__gives_integers_or_texts(tmp_path, name, content, expected):
    found = read_own_ids(_write(tmp_path / name, content))
    assert list(found) == expected
    if isinstance(expected[0], int):
        assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "1", r"as \.npy, as a list in \.json"),
        ("a.npy", np.array([1.5]), "array of float64"),
        ("a.npy", np.array([[1]]), r"shape \(n,\)"),
        ("a.npy", np.array([2**63], np.uint64), "64 bits"),
        ("a.npy", np.array([4, -1]), "other than -1, .*place 1"),
        ("a.json", {"a": 1}, "expected a list, got dict"),
        ("a.json", [1, "b"], "got 'b' in place 1"),
        ("a.json", [1, True], "got True in place 1"),
        ("a.json", [1.0], r"got 1\.0 in place 0"),
        ("a.json", [None], "got None in place 0"),
        ("a.json", [2**63], "64 bits"),
        ("a.json", ["a", ""], "other than '', .*place 1"),
        ("a.txt", "a\n\nb\n", "other than '', .*place 1"),
        ("a.txt", "1\n-1", "other than -1, .*place 1"),
    ],
)
def test_read__refuses(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read_own_ids(_write(tmp_path / name, content))


@pytest.mark.parametrize("name", ["a.npy", "a.json", "a.txt"])
def test_read__of_bytes_that_are_none(tmp_path, name):
    for content in (pickle.dumps([1]), b"\xff\xfe\x80"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="cannot read"):
            read_own_ids(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_own_ids(tmp_path / f"missing-{name}")


def _parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_column__of_several_files(tmp_path):
    paths = [_parquet(tmp_path / f"{i}.parquet", key=[2 * i, 2 * i + 1]) for i in range(2)]
    assert read_id_column(paths, "key").tolist() == [0, 1, 2, 3]
    texts = _parquet(tmp_path / "t.parquet", key=pa.array(["a", "b"]).dictionary_encode())
    assert read_id_column([texts], "key") == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, None], "got None in place 1"),
        ([0.5], "got 0.5"),
        (np.array([2**63], np.uint64), "64 bits"),
    ],
)
def test_column__refuses(tmp_path, values, message):
    path = _parquet(tmp_path / "a.parquet", key=values)
    with pytest.raises(ValueError, match=message):
        read_id_column([path], "key")
    with pytest.raises(ValueError, match=r"expected a column 'id', got \['key'\]"):
        read_id_column([path], "id")
