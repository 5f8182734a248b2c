"""Checks at the edge."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faiss_pqvae.arguments import at_least_1, output
from faiss_pqvae.data.batches import (
    check_items,
    read_batches,
    read_rows,
    read_sample,
    rows_at_a_time,
    sample_rows,
)

FLOATS = [np.float16, np.float32, np.float64]


@pytest.mark.parametrize("dtype", [np.uint8, *FLOATS])
def test_check_items__takes_bytes_and_floats(dtype) -> None:
    x = np.zeros((2, 3), dtype)
    assert check_items(x, (3,), "items") is x


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_check_items__takes_tensors(dtype: torch.dtype) -> None:
    x = torch.zeros(2, 3, dtype=dtype)
    assert check_items(x, (3,), "items") is x


def test_check_items__reads_nothing() -> None:
    class Source:
        shape, dtype = (5, 3), np.dtype(np.uint8)

        def __getitem__(self, rows: slice) -> None:
            pytest.fail("read")

    source = Source()
    assert check_items(source, (3,), "items") is source


@pytest.mark.parametrize("shape", [(2, 4), (3,), (2, 3, 1), ()])
def test_check_items__names_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"queries of shape \(n, 3\), got \(") as error:
        check_items(np.zeros(shape), (3,), "queries")
    assert str(shape) in str(error.value)


def test_check_items__rejects_no_item() -> None:
    with pytest.raises(ValueError, match="at least one item in queries"):
        check_items(np.zeros((0, 3)), (3,), "queries")
    check_items(np.zeros((0, 3)), (3,), "queries", may_be_empty=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, ">i4", np.int64, "<f2", ">f4", "g", ">f8"])
def test_check_items__vectors_of_any_numbers_are_read_as_they_are(dtype) -> None:
    x = np.arange(6).reshape(2, 3).astype(dtype)
    batch = read_rows(check_items(x, (3,), "items"), slice(0, 2), "items")
    assert batch.dtype == torch.float32
    assert batch.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64, torch.float8_e5m2])
def test_check_items__tensors_of_any_numbers_are_read_as_they_are(dtype) -> None:
    x = torch.tensor([[0, 1], [2, 4]]).to(dtype)
    assert read_rows(check_items(x, (2,), "items"), slice(1, 2), "items").tolist() == [[2, 4]]


@pytest.mark.parametrize("dtype", [">f4", "g"])
def test_check_items__images_of_foreign_floats_are_read(dtype) -> None:
    x = np.full((2, 1, 2, 2), 0.5, dtype)
    assert read_rows(check_items(x, (1, 2, 2), "x"), slice(0, 2), "x").unique().tolist() == [0.5]


def test_check_items__longdouble_beyond_float32_is_infinite() -> None:
    x = check_items(np.array([[1], [np.longdouble(10) ** 300]]), (1,), "items")
    with pytest.raises(ValueError, match="NaN or infinity in row 1"):
        read_rows(x, slice(0, 2), "items")


STRUCTURED = [("a", "f4"), ("b", "f4"), ("c", "f4")]


@pytest.mark.parametrize(
    ("x", "how"),
    [
        (np.zeros((2, 3), bool), "x.astype(numpy.float32)"),
        (np.zeros((2, 3), object), "x.astype(numpy.float32)"),
        (np.zeros((2, 3), "U2"), "x.astype(numpy.float32)"),
        (np.zeros((2, 3), "M8[s]"), "x.astype(numpy.int64)"),
        (np.zeros((2, 3), complex), "numpy.hstack([x.real, x.imag])"),
        (np.zeros(2, STRUCTURED), "structured_to_unstructured(x)"),
        (np.zeros((2, 3), "V2"), "bfloat16"),
        (torch.zeros(2, 3, dtype=torch.bool), "x.float()"),
        (torch.zeros(2, 3, dtype=torch.complex64), "torch.cat([x.real, x.imag], 1)"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_check_items__other_dtypes_say_how_to_convert(x, how: str) -> None:
    with pytest.raises(TypeError, match=rf"dtype uint8 or float, got .*{re.escape(how)}"):
        check_items(x, (3,), "items")


@pytest.mark.parametrize(
    ("x", "how"),
    [
        (np.zeros((2, 1, 3, 3), np.int64), "x.astype(numpy.uint8) for pixels"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.int32), "x.to(torch.uint8) for pixels"),
    ],
    ids=["array", "tensor"],
)
def test_check_items__images_of_other_integers_have_no_plain_meaning(x, how: str) -> None:
    with pytest.raises(TypeError, match=re.escape(how)):
        check_items(x, (1, 3, 3), "items")


@pytest.mark.parametrize(
    ("shape", "item_shape", "how"),
    [
        ((3,), (3,), "x[None] for one item"),
        ((3, 8, 9), (3, 8, 9), "x[None] for one item"),
        ((5, 8, 9, 3), (3, 8, 9), "x.transpose(0, 3, 1, 2)"),
        ((5, 8, 9), (1, 8, 9), "x[:, None]"),
        ((5, 2, 3), (6,), "x.reshape(-1, 6)"),
        ((5, 7, 6), (6,), "numpy.concatenate(x)"),
        ((5, 7), (6,), None),
    ],
    ids=str,
)
def test_check_items__other_shapes_say_how_to_convert(shape, item_shape, how) -> None:
    with pytest.raises(ValueError, match=r"expected items of shape \(n, ") as error:
        check_items(np.zeros(shape), item_shape, "items")
    assert ": write " in str(error.value) if how else str(error.value).endswith(str(shape))
    assert (how or "") in str(error.value)


@pytest.mark.parametrize("x", [None, 3, "abc", b"abc", {"shape": 3}, torch.float32, {1.0}])
def test_check_items__rejects_what_is_no_array(x: object) -> None:
    with pytest.raises(TypeError, match=f"got {type(x).__name__}"):
        check_items(x, (3,), "items")


@pytest.mark.parametrize("dtype", FLOATS)
def test_read_rows__makes_floats_float32(dtype) -> None:
    batch = read_rows(np.ones((4, 3), dtype), slice(1, 3), "items")
    assert batch.dtype == torch.float32
    assert batch.shape == (2, 3)


def test_read_rows__keeps_bytes() -> None:
    x = np.arange(12, dtype=np.uint8).reshape(4, 3)
    batch = read_rows(x, np.array([3, 0]), "items")
    assert batch.dtype == torch.uint8
    assert batch.tolist() == [[9, 10, 11], [0, 1, 2]]


def test_read_rows__copies_read_only_arrays() -> None:
    x = np.ones((4, 3), np.float32)
    x.flags.writeable = False
    read_rows(x, slice(0, 4), "items").zero_()
    assert (x == 1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_read_rows__takes_any_strides(dtype) -> None:
    x = np.arange(48, dtype=dtype).reshape(4, 3, 4)
    for view in (x[::-1], x[:, ::-1, ::2], x.transpose(0, 2, 1), np.asfortranarray(x)):
        np.testing.assert_array_equal(read_rows(view, slice(0, 4), "items"), view)


def test_read_rows__lets_go_of_the_gradient() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    assert not read_rows(x, slice(0, 2), "items").requires_grad


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_read_rows__names_the_first_bad_row(make, value: float) -> None:
    x = make([[0.0, 0.0]] * 10 + [[0.0, value], [value, 0.0]])
    for rows in (slice(9, 30), slice(-3, None), slice(0, 12, 2), np.array([3, 10, 11])):
        with pytest.raises(ValueError, match="finite queries, got NaN or infinity in row 10"):
            read_rows(x, rows, "queries")


def test_read_rows__rejects_what_overflows_float32() -> None:
    with pytest.raises(ValueError, match="row 1"):
        read_rows(np.array([[0.0], [1e300]]), slice(0, 2), "items")


@given(n=st.integers(1, 30), batch_size=st.integers(1, 40))
def test_read_batches__covers_every_row_in_order(n: int, batch_size: int) -> None:
    x = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    batches = list(read_batches(x, batch_size, "items"))
    np.testing.assert_array_equal(torch.cat(batches), x)
    assert max(map(len, batches)) <= batch_size


def test_read_batches__counts_rows_from_the_start() -> None:
    x = np.zeros((10, 2), np.float32)
    x[7, 1] = np.nan
    with pytest.raises(ValueError, match="row 7"):
        list(read_batches(x, 3, "items"))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_read_batches__rejects_a_size_below_one(batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size >= 1"):
        list(read_batches(np.zeros((10, 2), np.float32), batch_size, "items"))


def test_read_batches__reads_mapped_files_right_whatever_their_mode(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (5000, 1, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    for mode in ("r", "r+", "c"):
        mapped = np.load(tmp_path / "x.npy", mmap_mode=mode)
        if mode == "c":
            mapped[4999] = 7  # a change that is in memory only
            x = x.copy()
            x[4999] = 7
        for _ in range(2):
            rows = torch.cat([*read_batches(mapped[:], 512, "images")])
            np.testing.assert_array_equal(rows.numpy(), x)


# -- samples


@given(total=st.integers(0, 500), n=st.integers(0, 500))
def test_sample_rows__are_rows_in_order_and_always_the_same(total: int, n: int) -> None:
    rows = sample_rows(total, n)
    assert rows.dtype == np.int64
    assert len(rows) == min(total, n)
    assert (np.diff(rows) > 0).all()
    assert ((rows >= 0) & (rows < total)).all()
    np.testing.assert_array_equal(sample_rows(total, n), rows)


def test_sample_rows__are_spread_over_all() -> None:
    # By hand: 1,000 of 100,000 rows; a tenth of them in every tenth, but for chance.
    counts = np.histogram(sample_rows(100_000, 1000), 10, (0, 100_000))[0]
    assert counts.min() > 60
    assert counts.max() < 140


def test_sample_rows__of_a_billion_needs_no_memory_for_them() -> None:
    rows = sample_rows(10**9, 100)
    assert len(rows) == 100
    assert rows[-1] > 10**8


def test_read_sample__reads_the_sampled_rows() -> None:
    x = np.arange(3000, dtype=np.float64).reshape(1000, 3)
    for n in (1, 10, 1000, 5000):
        sample = read_sample(x, n, "items")
        assert sample.dtype == torch.float32
        np.testing.assert_array_equal(sample, x[sample_rows(1000, n)])
    assert read_sample(x.astype(np.uint8), 10, "items").dtype == torch.uint8


def test_read_sample__names_the_row_in_the_data() -> None:
    x = np.zeros((1000, 3), np.float32)
    row = int(sample_rows(1000, 10)[4])
    x[row, 1] = np.nan
    with pytest.raises(ValueError, match=f"NaN or infinity in row {row}$"):
        read_sample(x, 10, "items")
    with pytest.raises(ValueError, match=f"in row {row}$"):
        read_rows(x, torch.from_numpy(sample_rows(1000, 10)), "items")


# -- outputs and numbers


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8])
def test_output__makes_an_array_or_takes_the_given_one(dtype) -> None:
    made = output(None, (2, 3), dtype, "D")
    assert (made.shape, made.dtype) == ((2, 3), dtype)
    assert output(made, (2, 3), dtype, "D") is made
    strided = np.empty((3, 2), dtype).T
    assert output(strided, (2, 3), dtype, "D") is strided


@pytest.mark.parametrize(
    ("given_output", "match"),
    [
        (np.empty((2, 3), np.float64), "D as an array of float32, got float64"),
        (np.empty((2, 3), np.int64), "got int64"),
        (torch.empty(2, 3), "got torch.float32"),
        ([[0.0] * 3] * 2, "got list"),
        (5, "got int"),
    ],
)
def test_output__rejects_other_types(given_output, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        output(given_output, (2, 3), np.float32, "D")


def test_output__rejects_other_shapes_and_what_cannot_be_written() -> None:
    for shape in ((3, 2), (2,), (2, 3, 1), ()):
        with pytest.raises(ValueError, match=r"writable D of shape \(2, 3\), got \("):
            output(np.empty(shape, np.float32), (2, 3), np.float32, "D")
    locked = np.empty((2, 3), np.float32)
    locked.flags.writeable = False
    with pytest.raises(ValueError, match="got read-only"):
        output(locked, (2, 3), np.float32, "D")
    assert locked.shape == (2, 3)


@pytest.mark.parametrize("value", [1, 7, np.int32(7), np.uint8(1), 2**40])
def test_at_least_1__takes_every_integer(value) -> None:
    found = at_least_1("nprobe", value)
    assert type(found) is int
    assert found == value


@pytest.mark.parametrize("value", [0, -1, np.int64(0)])
def test_at_least_1__rejects_less(value) -> None:
    with pytest.raises(ValueError, match=f"nprobe >= 1, got {value}"):
        at_least_1("nprobe", value)


@pytest.mark.parametrize("value", [True, np.True_, 1.0, "1", None, [1]])
def test_at_least_1__rejects_what_is_no_integer(value) -> None:
    with pytest.raises(TypeError):
        at_least_1("nprobe", value)


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (np.empty((9, 96), np.float32), 1024),
        (np.empty((9, 1, 28, 28), np.uint8), 1024),
        (np.empty((9, 3, 224, 224), np.uint8), 27),  # of 4 MiB
        (torch.empty((9, 3, 112, 112)), 27),
        (np.empty((9, 3, 1024, 1024), np.uint8), 16),  # for threads
    ],
)
def test_rows_at_a_time__are_few_of_large_pictures(x, rows):
    assert rows_at_a_time(x, 1024) == rows
    assert rows_at_a_time(x, 5) == 5
