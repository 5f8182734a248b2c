"""Indexes whose codes torch scans, on the CPU; what needs a card is marked `gpu`."""

import copy
import functools
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import faiss_pqvae as fpq
from faiss_pqvae import DPQ, Additive, LatentIndex, ModelConfig, Synthesis, TrainingConfig
from faiss_pqvae.index import gpu, gpu_decoder
from faiss_pqvae.index.gpu import GpuLatentIndex, index_cpu_to_gpu, scanned_by_torch
from faiss_pqvae.index.items import Items
from faiss_pqvae.native import faiss
from faiss_pqvae.native.gpu_layout import Lists
from faiss_pqvae.native.inject import new_index_pq
from faiss_pqvae.native.scan import torch_scan

D, N, K, C = 8, 300, 6, 3
CPU = torch.device("cpu")
TRAINING = TrainingConfig(epochs=2, batch_size=64, device="cpu", precision="float32")
DEEP = Synthesis(epochs=2, batch_size=64, effort=2, final_effort=4, lr=5e-3, rounds=1, filled=0)
PLAIN = ["PQVAE3x4", "PQVAE4x8", "PQVAE3x5", "PQVAE2x9", "IDMap2,PQVAE3x4", "PQVAE4x4fs"]
INVERTED = ["IVF4,PQVAE3x4", "IVF4,PQVAE3x8", "IDMap,IVF4,PQVAE3x5", "IVF4,PQVAE4x4fs"]
# Description, objective, metric.
CODES = [
    *((name, "reconstruction", metric) for name in PLAIN + INVERTED for metric in ("l2", "ip")),
    ("PQVAE3x4,RDecoder", "reconstruction", "l2"),
    ("IVF4,PQVAE3x4,RDecoder", "reconstruction", "l2"),
    *((name, "dpq", "ip") for name in ("DPQ3x4", "DPQ2x5", "IDMap2,DPQ3x8")),
    ("DPQ3x4,RDecoder", "dpq", "ip"),
    *(("PQVAE3x4", "additive", metric) for metric in ("l2", "ip", "cosine")),
    *(("IVF4,PQVAE4x4", "additive", metric) for metric in ("l2", "ip", "cosine")),
    *((f"{name}PQVAE3x4,RDecoder", "synthesis", "l2") for name in ("", "IVF4,", "IDMap2,IVF4,")),
    ("PQVAE3x4,RDecoder", "synthesis", "cosine"),
    ("IVF4,PQVAE3x4,RDecoder", "synthesis", "ip"),
    ("PQVAE3x4", "synthesis", "l2"),
]
SPREADS = [(1, False), (2, False), (3, True)]


