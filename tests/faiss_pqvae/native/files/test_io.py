"""Native files: every size and bound that a search relies on, wrong once."""

import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faiss_pqvae.native import faiss
from faiss_pqvae.native.files.io import check_keys, is_mapped, read_native, write_native
from faiss_pqvae.native.inject import extract_codebooks, prepare_search

L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
D, N = 8, 40
NAN = float("nan")
REFINE = ["Flat", "SQ8", "SQfp16", "PQ4x4np", "IDMap2,Flat"]
TRANSFORMS = [
    "PCA4",
    "PCAW4",
    "L2norm",
    "RR6",
    "ITQ6",
    "OPQ2",
    "Pad16",
    "HR",
    "L2norm,PCA4,L2norm",
    "Center",
]


def _x(n: int = N, d: int = D) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n, d), dtype=np.float32)


def _role(kind: str) -> Any:
    return "refine" if kind in REFINE else "transforms" if kind in TRANSFORMS else "index"


@pytest.fixture(scope="module")
def make(make_native: Callable[..., Any]) -> Callable[..., Any]:
    """A native index of a kind with N vectors in it; of a transform, trained."""

    def make(kind: str, n: int = N, metric: int = L2) -> Any:
        if kind in REFINE or kind in TRANSFORMS:
            index = _center() if kind == "Center" else None
            index = index or faiss.index_factory(D, kind if kind in REFINE else f"{kind},Flat")
            index.train(_x(1300))
        elif kind in ("IVF_HNSW", "IVF_PQ"):
            index = _other_coarse(kind)
        else:
            *id_map, inner = kind.split(",")
            index = make_native(inner, 4, metric, *id_map)
        if n and kind not in TRANSFORMS:
            if "IDMap" in kind:
                index.add_with_ids(_x(n), np.arange(n) + 2**40)
            else:
                index.add(_x(n))
        return index

    return make


def _apply(index: Any, x: np.ndarray) -> np.ndarray:
    for i in range(index.chain.size()):
        x = index.chain.at(i).apply(x)
    return x


def _center() -> Any:
    transform, flat = faiss.CenteringTransform(D), faiss.IndexFlatL2(D)
    index = faiss.IndexPreTransform(transform, flat)
    for part in (transform, flat):
        part.this.disown()
    index.own_fields = True
    return index


def _flat_lists() -> Any:
    index = faiss.index_factory(D, "IVF1,Flat")
    index.train(_x())
    return index


def _other_coarse(kind: str) -> Any:
    coarse = "_HNSW4" if kind == "IVF_HNSW" else "(PQ4x4np)"
    index = faiss.index_factory(D, f"IVF32{coarse},PQ4x4np")
    index.train(_x(1300))
    return index


KINDS = ["PQ", "PQfs", "IVF", "IVFres", "IVFfs", "IVF_HNSW", "IVF_PQ", "HNSW"]
KINDS += ["IDMap,PQ", "IDMap2,HNSW", "IDMap2,IVF", "IDMap,IVFfs"]
MAPPED = [kind for kind in KINDS if not kind.endswith("fs")]


@pytest.mark.parametrize("n", [0, 1, N])
@pytest.mark.parametrize("metric", [L2, IP])
@pytest.mark.parametrize("kind", KINDS)
def test_read__gives_what_was_written(make, tmp_path: Path, kind, metric, n):
    index = make(kind, n, metric)
    write_native(index, tmp_path / "index.faiss", "index")
    again = read_native(tmp_path / "index.faiss", "index")
    assert type(again) is type(index)
    assert extract_codebooks(again) == extract_codebooks(index)
    for each in (index, again):
        prepare_search(each)
    q = _x(5)
    for found, expected in zip(again.search(q, 3), index.search(q, 3), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", [*REFINE, *TRANSFORMS])
def test_read__of_the_other_roles(make, tmp_path: Path, kind):
    index, path = make(kind), tmp_path / "part.faiss"
    write_native(index, path, _role(kind))
    again = read_native(path, _role(kind))
    if kind in REFINE:
        np.testing.assert_array_equal(again.search(_x(5), 3)[1], index.search(_x(5), 3)[1])
        return
    assert again.chain.size() == index.chain.size()
    x = _x(5)
    np.testing.assert_array_equal(_apply(again, x), _apply(index, x))


def test_read__takes_no_limits_of_the_process(make, tmp_path: Path):
    write_native(make("IVF"), tmp_path / "index.faiss", "index")
    names = ("vector_byte_limit", "loop_limit")
    before = [getattr(faiss, f"get_deserialization_{name}")() for name in names]
    read_native(tmp_path / "index.faiss", "index")
    with pytest.raises(ValueError, match="expected one of"):
        read_native(tmp_path / "index.faiss", "refine")
    assert [getattr(faiss, f"get_deserialization_{name}")() for name in names] == before


def test_read__from_several_threads(make, tmp_path: Path):
    kinds = ["PQ", "IVF", "HNSW", "IDMap2,IVF"]
    for kind in kinds:
        write_native(make(kind), tmp_path / kind, "index")
    (tmp_path / "wrong").write_bytes(b"IxPq" * 100)

    def read(kind: str) -> bool:
        try:
            return bool(read_native(tmp_path / kind, "index", mmap=True).ntotal == N)
        except ValueError:
            return kind == "wrong"

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, [*kinds, "wrong"] * 10))


