"""References alone."""

import decoded
import pytest

from faiss_pqvae.eval.methods.method import Request


@pytest.mark.parametrize(
    ("rows", "name"),
    [(decoded.rq, "RQ"), (decoded.lsq, "LSQ"), (decoded.product_residual, "Product-residual")],
)
def test_decoded__only_the_rows_that_no_scan_serves(rows, name):
    (row,) = rows(Request(bits=64, shape=(16,)))
    assert (row.name, row.reference, row.bits) == (f"{name}, decoded", True, 64)
    assert [*rows(Request(bits=8, shape=(16,)))] == []
