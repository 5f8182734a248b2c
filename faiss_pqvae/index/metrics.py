"""The metrics that codes are searched by, as FAISS numbers them."""

from __future__ import annotations

from typing import Any

from faiss_pqvae.arguments import metric_name
from faiss_pqvae.model.spec import CodeSpec, Metric
from faiss_pqvae.native import faiss

METRICS: dict[Metric, int] = {
    "l2": faiss.METRIC_L2,
    "inner_product": faiss.METRIC_INNER_PRODUCT,
}
_OF_LENGTH_1 = ("unit", "unit parts")


def metric_number(given: Any, spec: CodeSpec) -> int:
    """FAISS's number of the metric between latents of a code.

    Args:
        given: as `metric_name` takes it; None takes what the code is made for.
        spec: of the code.

    Raises:
        TypeError: no text and no integer.
        ValueError: another metric; "cosine" for latents of other lengths than 1.
    """
    name = spec.metric if given is None else metric_name(given)
    if name != "cosine":
        return METRICS[name]
    if spec.latents not in _OF_LENGTH_1:
        raise ValueError(
            "expected latents of length 1 for 'cosine', got others: make the model with "
            "ModelConfig(unit_latents=True)"
        )
    return METRICS["inner_product"]
