"""The grammar: what parses, and where an error points."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae import ModelConfig, index_factory
from faiss_pqvae.index.grammar import MAX_M, Description, Item, parse

TINY = ModelConfig(encoder="linear", dsub=1, width=1)


def _parts(description: str) -> dict[str, Any]:
    """What differs from a plain PQVAE8, as texts."""
    parsed = parse(description)
    plain = {"M": 8, "nbits": 8, "fast_scan": False, "id_map": "", "decoder": False}
    parts = {
        name: getattr(parsed, name)
        for name, value in plain.items()
        if getattr(parsed, name) != value
    }
    if parsed.transforms:
        parts["transforms"] = [item.text for item in parsed.transforms]
    for name in ("coarse", "refine"):
        item = getattr(parsed, name)
        if item is not None:
            parts[name] = item.text
    return parts


@pytest.mark.parametrize(
    ("description", "parts"),
    [
        ("PQVAE8", {}),
        ("PQVAE8x8", {}),
        ("PQVAE16x4", {"M": 16, "nbits": 4}),
        ("PQVAE16x4fs", {"M": 16, "nbits": 4, "fast_scan": True}),
        ("PQVAE8x12", {"nbits": 12}),
        ("PQVAE08", {}),
        ("IVF1024,PQVAE16", {"M": 16, "coarse": "IVF1024"}),
        ("IVF256_HNSW32,PQVAE8", {"coarse": "IVF256_HNSW32"}),
        ("IVF256(HNSW32),PQVAE8", {"coarse": "IVF256(HNSW32)"}),
        ("IVF256(IVF16,Flat),PQVAE8", {"coarse": "IVF256(IVF16,Flat)"}),
        ("HNSW32,PQVAE8", {"coarse": "HNSW32"}),
        ("IDMap,PQVAE8", {"id_map": "IDMap"}),
        ("IDMap2,PQVAE8x6", {"id_map": "IDMap2", "nbits": 6}),
        ("L2norm,PCA256,PQVAE16", {"M": 16, "transforms": ["L2norm", "PCA256"]}),
        ("PQVAE8,RFlat", {"refine": "Flat"}),
        ("PQVAE8,Refine(SQfp16)", {"refine": "SQfp16"}),
        ("PQVAE8,Refine(Refine(Flat),x)", {"refine": "Refine(Flat),x"}),
        ("PQVAE8,RDecoder", {"decoder": True}),
        (
            "IDMap2,L2norm,OPQ4_32,IVF64(IVF8,Flat),PQVAE4x4fs,Refine(SQ8)",
            {
                "M": 4,
                "nbits": 4,
                "fast_scan": True,
                "id_map": "IDMap2",
                "transforms": ["L2norm", "OPQ4_32"],
                "coarse": "IVF64(IVF8,Flat)",
                "refine": "SQ8",
            },
        ),
    ],
)
def test_parse__reads_every_form(description: str, parts: dict[str, Any]) -> None:
    assert _parts(description) == parts
    assert parse(description).text == description


def test_parse__knows_where_items_begin() -> None:
    parsed = parse("IDMap,PCA4,RR,IVF4(a,b),PQVAE2,Refine(SQ8)")
    assert parsed.transforms == [Item("PCA4", 6), Item("RR", 11)]
    assert parsed.coarse == Item("IVF4(a,b)", 14)
    assert parsed.refine == Item("SQ8", 38)


# Each is wrong at the character above the caret.
WRONG = """
PQVAE
     ^ expected PQVAE{M}
PQVAEx8
     ^ expected PQVAE{M}
PQVAE8x
       ^ expected PQVAE{M}
PQVAE8x8x8
        ^ expected PQVAE{M}
PQVAE-8
     ^ expected PQVAE{M}
PQVAE٨
     ^ expected PQVAE{M}
PQVAE16x4sf
         ^ expected PQVAE{M}
PQVAE8 x8
      ^ expected PQVAE{M}
PQVAE8np
      ^ expected PQVAE{M}
IVF4,PQVAE8x4fst
               ^ expected PQVAE{M}
