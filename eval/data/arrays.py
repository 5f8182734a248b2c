"""Data handed over as plain arrays: what a function of another package may return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from faiss_pqvae.arguments import metric_name
from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.foreign import as_array
from faiss_pqvae.types import IdArray

from .classes import classes_of
from .labelled import LabelledData
from .qrels import as_qrels
from .splits import LabelledItems
from .vectors import VectorParts

_LABELLED = {"labels", "query_labels", "train_labels", "class_names"}
_VECTORS = {"neighbors", "metric", "qrels", "filter_labels", "query_filter_labels"}
_ITEMS = {"database", "queries", "train"}
_KEYS = {"description"} | _ITEMS | _LABELLED | _VECTORS


def from_arrays(found: Mapping[str, Any] | tuple[Any, ...], name: str) -> Any:
    """Data of a mapping or a tuple of arrays.

    Args:
        found: (items, labels), of which queries are drawn; (database, labels, queries,
            query_labels); or a mapping with "database" and

            - "labels", and "queries" with "query_labels" unless these are to be drawn, "train" with
              "train_labels" unless the database is trained on, "class_names"; or
            - "queries" for vectors that are judged by their nearest neighbours, and "train",
              "neighbors" (nq, depth) int where they are known, "metric" where it is not "l2":
              "inner_product", or "cosine", for which all vectors are scaled to length 1; and
              "qrels" (n, 3), rows of a query, an item and a grade, where real relevance is known;
              "filter_labels" (n,) and "query_filter_labels" (nq,) of integers, for searches that
              may return items of the query's label only.

            Labels are (n,) integers or text, or bool (n, classes) or lists where items are of
            several classes. A "description" is printed beside the numbers.
        name: of the data.

    Returns:
        `LabelledData`, `LabelledItems` or `VectorParts`.

    Raises:
        TypeError: an array or labels of another kind.
        ValueError: another length of the tuple, an unknown or a missing key.
    """
    if isinstance(found, tuple):
        keys = ("database", "labels", "queries", "query_labels")
        if len(found) not in (2, 4):
            raise ValueError(
                f"expected the data {name!r} as (items, labels) or (database, labels, queries, "
                f"query labels), got {len(found)} parts"
            )
        found = dict(zip(keys, found, strict=False))
    unknown = set(found) - _KEYS
    if unknown or "database" not in found:
        raise ValueError(
            f"expected the data {name!r} with 'database' and keys of {sorted(_KEYS)}, got "
            f"{sorted(found)}"
        )
    description = str(found.get("description", name))
    if "labels" in found and _VECTORS & set(found):
        raise ValueError(
            f"expected no {sorted(_VECTORS & set(found))} beside labels in the data {name!r}: they "
            "are of vectors without"
        )
    if "labels" in found:
        return _labelled(found, name, description)
    if "queries" not in found or _LABELLED & set(found):
        raise ValueError(
            f"expected 'labels' or 'queries' in the data {name!r}, got {sorted(found)}"
        )
    found = _with_rows(found)
    qrels, metric = found.get("qrels"), metric_name(found.get("metric", "l2"))
    return VectorParts(
        name=name,
        description=description,
        database=found["database"],
        queries=found["queries"],
        train=found.get("train"),
        shipped=_ids_of(found, "neighbors"),
        metric="l2" if metric == "cosine" else metric,
        unit=metric == "cosine",
        qrels=None if qrels is None else as_qrels(qrels),
        item_labels=_ids_of(found, "filter_labels"),
        query_labels=_ids_of(found, "query_filter_labels"),
    )


def _with_rows(found: Mapping[str, Any]) -> dict[str, Any]:
    """The data with items that have rows to read, whatever they were handed over as."""
    return {
        key: as_rows(value, None, key) if key in _ITEMS else value for key, value in found.items()
    }


def _ids_of(found: Mapping[str, Any], key: str) -> IdArray | None:
    if found.get(key) is None:
        return None
    ids = as_array(found[key], key)
    if not np.issubdtype(ids.dtype, np.integer):
        shape = "ids (nq, depth)" if key == "neighbors" else "labels (n,)"
        raise TypeError(f"expected {key} as {shape} of integers, got {ids.dtype}")
    return ids.astype(np.int64)


def _labelled(
    found: Mapping[str, Any], name: str, description: str
) -> LabelledData | LabelledItems:
    given = found.get("class_names")
    names = None if given is None else tuple(map(str, given))
    if names is not None and len(set(names)) < len(names):
        raise ValueError(f"expected class names of which every class has its own, got {names}")
    if "queries" in found and "query_labels" not in found:
        raise ValueError(f"expected 'query_labels' beside 'queries' in the data {name!r}")
    found = _with_rows(found)
    database = found["database"]
    if "queries" not in found:
        (one,), class_names = classes_of([found["labels"]], [names])
        return LabelledItems(name, description, database, one, class_names)
    for of_items, items in (("labels", database), ("query_labels", found["queries"])):
        if len(items) != len(found[of_items]):
            raise ValueError(
                f"expected as many {of_items.replace('_', ' ')} as items in the data {name!r}, got "
                f"{len(found[of_items])} and {len(items)}"
            )
    parts = ["labels", "query_labels", *(["train_labels"] if "train_labels" in found else [])]
    labels, class_names = classes_of([found[part] for part in parts], [names] * len(parts))
    return LabelledData(
        name=name,
        protocol=f"{name}: {len(found['queries']):,} queries given",
        description=description,
        train=found.get("train", database),
        database=database,
        database_labels=labels[0],
        queries=found["queries"],
        query_labels=labels[1],
        class_names=class_names,
        train_labels=labels[2] if len(labels) > 2 else None,
    )
