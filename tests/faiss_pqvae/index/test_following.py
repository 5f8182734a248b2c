"""Names of items follow every change of their index."""

import copy
import pickle

import numpy as np
import pytest

from faiss_pqvae.index.items import Items
from faiss_pqvae.index.items_file import from_bytes, to_bytes
from faiss_pqvae.native import faiss

BIG = 2**63 - 1
L2 = faiss.METRIC_L2


def _named(items):
    """The table as a dict."""
    ids = items.all_ids()
    return dict(zip(ids.tolist(), items.names(ids).tolist(), strict=True))


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