PQVAE8x4FS
        ^ expected PQVAE{M}
PQVAE8fs
      ^ expected 4 bits for fs (PQVAE8x4fs), got 8
PQVAE8x6fs
        ^ expected 4 bits for fs (PQVAE8x4fs), got 6
PQVAE0
     ^ expected M from 1 to 4096, got 0
PQVAE4097
     ^ expected M from 1 to 4096, got 4097
IVF4,PQVAE4x0
            ^ expected nbits from 1 to 12, got 0
IVF4,PQVAE4x13
            ^ expected nbits from 1 to 12, got 13
 PQVAE8
 ^ expected a comma before PQVAE
IVF4PQVAE8
    ^ expected a comma before PQVAE
IVF4 ,xPQVAE8
       ^ expected a comma before PQVAE
IVF4(PQVAE8)
     ^ expected a comma before PQVAE
,PQVAE8
^ expected an item
IVF4,,PQVAE8
     ^ expected an item
PQVAE8,
       ^ expected an item
PQVAE8,PQVAE8
       ^ expected one learned code only
PQVAE8,RFlat,PQVAE8
             ^ expected one learned code only
IVF4(IVF2,PQVAE8
    ^ expected a ')' for this '('
IVF4((Flat,PQVAE8
     ^ expected a ')' for this '('
IVF4(Flat(),PQVAE8
    ^ expected a ')' for this '('
IVF4(Flat)),PQVAE8
          ^ expected a '(' before this ')'
PQVAE8,Refine(SQ8
             ^ expected a ')' for this '('
IVF4,L2norm,PQVAE8
^ expected IVF4 directly before PQVAE
L2norm,HNSW8,PCA4,PQVAE8
       ^ expected HNSW8 directly before PQVAE
IVF4,HNSW8,PQVAE8
^ expected IVF4 directly before PQVAE
L2norm,IDMap2,PQVAE8
       ^ expected IDMap2 first of all
IVF4,IDMap,PQVAE8
^ expected IVF4 directly before PQVAE
IDMap,IDMap2,PQVAE8
      ^ expected IDMap2 first of all
L2norm,HNSW8,PQVAE8x4fs
       ^ expected IVF or nothing before a code with fs
PQVAE8,L2norm
       ^ expected RFlat, Refine(...) or RDecoder
PQVAE8,IVF4
       ^ expected RFlat, Refine(...) or RDecoder
PQVAE8,Rflat
       ^ expected RFlat, Refine(...) or RDecoder
PQVAE8,Refine()
       ^ expected RFlat, Refine(...) or RDecoder
PQVAE8,Refine(Flat)x
       ^ expected RFlat, Refine(...) or RDecoder
PQVAE8,RFlat,L2norm
             ^ expected nothing after RFlat
PQVAE8,RDecoder,RFlat
                ^ expected nothing after RDecoder
L2norn,PQVAE8
^ expected a transform that FAISS understands, got 'L2norn'
L2norm,Flat,PQVAE8
       ^ expected a transform that FAISS understands, got 'Flat'
l2norm,PQVAE8
^ expected a transform that FAISS understands, got 'l2norm'
L2norm,IMI2x4,PQVAE8
       ^ expected a transform, got 'IMI2x4'
IDMap3,PQVAE8
^ expected a transform
L2norm,PCA13,PQVAE8
       ^ expected 1 to 12 dimensions, got 13
PCA6,PCA8,PQVAE8
     ^ expected 1 to 6 dimensions, got 8
PCA0,PQVAE8
^ expected 1 to 12 dimensions, got 0
ITQ13,PQVAE8
^ expected 1 to 12 dimensions, got 13
RR99999,PQVAE8
^ expected 1 to 65536 dimensions, got 99999
OPQ0,PQVAE8
^ expected a number that divides 12 dimensions, got 0
L2norm,OPQ5,PQVAE8
       ^ expected a number that divides 12 dimensions, got 5
IVF0,PQVAE8
^ expected at least one inverted list
L2norm,IVF,PQVAE8
       ^ expected inverted lists that FAISS understands, got 'IVF'
IVF4x,PQVAE8
^ expected inverted lists that FAISS understands, got 'IVF4x'
IVF4(Flatt),PQVAE8
^ expected inverted lists that FAISS understands, got 'IVF4(Flatt)'
IVF4_HNSW1,PQVAE8
         ^ expected HNSW{m} with m from 2 to 4096
IVF4(IVF2,HNSW0),PQVAE8
              ^ expected HNSW{m} with m from 2 to 4096
HNSWx,PQVAE8
^ expected HNSW{m}, as in HNSW32
HNSW,PQVAE8
^ expected HNSW{m}, as in HNSW32
L2norm,HNSW1,PQVAE8
           ^ expected HNSW{m} with m from 2 to 4096
HNSW99999999999999999999999,PQVAE8
    ^ expected HNSW{m} with m from 2 to 4096
PQVAE8,Refine(SQfp17)
              ^ expected an index to refine with that FAISS understands, got 'SQfp17'
PQVAE8,Refine(HNSW32)
              ^ expected an index to refine with that gives single vectors back
PQVAE8,Refine(IVF4,Flat)
              ^ expected an index to refine with that gives single vectors back
PQVAE8,Refine(IDMap2,Flat)
              ^ expected an index to refine with that gives single vectors back
PQVAE8,Refine(FlatL2Panorama4)
              ^ expected an index to refine with that gives single vectors back
PQVAE8,Refine(PQ4x4fs)
              ^ expected an index to refine with that gives single vectors back
"""
_LINES = WRONG.strip("\n").split("\n")
CASES = [
    (text, caret.index("^"), caret.strip()[2:])
    for text, caret in zip(_LINES[::2], _LINES[1::2], strict=True)
]


@pytest.mark.parametrize(("description", "column", "message"), CASES, ids=[c[0] for c in CASES])
def test_index_factory__points_at_what_is_wrong(
    description: str, column: int, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        index_factory(12, description, model=TINY)
    *head, shown, caret = str(error.value).split("\n")
    assert head == [head[0]]
    assert head[0].endswith(f", at character {column + 1}:")
    assert shown == f"  {description}"
    assert caret == " " * (column + 2) + "^"


def test_index_factory__points_at_transforms_of_images() -> None:
    with pytest.raises(ValueError, match="items that are vectors for L2norm") as error:
        index_factory((1, 8, 8), "IDMap,L2norm,PQVAE8", model=TINY)
    assert str(error.value).split("\n")[-1] == "  " + " " * 6 + "^"


def test_parse__points_in_one_line_whatever_the_characters() -> None:
    with pytest.raises(ValueError, match="character 7") as error:
        parse("PQVAE8\n\t")
    assert str(error.value).split("\n")[1:] == ["  PQVAE8\ufffd\ufffd", "        ^"]


@pytest.mark.parametrize(
    "description", ["IVF64,PQ8", "PQ8x8", "Flat", "", "HNSW32", "pqvae8x8", "PqVAE8", "PQ VAE8"]
)
def test_parse__sends_faiss_strings_to_faiss(description: str) -> None:
    with pytest.raises(ValueError, match=r"use faiss\.index_factory"):
        parse(description)


@pytest.mark.parametrize("description", [None, 8, b"PQVAE8", ["PQVAE8"]])
def test_parse__rejects_descriptions_of_another_type(description: Any) -> None:
    with pytest.raises(TypeError, match="description string"):
        parse(description)


def test_parse__refuses_numbers_too_long_for_python() -> None:
    for description in ("PQVAE" + "9" * 10_000, "PQVAE8x" + "9" * 10_000):
        with pytest.raises(ValueError, match=r"got 9{20}, at character"):
            parse(description)


# -- any string

_TRANSFORMS = st.sampled_from(["L2norm", "PCA4", "PCAW4", "PCAR4", "RR", "RR6", "ITQ4", "OPQ2_4"])
_COARSE = st.sampled_from(["", "IVF4", "IVF4_HNSW4", "IVF4(HNSW4)", "IVF4(IVF2,Flat)", "HNSW4"])
_REFINE = st.sampled_from(["", "RFlat", "RDecoder", "Refine(SQfp16)", "Refine(SQ8)", "Refine(PQ2)"])


@st.composite
def _formatted(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A description, and its parts."""
    M, nbits = draw(st.integers(1, 16)), draw(st.integers(1, 12))
    id_map = draw(st.sampled_from(["", "IDMap", "IDMap2"]))
    transforms = draw(st.lists(_TRANSFORMS, max_size=2))
    coarse, refine = draw(_COARSE), draw(_REFINE)
    fast_scan = nbits == 4 and not coarse.startswith("HNSW") and draw(st.booleans())
    code = f"PQVAE{M}x{nbits}{'fs' if fast_scan else ''}"
    text = ",".join(filter(None, [id_map, *transforms, coarse, code, refine]))
    inner = {"RFlat": "Flat", "RDecoder": ""}.get(refine, refine[7:-1])
    parts = {"M": M, "nbits": nbits, "fast_scan": fast_scan, "id_map": id_map}
    parts |= {"transforms": transforms, "coarse": coarse, "refine": inner}
    return text, {**parts, "decoder": refine == "RDecoder"}


def _read(parsed: Description) -> dict[str, Any]:
    return {
        **{name: getattr(parsed, name) for name in ("M", "nbits", "fast_scan", "id_map")},
        "transforms": [item.text for item in parsed.transforms],
        "coarse": "" if parsed.coarse is None else parsed.coarse.text,
        "refine": "" if parsed.refine is None else parsed.refine.text,
        "decoder": parsed.decoder,
    }


@given(_formatted())
def test_parse__reads_what_was_formatted(case: tuple[str, dict[str, Any]]) -> None:
    text, parts = case
    parsed = parse(text)
    assert _read(parsed) == parts
    for item in [*parsed.transforms, parsed.coarse, parsed.refine]:
        if item is not None and item.text != "Flat":
            assert text[item.start :].startswith(item.text)


@settings(max_examples=25)
@given(_formatted())
def test_index_factory__makes_what_was_formatted(case: tuple[str, dict[str, Any]]) -> None:
    text, parts = case
    index = index_factory(12, text, model=TINY)
    assert (index.model.M, index.model.nbits) == (parts["M"], parts["nbits"])
    assert (index.is_trained, index.ntotal, index.description) == (False, 0, text)


_WORDS = """
PQVAE PQVAE2 PQVAE3x4 PQVAE2x4fs PQVAE2x fs IDMap IDMap2 L2norm PCA PCA4 PCAW99 ITQ OPQ2 OPQ
RR RR6 Pad16 Pad2 IVF IVF4 IVF0 IVF4_HNSW IVF4_HNSW1 IVF-1 IMI2x2 HNSW HNSW1 HNSW8 HNSW1e3
RFlat Refine RDecoder Flat SQ8 SQfp16 PQ2 PQ4x4fs RQ2x4 LSQ2x4 NSG8 LSH RaBitQ np Residual
Residual2x2 ( ) () , ,, _ 0 2 9 -1 12 99999999999 2147483648 x . é
"""
_ITEMS = st.sampled_from(_WORDS.split())


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(alphabet="PQVAEIFHNSWRCDMLef0123456789lanorm,()_x", max_size=24),
        st.lists(_ITEMS, max_size=7).map(",".join),
        st.lists(_ITEMS, max_size=7).map("".join),
        st.tuples(_formatted(), st.integers(0, 40), _ITEMS).map(
            lambda t: t[0][0][: t[1]] + t[2] + t[0][0][t[1] :]
        ),
        st.tuples(_formatted(), st.integers(0, 40)).map(
            lambda t: t[0][0][: t[1]] + t[0][0][t[1] + 1 :]
        ),
    )
)
def test_index_factory__parses_any_string_or_refuses_it(description: str) -> None:
    try:
        index = index_factory(12, description, model=TINY)
    except ValueError as error:
        message = str(error)
    else:
        assert 1 <= index.model.M <= MAX_M
        return
    # With a word about what is expected, and where.
    assert "expected" in message
    assert "^" in message or "PQVAE" not in description
