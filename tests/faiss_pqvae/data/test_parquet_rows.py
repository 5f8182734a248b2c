"""Vectors in Parquet that are left in their files."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faiss_pqvae.data import parquet_rows, tables
from faiss_pqvae.data.open import open_source

N, D = 57, 3
X = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files of small row groups and smaller batches, one of them without rows."""
    monkeypatch.setattr(tables, "IN_MEMORY_BYTES", 1)
    monkeypatch.setattr(parquet_rows, "_BATCH_BYTES", 4 * D * 4)
    written = (("1", X[:30], 11), ("2", X[:0], 1), ("3", X[30:], 9))
    for name, rows, size in written:
        table = pa.table(
            {"id": np.arange(len(rows)), "x": pa.array([*rows], pa.list_(pa.float32()))}
        )
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=size)
    return tmp_path


def test_parquet_rows__are_left_in_the_files_where_they_are_many(folder: Path) -> None:
    source = open_source(folder)
    assert (source.shape, source.dtype, len(source)) == ((N, D), np.float32, N)
    assert isinstance(source.sources[0], parquet_rows.ParquetRows)
    np.testing.assert_array_equal(source[:], X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source))[:], X)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(
        st.one_of(
            st.slices(N).filter(lambda rows: (rows.step or 1) > 0),
            st.lists(st.integers(-N, N - 1), max_size=9),
        ),
        max_size=6,
    )
)
def test_parquet_rows__any_rows_in_any_order(folder: Path, asked: list) -> None:
    source = open_source(folder)
    for rows in asked:
        rows = rows if isinstance(rows, slice) else np.array(rows, np.int64)
        np.testing.assert_array_equal(source[rows], X[rows])


def test_parquet_rows__in_order_are_decoded_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def counting(batch, names):
        found = rows_of(batch, names)
        decoded.append(len(found))
        return found

    rows_of = parquet_rows.rows_of
    source = open_source(folder)
    monkeypatch.setattr(parquet_rows, "rows_of", counting)
    for start in range(0, N, 5):
        source[start : start + 5]
    assert sum(decoded) == N


@pytest.mark.parametrize("wrong", [X[0, :2], None], ids=["short", "none"])
def test_parquet_rows__what_is_no_such_vector_is_told_when_it_is_read(folder: Path, wrong) -> None:
    column = pa.array([*X[:20], wrong, *X[:9]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": np.arange(30), "x": column}), folder / "3.parquet")
    source = open_source(folder)
    np.testing.assert_array_equal(source[:40], np.concatenate([X[:30], X[:10]]))
    with pytest.raises(ValueError, match=r"cannot read .*3\.parquet: expected (a )?vector"):
        source[:]


def test_parquet_rows__damage_in_a_later_page_is_named(folder: Path) -> None:
    path = folder / "3.parquet"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    source = open_source(folder)
    content[200:middle] = b"\0" * (middle - 200)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*3\.parquet"):
        source[:]
    np.testing.assert_array_equal(source[:30], X[:30])


def _open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def test_parquet_rows__one_file_at_a_time_is_open(folder: Path) -> None:
    source, before = open_source(folder), _open_files()
    for rows in (slice(0, 3), slice(40, 43), np.array([1, 50]), slice(None)):
        source[rows]
        assert _open_files() <= before + 1
    assert _open_files() == before


def test_parquet_rows__an_interruption_does_no_harm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_given):
        raise KeyboardInterrupt

    source = open_source(folder)
    with monkeypatch.context() as context:
        context.setattr(parquet_rows, "rows_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            source[5:9]
    np.testing.assert_array_equal(source[:], X)
