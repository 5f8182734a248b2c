"""Additive codes at equal bytes: as a scan can serve them, and decoded, which none does."""

from __future__ import annotations

from collections.abc import Iterator

from .build import from_factory, reduced_by_pca
from .method import Method, Request

NORM_BITS = 8  # FAISS's qint8: the norm of what a code decodes to


def additive_rows(
    name: str, request: Request, scanned: str | None, decoded: str | None
) -> Iterator[Method]:
    """The two rows of an additive code.

    A look-up table of an additive code gives inner products alone; for distances a scan needs the
    norm of every decoded vector besides, and FAISS keeps it in a byte: "norm inside" has that byte
    within the bytes of the row. "decoded" has codewords in all of them, and compares queries with
    every decoded vector: a reference, at many times a scan's price, that stands outside of what is
    compared for the best. Codes are chosen by FAISS's own beam of 5, which is narrow: a wider one
    encodes more slowly and finds a little more. Local search has FAISS's own rounds for vectors and
    fewer for images, see `build`. Inner products have one row: tables give them as they are.

    Args:
        name: of the code.
        request: decides about a PCA before it, and the seed.
        scanned: its factory string with a norm, or None where none has the bytes.
        decoded: that without, or None.
    """
    start = reduced_by_pca(request.shape)
    if request.metric == "inner_product":  # which tables give: no norm, and nothing to decode
        if decoded is not None:
            yield from_factory(
                f"{start.label}{name}",
                request.bits,
                request.d,
                f"{start.factory}{decoded}",
                seed=request.seed,
                metric=request.metric,
            )
        return
    for text, suffix, is_decoded in ((scanned, "norm inside", False), (decoded, "decoded", True)):
        if text is not None:
            yield from_factory(
                f"{start.label}{name}, {suffix}",
                request.bits,
                request.d,
                f"{start.factory}{text}",
                search="reference" if is_decoded else "adc",
                reference=is_decoded,
                decoded=is_decoded,
                few_rounds=len(request.shape) > 1,
                seed=request.seed,
            )


def one_after_another(name: str, request: Request) -> Iterator[Method]:
    """The rows of RQ or LSQ: codewords of 8 bits over the whole vector, two or more.

    Args:
        name: what rows and factory strings call it.
        request: of whole bytes; others have no rows.
    """
    count, rest = divmod(request.bits, 8)
    if rest or count < 2:  # one codeword would be PQ
        return
    scanned = f"{name}{count - 1}x8_Nqint{NORM_BITS}" if count > 2 else None
    yield from additive_rows(name, request, scanned, f"{name}{count}x8")
