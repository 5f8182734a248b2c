"""Names of items: a table of runs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faiss_pqvae.index.items import OWN, Items
from faiss_pqvae.index.items_file import from_bytes, to_bytes
from faiss_pqvae.index.texts import Texts

BIG = 2**63 - 1


def _named(items):
    """The table as a dict."""
    ids = items.all_ids()
    return dict(zip(ids.tolist(), items.names(ids).tolist(), strict=True))


def _parts(*counts, root=""):
    return Items.of_parts([(f"x{i}.npy", n) for i, n in enumerate(counts)], root)


def test_names__of_rows_and_files_and_own():
    items = _parts(3, 0, 2)
    found = items.names([[0, 2], [3, 4], [5, -1]])
    assert found.tolist() == [["x0.npy:0", "x0.npy:2"], ["x2.npy:0", "x2.npy:1"], ["", ""]]
    assert Items.of_names(["a", "b"], [7, -9]).names([-9, 7, 0]).tolist() == ["b", "a", ""]
    photos = Items.of_files(["/p/a/1.jpg", "/q/2.jpg"], "/p")
    assert photos.names([0, 1]).tolist() == ["a/1.jpg", "/q/2.jpg"]
    assert [photos.place(i) for i in (0, 1, 2)] == [
        (Path("/p/a/1.jpg"), None),
        (Path("/q/2.jpg"), None),
        None,
    ]
    assert items.place(4) == (Path("x2.npy"), 1)
    assert Items.of_names(["a"]).place(0) is None


def test_names__of_a_billion_vectors_take_no_memory():
    items = Items.of_parts([("/v/a.npy", 10**9), ("/v/b.npy", 10**9)], "/v")
    assert items.names([1_500_000_000]).tolist() == ["b.npy:500000000"]
    assert len(to_bytes(items.without(np.array([5, 10**9])).under(7))) < 2000


@pytest.mark.parametrize("ids", [[BIG, -BIG - 1], [-2, 0]])
def test_names__at_the_ends_of_int64(ids):
    items = from_bytes(to_bytes(Items.of_names(["a", "b"], ids)))
    assert items.names([*ids, -1, 5]).tolist() == ["a", "b", "", ""]
    assert _named(items.without(np.array(ids[:1]))) == {ids[1]: "b"}


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (["a", "b", "a"], None, r"names .* got 'a' in places 0 and 2"),
        (["a", "b", "c"], [4, 5, 5], r"ids .* got 5 in places 1 and 2"),
        (["a", ""], None, "an empty one"),
        (["a"], [-1], "other than -1"),
        (["a"], [1, 2], r"shape \(1,\)"),
    ],
)
def test_of_names__refuses(names, ids, message):
    with pytest.raises(ValueError, match=message):
        Items.of_names(names, ids)


@pytest.mark.parametrize(
    "ids", [[1.5, 2.5], np.array([2**63, 2], np.uint64), [2**63, 2], ["1", "2"]]
)
def test_items__ids_are_integers_of_64_bits(ids):
    with pytest.raises(TypeError, match="expected ids of dtype int64, got"):
        Items.of_names(["a", "b"], ids)
    with pytest.raises(TypeError, match="expected ids of dtype int64, got"):
        Items.of_names(["a", "b"]).names(ids)


def test_of_names__takes_a_column_of_arrow():
    names = pa.chunked_array([["a"], ["b", "c"]])
    assert Items.of_names(names).names([2, 0, 1]).tolist() == ["c", "a", "b"]
    with pytest.raises(TypeError, match="names as strings, got NoneType"):
        Items.of_names(pa.array(["a", None]))


def test_of_names__refuses_what_is_no_string():
    with pytest.raises(TypeError, match="names as strings, got int"):
        Items.of_names(["a", 3])


@given(
    removed=st.lists(st.integers(0, 21), max_size=9), counts=st.lists(st.integers(0, 4), max_size=4)
)
def test_without_and_closed__agree_with_a_dict(removed, counts):
    items = _parts(*counts).joined(Items.of_names(["own"], [20]))
    names = _named(items)
    ids = np.unique(np.array(removed, np.int64))
    left = {i: name for i, name in names.items() if i not in removed}
    assert _named(items.without(ids)) == left
    closed = {i - int(np.searchsorted(ids, i)): name for i, name in left.items()}
    assert _named(items.closed(ids)) == closed
    assert _named(from_bytes(to_bytes(items.closed(ids)))) == closed


def test_without__forgets_the_texts():
    left = Items.of_names(["secret", "b"]).without(np.array([0]))
    assert b"secret" not in to_bytes(left)


@given(places=st.permutations(range(7)), first=st.integers(-50, 50))
def test_under__agrees_with_a_dict(places, first):
    items = _parts(3, 4)
    new = np.arange(first + 100, first + 107)
    names = items.names(places)
    moved = items.under(new, np.array(places))
    assert moved.names(new).tolist() == names.tolist()
    assert len(items.under(new).ids) == 2  # runs stay runs


def test_ids_in__finds_files_and_rows_but_no_own_names():
    held = Items.of_files(["/p/a", "/p/b"], "/p").joined(_parts(3).under(10))
    held = held.without(np.array([11])).joined(Items.of_names(["c"], [20]))
    asked = Items.of_files(["/p/c", "/p/b"], "/p").joined(_parts(5).under(2))
    assert asked.ids_in(held).tolist() == [-1, 1, 10, -1, 12, -1, -1]
    assert Items.of_names(["a", "c"]).ids_in(held).tolist() == [-1, 20]


def test_joined__of_another_root():
    one = Items.of_files(["/p/a.jpg"], "/p")
    two = Items.of_files(["/p/sub/b.jpg", "/q/c.jpg"], "/p/sub").under(1)
    assert _named(one.joined(two)) == {0: "a.jpg", 1: "sub/b.jpg", 2: "/q/c.jpg"}
    assert _named(two.rooted("/q")) == {1: "/p/sub/b.jpg", 2: "c.jpg"}


def test_texts__that_are_no_unicode():
    strings = ["a\udcff", "ü/ä", "\n"]
    texts = Texts.of(strings)
    assert [texts[i] for i in range(3)] == strings
    assert [texts.take(np.array([2, 0]))[i] for i in range(2)] == ["\n", "a\udcff"]


# -- the file


def _edited(**arrays):
    import safetensors.numpy

    parts = safetensors.numpy.load(to_bytes(_parts(3, 2)))
    parts |= {name: np.asarray(value) for name, value in arrays.items()}
    return safetensors.numpy.save(parts)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"more": [1]}, "expected a table of items with"),
        ({"ids": np.array([0, 3], np.int32)}, "expected a table of items with"),
        ({"ids": [[0, 3]]}, "expected a table of items with"),
        ({"ids": [0]}, "with all their parts"),
        ({"ids": [3, 0]}, "rising ids"),
        ({"ids": [0, 2]}, "rising ids"),  # they overlap
        ({"ids": [-2, 3]}, "none of them -1"),
        ({"ids": [0, BIG]}, r"below 2\*\*63"),
        ({"counts": [0, 2]}, "one item or more"),
        ({"counts": [3, -2]}, "one item or more"),
        ({"counts": [3, BIG]}, r"below 2\*\*63"),
        ({"numbers": [0, -3]}, "one item or more"),
        ({"numbers": [0, OWN]}, "several in a file only"),
        ({"numbers": [0, BIG]}, r"below 2\*\*63"),
        ({"files": [0, 2]}, "a text for every run"),
        ({"files": [-1, 0]}, "a text for every run"),
        ({"ends": [6, 99]}, "texts that follow"),
        ({"ends": [12, 6]}, "texts that follow"),
        ({"ends": [0, 12]}, "texts that follow"),
        ({"ends": np.empty(0, np.int64)}, "texts that follow"),
    ],
    ids=str,
)
def test_from_bytes__refuses(arrays, message):
    with pytest.raises(ValueError, match=message):
        from_bytes(_edited(**arrays))


@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_from_bytes__of_damage_is_refused_or_a_table(position, flip, cut):
    content = bytearray(to_bytes(_parts(3, 2, root="/p")))
    at = int(position * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= flip
    try:
        items = from_bytes(bytes(content))
    except ValueError:
        return
    items.names(np.arange(-3, 9))
    assert np.unique(items.ids).tolist() == items.ids.tolist()