# -- what must agree, and does not


def _inner(index: Any) -> Any:
    return faiss.downcast_index(index.index)


def _coarse(index: Any) -> Any:
    return faiss.downcast_index(index.quantizer)


def _storage(index: Any) -> Any:
    return faiss.downcast_index(index.storage)


def _set(path: str, value: Any) -> Callable[[Any], None]:
    """Sets an attribute of an index or of a part of it; a function gives the value from the old."""

    def change(index: Any) -> None:
        *outer, name = path.split(".")
        for part in outer:
            index = getattr(index, part)
        setattr(index, name, value(getattr(index, name)) if callable(value) else value)

    return change


def _put(path: str, place: int, value: Any) -> Callable[[Any], None]:
    """Sets a value of a native vector."""

    def change(index: Any) -> None:
        for part in path.split("."):
            index = getattr(index, part)
        array = faiss.rev_swig_ptr(index.data(), index.size())
        array[place] = value

    return change


def _resize(path: str, by: int) -> Callable[[Any], None]:
    def change(index: Any) -> None:
        for part in path.split("."):
            index = getattr(index, part)
        index.resize(index.size() + by)

    return change


def _replace(name: str, value: Callable[[], Any]) -> Callable[[Any], None]:
    """Puts another index in the place of one that is wrapped."""

    def change(index: Any) -> None:
        new = value()
        if new is not None:
            new.this.disown()
        setattr(index, name, new)

    return change


