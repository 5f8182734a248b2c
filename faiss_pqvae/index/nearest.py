"""What somebody may have meant by a description that is none: typing errors, and FAISS's own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_CLOSE = 0.75  # "PQVE" and "VQVAE" are as close to PQVAE as that; "PQ" and "RQ" are to no code
BEFORE = ("IVF", "HNSW", "IDMap", "PCA", "PCAR", "PCAW", "ITQ", "OPQ", "Pad", "L2norm")
AFTER = ("RFlat", "RDecoder", "Refine")
# FAISS's product quantizers: behind a graph in one item; with blocks that are scanned in another
# way (fsr, _64); with polysemous codes (np); with a second quantizer of so many bytes (+8).
_PRODUCT = re.compile(
    r"(?:(?P<graph>HNSW[0-9]*)_)?PQ(?P<M>[0-9]+)(?:x(?P<nbits>[0-9]+))?"
    r"(?:(?P<fs>fs)r?(?:_[0-9]+)?|np|\+(?P<second>[0-9]+))?"
)
_ROTATION = re.compile(r"OPQ[0-9]+(?:_[0-9]+)?")
# What means the same here: not IMI, NSG and other codes.
_SAME = re.compile(
    r"IDMap2?|IVF[0-9]+(?:_HNSW[0-9]*|\(.*\))?|HNSW[0-9]*|(?:PCAW?R?|ITQ|RR|Pad)[0-9]*|L2[nN]orm"
    r"|RFlat|Refine\(.*\)"
)


def spelled(item: str, words: Iterable[str]) -> str:
    """What an error about an item ends with, where its letters are nearly those of a known word."""
    letters = re.match(r"L2[A-Za-z]*|[A-Za-z]*", item)
    assert letters is not None
    close = difflib.get_close_matches(letters[0], words, n=1)
    if not close or close[0] == letters[0]:
        return ""
    return f"; did you mean {close[0] + item[letters.end() :]!r}?"


def nearest(description: str, codes: Iterable[str]) -> str | None:
    """The description of ours that is nearest: a typing error mended, or FAISS's own translated.

    A product quantizer becomes the learned code of as many bits. A rotation that is learned for one
    (OPQ) is left out: the encoder, which is learned for the code, takes its place.

    Args:
        description: without any of our codes.
        codes: what these are called.
    """
    items = re.split(r",(?![^(]*\))", description)
    mended = [_mended(item, codes) for item in items]
    if mended != items:
        return ",".join(mended)
    if len(items) > 1 and items[-1] in ("IDMap", "IDMap2"):  # FAISS takes it at either end
        items = [items[-1], *items[:-1]]
    kept = [item for item in items if not _ROTATION.fullmatch(item)]
    code = [item for item in kept if _PRODUCT.fullmatch(item)]
    if len(code) != 1 or not all(item in code or _SAME.fullmatch(item) for item in kept):
        return None
    return ",".join(_translated(item) for item in kept)


def _mended(item: str, codes: Iterable[str]) -> str:
    """An item whose letters are nearly those of a code."""
    letters = re.match("[A-Za-z][A-Za-z _-]*", item)
    if letters is None or letters[0] == "PQ":  # FAISS's, which looks like DPQ
        return item
    close = difflib.get_close_matches(letters[0].upper(), codes, n=1, cutoff=_CLOSE)
    return close[0] + item[letters.end() :] if close else item


def _translated(item: str) -> str:
    found = _PRODUCT.fullmatch(item)
    if found is None:
        return "HNSW32" if item == "HNSW" else item  # FAISS's number of links
    graph = f"{_translated(found['graph'])}," if found["graph"] else ""
    nbits = f"x{found['nbits']}" if found["nbits"] else ""
    second = f",Refine(PQ{found['second']})" if found["second"] else ""
    return f"{graph}PQVAE{found['M']}{nbits}{found['fs'] or ''}{second}"
