"""What was meant: typing errors mended, FAISS's descriptions translated."""

import re

import pytest

from faiss_pqvae import index_factory
from faiss_pqvae.index.grammar import CODES, parse
from faiss_pqvae.index.nearest import AFTER, BEFORE, nearest, spelled
from faiss_pqvae.native import faiss

MEANT = """
OPQ16,IVF1024,PQ16 -> IVF1024,PQVAE16
OPQ8_16,PQ8 -> PQVAE8
PQ8 -> PQVAE8
PQ8x8 -> PQVAE8x8
PQ8x12 -> PQVAE8x12
PQ8x4fs -> PQVAE8x4fs
PQ8x4fs_64 -> PQVAE8x4fs
IVF4,PQ8 -> IVF4,PQVAE8
IVF4,PQ8np -> IVF4,PQVAE8
IVF4,PQ8x4fsr -> IVF4,PQVAE8x4fs
IVF4,PQ8+4 -> IVF4,PQVAE8,Refine(PQ4)
IVF4_HNSW8,PQ8 -> IVF4_HNSW8,PQVAE8
IVF4(IVF2,Flat),PQ8 -> IVF4(IVF2,Flat),PQVAE8
HNSW8,PQ8 -> HNSW8,PQVAE8
HNSW,PQ8 -> HNSW32,PQVAE8
HNSW8_PQ8 -> HNSW8,PQVAE8
HNSW_PQ8x6 -> HNSW32,PQVAE8x6
IDMap,PQ8 -> IDMap,PQVAE8
IDMap2,IVF4,PQ8 -> IDMap2,IVF4,PQVAE8
PQ8,IDMap -> IDMap,PQVAE8
PQ8,RFlat -> PQVAE8,RFlat
L2norm,PCA16,PQ8,Refine(PQ16) -> L2norm,PCA16,PQVAE8,Refine(PQ16)
ITQ16,OPQ8,IVF4,PQ8x4fs,RFlat -> ITQ16,IVF4,PQVAE8x4fs,RFlat
"""
TYPED = """
PQVE16 -> PQVAE16
IVF4,PQVE16x4fs,RFlat -> IVF4,PQVAE16x4fs,RFlat
PVQAE8 -> PQVAE8
pqvae8x6 -> PQVAE8x6
PQ-VAE8 -> PQVAE8
PQ VAE8 -> PQVAE8
dqn4x8 -> DQN4x8
IDMap,dpq4 -> IDMap,DPQ4
"""
PAIRS = [tuple(line.split(" -> ")) for line in (MEANT + TYPED).splitlines() if line]
FAISS_OWN = [tuple(line.split(" -> ")) for line in MEANT.splitlines() if line]


@pytest.mark.parametrize(("given", "meant"), PAIRS)
def test_parse__says_what_to_write(given: str, meant: str) -> None:
    with pytest.raises(ValueError, match=r"use faiss\.index_factory$") as error:
        parse(given)
    assert f"got {given!r}: write {meant!r} for a learned code" in str(error.value)
    parse(meant)


@pytest.mark.parametrize(("given", "meant"), FAISS_OWN)
def test_nearest__is_an_index_here_as_the_given_one_is_in_faiss(given: str, meant: str) -> None:
    assert faiss.index_factory(32, given).ntotal == 0
    assert index_factory(32, meant).description == meant


@pytest.mark.parametrize(
    "description",
    [
        *("", "Flat", "HNSW32", "IVF64,Flat", "SQ8", "LSH", "RQ8x8", "PRQ2x2x4", "LSQ8x4", "PQ"),
        *("IMI2x8,PQ8", "NSG32,PQ8", "PQ8,PQ8", "OPQ8", "RaBitQ", "a,b", "PQ5000", "PQ8x16"),
    ],
)
def test_parse__proposes_nothing_where_nothing_is_near(description: str) -> None:
    with pytest.raises(ValueError, match=r"got '[^']*'; for indexes without .*index_factory$"):
        parse(description)


def test_nearest__looks_at_the_codes_it_is_given() -> None:
    assert nearest("HMM8", ["HMMM"]) == "HMMM8"
    assert nearest("HMM8", CODES) is None


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("IFV4,PQVAE8", "got 'IFV4'; did you mean 'IVF4'?, at character 1"),
        ("PAC8,PQVAE8", "got 'PAC8'; did you mean 'PCA8'?, at character 1"),
        ("L2nrm,PQVAE8", "got 'L2nrm'; did you mean 'L2norm'?, at character 1"),
        ("PQVAE8,RFlt", "after the code; did you mean 'RFlat'?, at character 8"),
        ("PQVAE8,RDecodr", "after the code; did you mean 'RDecoder'?, at character 8"),
        ("PQVAE8,Flat", "after the code; did you mean 'RFlat'?, at character 8"),
    ],
)
def test_index_factory__says_which_item_was_meant(description: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        index_factory(32, description)


@pytest.mark.parametrize("item", ["IVF4", "4", "", "Zebra"])
def test_spelled__is_silent_about_the_rest(item: str) -> None:
    assert spelled(item, BEFORE) == spelled(item, AFTER) == ""
