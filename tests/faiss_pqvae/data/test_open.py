"""Sources: what is read from disk, in which order, and what is refused."""

import builtins
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faiss_pqvae.data.open import chunks, open_source

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