def _of(part: Callable[[Any], Any], change: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda index: change(part(index))


def _transform(index: Any) -> Any:
    return faiss.downcast_VectorTransform(index.chain.at(0))


def _list_ids(index: Any, place: int, value: int) -> None:
    lists = _inner(index).invlists
    number = next(i for i in range(lists.nlist) if lists.list_size(i) > 1)
    faiss.rev_swig_ptr(lists.get_ids(number), lists.list_size(number))[place] = value


def _cut_chain(index: Any) -> None:
    index.chain.resize(0)


def _link_above(index: Any) -> None:
    """A link on a level that its target does not have."""
    graph = index.hnsw
    levels = faiss.vector_to_array(graph.levels)
    high, low = int(levels.argmax()), int(levels.argmin())
    assert levels[high] > levels[low] == 1
    room = graph.cum_nneighbor_per_level.at(1)
    start = graph.offsets.at(high) + room
    faiss.rev_swig_ptr(graph.neighbors.data(), graph.neighbors.size())[start] = low


def _low_entry(index: Any) -> None:
    graph = index.hnsw
    graph.entry_point = int(faiss.vector_to_array(graph.levels).argmin())
    graph.max_level = 0


def _blocks(index: Any) -> Any:
    return faiss.downcast_InvertedLists(index.invlists)


def _plain_lists(index: Any) -> None:
    lists = faiss.ArrayInvertedLists(index.nlist, index.code_size)
    lists.this.disown()
    index.replace_invlists(lists, True)


def _short_codes(index: Any) -> None:
    index.code_size = index.invlists.code_size = 1


def _eight_bits(index: Any) -> None:
    """All agrees, but no loop of FAISS's scans such blocks."""
    index.pq = faiss.ProductQuantizer(D, 4, 8)
    for name in ("nbits", "ksub", "code_size"):
        setattr(index, name, getattr(index.pq, name))


def _few_centroids(index: Any) -> None:
    _coarse(index).remove_ids(np.array([0]))


WRONG: list[tuple[str, Callable[[Any], None], str]] = [
    ("PQ", _set("is_trained", False), "trained indexes only"),
    ("PQ", _set("pq.d", 12), "pq.d"),
    ("PQ", _set("pq.M", 0), "M in"),
    ("PQ", _set("pq.M", 9), "M in"),
    ("PQ", _set("pq.nbits", 17), "nbits in"),
    ("PQ", _set("pq.dsub", 3), r"M \* dsub"),
    ("PQ", _set("pq.ksub", 32), "ksub"),
    ("PQ", _set("pq.code_size", 3), "pq.code_size"),
    ("PQ", _set("code_size", 3), "code_size"),
    ("PQ", _resize("pq.centroids", -1), "number of centroid values"),
    ("PQ", _put("pq.centroids", 3, NAN), "finite values of centroids"),
    ("PQ", _set("ntotal", N + 1), "bytes of codes"),
    ("PQ", _set("d", 12), "pq.d"),
    ("SQ8", _set("sq.d", 12), "sq.d"),
    ("SQ8", _set("code_size", 12), "code_size"),
    ("SQ8", _set("sq.qtype", faiss.ScalarQuantizer.QT_fp16), "sq.code_size"),
    ("SQ8", _put("sq.trained", 0, NAN), "finite values of ranges"),
    ("SQ8", _set("ntotal", N - 1), "bytes of codes"),
    ("Flat", _set("code_size", 12), "code_size"),
    ("IDMap2,Flat", _of(_inner, _set("code_size", 12)), "code_size"),
    ("PQfs", _set("bbs", 48), "bbs"),
    ("PQfs", _set("bbs", 0), "bbs"),
    ("PQfs", _set("bbs", 2**20), "bbs"),
    ("PQfs", _set("M", 2), " M = "),
    ("PQfs", _set("nbits", 8), "nbits"),
    ("PQfs", _set("ksub", 8), "ksub"),
    ("PQfs", _set("code_size", 8), "code_size"),
    ("PQfs", _set("M2", 6), "M2"),
    ("PQfs", _set("ntotal2", 32), "ntotal2"),
    ("PQfs", _set("pq.d", 12), "pq.d"),
    ("PQfs", _eight_bits, "nbits = 4, got 8"),
    ("PQfs", lambda index: index.codes.resize(32), "bytes of codes"),
    ("IVF", _replace("quantizer", lambda: None), "a coarse quantizer and"),
    ("IVF", _replace("quantizer", lambda: faiss.IndexLSH(D, 8)), "expected Flat, SQ or PQ"),
    ("IVF", _replace("quantizer", lambda: faiss.IndexNSGFlat(D, 8)), "coarse centroids as Flat"),
    ("IVF", _of(_coarse, _set("code_size", 12)), "code_size"),
    ("IVF", _set("d", 12), "d of the coarse quantizer"),
    ("IVF", _set("nprobe", 0), "nprobe of 1"),
    ("IVF", _set("nlist", 5), "number of inverted lists"),
    ("IVF", _few_centroids, "number of coarse centroids"),
    ("IVF", _of(_coarse, _put("codes", slice(0, 16), 127)), "coarse centroids with finite"),
    ("IVF", _set("pq.code_size", 3), "pq.code_size"),
    ("IVF", _set("code_size", 3), "code_size"),
    ("IVF", _set("invlists.code_size", 3), "code_size of the lists"),
    ("IVF", _short_codes, "code_size = 2, got 1"),
    ("IVF", _set("ntotal", N + 1), "vectors in the inverted lists"),
    ("IVF", _set("direct_map.type", 7), "a direct map of a known type"),
    ("IVFfs", _set("bbs", 48), "bbs"),
    ("IVFfs", _set("M2", 6), "M2"),
    ("IVFfs", _set("bbs", 64), "vectors a block"),
    ("IVFfs", _of(_blocks, _set("block_size", 32)), "bytes a block"),
    ("IVFfs", _plain_lists, "lists of blocks"),
    ("IVFfs", _set("ntotal", N + 1), "vectors in the inverted lists"),
    ("HNSW", _replace("storage", lambda: None), "a storage of codes"),
    ("HNSW", _of(_storage, _set("code_size", 5)), "code_size"),
    ("HNSW", _set("ntotal", N - 1), "ntotal of the graph"),
    ("HNSW", _set("d", 12), "d of the graph"),
    ("HNSW", _set("metric_type", IP), "metric_type of the graph"),
    ("HNSW", _set("hnsw.efSearch", 0), "efSearch from 1"),
    ("HNSW", _set("hnsw.efSearch", 2**30), "efSearch from 1"),
    ("HNSW", _set("hnsw.efConstruction", 0), "efConstruction from 1"),
    ("HNSW", lambda index: index.hnsw.assign_probas.resize(0), "1 to 64 levels"),
    ("HNSW", lambda index: index.hnsw.assign_probas.resize(65), "1 to 64 levels"),
    ("HNSW", _resize("hnsw.assign_probas", 1), "levels with room for links"),
    ("HNSW", _put("hnsw.cum_nneighbor_per_level", 0, 1), "room for links from 0"),
    ("HNSW", _put("hnsw.cum_nneighbor_per_level", -1, 2**30), "0 to 65536 links"),
    ("HNSW", _put("hnsw.cum_nneighbor_per_level", -1, 1), "0 to 65536 links"),
    ("HNSW", _resize("hnsw.levels", -1), "levels of the graph"),
    ("HNSW", _resize("hnsw.offsets", 1), "offsets of the graph"),
    ("HNSW", _put("hnsw.levels", 0, 0), "levels of 1 or more"),
    ("HNSW", _put("hnsw.levels", 0, 100), "levels of 1 or more"),
    ("HNSW", _set("hnsw.entry_point", -1), "a place to enter"),
    ("HNSW", _set("hnsw.entry_point", N), "a place to enter"),
    ("HNSW", _set("hnsw.entry_point", lambda old: (old + 1) % N), "level of the entry"),
    ("HNSW", _low_entry, "max_level"),
    ("HNSW", _put("hnsw.offsets", 3, 7), "offsets as the levels say"),
    ("HNSW", _resize("hnsw.neighbors", -1), "number of neighbors"),
    ("HNSW", _put("hnsw.neighbors", 0, N), "neighbors in the graph"),
    ("HNSW", _put("hnsw.neighbors", 0, -2), "neighbors in the graph"),
    ("HNSW", _link_above, "links within their level"),
    ("IDMap,PQ", _replace("index", lambda: None), "an index in the IDMap"),
    ("IDMap,PQ", _of(_inner, _set("code_size", 3)), "code_size"),
    ("IDMap,PQ", _set("d", 12), "d of the IDMap"),
    ("IDMap,PQ", _set("ntotal", N + 1), "ntotal of the IDMap"),
    ("IDMap,PQ", _set("metric_type", IP), "metric_type of the IDMap"),
    ("IDMap,PQ", _resize("id_map", -1), "number of ids"),
    ("IDMap2,IVF", lambda index: _list_ids(index, 0, N), "inverted lists of places"),
    ("IDMap2,IVF", lambda index: _list_ids(index, 0, -1), "inverted lists of places"),
    ("IDMap2,IVF", lambda index: _list_ids(index, 0, 1 + _first(index)), "every place"),
    ("PCA4", _cut_chain, "at least one transform"),
    ("PCA4", _set("d", 12), "dimension into a transform"),
    ("L2norm", _of(_transform, _set("d_out", 0)), "a positive dimension"),
    ("PCA4", _of(_transform, _set("is_trained", False)), "trained transforms"),
    ("PCA4", _of(_transform, _resize("A", -1)), "values of a transform"),
    ("PCA4", _of(_transform, _resize("b", -1)), "an offset of d_out"),
    ("PCA4", _of(_transform, _resize("mean", -1)), "values of a mean"),
    ("PCA4", _of(_transform, _put("A", 0, NAN)), "finite values of a transform"),
    ("PCA4", _of(_transform, _put("b", 0, NAN)), "finite values of an offset"),
    ("PCA4", _of(_transform, _put("mean", 0, NAN)), "finite values of a mean"),
    ("L2norm", _of(_transform, _set("norm", 1.0)), "norm"),
    ("L2norm", _of(_transform, _set("d_out", 4)), "dimension behind the transforms"),
    ("L2norm", _of(_inner, _set("code_size", 3)), "code_size"),
    ("ITQ6", _of(_transform, _resize("mean", -1)), "values of a mean"),
    ("ITQ6", _of(_transform, _set("pca_then_itq.d_in", 3)), "dimension into ITQ"),
    ("ITQ6", _of(_transform, _set("pca_then_itq.d_out", 3)), "dimension behind ITQ"),
    ("ITQ6", _of(_transform, _set("pca_then_itq.is_trained", False)), "trained transforms"),
    ("ITQ6", _of(_transform, _resize("pca_then_itq.A", -1)), "values of a transform"),
    ("Center", _of(_transform, _resize("mean", -1)), "values of a mean"),
    ("Center", _of(_transform, _put("mean", 0, NAN)), "finite values of a mean"),
    ("Pad16", _of(_transform, _resize("map", -1)), "dimensions of a map"),
    ("Pad16", _of(_transform, _put("map", 0, D)), "a map within"),
    ("Pad16", _of(_transform, _put("map", 0, -2)), "a map within"),
]


def _first(index: Any) -> int:
    """The next id of the list that `_list_ids` changes, less one."""
    lists = _inner(index).invlists
    number = next(i for i in range(lists.nlist) if lists.list_size(i) > 1)
    return int(faiss.rev_swig_ptr(lists.get_ids(number), 2)[1]) - 1


@pytest.mark.parametrize(
    ("kind", "change", "message"), WRONG, ids=[f"{w[0]}-{w[2]}" for w in WRONG]
)
def test_write__refuses_parts_that_disagree(make, tmp_path: Path, kind, change, message):
    index = make(kind)
    change(index)
    with pytest.raises(ValueError, match=message):
        write_native(index, tmp_path / "index.faiss", _role(kind))
    assert not (tmp_path / "index.faiss").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("hnsw.entry_point", 0), "entry and top of an empty graph"),
        (_set("hnsw.max_level", 2), "entry and top of an empty graph"),
        (_put("hnsw.offsets", 0, 1), "offsets from 0"),
        (_of(_storage, _set("is_trained", False)), "is_trained of the graph"),
    ],
)
def test_write__refuses_an_empty_graph_with_something_in_it(make, tmp_path: Path, change, message):
    index = make("HNSW", 0)
    change(index)
    with pytest.raises(ValueError, match=message):
        write_native(index, tmp_path / "index.faiss", "index")