def vectors(n=N, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((3, D))
    return (5 + np.tanh(2 * rng.standard_normal((n, 3)) @ mixing)).astype(np.float32)


@functools.cache
def _made(description, objective, metric):
    settings = {
        "reconstruction": None,
        "dpq": DPQ(),
        "additive": Additive(),
        "synthesis": DEEP,
    }
    index = fpq.index_factory(
        D,
        description,
        metric if objective != "dpq" else None,
        model=ModelConfig(width=8),
        training=TRAINING,
        objective=settings[objective],
    )
    x = vectors()
    labels = np.arange(N) % C if objective == "dpq" else None
    index.train(x, labels, progress=False)
    if "IDMap" in description:
        index.add_with_ids(x, np.arange(N)[::-1] * 3 - 2**40)
    else:
        index.add(x)
    if "IVF" in description:
        index.nprobe = 3
    return index


def made(description="PQVAE3x4", objective="reconstruction", metric="l2"):
    return copy.deepcopy(_made(description, objective, metric))


def there(index, parts=1, shard=False):
    return scanned_by_torch(index, [CPU] * parts, shard=shard)


def assert_best(found, index, q, *, within=1e-4):
    """The distances that an index finds, and ids that are as far there: many have one code."""
    (d, i), (d_all, i_all) = found, index.search(q, N + 50)
    scale = max(1.0, float(np.abs(d_all[i_all != -1]).max(initial=0)))
    there = i_all[:, : i.shape[1]] != -1
    np.testing.assert_array_equal(i != -1, there)
    expected = index.search(q, i.shape[1])[0]
    np.testing.assert_allclose(d[there], expected[there], rtol=within, atol=within * scale)
    for row, far in enumerate(dict_of((d_all, i_all))):
        own = i[row][there[row]]
        assert len(set(own.tolist())) == len(own)
        as_there = [far[key] for key in own.tolist()]
        np.testing.assert_allclose(as_there, d[row][there[row]], rtol=within, atol=within * scale)


def dict_of(found):
    return [dict(zip(i.tolist(), d.tolist(), strict=True)) for d, i in zip(*found, strict=True)]


# -- the same as the index


@pytest.mark.jury
@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize(("description", "objective", "metric"), CODES)
def test_search__finds_what_the_index_finds(
    description, objective, metric, search_type, parts, shard
):
    index, q = made(description, objective, metric), vectors(9, seed=1)
    index.search_type = search_type
    copied = there(index, parts, shard)
    copied.batch_size = 4
    if "fs" in description:  # whose distances are rounded
        exact = copied.gather(faiss.clone_index)
        latents = exact.reconstruct_batch(np.arange(N))
        D_, I = copied.search(q, K)  # noqa: E741
        z = index.encode_queries(q)
        if search_type == "sdc":
            z = index.faiss_index.sa_decode(index.faiss_index.sa_encode(z))
        own = latents[I]
        far = ((z[:, None] - own) ** 2).sum(2) if metric == "l2" else (z[:, None] * own).sum(2)
        np.testing.assert_allclose(D_, far, rtol=1e-4, atol=1e-4)
        return
    found, expected = copied.search(q, K), index.search(q, K)
    assert [part.dtype for part in found] == [np.float32, np.int64]
    if shard and index.refiner is not None:
        # Every shard decodes candidates of its own: what is found is as near, or nearer.
        sign = 1 if index.metric_type == faiss.METRIC_L2 else -1
        assert (sign * found[0] <= sign * expected[0] + 1e-3).all()
        return
    assert_best(found, index, q)
    np.testing.assert_array_equal(copied.assign(q, K), found[1])


@pytest.mark.jury
@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize(("description", "objective", "metric"), CODES)
def test_gather__restores_the_index(description, objective, metric, parts, shard):
    index = made(description, objective, metric)
    restored = there(index, parts, shard).gather(faiss.clone_index)
    assert type(restored.faiss_index) is type(index.faiss_index)
    np.testing.assert_array_equal(
        *(faiss.serialize_index(i.faiss_index) for i in (restored, index))
    )
    q = vectors(5, seed=2)
    np.testing.assert_array_equal(restored.search(q, K)[1], index.search(q, K)[1])


@pytest.mark.jury
@pytest.mark.parametrize(("parts", "shard"), SPREADS)
@pytest.mark.parametrize(("description", "objective", "metric"), CODES)
def test_selector__is_a_mask(description, objective, metric, parts, shard):
    index, q = made(description, objective, metric), vectors(7, seed=1)
    copied = there(index, parts, shard)
    stored = copied.gather(faiss.clone_index)
    ids = np.sort(stored.search(q, N)[1][0]) if not index.takes_ids else None
    if ids is None:
        ids = np.arange(N)[::-1] * 3 - 2**40 if "IDMap" in description else np.arange(N)
    few = np.sort(ids)[::60]
    params = faiss.SearchParameters(sel=faiss.IDSelectorBatch(few))
    found = copied.search(q, K, params=params)
    assert set(found[1].ravel()) <= {-1, *few.tolist()}
    if "IVF" in description:
        copied.nprobe = index.nprobe = 4
        found = copied.search(q, K, params=params)
    assert (np.sort(found[1][:, : len(few)], axis=1) == few).all()
    if "fs" not in description:
        everything = dict_of(index.search(q, N))
        refines = index.refiner is not None
        for row, (d, i) in enumerate(zip(*found, strict=True)):
            for distance, key in zip(d, i, strict=True):
                if key != -1 and key in everything[row] and not refines:
                    assert distance == pytest.approx(everything[row][key], rel=1e-3, abs=1e-3)


@pytest.mark.jury
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(("description", "objective", "metric"), CODES)
def test_add__stores_the_codes_that_the_index_stores(description, objective, metric, parts):
    index, more = made(description, objective, metric), vectors(41, seed=4)
    named = "IVF" in description and "IDMap" not in description
    if named:
        index.items = Items.of_names(["a"], [N])  # of an item to come
    copied = there(index, parts)
    copied.batch_size = 16
    assert copied.takes_more
    for each in (copied, index):
        if "IDMap" in description:
            each.add_with_ids(more, np.arange(41) + 2**33)
        else:
            each.add(more)
    assert len(copied) == index.ntotal == N + 41
    restored = copied.gather(faiss.clone_index)
    if named:
        assert copied.items.names([N]).tolist() == [""]
    codes = [
        i.faiss_index if not index.takes_ids else faiss.downcast_index(i.faiss_index)
        for i in (restored, index)
    ]
    whole = [faiss.serialize_index(each) for each in codes]
    assert len(whole[0]) == len(whole[1])
    assert (whole[0] == whole[1]).mean() > 0.99  # a tie may be broken otherwise
    q = vectors(5, seed=2)
    if "fs" not in description:
        assert_best(copied.search(q, K), restored, q)


# -- on its own


def test_lists__far_from_the_origin_are_those_that_faiss_takes():
    centroids = 5000 + np.random.default_rng(0).standard_normal((40, 12), dtype=np.float32)
    z = 5000 + np.random.default_rng(1).standard_normal((200, 12), dtype=np.float32)
    flat = faiss.IndexFlatL2(12)
    flat.add(centroids)
    lists = Lists(centroids, np.empty(0, np.int64), 1, True, faiss.METRIC_L2)
    nearest = torch_scan.Centroids(lists, CPU).nearest(torch.from_numpy(z), 1)
    assert (nearest.numpy() == flat.search(z, 1)[1]).mean() > 0.98


def test_add__far_from_the_origin_takes_the_nearest_codewords():
    index = made()
    copied, codewords = there(index), index.model.quantizer.codewords
    with torch.no_grad():
        copied.model.quantizer.codewords += 3000
    z = codewords.detach()[torch.arange(3), :5].transpose(0, 1).reshape(5, -1) + 3000
    ids, _ = copied._codes_of(z + 1e-3)
    assert (ids == torch.arange(5)[:, None]).all()


def test_settings__are_checked_and_come_back():
    copied = there(made("IVF4,PQVAE3x4"))
    for wrong in (0.5, -1, np.nan, "x", None):
        with pytest.raises((TypeError, ValueError), match="k_factor"):
            copied.k_factor = wrong
    copied.nprobe, copied.batch_size, copied.k_factor = 1, 7, 4
    restored = copied.gather(faiss.clone_index)
    assert (restored.nprobe, restored.batch_size, restored.k_factor) == (1, 7, 4)


@pytest.mark.parametrize("copies", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies__of_a_copy_are_refused(copies):
    with pytest.raises(TypeError, match="copied or pickled: index_gpu_to_cpu"):
        copies(there(made()))


def test_search__results_that_fit_nowhere_are_refused():
    with pytest.raises(ValueError, match=r"expected results that fit into .* k="):
        there(made()).search(vectors(1000), 2**31 - 1)


def test_nprobe__may_be_set_while_others_search():
    copied, q = there(made("IVF4,PQVAE3x4")), vectors(50, seed=1)
    expected = {}
    for copied.nprobe in (1, 4):
        expected[copied.nprobe] = copied.search(q, 4)[0]
    stop = threading.Event()

    def change():
        while not stop.is_set():
            copied.nprobe = 5 - copied.nprobe

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            for _ in range(60):
                found = copied.search(q, 4)[0]
                assert any(np.allclose(found, each) for each in expected.values())
        finally:
            stop.set()
        changing.result()


@pytest.mark.parametrize("description", ["PQVAE3x4,RDecoder", "IVF4,PQVAE3x4,RDecoder"])
def test_decoder__in_portions_is_the_same(monkeypatch, description):
    index, q = made(description, "synthesis"), vectors(20, seed=1)
    monkeypatch.setattr(gpu_decoder, "_CHUNK_BYTES", 4 * D * 7)
    assert_best(there(index).search(q, K), index, q)


@pytest.mark.parametrize(("M", "nbits"), [(97, 5), (120, 6)])
def test_scan__of_codes_that_become_too_wide_for_faiss_is_torchs(make_model, M, nbits):
    index = LatentIndex(make_model((D,), M, nbits, dsub=2, encoder="linear"))
    index.add(vectors(20))
    assert gpu.scan_of(index, "auto") == "torch"


def test_scan__of_residuals_behind_another_metric_is_torchs(make_model):
    model = make_model((D,), 3, 4, dsub=4, encoder="linear")
    quantizer = faiss.IndexFlatL2(12)
    quantizer.add(vectors(3)[:, [0, 1, 2, 3] * 3])
    native = faiss.IndexIVFPQ(quantizer, 12, 3, 3, 4, faiss.METRIC_INNER_PRODUCT)
    fpq.inject_codebooks(native, model.codebooks())
    index = LatentIndex(model, "ip", faiss_index=native)
    index.add(vectors(40))
    assert gpu.scan_of(index, "auto") == "torch"
    index.nprobe = 1
    q = vectors(5, seed=1)
    np.testing.assert_allclose(there(index).search(q, 3)[0], index.search(q, 3)[0], rtol=1e-4)


def test_search__more_results_than_there_are():
    copied = there(made())
    D_, I = copied.search(vectors(3, seed=1), N + 5)  # noqa: E741
    assert (np.sort(I[:, :N]) == np.arange(N)).all()
    assert (I[:, N:] == -1).all()
    assert (D_[:, N:] == np.finfo(np.float32).max).all()


@pytest.mark.parametrize("description", ["PQVAE3x4", "IVF4,PQVAE3x4"])
def test_search__in_portions_is_the_same(monkeypatch, description):
    index, q = made(description), vectors(20, seed=1)
    monkeypatch.setattr(torch_scan, "_LEAST_ROWS", 7)
    monkeypatch.setitem(torch_scan._CHUNK_BYTES, "cpu", 1)
    assert_best(there(index).search(q, 70), index, q)


def test_search__far_from_the_origin_is_not_rounded_away():
    rng = np.random.default_rng(0)
    codebooks = fpq.Codebooks(1000 + rng.standard_normal((3, 16, 4)))
    native = new_index_pq(codebooks)
    z = 1000 + rng.standard_normal((60, 12), dtype=np.float32)
    native.add(z)
    scan = torch_scan.TorchScan(
        codebooks, faiss.vector_to_array(native.codes).reshape(60, -1), faiss.METRIC_L2, None, CPU
    )
    q = 1000 + rng.standard_normal((5, 12), dtype=np.float32)
    D_, places = scan.search(torch.from_numpy(q), 60)
    decoded = native.reconstruct_n().astype(np.float64)[places.numpy()]
    far = ((q[:, None].astype(np.float64) - decoded) ** 2).sum(2)
    np.testing.assert_allclose(D_, far, rtol=1e-3)


def test_search__by_many_threads():
    copied, q = there(made("IVF4,PQVAE3x4")), vectors(8, seed=1)
    expected = copied.search(q, K)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: copied.search(q, K), range(12)):
            np.testing.assert_array_equal(found[1], expected[1])


def test_search__asks_no_part_for_nothing():
    copied = there(made("DPQ3x4", "dpq", "ip"), 5)
    q = vectors(2, seed=1)
    assert copied.search(q, 3)[1].shape == (2, 3)
    assert [array.shape for array in copied.search(q[:0], 3)] == [(0, 3), (0, 3)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_queries_and_items__are_checked(value):
    copied, x = there(made("PQVAE3x4,RDecoder", "synthesis")), vectors(5)
    x[3, 1] = value
    for refused in (lambda: copied.search(x, 2), lambda: copied.add(x), lambda: copied.encode(x)):
        with pytest.raises(ValueError, match="got NaN or infinity in row 3"):
            refused()
    assert copied.ntotal == N


def test_k_and_parameters__are_checked():
    copied, q = there(made("DPQ3x4", "dpq", "ip")), vectors(2)
    for k in (0, -1):
        with pytest.raises(ValueError, match="expected k >= 1"):
            copied.search(q, k)
    with pytest.raises(TypeError, match="got IDSelectorRange: lists to visit"):
        copied.search(q, 2, params=faiss.IDSelectorRange(0, 3))
    with pytest.raises(ValueError, match="no inverted lists"):
        copied.nprobe = 2
    with pytest.raises(ValueError, match="nlist=None where torch scans all codes, got 4"):
        scanned_by_torch(made(), [CPU], nlist=4)


def test_add__all_or_nothing():
    copied, x = there(made("IVF4,PQVAE3x4"), 2), vectors(9)
    for wrong in ([1, 2], np.arange(9) * 0.5, np.full(9, -1)):
        with pytest.raises((TypeError, ValueError)):
            copied.add_with_ids(x, wrong)
    with pytest.raises(TypeError, match="expected ids of dtype int64, got None"):
        copied.add_with_ids(x, None)
    copied.add(x[:0])
    assert copied.ntotal == N
    with pytest.raises(ValueError, match="numbers its vectors itself"):
        there(made()).add_with_ids(x, np.arange(9))
    with pytest.raises(TypeError, match="change the one on the CPU"):
        there(made(), 2, shard=True).add(x)


def test_copy__shares_nothing_that_changes():
    index = made("IVF4,PQVAE3x4,RDecoder", "synthesis")
    copied = there(index)
    copied.nprobe, copied.search_type, copied.k_factor = 1, "sdc", 3
    copied.add(vectors(3))
    assert (index.nprobe, index.search_type, index.k_factor, index.ntotal) == (3, "adc", 10, N)
    assert copied.model is not index.model
    assert copied.faiss_index is None
    assert repr(copied) == (
        f"GpuLatentIndex('look-ups by torch on cpu, then the decoder', ntotal={N + 3})"
    )


def test_graphs__have_no_copy():
    with pytest.raises(TypeError, match="got IndexHNSWPQ"):
        there(made("HNSW4,PQVAE3x4"))


def test_cards__are_needed_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="PyTorch finds no GPU on this host"):
        index_cpu_to_gpu(made(), scan="torch")
    with pytest.raises(RuntimeError, match="PyTorch finds no GPU on this host"):
        index_cpu_to_gpu(made("DPQ3x4", "dpq", "ip"))  # by itself: FAISS has no kernels
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="numbers of GPUs from 0 to 0, got 1"):
        index_cpu_to_gpu(made(), 1, scan="torch")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 10**9))
    with pytest.raises(MemoryError, match=r"got 0\.00 GB: several GPUs with shard=True"):
        index_cpu_to_gpu(made(), scan="torch")


