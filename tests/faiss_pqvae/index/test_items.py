"""Names of items: a table that follows every change of its index."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faiss_pqvae.index.items import OWN, Items
from faiss_pqvae.index.items_file import from_bytes, to_bytes
from faiss_pqvae.index.texts import Texts
from faiss_pqvae.native import faiss

BIG = 2**63 - 1
L2 = faiss.METRIC_L2


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


# -- of an index

KINDS = {
    "PQ": ("PQ", ""),
    "fs": ("PQfs", ""),
    "HNSW": ("HNSW", ""),
    "IVF": ("IVF", ""),
    "IDMap2": ("PQ", "IDMap2"),
    "IDMap,IVF": ("IVFfs", "IDMap"),
}


@pytest.fixture
def make(make_identity, make_items):
    """An index of 8 named items, and the dict of their names."""

    def make(kind, names="abcdefgh", first=0):
        native, id_map = KINDS[kind]
        index = make_identity(native, 4, L2, id_map)
        own = bool(id_map) or native.startswith("IVF")
        ids = first + 10 * np.arange(8) if own else np.arange(8)
        x = make_items(8, (8,))
        index.add_with_ids(x, ids) if own else index.add(x)
        index.items = Items.of_names(names, ids)
        return index, dict(zip(ids.tolist(), names, strict=True))

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_index__search_finds_names(make, make_items, kind):
    index, names = make(kind)
    I = index.search(make_items(8, (8,)), 3)[1]  # noqa: E741
    expected = [[names[i] for i in row] for row in I.tolist()]
    assert index.items.names(I).tolist() == expected


@pytest.mark.parametrize("selector", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "HNSW"])
def test_index__remove_takes_names_along(make, kind, selector):
    index, names = make(kind)
    removed = np.array(list(names))[[5, 1, 4]]
    removed = np.append(removed, [-7, 99])  # which are not there
    index.remove_ids(faiss.IDSelectorBatch(removed) if selector else removed)
    left = [name for i, name in names.items() if i not in removed]
    ids = [i for i in names if i not in removed] if index.takes_ids else range(5)
    assert _named(index.items) == dict(zip(ids, left, strict=True))


def test_index__a_removal_that_fails_changes_nothing(make):
    index, names = make("HNSW")
    with pytest.raises(ValueError, match="cannot remove"):
        index.remove_ids([0])
    assert _named(index.items) == names


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "HNSW"])
def test_index__what_is_added_has_no_name(make, make_items, kind, codes):
    index, names = make(kind)
    x = make_items(2, (8,), seed=3)
    # The second item gets an id that is there.
    ids = np.array([5, list(names)[3]]) if index.takes_ids else None
    if codes:
        index.add_sa_codes(index.sa_encode(x), ids)
    elif ids is None:
        index.add(x)
    else:
        index.add_with_ids(x, ids)
    if ids is not None:
        del names[ids[1]]
    assert _named(index.items) == names


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "HNSW"])
def test_index__merge_joins_names(make, kind):
    (one, first), (two, second) = make(kind), make(kind, "ijklmnop", 5)
    one.merge_from(two)
    shift = 0 if one.takes_ids else 8
    assert _named(one.items) == first | {i + shift: name for i, name in second.items()}
    assert two.items is None


@pytest.mark.parametrize("kind", ["IVF", "IDMap2"])
def test_index__merge_of_one_id_twice_leaves_it_without_a_name(make, kind):
    (one, first), (two, second) = make(kind), make(kind, "ijklmnop", 30)
    one.merge_from(two, add_id=10)
    shifted = {i + 10: name for i, name in second.items()}
    assert _named(one.items) == {
        i: name for i, name in (first | shifted).items() if (i in first) != (i in shifted)
    }


@pytest.mark.parametrize("named", [0, 1])
def test_index__merge_where_one_has_names(make, named):
    (one, first), (two, second) = make("PQ"), make("PQ")
    (one, two)[1 - named].items = None
    one.merge_from(two)
    assert _named(one.items) == ({i + 8: name for i, name in second.items()} if named else first)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "HNSW"])
def test_index__names_follow_any_sequence_of_changes(make, make_items, kind):
    rng = np.random.default_rng(len(kind))
    index, names = make(kind)
    for step in range(15):
        ids = np.array(sorted(names), np.int64)
        choice = rng.integers(3)
        if choice == 0:  # names for one of two that are added
            n, new = index.ntotal, 1000 * step + np.arange(2)
            x = make_items(2, (8,), seed=step)
            index.add_with_ids(x, new) if index.takes_ids else index.add(x)
            new = new if index.takes_ids else n + np.arange(2)
            index.items = index.items.joined(Items.of_names([f"n{step}"], new[1:]))
            names[int(new[1])] = f"n{step}"
        elif choice == 1 and len(ids):
            removed = rng.choice(ids, 1 + len(ids) // 5, replace=False)
            index.remove_ids(removed)
            names = {
                i if index.takes_ids else i - int((removed < i).sum()): name
                for i, name in names.items()
                if i not in removed
            }
        else:
            other, theirs = make(kind, [f"{c}{step}" for c in "abcdefgh"], 10**6 + 100 * step)
            n = 0 if index.takes_ids else index.ntotal
            index.merge_from(other)
            names |= {i + n: name for i, name in theirs.items()}
        assert _named(index.items) == names
    assert _named(from_bytes(to_bytes(index.items))) == names


def test_index__reset_forgets_and_copies_keep(make):
    index, names = make("IDMap2")
    copies = copy.deepcopy(index), pickle.loads(pickle.dumps(index))
    index.reset()
    assert index.items is None
    assert [_named(each.items) for each in copies] == [names, names]


@pytest.mark.parametrize(
    ("kind", "items", "message"),
    [
        ("PQ", Items.of_names("a", [8]), "ids 0 to 7"),
        ("PQ", Items.of_names("a", [-2]), "ids 0 to 7"),
        ("PQ", Items.of_names("a", [BIG]), "ids 0 to 7"),
        ("PQ", Items.of_names("abcdefghi"), "at most the 8 items"),
        ("IVF", Items.of_names("abcdefghi"), "at most the 8 items"),
    ],
)
def test_index__refuses_names_of_other_items(make, kind, items, message):
    index, names = make(kind)
    with pytest.raises(ValueError, match=message):
        index.items = items
    assert _named(index.items) == names
