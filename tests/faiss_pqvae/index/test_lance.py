"""What Lance is given: by its own arithmetic in numpy, and by itself where it is installed."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae import Codebooks, LatentIndex, Ranking, TrainingConfig, index_factory, lance_parts
from faiss_pqvae.native import faiss
from faiss_pqvae.native.walk import codebook_index

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "lancedb.md"
L2, IP = faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT
D, N, NLIST, K = 8, 300, 4, 5
SMALL = Ranking(anchors=8, sample=8, pool=4, rounds=1)
TRAINING = TrainingConfig(epochs=1, batch_size=8, device="cpu", validation_fraction=0.2)

few_items = pytest.mark.filterwarnings("ignore:.*training items")


def vectors(n=N, seed=0):
    rng = np.random.default_rng(seed)
    means = 4 * np.random.default_rng(9).standard_normal((NLIST, D))
    return (means[rng.integers(NLIST, size=n)] + rng.standard_normal((n, D))).astype(np.float32)


@functools.cache
def trained(description, metric="l2"):
    index = index_factory(D, description, metric, training=TRAINING, objective=SMALL)
    index.train(vectors(), progress=False)
    return index


def native(text="IVF4,PQ4", metric=L2, by_residual=None, nbits=8):
    """One of FAISS's with random codebooks, M=4, and lists where the text has some."""
    index = faiss.index_factory(D, f"{text}x{nbits}", metric)
    inner = codebook_index(index)
    if by_residual is not None:
        inner.by_residual = by_residual
    rng = np.random.default_rng(3)
    fpq.inject_codebooks(index, Codebooks(rng.standard_normal((4, 2**nbits, D // 4))))
    index.train(vectors())
    return index


def searched(index, x, q, nprobe):
    """Distances (nq, N) of items that are asked for by nprobe lists, others infinitely far."""
    ours = isinstance(index, LatentIndex)
    inner = codebook_index(index.faiss_index if ours else index)
    inner.nprobe = nprobe
    index.reset()
    index.add_with_ids(x, np.arange(len(x)))
    D, I = index.search(q, len(x))  # noqa: E741
    found = np.full((len(q), len(x) + 1), np.inf)
    np.put_along_axis(found, I, 1 - D if inner.metric_type == IP else D, 1)  # -1 is the last
    assert np.isfinite(found[:, :-1]).sum(1).min() >= K
    return found[:, :-1]


def both(index, x, q):
    """Latents of items and queries; of FAISS's indexes these themselves."""
    if not isinstance(index, LatentIndex):
        return x, q
    return index.encode(x), index.encode_queries(q)


def check_alike(distances, found, expected):
    """The nearest by `expected` (nq, N) were found, (nq, K) ids, ties aside."""
    best = np.sort(expected)[:, :K]
    scale = np.abs(best).max()
    np.testing.assert_allclose(distances, best, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(np.take_along_axis(expected, found, 1), best, atol=1e-4 * scale)
    assert all(len(set(row)) == K for row in found)


def by_numpy(parts, z, zq, nprobe):
    """Distances (nq, N), as Lance takes them: of residuals by l2, of vectors by dot."""
    centroids = parts["ivf_centroids"].astype(np.float64)
    codebook = parts["pq_codebook"].astype(np.float64)

    def far(a, b):
        return ((a[:, None] - b) ** 2).sum(-1) if parts["metric"] == "l2" else 1 - a @ b.T

    lists = far(z, centroids).argmin(1)
    origin = centroids[lists] if parts["metric"] == "l2" else np.zeros_like(z)
    split = (z - origin).reshape(len(z), len(codebook), 1, -1)
    codes = ((split - codebook) ** 2).sum(-1).argmin(-1)
    quantized = origin + codebook[np.arange(len(codebook)), codes].reshape(len(z), -1)
    visited = np.argsort(far(zq, centroids))[:, :nprobe]
    is_visited = (lists[None, :, None] == visited[:, None]).any(-1)
    return np.where(is_visited, far(zq, quantized), np.inf)


CASES = {
    "ours of residuals": lambda: trained("IVF4,PQVAE2"),
    "ours of 4 bits": lambda: trained("IDMap2,L2norm,PCA6,IVF4,PQVAE2x4"),
    "ours of a fast scan": lambda: trained("IVF4_HNSW4,PQVAE2x4"),
    "faiss of residuals": native,
    "faiss of 4 bits": lambda: native(nbits=4),
    "faiss of vectors": lambda: native(metric=IP, by_residual=False),
    "faiss in an IDMap": lambda: native("IDMap2,IVF4,PQ4"),
}
every_case = pytest.mark.parametrize("case", CASES)


@few_items
@every_case
@pytest.mark.parametrize("nprobe", [1, 2, NLIST])
def test_parts__find_what_the_index_finds(case, nprobe):
    index = CASES[case]()
    x, q = vectors(), vectors(20, seed=1)
    expected = searched(index, x, q, nprobe)
    found = by_numpy(lance_parts(index), *both(index, x, q), nprobe)
    order = np.argsort(found)[:, :K]
    check_alike(np.take_along_axis(found, order, 1), order, expected)


def test_parts__of_vectors_that_a_model_codes(make_identity):
    index = make_identity("IVF", 8, IP)
    x, q = vectors(), vectors(20, seed=1)
    parts = lance_parts(index)
    assert parts["metric"] == "dot"
    expected = searched(index, x, q, NLIST)
    found = by_numpy(parts, *both(index, x, q), NLIST)
    order = np.argsort(found)[:, :K]
    check_alike(np.take_along_axis(found, order, 1), order, expected)


@pytest.mark.parametrize(("metric", "name"), [(L2, "l2"), (IP, "dot")])
@pytest.mark.parametrize("nbits", [4, 8])
def test_parts__are_of_the_shapes_that_lance_wants(metric, name, nbits):
    index = native(metric=metric, by_residual=metric == L2, nbits=nbits)
    parts = lance_parts(index)
    sizes = {"metric": name, "num_partitions": NLIST, "num_sub_vectors": 4, "num_bits": nbits}
    assert {key: parts[key] for key in sizes} == sizes
    assert set(parts) == {*sizes, "ivf_centroids", "pq_codebook"}
    assert parts["ivf_centroids"].shape == (NLIST, D)
    assert parts["pq_codebook"].shape == (4, 2**nbits, D // 4)
    assert parts["ivf_centroids"].dtype == parts["pq_codebook"].dtype == np.float32
    np.testing.assert_array_equal(parts["pq_codebook"], fpq.extract_codebooks(index).centroids)
    centroids = faiss.downcast_index(index.quantizer).reconstruct_n(0, NLIST)
    np.testing.assert_array_equal(parts["ivf_centroids"], centroids)


# -- Lance itself


@few_items
@every_case
def test_lance__finds_what_the_index_finds(case, tmp_path):
    lance = pytest.importorskip("lance")
    pyarrow = pytest.importorskip("pyarrow")
    index = CASES[case]()
    x, q = vectors(), vectors(20, seed=1)
    z, zq = both(index, x, q)

    def rows(first, end):
        flat = pyarrow.array(z[first:end].ravel())
        column = pyarrow.FixedSizeListArray.from_arrays(flat, z.shape[1])
        return pyarrow.table({"id": np.arange(first, end), "vector": column})

    parts = lance_parts(index)
    table = lance.write_dataset(rows(0, N // 2), tmp_path / "items.lance")
    table.create_index("vector", "IVF_PQ", **parts)
    table.insert(rows(N // 2, N))
    if parts["metric"] == "l2":
        table.optimize.optimize_indices(num_indices_to_merge=1)
    else:  # pylance 14 gives rows that come later the codewords of the largest inner product
        table.create_index("vector", "IVF_PQ", replace=True, **parts)
    stats = table.stats.index_stats("vector_idx")
    assert (stats["num_indexed_rows"], stats["num_unindexed_rows"]) == (N, 0)
    for nprobe in (1, 2, NLIST):
        found = [
            table.to_table(
                columns=["id", "_distance"],
                nearest={"column": "vector", "q": query, "k": K, "nprobes": nprobe},
            )
            for query in zq
        ]
        distances, ids = (
            np.stack([t[name].to_numpy() for t in found]) for name in ("_distance", "id")
        )
        check_alike(distances, ids, searched(index, x, q, nprobe))


@few_items
def test_page__finds_in_lancedb_what_our_index_finds(tmp_path, monkeypatch):
    pytest.importorskip("lancedb")
    pytest.importorskip("lance")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(?:python)?\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    code = "\n".join(blocks).replace("(5000, 32)", "(700, 32)")
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    index, found = names["index"], names["found"]
    index.nprobe = 4
    D, I = index.search(names["x"][:1], 20)  # noqa: E741
    distances = [row["_distance"] for row in found]
    np.testing.assert_allclose(distances, D[0, :5], rtol=1e-4)
    ours = dict(zip(I[0], D[0], strict=True))
    np.testing.assert_allclose([ours[row["id"]] for row in found], distances, rtol=1e-4)


# -- refusals


def additive():
    return index_factory(32, "IVF4,PQVAE4")


def residual():
    index = faiss.IndexResidualQuantizer(D, 2, 4, IP)
    fpq.inject_codebooks(index, Codebooks(np.ones((2, 16, D), np.float32), structure="residual"))
    return index


def not_trained():
    index = faiss.index_factory(D, "IVF4,PQ4")
    fpq.inject_codebooks(index, Codebooks(np.ones((4, 256, 2), np.float32)))
    return index


def another_coarse_metric():
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(D), D, NLIST, 4, 4, L2)
    index.train(vectors())
    return index


def odd():
    index = faiss.index_factory(6, "IVF4,PQ3x4")
    index.train(vectors()[:, :6].copy())
    return index


def another_metric():
    index = native(by_residual=True)
    index.metric_type = index.quantizer.metric_type = faiss.METRIC_L1
    return index


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (additive, r"expected product codes, got additive ones.*objective='ranking'"),
        (residual, "expected product codes, got residual ones"),
        (lambda: native("PQ4"), "expected inverted lists.*got IndexPQ: write 'IVF64,'"),
        (lambda: native("HNSW8,PQ4"), "expected inverted lists.*got IndexHNSWPQ"),
        (lambda: index_factory(D, "IVF4,PQVAE2x4"), "trained"),
        (not_trained, "not trained yet"),
        (lambda: native(nbits=6), "of 8 bits, or of 4 with an even M.*got M=4 and 6 bits"),
        (odd, "of 8 bits, or of 4 with an even M.*got M=3 and 4 bits: 'IVF64,PQVAE3'"),
        (lambda: native(by_residual=False), "expected codes of residuals.*by_residual=True"),
        (lambda: native(metric=IP), "expected codes of the vectors themselves.*'L2norm,'"),
        (lambda: native("OPQ4,IVF4,PQ4"), "got one in IndexPreTransform.*extract_index_ivf"),
        (another_coarse_metric, "a coarse quantizer of the metric of the codes"),
        (another_metric, "expected metric_type METRIC_L2 or METRIC_INNER_PRODUCT"),
    ],
)
def test_parts__say_what_lance_cannot_hold(make, message):
    index = make()
    with pytest.raises(ValueError, match=message):
        lance_parts(index)


def test_parts__refuse_what_holds_no_codebooks():
    with pytest.raises(TypeError, match="got IndexFlat"):
        lance_parts(faiss.IndexFlatL2(D))


def test_parts__of_what_a_transform_is_around_are_those_of_the_file_within():
    index = native("OPQ4,IVF4,PQ4")
    parts = lance_parts(faiss.extract_index_ivf(index))
    assert parts["ivf_centroids"].shape == (NLIST, D)
