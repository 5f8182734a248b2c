"""Checks of arguments: numbers, names of metrics, attributes that there are not."""

from typing import Any

import numpy as np
import pytest
import torch

from faiss_pqvae.arguments import (
    check_attribute,
    check_fits,
    integer,
    metric_name,
    number,
)
from faiss_pqvae.native import faiss


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), torch.tensor(3), np.array(3)])
def test_integer__takes_every_integer(value: Any) -> None:
    found = integer("k", value, 1, 5)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [2.0, True, np.True_, "2", None, 2j, np.float32(2), [2]])
def test_integer__refuses_what_is_none(value: Any) -> None:
    with pytest.raises(TypeError, match=r"expected an integer as k, got .* of type"):
        integer("k", value)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, (1,), "expected k >= 1, got 0"),
        (0, (1, 2**31 - 1), "expected k >= 1, got 0"),
        (6, (1, 5), "expected k from 1 to 5, got 6"),
        (0, (1, 5), "expected k from 1 to 5, got 0"),
        (2**63, (), f"expected k from {-(2**63)} to {2**63 - 1}, got {2**63}"),
        (2**63, (1,), f"expected k from 1 to {2**63 - 1}, got {2**63}"),
    ],
)
def test_integer__refuses_what_is_out_of_range(value: int, limits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        integer("k", value, *limits)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), torch.tensor(2.0), np.int64(2)])
def test_number__takes_every_number(value: Any) -> None:
    found = number("thresh", value, 1, 3)
    assert found == 2
    assert type(found) is float


@pytest.mark.parametrize("value", ["2", True, None, [2.0], 1j, b"2"])
def test_number__refuses_what_is_none(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a number as thresh, got"):
        number("thresh", value)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (np.nan, (), "expected a finite thresh, got nan"),
        (np.inf, (1,), "expected a finite thresh >= 1, got inf"),
        (0.5, (1,), "expected a finite thresh >= 1, got 0.5"),
        (1e300, (-1, 2), "expected a finite thresh from -1 to 2, got 1e\\+300"),
        (10**400, (), "expected a number as thresh, got 1000"),
    ],
)
def test_number__refuses_what_is_out_of_range(value: float, limits: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        number("thresh", value, *limits)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        *((text, "l2") for text in ("l2", "L2", "METRIC_L2", "faiss.METRIC_L2", faiss.METRIC_L2)),
        *((text, "inner_product") for text in ("ip", "IP", "inner product", "inner-product")),
        *((text, "inner_product") for text in ("METRIC_INNER_PRODUCT", np.int32(0))),
        (faiss.METRIC_INNER_PRODUCT, "inner_product"),
        *((text, "cosine") for text in ("cosine", "Cosine")),
    ],
)
def test_metric_name__takes_every_spelling(given: Any, name: str) -> None:
    assert metric_name(given) == name


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ("cosin", "got 'cosin'; did you mean 'cosine'\\?"),
        ("inner_prodcut", "did you mean 'inner_product'\\?"),
        ("hamming", "got 'hamming'$"),
        (faiss.METRIC_L1, "got 2$"),
    ],
)
def test_metric_name__lists_the_names(given: Any, end: str) -> None:
    names = "'l2', 'inner_product', 'ip', 'cosine', faiss.METRIC_L2 or faiss.METRIC_INNER_PRODUCT"
    with pytest.raises(ValueError, match=f"expected a metric of {names}, .*{end}"):
        metric_name(given)


@pytest.mark.parametrize("given", [True, 1.0, None])
def test_metric_name__refuses_what_is_no_name(given: Any) -> None:
    with pytest.raises(TypeError, match="expected an integer as metric_type"):
        metric_name(given)


class _Settings:
    size: int

    def __init__(self) -> None:
        self.size, self._own = 1, 2

    def __setattr__(self, name: str, value: Any) -> None:
        check_attribute(self, name)
        super().__setattr__(name, value)

    @property
    def depth(self) -> int:
        return self._own

    @depth.setter
    def depth(self, value: int) -> None:
        self._own = value


def test_check_attribute__refuses_a_slip() -> None:
    settings = _Settings()
    settings.size, settings.depth = 3, 4
    assert (settings.size, settings.depth) == (3, 4)
    with pytest.raises(AttributeError, match="no attribute 'dept'; did you mean 'depth'"):
        settings.dept = 5  # type: ignore[attr-defined]
    assert not hasattr(settings, "dept")


def test_check_fits__refuses_more_than_the_memory() -> None:
    check_fits(2**20, "k=1 of 1 queries")
    with pytest.raises(ValueError, match=r"GiB of memory, got .* GiB: k=1 of 1 queries"):
        check_fits(2**60, "k=1 of 1 queries")
