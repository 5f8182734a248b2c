"""What FAISS's own functions say of an index of ours, as long as `register` is in force."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from faiss_pqvae.index.gpu import GpuLatentIndex
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native import faiss

_PURE = "index.to_faiss() is a pure FAISS index, index.faiss_index the one over the latents"
_GPU = f"use faiss_pqvae.index_cpu_to_gpu(index, device); {_PURE}"
_SETTINGS = f"set index.nprobe, index.efSearch or index.k_factor; {_PURE}"
_PARAMETERS = f"use index.search(x, k, params=...) or index.range_search; {_PURE}"
_IDS = f"write 'IDMap2,' in front of the description for ids of your own; {_PURE}"
_REFINE = f"write ',RFlat' or ',RDecoder' behind the description; {_PURE}"
_TRANSFORM = f"write transforms such as 'PCA64,' in front of the description; {_PURE}"
_MERGE = f"use index.merge_from(other); {_PURE}"

# What takes a FAISS index, by its name in faiss, and what to write instead.
INSTEAD = {
    "write_index": f"use faiss_pqvae.write_index(index, folder); {_PURE}",
    "serialize_index": f"use faiss_pqvae.serialize_index(index); {_PURE}",
    "clone_index": f"use copy.deepcopy(index); {_PURE}",
    **dict.fromkeys(
        (
            "index_cpu_to_gpu",
            "index_cpu_to_gpu_multiple",
            "index_cpu_to_gpu_multiple_py",
            "index_cpu_to_gpus_list",
            "index_cpu_to_all_gpus",
        ),
        _GPU,
    ),
    "index_gpu_to_cpu": "use faiss_pqvae.index_gpu_to_cpu(index)",
    **dict.fromkeys(
        (
            "downcast_index",
            "extract_index_ivf",
            "try_extract_index_ivf",
            "search_centroid",
            "search_and_return_centroids",
            "shard_ivf_index_centroids",
            "IndexShards.add_shard",
            "IndexShards.addIndex",
            "IndexReplicas.add_replica",
            "IndexReplicas.addIndex",
        ),
        _PURE,
    ),
    "merge_into": _MERGE,
    "check_compatible_for_merge": _MERGE,
    "search_with_parameters": _PARAMETERS,
    "range_search_with_parameters": _PARAMETERS,
    "ParameterSpace.initialize": _SETTINGS,
    "ParameterSpace.set_index_parameter": _SETTINGS,
    "ParameterSpace.set_index_parameters": _SETTINGS,
    "ParameterSpace.explore": _SETTINGS,
    "IndexIDMap.__init__": _IDS,
    "IndexIDMap2.__init__": _IDS,
    "IndexRefine.__init__": _REFINE,
    "IndexRefineFlat.__init__": _REFINE,
    "IndexPreTransform.__init__": _TRANSFORM,
}


def guard() -> None:
    """Puts errors that say what to write in the place of SWIG's; `unguard` undoes it."""
    for place, attribute, name in _places():
        before = getattr(place, attribute)
        if not hasattr(before, "before_guard"):
            setattr(place, attribute, _guarded(before, name))


def unguard() -> None:
    """Puts back the very functions that were there before `guard`."""
    for place, attribute, _ in _places():
        found = getattr(place, attribute)
        if hasattr(found, "before_guard"):
            setattr(place, attribute, found.before_guard)


def _places() -> Iterator[tuple[Any, str, str]]:
    """Where each function of the table lies, its name there and in the table.

    What this build of FAISS lacks is left out: most of them have no GPU.
    """
    for name in INSTEAD:
        owner, _, attribute = name.rpartition(".")
        kinds = getattr(faiss, owner).__mro__ if owner else (faiss,)
        for place in kinds:
            if attribute in vars(place):
                yield place, attribute, name
                break


def _guarded(before: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(before)
    def call(*given: Any, **options: Any) -> Any:
        for one in (*given, *options.values()):
            if isinstance(one, LatentIndex | GpuLatentIndex):
                raise TypeError(
                    f"faiss.{name.removesuffix('.__init__')} takes indexes of FAISS's own, got a "
                    f"{type(one).__name__}: {INSTEAD[name]}"
                )
        return before(*given, **options)

    call.before_guard = before  # type: ignore[attr-defined]
    return call
