"""The grammar of descriptions: FAISS's, with three more codes.

    [IDMap,|IDMap2,] [transforms,] [IVF...,|HNSW{m},] PQVAE{M}[x{nbits}][fs]
    [,RFlat|,Refine(...)|,RDecoder]

DQN{M}[x{nbits}][fs] may stand for PQVAE, and DPQ{blocks}[x{nbits}] where nothing but IDMap and
transforms is before it.

What an item means to FAISS it means here, and FAISS itself reads it: transforms before the encoder
on the input, inverted lists and graphs over the latents, refinement on the input again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from faiss_pqvae.codebooks import MAX_NBITS, MIN_NBITS, Structure
from faiss_pqvae.index.nearest import AFTER, nearest, spelled
from faiss_pqvae.messages import printable

MAX_M = 4096  # a typing error beyond; so is a graph of more links

# By what a code is called, how its codewords make a latent.
CODES: dict[str, Structure] = {"PQVAE": "product", "DQN": "product", "DPQ": "residual"}
_KIND = f"(?P<kind>{'|'.join(CODES)})"
_CODE = re.compile(rf"{_KIND}(?P<M>[0-9]+)(?:x(?P<nbits>[0-9]+))?(?P<fs>fs)?")
_CODE_START = re.compile(rf"{_KIND}(?:[0-9]+(?:x(?:[0-9]+)?)?)?")
_REFINE = re.compile(r"RFlat|RDecoder|Refine\((?P<index>.+)\)")


@dataclass(frozen=True)
class Item:
    """A part of a description.

    Attributes:
        text: itself.
        start: where it begins in the description, from 0.
    """

    text: str
    start: int


@dataclass(frozen=True)
class Description:
    """A description taken apart.

    Attributes:
        text: the whole.
        kind: of the code: "PQVAE", "DQN" or "DPQ".
        M: sub-quantizers.
        nbits: bits of each.
        fast_scan: codes in blocks, scanned with quantized tables.
        id_map: "IDMap", "IDMap2" or "".
        transforms: before the encoder, first to last.
        coarse: the item of inverted lists or of a graph, or None.
        refine: the item that names the index to refine with ("Flat" for RFlat), or None.
        decoder: whether the decoder refines.
    """

    text: str
    kind: str
    M: int
    nbits: int
    fast_scan: bool = False
    id_map: str = ""
    transforms: list[Item] = field(default_factory=list)
    coarse: Item | None = None
    refine: Item | None = None
    decoder: bool = False

    @property
    def structure(self) -> Structure:
        """How the code's codewords make a latent."""
        return CODES[self.kind]


def parse(description: str) -> Description:
    """Takes a description apart.

    Raises:
        TypeError: no string.
        ValueError: no description of ours; the message points at the character.
    """
    if not isinstance(description, str):
        raise TypeError(f"expected a description string, got {type(description).__name__}")
    if not any(kind in description for kind in CODES):
        raise ValueError(
            f"expected a description such as 'PQVAE8x8', 'DQN4x8' or 'DPQ4x8', got "
            f"{description!r}{_nearest(description)}; for indexes without a learned encoder use "
            "faiss.index_factory"
        )
    items = _split(description)
    codes = [i for i, item in enumerate(items) if item.text.startswith(tuple(CODES))]
    if not codes:
        at, kind = min((description.find(kind), kind) for kind in CODES if kind in description)
        raise error(description, at, f"expected a comma before {kind}, which is an item of its own")
    if len(codes) > 1:
        raise error(description, items[codes[1]].start, "expected one learned code only")
    left, code, right = items[: codes[0]], items[codes[0]], items[codes[0] + 1 :]
    kind, M, nbits, fast_scan = _code(description, code)
    id_map = left.pop(0).text if left and left[0].text in ("IDMap", "IDMap2") else ""
    coarse = left.pop() if left and _is_coarse(left[-1]) else None
    for item in left:
        if _is_coarse(item) or item.text in ("IDMap", "IDMap2"):
            where = f"directly before {kind}" if _is_coarse(item) else "first of all"
            raise error(description, item.start, f"expected {item.text} {where}")
    if fast_scan and coarse is not None and coarse.text.startswith("HNSW"):
        raise error(description, coarse.start, "expected IVF or nothing before a code with fs")
    if coarse is not None and CODES[kind] == "residual":
        message = (
            f"expected no inverted lists or graph before {kind}, whose codes are scanned one by one"
        )
        raise error(description, coarse.start, message)
    refine, decoder = _refinement(description, right)
    return Description(
        description, kind, M, nbits, fast_scan, id_map, left, coarse, refine, decoder
    )