@pytest.mark.parametrize(
    ("make_index", "message"),
    [
        (lambda: faiss.IndexLSH(D, 8), "expected Flat, SQ or PQ codes, got IndexLSH"),
        (_flat_lists, "lists of PQ codes, got IndexIVFFlat"),
        (lambda: faiss.IndexNSGFlat(D, 8), "expected an index of codes, got IndexNSGFlat"),
        (lambda: faiss.IndexHNSWPQ(65, 65, 4, 12), "a table of distances that fits"),
        (lambda: faiss.IndexFlatL2(D), "expected one of .*, got 'IxF2'"),
    ],
)
def test_write__refuses_other_kinds(tmp_path: Path, make_index, message):
    with pytest.raises(ValueError, match=message):
        write_native(make_index(), tmp_path / "index.faiss", "index")


def test_write__leaves_the_index_as_it_is(make, tmp_path: Path):
    index = make("IVF")
    index.make_direct_map()
    index.nprobe = 100
    write_native(index, tmp_path / "index.faiss", "index")
    assert (index.nprobe, index.direct_map.type) == (100, faiss.DirectMap.Array)


def test_read__refuses_what_faiss_refuses(make, tmp_path: Path):
    path = tmp_path / "index.faiss"
    write_native(make("PQ"), path, "index")
    content = bytearray(path.read_bytes())
    struct.pack_into("=Q", content, 4 + 33 + 8, 3)  # M, which does not divide d
    path.write_bytes(content)
    with pytest.raises(ValueError, match="FAISS cannot read"):
        read_native(path, "index")


