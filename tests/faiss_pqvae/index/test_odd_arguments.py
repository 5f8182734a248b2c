"""What is given by mistake: errors of ours that say what was expected, and nothing has changed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae import LatentIndex, read_index, write_index
from faiss_pqvae.index.refine import Decoder
from faiss_pqvae.native import faiss
from faiss_pqvae.native.store.store import Store

D, N = 8, 40
L2 = faiss.METRIC_L2
FAR = 2**63


def _x(n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, D), dtype=np.float32)


@pytest.fixture
def make(make_identity: Callable[..., LatentIndex]) -> Callable[[str], LatentIndex]:
    """An index by its kind ("IDMap2 IVF flat"), with N items."""

    def filled(text: str) -> LatentIndex:
        *id_map, kind = (part for part in text.split() if part not in ("flat", "decoder"))
        refine = {"flat": faiss.IndexFlatL2(D), "decoder": "decoder"}.get(text.split()[-1])
        index = make_identity(kind, 4, L2, *id_map, refine=refine)
        if id_map:
            index.add_with_ids(_x(N), np.arange(N))
        else:
            index.add(_x(N))
        return index

    return filled


KINDS = ["PQ", "PQfs", "IVF", "IVFfs", "HNSW", "IDMap2 IVF flat", "IDMap PQ decoder"]


def _state(index: LatentIndex) -> list[Any]:
    settings = [index.batch_size, index.k_factor, index.search_type, index.ntotal]
    return [*settings, *(found.tolist() for found in index.search(_x(3), 4))]


def _check_refused(index: LatentIndex, call: Callable[[LatentIndex], Any], message: str) -> None:
    before = _state(index)
    with pytest.raises((TypeError, ValueError, AttributeError), match=message):
        call(index)
    assert _state(index) == before


# Of every kind of index.
COMMON: dict[str, Callable[[LatentIndex], Any]] = {
    "expected k from 1 to 2147483647, got 1000000000000": lambda i: i.search(_x(3), 10**12),
    "expected k from 1 to 2147483647, got 10000": lambda i: i.assign(_x(3), 10**40),
    "fit into .* GiB: k=2147483647 of 50000 queries": lambda i: i.search(_x(50_000), 2**31 - 1),
    "GiB: k=200000000 of 50000 queries": lambda i: i.search_and_reconstruct(_x(50_000), 2 * 10**8),
    "an integer as k, got '3' of type str": lambda i: i.search(_x(3), "3"),
    "an integer as key, got True of type bool": lambda i: i.reconstruct(True),
    "an integer as key, got 1.0 of type float": lambda i: i.reconstruct(1.0),
    "expected key from -9.* to 9.*, got 9223372036854775808": lambda i: i.reconstruct(FAR),
    "an integer as n0, got 0.0 of type float": lambda i: i.reconstruct_n(0.0),
    "ni from 0 to ntotal, 40, .* got n0=0, ni=1000000000000": lambda i: i.reconstruct_n(0, 10**12),
    "n0 \\+ ni from -9.* to 9.*, got 9223372036854775809": lambda i: i.reconstruct_n(FAR - 1, 2),
    "an integer as key, got 2.0 of type": lambda i: i.compute_residual(_x(1)[0], 2.0),
    "items of shape \\(n, 8\\), got \\(1,\\)": lambda i: i.compute_residual(3.0, 2),
    "'LatentIndex' object has no attribute 'nprob'; did you mean 'nprobe'": (
        lambda i: setattr(i, "nprob", 3)
    ),
    "no attribute 'kfactor'; did you mean 'k_factor'": lambda i: setattr(i, "kfactor", 3),
    "no attribute 'zzz'$": lambda i: setattr(i, "zzz", 3),
    "batch_size >= 1, got 0": lambda i: setattr(i, "batch_size", 0),
    "an integer as batch_size, got 64.0 of type float": lambda i: setattr(i, "batch_size", 64.0),
    "a number as k_factor, got '3' of type str": lambda i: setattr(i, "k_factor", "3"),
    "k_factor >= 1, got nan": lambda i: setattr(i, "k_factor", float("nan")),
    "expected a LatentIndex, got Index": lambda i: i.merge_from(i.faiss_index),
    "expected a LatentIndex to write, got Index": lambda i: write_index(i.faiss_index, "x"),
    "expected a LatentIndex to write, got str": lambda i: write_index("photos", i),
    "give its attribute faiss_index": fpq.extract_codebooks,
    "expected items as an Items, got list: as in Items.of_names": (
        lambda i: setattr(i, "items", ["a.jpg"])
    ),
    "expected residual codes": lambda i: i.prefix(2.0),
    "got IDSelectorRange: give faiss.SearchParameters\\(sel=": lambda i: i.search(
        _x(2), 3, params=faiss.IDSelectorRange(0, 3)
    ),
    "expected parameters of type SearchParameters.* got dict$": lambda i: i.search(
        _x(2), 3, params={"nprobe": 3}
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_odd_arguments__are_refused_by_every_kind(make, kind):
    index = make(kind)
    for message, call in COMMON.items():
        _check_refused(index, call, message)


@pytest.mark.parametrize(
    ("kind", "call", "message"),
    [
        *(
            ("PQ", lambda i, t=thresh: i.range_search(_x(2), t), message)
            for thresh, message in [
                ("1", "a number as threshold, got '1' of type str"),
                (None, "a number as threshold, got None"),
                (1e300, r"finite threshold from -3.40282e\+38 to 3.40282e\+38, got 1e\+300"),
                (np.nan, "finite threshold .*got nan"),
            ]
        ),
        ("IVF", lambda i: setattr(i, "nprobe", 2.0), "an integer as nprobe, got 2.0"),
        ("IVF", lambda i: setattr(i, "nprobe", True), "an integer as nprobe, got True"),
        ("HNSW", lambda i: setattr(i, "efSearch", 10**12), "efSearch from 1 to 16777216, got 1000"),
        ("HNSW", lambda i: setattr(i, "efSearch", "9"), "an integer as efSearch, got '9'"),
    ],
)
def test_odd_arguments__of_one_kind_are_refused(make, kind, call, message):
    _check_refused(make(kind), call, message)


def test_nprobe__beyond_the_lists_is_all_of_them(make):
    index = make("IVF")
    index.nprobe = 10**12
    assert index.nprobe == 4


def _searches(index: LatentIndex, params: Any) -> list[Callable[[], Any]]:
    found = [
        lambda: index.search(_x(2), 3, params=params),
        lambda: index.search_and_reconstruct(_x(2), 3, params=params),
    ]
    return found if index.refiner else [*found, lambda: index.range_search(_x(2), 3, params=params)]


@pytest.mark.parametrize("kind", ["IVF", "IVFfs", "IDMap2 IVF flat"])
def test_parameters__with_an_absurd_nprobe(make, kind):
    index = make(kind)
    for refused in _searches(index, faiss.SearchParametersIVF(nprobe=0)):
        with pytest.raises(ValueError, match="expected nprobe >= 1, got 0"):
            refused()
    every = faiss.SearchParametersIVF(nprobe=4)
    most = faiss.SearchParametersIVF(nprobe=10**12)  # FAISS takes memory for as many lists
    for a, b in zip(_searches(index, most), _searches(index, every), strict=True):
        for found, expected in zip(a(), b(), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("ef_search", [0, -5, 2**31 - 1])
def test_parameters__with_an_absurd_ef_search(make, ef_search):
    for refused in _searches(make("HNSW"), faiss.SearchParametersHNSW(efSearch=ef_search)):
        with pytest.raises(ValueError, match=f"efSearch from 1 to 16777216, got {ef_search}|>= 1"):
            refused()


@pytest.mark.parametrize("kind", ["IVF", "IVFfs", "IDMap2 PQ", "IDMap2 IVF flat"])
@pytest.mark.parametrize(
    ("add_id", "error", "message"),
    [
        (FAR, ValueError, "expected add_id from -9.* to 9.*, got 9223372036854775808"),
        (-FAR - 1, ValueError, "expected add_id from -9"),
        (FAR - 1, ValueError, "leaves ids within int64, got 9223372036854775807 for the id"),
        (FAR - N + 1, ValueError, "leaves ids within int64, got 9223372036854775769 for the id 39"),
        (1.0, TypeError, "an integer as add_id, got 1.0 of type float"),
    ],
)
def test_merge_from__refuses_ids_beyond_64_bits(make, kind, add_id, error, message):
    index, other = make(kind), make(kind)
    before = _state(index), _state(other)
    with pytest.raises(error, match=message):
        index.merge_from(other, add_id)
    assert (_state(index), _state(other)) == before
    index.merge_from(other, FAR - N)
    assert index.ntotal == 2 * N
    assert other.ntotal == 0
    assert index.reconstruct(FAR - 1).shape == (D,)


@pytest.mark.parametrize("n_levels", [2.0, "2", True, None])
def test_prefix__refuses_what_is_no_integer(n_levels):
    index = fpq.index_factory(D, "DPQ2x4")
    index.model.fitted.fill_(True)
    with pytest.raises(TypeError, match="expected an integer as n_levels, got"):
        index.model.prefix(n_levels)


@pytest.mark.parametrize(
    ("name", "refused", "message"),
    [
        ("model", {"width": 3}, "ModelConfig, got dict: as in model=ModelConfig"),
        ("training", {"epochs": 3}, "TrainingConfig, got dict: as in training="),
        ("pretrained", "photos.pqvae", "PQVAE, got str: as in pretrained=other.model"),
    ],
)
def test_index_factory__refuses_settings_of_another_class(name, refused, message):
    with pytest.raises(TypeError, match=f"expected {name} as a {message}"):
        fpq.index_factory(D, "PQVAE4", **{name: refused})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((D,), 4.0, 8), TypeError, "an integer as M, got 4.0"),
        (((D,), 4, "8"), TypeError, "an integer as nbits, got '8'"),
        (((D,), 0, 8), ValueError, "M >= 1, got 0"),
        (((8.0,), 4, 8), TypeError, "an integer as input shape, got 8.0"),
        (("8", 4, 8), TypeError, "an integer as input shape, got '8'"),
        (((2, 8), 4, 8), ValueError, "an input shape"),
    ],
)
def test_pqvae__refuses_sizes_that_are_none(arguments, error, message):
    with pytest.raises(error, match=f"expected {message}"):
        fpq.PQVAE(*arguments)


def test_pqvae__takes_a_dimension_as_a_shape():
    assert fpq.PQVAE(D, 4, 8).input_shape == (D,)


def test_constructor__refuses_parts_of_another_class(make_model):
    model = make_model((D,), encoder="linear")
    for options, message in (
        ({"model": None}, "model as a PQVAE, got NoneType"),
        ({"model": faiss.IndexFlatL2(D)}, "model as a PQVAE, got IndexFlatL2"),
        ({"transforms": "PCA4"}, "transforms as a Transforms, got str"),
        ({"refine_index": "flat"}, "a FAISS index to refine with, 'decoder' or None, got 'flat'"),
        ({"faiss_index": LatentIndex(model)}, "give its attribute faiss_index"),
    ):
        with pytest.raises(TypeError, match=message):
            LatentIndex(**{"model": model, **options})


def test_refiner__refuses_a_slip(make):
    index = make("PQ flat")
    for refiner in (index.refiner, Decoder(index.model, Store(index.faiss_index))):
        with pytest.raises(AttributeError, match="object has no attribute 'k_factor'"):
            refiner.k_factor = 4  # it is the index's
        refiner.chunk_bytes = 2**20


def test_len__is_ntotal(make):
    index = make("PQ")
    assert len(index) == index.ntotal == N
    index.reset()
    assert len(index) == 0


@pytest.mark.parametrize("name", ["plain.faiss", "bundle/config.json", "notes.txt", "missing"])
def test_read_index__of_another_file_says_what_reads_it(make, tmp_path, name):
    index = make("PQ")
    faiss.write_index(index.faiss_index, str(tmp_path / "plain.faiss"))
    write_index(index, tmp_path / "bundle")
    (tmp_path / "notes.txt").write_text("notes")
    message = {
        "bundle/config.json": f"give the folder {tmp_path / 'bundle'}$",
        "missing": "which does not exist; write_index and `faiss-pqvae train` make one",
    }.get(name, "which is a file and no folder: faiss.read_index reads files of FAISS's own")
    with pytest.raises(FileNotFoundError, match=f"no bundle in .*{message}"):
        read_index(tmp_path / name)


@pytest.mark.parametrize(
    ("make_settings", "message"),
    [
        (lambda: fpq.TrainingConfig(epochs=2.5), "an integer as epochs, got 2.5"),
        (lambda: fpq.TrainingConfig(batch_size="64"), "an integer as batch_size, got '64'"),
        (lambda: fpq.TrainingConfig(seed=True), "an integer as seed, got True"),
        (lambda: fpq.TrainingConfig(lr="fast"), "a number as lr, got 'fast'"),
        (lambda: fpq.ModelConfig(width=2.5), "an integer as width, got 2.5"),
        (lambda: fpq.ModelConfig(dsub="4"), "an integer as dsub, got '4'"),
        (lambda: fpq.ModelConfig(unit_latents=1), "unit_latents as a bool, got int"),
        (lambda: fpq.Reconstruction(lambda_="0.1"), "a number as lambda_, got '0.1'"),
        (lambda: fpq.Reconstruction(warmup_steps=1.5), "an integer as warmup_steps"),
        (lambda: fpq.Contrastive(temperature=True), "a number as temperature, got True"),
        (lambda: fpq.Ranking(items=1e5), "an integer as items, got 100000.0"),
        (lambda: fpq.DQN(labels=fpq.LabelTraining(n_views=2.5)), "an integer as n_views"),
        (lambda: fpq.DPQ(softness="1"), "a number as softness, got '1'"),
        (lambda: fpq.Views(shift="1"), "a number as shift, got '1'"),
    ],
)
def test_settings__refuse_what_is_no_number(make_settings, message):
    with pytest.raises(TypeError, match=f"expected {message}"):
        make_settings()
