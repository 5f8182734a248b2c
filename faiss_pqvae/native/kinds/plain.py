"""What most kinds do: flat codes, kept by place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from faiss_pqvae.native import faiss
from faiss_pqvae.native.faiss_method import faiss_method
from faiss_pqvae.types import CodeArray, FloatArray, IdArray


def nothing(*given: Any) -> None:
    """Nothing is to be done."""


def itself(bare: Any) -> Any:
    """The index itself."""
    return bare


def always(bare: Any) -> bool:
    """True."""
    return True


# -- searching


def search(bare: Any, request: Any) -> tuple[FloatArray, IdArray]:
    """FAISS's own search, with its own parameters."""
    z = request.quantized if request.sdc else request.z
    # A fast scan begins with what lies in D, and finds nothing if that is a largest distance:
    # FAISS itself takes memory as it comes, from an earlier search that found too little.
    D = np.zeros((len(z), request.k), np.float32)
    try:
        D, I = faiss_method(bare, "search")(z, request.k, params=request.own_params(), D=D)  # noqa: E741
    except RuntimeError as error:
        if request.params is None:
            raise
        raise ValueError(f"FAISS cannot search with these parameters: {error}") from error
    return D, I


def quantize(bare: Any, z: FloatArray) -> FloatArray:
    """Every latent's own codewords, by the index's product quantizer."""
    quantized: FloatArray = bare.pq.decode(bare.pq.compute_codes(z))
    return quantized


def by_codes(bare: Any, z: FloatArray) -> FloatArray:
    """Every latent's own codewords, by the codes of the index."""
    quantized: FloatArray = faiss_method(bare, "sa_decode")(faiss_method(bare, "sa_encode")(z))
    return quantized


# -- keys and stored vectors


def check_places(bare: Any, keys: IdArray) -> None:
    """Refuses keys that are no places; raises ValueError."""
    bad = keys[(keys < 0) | (keys >= bare.ntotal)]
    if len(bad):
        raise ValueError(f"expected ids in [0, {bare.ntotal}), got {bad[0]}")


def reconstruct(bare: Any, keys: IdArray) -> FloatArray:
    """FAISS's own, of keys that are there."""
    latents: FloatArray = bare.reconstruct_batch(keys)
    return latents


# -- codes


def code_size(bare: Any) -> int:
    """Bytes of a code."""
    return int(bare.sa_code_size())


def encode(bare: Any, z: FloatArray) -> CodeArray:
    """Codes of latents."""
    codes: CodeArray = faiss_method(bare, "sa_encode")(z)
    return codes


def decode(bare: Any, codes: CodeArray) -> FloatArray:
    """Latents of codes."""
    latents: FloatArray = faiss_method(bare, "sa_decode")(codes)
    return latents


# -- changes


def add(index: Any, batches: Iterable[FloatArray], ids: IdArray | None) -> None:
    """Stores latents batch by batch."""
    start = 0
    for z in batches:
        if ids is None:
            faiss_method(index, "add")(z)
        else:
            faiss_method(index, "add_with_ids")(z, ids[start : start + len(z)])
        start += len(z)


def add_codes(index: Any, bare: Any, codes: CodeArray, ids: IdArray | None) -> None:
    """Stores codes as FAISS does."""
    index.add_sa_codes(codes, ids)


def adds_decoded(decode: Callable[[Any, CodeArray], FloatArray], add: Callable[..., None]) -> Any:
    """An `add_codes` for an index that takes vectors only.

    The code of its own codewords is the code itself.
    """

    def add_codes(index: Any, bare: Any, codes: CodeArray, ids: IdArray | None) -> None:
        add(index, [decode(bare, codes)], ids)

    return add_codes


def mark(bare: Any) -> int:
    """How many vectors there are."""
    return int(bare.ntotal)


def roll_back(bare: Any, before: int) -> None:
    """Forgets the vectors that came since."""
    if bare.ntotal > before:
        faiss_method(bare, "remove_ids")(faiss.IDSelectorRange(before, bare.ntotal))


@contextmanager
def changing(bare: Any) -> Iterator[None]:
    """Nothing is derived from the vectors."""
    yield


# -- contents


def contents(bare: Any) -> tuple[CodeArray, IdArray]:
    """Codes (ntotal, code_size), a copy: the index moves its own; and places."""
    codes: CodeArray = faiss.vector_to_array(bare.codes).reshape(bare.ntotal, bare.code_size)
    return codes, np.arange(bare.ntotal)


def fill(bare: Any, contents: Any) -> None:
    """Puts codes into an empty index."""
    faiss.copy_array_to_vector(contents.codes.ravel(), bare.codes)


def empty(bare: Any) -> Any:
    """An untrained index of the same sizes."""
    return type(bare)(bare.d, bare.pq.M, bare.pq.nbits, bare.metric_type)


# -- files


def is_mapped(bare: Any) -> bool:
    """Whether its codes lie in a file."""
    return not bare.codes.is_owned


def renew(bare: Any) -> None:
    """Which loop scans is not taken from a file: some of them are not for every index."""
    for name in ("implem", "qbs", "qbs2"):
        if hasattr(bare, name):
            setattr(bare, name, 0)
