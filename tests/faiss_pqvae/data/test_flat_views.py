"""Views that were made before, item after item."""

import numpy as np
import pytest
import torch

from faiss_pqvae.data.flat_views import flat_views

VIEWS = np.arange(5 * 3 * 4, dtype=np.float32).reshape(5, 3, 4)


@pytest.mark.parametrize(
    "given", [VIEWS, VIEWS.reshape(15, 4), torch.from_numpy(VIEWS), VIEWS.tolist()]
)
def test_flat_views__have_those_of_an_item_side_by_side(given) -> None:
    found = flat_views(given, 5, (4,))
    assert tuple(found.shape) == (15, 4)
    np.testing.assert_array_equal(np.asarray(found[6:9]), VIEWS[2])


class Pairs:
    """A source of views that has neither reshape nor rows in any order."""

    shape, dtype = VIEWS.shape, VIEWS.dtype

    def __len__(self) -> int:
        return len(VIEWS)

    def __getitem__(self, rows):
        assert isinstance(rows, slice) or (np.diff(rows) > 0).all()
        return VIEWS[rows]


@pytest.mark.parametrize("given", [Pairs(), VIEWS.astype(">f8"), VIEWS.astype(np.longdouble)])
def test_flat_views__of_sources_are_read_row_by_row(given) -> None:
    found = flat_views(given, 5, (4,))
    rows = np.array([14, 0, 6, 6, 1])
    np.testing.assert_array_equal(found[rows], VIEWS.reshape(15, 4)[rows])
    np.testing.assert_array_equal(found[4:8], VIEWS.reshape(15, 4)[4:8])
    assert len(found) == 15


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 3, 4), r"expected views of 5 items, \(5, K, 4\), got shape \(4, 3, 4\)"),
        ((5, 0, 4), r"expected views of 5 items"),
        ((14, 4), "expected as many views of each of 5 items, got 14 views"),
        ((5, 3, 6), r"expected views of shape \(n, 4\)"),
        ((0, 4), "expected at least one item in views"),
        ((60,), r"expected views of shape \(n, 4\)"),
    ],
)
def test_flat_views__refuse(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flat_views(np.zeros(shape, np.float32), 5, (4,))


def test_flat_views__refuse_what_is_no_number() -> None:
    with pytest.raises(TypeError, match="views"):
        flat_views(np.zeros((5, 2, 4), complex), 5, (4,))