def _nearest(description: str) -> str:
    """What the error about a description without our codes proposes."""
    found = nearest(description, CODES)
    try:
        return f": write {parse(found).text!r} for a learned code" if found else ""
    except ValueError:  # as much is wrong besides
        return ""


def error(description: str, at: int, message: str) -> ValueError:
    """An error that points at a character of a description."""
    shown = printable(description)
    return ValueError(f"{message}, at character {at + 1}:\n  {shown}\n  {' ' * at}^")


def _split(description: str) -> list[Item]:
    """The items between the commas that are in no parentheses."""
    items: list[Item] = []
    opened: list[int] = []
    start = 0
    for at, character in enumerate(description + ","):
        if character == "(":
            opened.append(at)
        elif character == ")":
            if not opened:
                raise error(description, at, "expected a '(' before this ')'")
            opened.pop()
        elif character == "," and not opened:
            if at == start:
                raise error(description, at, "expected an item, got nothing")
            items.append(Item(description[start:at], start))
            start = at + 1
    if opened:
        raise error(description, opened[-1], "expected a ')' for this '('")
    return items


def _code(description: str, item: Item) -> tuple[str, int, int, bool]:
    match = _CODE.fullmatch(item.text)
    if match is None:
        start = _CODE_START.match(item.text)
        assert start is not None
        prefix = _CODE.match(item.text)
        at = item.start + max(start.end(), prefix.end() if prefix else 0)
        form = "[x{nbits}]" if CODES[start["kind"]] == "residual" else "[x{nbits}][fs]"
        message = f"expected {start['kind']}{{M}}{form}, as in {start['kind']}8x8"
        raise error(description, at, message)
    if match["fs"] and CODES[match["kind"]] == "residual":
        message = f"expected {match['kind']} without fs: FAISS scans no such codes in blocks"
        raise error(description, item.start + match.start("fs"), message)
    M = _number(description, item, match, "M", 1, MAX_M)
    nbits = 8
    if match["nbits"]:
        nbits = _number(description, item, match, "nbits", MIN_NBITS, MAX_NBITS)
    if match["fs"] and nbits != 4:
        at = item.start + match.start("fs")
        message = f"expected 4 bits for fs ({match['kind']}{M}x4fs), got {nbits}"
        raise error(description, at, message)
    return match["kind"], M, nbits, match["fs"] is not None


def _number(
    description: str, item: Item, match: re.Match[str], name: str, low: int, high: int
) -> int:
    digits = match[name]
    # Python refuses to read thousands of digits.
    number = int(digits) if len(digits) < 20 else high + 1
    if not low <= number <= high:
        at = item.start + match.start(name)
        raise error(description, at, f"expected {name} from {low} to {high}, got {digits:.20}")
    return number


def _is_coarse(item: Item) -> bool:
    return item.text.startswith(("IVF", "HNSW"))


def _refinement(description: str, right: list[Item]) -> tuple[Item | None, bool]:
    if not right:
        return None, False
    match = _REFINE.fullmatch(right[0].text)
    if match is None:
        message = "expected RFlat, Refine(...) or RDecoder after the code"
        raise error(description, right[0].start, message + spelled(right[0].text, AFTER))
    if len(right) > 1:
        raise error(description, right[1].start, f"expected nothing after {right[0].text}")
    if match["index"] is not None:
        return Item(match["index"], right[0].start + match.start("index")), False
    if right[0].text == "RFlat":
        return Item("Flat", right[0].start), False
    return None, True