def test_read__refuses_parts_that_disagree(make, tmp_path: Path):
    path = tmp_path / "index.faiss"
    index = make("HNSW")
    _put("hnsw.neighbors", 0, 0)(index)
    _link_above(index)
    faiss.write_index(index, str(path))
    with pytest.raises(ValueError, match="do not fit together: expected links within their level"):
        read_native(path, "index")


def test_write__errors_are_os_errors(make, tmp_path: Path):
    with pytest.raises(OSError, match="cannot write"):
        write_native(make("PQ"), tmp_path / "missing" / "index.faiss", "index")


# -- what is made anew after reading


def test_read__visits_no_more_lists_than_there_are(make, tmp_path: Path):
    index = make("IVFfs")
    index.nprobe = 2**40  # FAISS would take memory for as many
    write_native(index, tmp_path / "index.faiss", "index")
    again = read_native(tmp_path / "index.faiss", "index")
    assert again.nprobe == again.nlist
    assert again.search(_x(2), 3)[1].min() >= 0


@pytest.mark.parametrize("kind", ["PQfs", "IVFfs"])
def test_read__lets_faiss_choose_the_loop(make, tmp_path: Path, kind):
    index = make(kind)
    index.implem = 99
    if kind == "PQfs":
        index.qbs = 0xFFFF
    write_native(index, tmp_path / "index.faiss", "index")
    again = read_native(tmp_path / "index.faiss", "index")
    assert again.implem == 0
    assert (again.qbs if kind == "PQfs" else again.qbs2) == 0


