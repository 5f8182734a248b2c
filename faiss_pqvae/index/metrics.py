"""The metrics that codes are searched by, as FAISS numbers them."""

from __future__ import annotations

from faiss_pqvae.model.spec import Metric
from faiss_pqvae.native import faiss

METRICS: dict[Metric, int] = {
    "l2": faiss.METRIC_L2,
    "inner_product": faiss.METRIC_INNER_PRODUCT,
}
