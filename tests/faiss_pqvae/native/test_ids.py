"""Ids and selectors of ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.native import faiss
from faiss_pqvae.native.ids import as_selector, places_of, selected

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12)


def test_as_selector__takes_ids_and_selectors() -> None:
    sel = faiss.IDSelectorRange(2, 5)
    assert as_selector(sel) is sel
    assert [as_selector([2, 2**40]).is_member(i) for i in (2, 3, 2**40)] == [True, False, True]
    assert not as_selector([]).is_member(0)
    with pytest.raises(TypeError, match="translated to places"):
        as_selector(faiss.IDSelectorTranslated(faiss.Int64Vector(), sel))


@given(stored=IDS.filter(bool), data=st.data())
def test_places_of__finds_every_id(stored: list[int], data: st.DataObject) -> None:
    ids = np.array(stored, np.int64)
    wanted = np.array(data.draw(st.lists(st.sampled_from(stored), max_size=9)), np.int64)
    np.testing.assert_array_equal(ids[places_of(ids, wanted)], wanted)


@given(stored=IDS, wanted=st.integers(-(2**63), 2**63 - 1))
def test_places_of__refuses_what_is_not_there(stored: list[int], wanted: int) -> None:
    ids = np.array([each for each in stored if each != wanted], np.int64)
    with pytest.raises(ValueError, match=f"got {wanted}"):
        places_of(ids, np.array([wanted]))


@settings(max_examples=40)
@given(n=st.integers(0, 40), rows=st.integers(1, 50), ids=st.sets(st.integers(-3, 50)))
def test_selected__are_the_members(n: int, rows: int, ids: set[int]) -> None:
    sel = faiss.IDSelectorBatch(np.array(sorted(ids), np.int64))
    for asked in (sel, faiss.IDSelectorNot(sel)):
        found = selected(asked, n, rows)
        assert found.dtype == np.int64
        assert found.tolist() == [i for i in range(n) if asked.is_member(i)]
