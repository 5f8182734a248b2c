from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faiss_pqvae.data.arrow import read_column, read_schema, reading


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", None]}), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_read__a_schema_and_a_column(path: Path) -> None:
    assert read_schema(path).names == ["a", "b"]
    assert read_column(path, "b").to_pylist() == ["x", None]


def test_read_column__says_which_there_are(path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*t\.parquet: .*'c', got \['a', 'b'\]"):
        read_column(path, "c")


@pytest.mark.parametrize("read", [read_schema, lambda path: read_column(path, "a")])
def test_read__names_a_file_that_is_damaged_or_not_there(read, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"cannot read .*t\.parquet: "):
        read(path)
    with pytest.raises(FileNotFoundError, match=r"u\.parquet does not exist; expected a \.parquet"):
        read(path.with_name("u.parquet"))


def test_reading__arrows_errors_within_it_name_the_file(path: Path) -> None:
    with pytest.raises(ValueError, match=r"t\.parquet: odd"), reading(path):
        raise pa.ArrowNotImplementedError("odd")