@pytest.mark.parametrize("kind", [faiss.DirectMap.Array, faiss.DirectMap.Hashtable])
def test_read__makes_a_direct_map_from_the_lists(make, tmp_path: Path, kind):
    index = make("IVF")
    index.set_direct_map_type(kind)
    if kind == faiss.DirectMap.Array:
        _put("direct_map.array", slice(None), 2**40)(index)  # far out of any list
    write_native(index, tmp_path / "index.faiss", "index")
    again = read_native(tmp_path / "index.faiss", "index")
    assert again.direct_map.type == kind
    expected = make("IVF")
    expected.make_direct_map()
    np.testing.assert_array_equal(again.reconstruct(3), expected.reconstruct(3))


def test_read__knows_which_transforms_are_rotations(make, tmp_path: Path):
    for kind, rotates in (("PCA4", True), ("PCAW4", False)):
        write_native(make(kind), tmp_path / "part.faiss", "transforms")
        again = read_native(tmp_path / "part.faiss", "transforms")
        transform = _transform(again)
        assert bool(transform.is_orthonormal) == rotates
        if rotates:
            transform.reverse_transform(_x(2, 4))
        else:  # FAISS, having read it, would turn it back as if it were one
            with pytest.raises(RuntimeError):
                transform.reverse_transform(_x(2, 4))


# -- mapped into memory


@pytest.mark.parametrize("kind", MAPPED)
def test_read__maps_to_the_same_results(make, tmp_path: Path, kind):
    index = make(kind)
    write_native(index, tmp_path / "index.faiss", "index")
    mapped = read_native(tmp_path / "index.faiss", "index", mmap=True)
    assert is_mapped(mapped)
    assert not is_mapped(index)
    prepare_search(mapped)
    for found, expected in zip(mapped.search(_x(5), 3), index.search(_x(5), 3), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["Flat", "SQ8", "IDMap2,Flat"])
def test_read__maps_what_refines(make, tmp_path: Path, kind):
    write_native(make(kind), tmp_path / "part.faiss", "refine")
    assert is_mapped(read_native(tmp_path / "part.faiss", "refine", mmap=True))


@pytest.mark.parametrize("kind", ["PQfs", "IVFfs", "IDMap,IVFfs"])
def test_read__does_not_map_fast_scan(make, tmp_path: Path, kind):
    write_native(make(kind), tmp_path / "index.faiss", "index")
    with pytest.raises(ValueError, match=r"cannot map the blocks .* mmap=False"):
        read_native(tmp_path / "index.faiss", "index", mmap=True)
    assert not is_mapped(read_native(tmp_path / "index.faiss", "index"))


# -- the same items in two indexes


def test_check_keys__of_places_and_of_ids(make):
    check_keys(make("PQ"), make("Flat"))
    check_keys(make("IVF"), make("Flat"))  # whose ids are places
    check_keys(make("IDMap2,IVF"), make("Flat"))
    refine = faiss.index_factory(D, "IDMap2,Flat")
    refine.add_with_ids(_x(), np.arange(N)[::-1])
    for kind in ("PQ", "IVF", "IDMap2,IVF"):
        check_keys(make(kind), refine)
    check_keys(make("IVF", 0), make("IDMap2,Flat", 0))


def test_check_keys__refuses_others(make):
    with pytest.raises(ValueError, match="expected 40 items to refine with, got 39"):
        check_keys(make("PQ"), make("Flat", N - 1))
    for kind in ("PQ", "IVF", "IDMap2,IVF"):
        with pytest.raises(ValueError, match="expected the ids of the items"):
            check_keys(make(kind), make("IDMap2,Flat"))  # from 2**40 on
    index = make("IVF", 0)
    index.add_with_ids(_x(), np.arange(N) + 1)
    with pytest.raises(ValueError, match="expected the ids of the items"):
        check_keys(index, make("Flat"))