@pytest.mark.parametrize("description", ["PQVAE3x4", "PQVAE3x5", "PQVAE2x9", "IVF4,PQVAE3x8"])
def test_scan_bytes__are_those_of_its_arrays(description):
    copied = there(made(description))
    scan = copied._parts[0].codes
    held = [scan._codes, *([scan._numbers, scan.coarse.vectors] if scan.coarse else [])]
    lists = None
    if scan.coarse is not None:
        native = made(description).faiss_index
        lists = gpu.lists_of(native, gpu.read(native))
    needed = torch_scan.scan_bytes(scan.codebooks, N, lists)
    own = sum(part.numel() * part.element_size() for part in held) + 8 * N
    assert needed == own + 4 * scan.codebooks.centroids.size


# -- on a GPU

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0


def on_gpu(test):
    reason = "no CUDA device that PyTorch sees"
    return pytest.mark.gpu(pytest.mark.skipif(not GPUS, reason=reason)(test))


@on_gpu
@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize(("description", "objective", "metric"), CODES)
def test_gpu__finds_what_torch_finds_on_the_cpu(description, objective, metric, search_type):
    """Every code that torch scans, ADC and SDC, tensors and arrays; added to, and back."""
    index, q = made(description, objective, metric), vectors(33, seed=1)
    index.search_type = search_type
    copied = index_cpu_to_gpu(index, scan="torch")
    assert isinstance(copied, GpuLatentIndex)
    assert "cuda" in copied.scan
    if "fs" not in description:
        assert_best(copied.search(q, K), index, q, within=1e-3)
    tensors = copied.search(torch.from_numpy(q).cuda(), K)
    assert all(part.is_cuda for part in tensors)
    if "IDMap" not in description:
        copied.add(vectors(9, seed=3))
    restored = fpq.index_gpu_to_cpu(copied)
    assert isinstance(restored, LatentIndex)
    assert restored.ntotal == copied.ntotal


@on_gpu
@pytest.mark.parametrize("shard", [False, True])
def test_gpu__of_several_parts(shard):
    """Replicas and shards of torch's scan."""
    index, q = made("IVF4,PQVAE4x4", "additive", "l2"), vectors(33, seed=1)
    copied = index_cpu_to_gpu(index, [0, GPUS - 1], shard=shard)
    assert_best(copied.search(q, K), index, q, within=1e-3)
