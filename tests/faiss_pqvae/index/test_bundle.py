"""Bundles: read back to the bit, refused when damaged, old or new after any crash."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faiss_pqvae import LatentIndex, read_index, write_index
from faiss_pqvae.index import bundle
from faiss_pqvae.index.bundle import read_config
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.items_file import to_bytes
from faiss_pqvae.native import faiss
from faiss_pqvae.native.inject import extract_codebooks

METRICS = [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT]
ROLES = ["model", "index"]


def _fingerprint(index: LatentIndex) -> tuple[Any, ...]:
    """Everything that has to survive, to the bit."""
    x = np.random.default_rng(7).random((4, *index.input_shape), dtype=np.float32)
    D, I = index.search(x, 3)  # noqa: E741
    return (
        D.tobytes(),
        I.tobytes(),
        index.encode(x).tobytes(),
        index.decode(index.encode(x)).tobytes(),
        faiss.vector_to_array(index.faiss_index.codes).tobytes(),
        extract_codebooks(index.faiss_index).centroids.tobytes(),
        index.search_type,
        index.metric_type,
        index.model.config,
        index.input_shape,
    )


def _part(folder: Path, role: str) -> Path:
    return folder / read_config(folder)["files"][role]["name"]


def _edit_config(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    # With its hash, or no other check would ever be reached.
    config.pop("sha256", None)
    content = json.dumps(config, sort_keys=True).encode()
    config["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))


def _name_part(folder: Path, role: str, path: Path) -> None:
    """Makes a file a part of the bundle, with its right hash."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = f"{role}-{digest[:16]}{path.suffix}"
    shutil.copy(path, folder / name)
    part = {"name": name, "sha256": digest}
    _edit_config(folder, lambda config: config["files"].update({role: part}))


@pytest.fixture(scope="module")
def index(make_index) -> LatentIndex:
    return make_index(n=20)


@pytest.fixture(scope="module")
def other(make_index) -> LatentIndex:
    return make_index(n=30, seed=1)


@pytest.fixture
def folder(index: LatentIndex, tmp_path: Path) -> Path:
    """A bundle of `index`."""
    write_index(index, tmp_path / "bundle")
    return tmp_path / "bundle"


# -- round trip


@pytest.mark.parametrize("search_type", ["adc", "sdc"])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbits", [4, 8])
@pytest.mark.parametrize("shape", [(3, 8, 8), (12,)], ids=str)
def test_read__gives_what_was_written(make_index, tmp_path, shape, nbits, metric, search_type):
    index = make_index(shape, 3, nbits, metric, n=20)
    index.search_type = search_type
    write_index(index, tmp_path / "bundle")
    assert _fingerprint(read_index(tmp_path / "bundle")) == _fingerprint(index)


@pytest.mark.parametrize(
    "config",
    [
        {"encoder": "linear", "decoder": "mlp"},
        {"decoder": "conv", "standardize": False},
        {"update": "gradient", "normalize_latents": False},
        {"objective": "contrastive"},
        {"objective": "contrastive", "encoder": "resnet18"},
    ],
    ids=str,
)
def test_read__of_every_configuration(make_index, tmp_path, config):
    index = make_index(n=5, **config)
    write_index(index, tmp_path)
    assert _fingerprint(read_index(tmp_path)) == _fingerprint(index)


def _of_format_2(config):
    """What the version before wrote: no spec, and settings of the training among the model's."""
    config.update(format=2)
    for later in ("spec", "encoder", "decoder"):
        del config[later]
    config["model"]["config"].update(
        objective="reconstruction", lambda_=0.01, beta=0.25, temperature=0.5, softness=5.0
    )


def test_read__vectors_without_an_encoders_name_had_an_mlp(make_index, tmp_path):
    index = make_index((12,), encoder="mlp")
    write_index(index, tmp_path)

    def older(config):
        _of_format_2(config)
        config["model"]["config"].update(encoder=None)

    _edit_config(tmp_path, older)
    assert read_index(tmp_path).model.config.encoder == "mlp"


def test_read__of_a_bundle_from_before_codes_of_residuals(index, folder):
    def older(config):
        config["format"] = 3
        del config["spec"]["by_residual"]

    _edit_config(folder, older)
    found = read_index(folder)
    assert _fingerprint(found) == _fingerprint(index)
    assert not found.model.spec.by_residual


def test_read__of_a_bundle_from_before_the_contrastive_objective(make_index, tmp_path):
    index = make_index(n=5)
    write_index(index, tmp_path)

    def older(config):
        _of_format_2(config)
        for name in ("objective", "temperature", "softness"):
            del config["model"]["config"][name]

    _edit_config(tmp_path, older)
    assert _fingerprint(read_index(tmp_path)) == _fingerprint(index)


def test_read__can_be_added_to(make_index, make_items, folder):
    index, again = make_index(n=20), read_index(folder)
    for each in (index, again):
        each.add(make_items(9, seed=2))
    assert again.ntotal == 29
    assert _fingerprint(again) == _fingerprint(index)


def test_read__of_a_bundle_that_was_read_and_written(folder, tmp_path, index):
    write_index(read_index(folder), tmp_path / "second")
    assert _fingerprint(read_index(tmp_path / "second")) == _fingerprint(index)
    assert _part(tmp_path / "second", "model").name == _part(folder, "model").name


def test_read__does_not_retrain_what_it_read(folder, index, rng):
    native = read_index(folder).faiss_index
    codebooks = extract_codebooks(native)
    native.reset()
    native.train(rng.standard_normal((500, native.d), dtype=np.float32))
    assert extract_codebooks(native) == codebooks


def test_read__of_an_index_without_items(make_index, tmp_path):
    write_index(make_index(), tmp_path / "a" / "b")
    assert read_index(str(tmp_path / "a" / "b")).ntotal == 0


def test_write__replaces_and_leaves_no_more_than_three_files(folder, other):
    write_index(other, folder)
    assert _fingerprint(read_index(folder)) == _fingerprint(other)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", *(_part(folder, role).name for role in ROLES)}


def test_write__the_same_again_keeps_it(folder, index):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_index(index, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_write__leaves_files_of_others_alone(index, other, tmp_path):
    theirs = ["notes.txt", "model.safetensors", "model-00001-of-00002.safetensors", "index-1.faiss"]
    for name in theirs:
        (tmp_path / name).write_text("mine")
    write_index(index, tmp_path)
    write_index(other, tmp_path)
    assert [name for name in theirs if (tmp_path / name).exists()] == theirs


def test_config__says_what_is_inside(folder):
    config = read_config(folder)
    assert config["factory"] == "PQVAE2x8"
    assert (config["format"], config["metric"], config["ntotal"]) == (bundle.FORMAT, "l2", 20)
    assert set(config["versions"]) == {"torch", "faiss", "numpy"}
    for part in config["files"].values():
        assert hashlib.sha256((folder / part["name"]).read_bytes()).hexdigest() == part["sha256"]


# -- names of items


@pytest.fixture
def named(folder, index) -> Path:
    """The bundle, with names."""
    index = read_index(folder)
    index.items = Items.of_files([f"/photos/{i}.jpg" for i in range(20)], "/photos")
    write_index(index, folder)
    return folder


def test_items__come_back(named, index):
    again = read_index(named)
    assert again.items.names([3, 19, -1]).tolist() == ["3.jpg", "19.jpg", ""]
    assert again.items.root == "/photos"
    assert _fingerprint(again) == _fingerprint(index)
    assert "items" not in read_config(named)  # but a file of their own


def test_items__are_removed_with_those_they_name(named, index):
    write_index(index, named)
    assert read_index(named).items is None
    assert not list(named.glob("items-*"))


def test_items__of_a_bundle_of_an_earlier_version_are_not_known(folder):
    assert "items" not in read_config(folder)["files"]
    assert read_index(folder).items is None


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_items__of_a_damaged_file_are_refused(named, damage):
    path = _part(named, "items")
    content = bytearray(path.read_bytes())
    content[-1] ^= damage == "flipped"
    path.write_bytes(content[: {"empty": 0, "cut": len(content) - 9}.get(damage, len(content))])
    if damage == "missing":
        path.unlink()
    with pytest.raises(ValueError, match=r"damaged bundle .*items"):
        read_index(named)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"{}", b"\xff" * 40, None])
def test_items__of_a_file_with_the_right_hash_that_is_none(named, tmp_path, content):
    path = tmp_path / "part.safetensors"
    path.write_bytes(_part(named, "model").read_bytes() if content is None else content)
    _name_part(named, "items", path)
    with pytest.raises(ValueError, match=r"cannot read .*expected a table of items"):
        read_index(named)


def test_items__of_another_bundle_are_refused(named, tmp_path):
    path = tmp_path / "part.safetensors"
    path.write_bytes(to_bytes(Items.of_names([str(i) for i in range(21)])))
    _name_part(named, "items", path)
    with pytest.raises(ValueError, match="at most the 20 items of the index, got 21"):
        read_index(named)


# -- refused to write


def test_write__rejects_an_untrained_index(make_index, tmp_path):
    with pytest.raises(ValueError, match="untrained"):
        write_index(make_index(trained=False), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_write__rejects_a_file_in_the_way(index, tmp_path):
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ValueError, match="expected a folder"):
        write_index(index, path)
    assert path.read_text() == "mine"


# -- refused to read


def test_read__of_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        read_index(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing, which does not exist"):
        read_index(tmp_path / "missing")


def test_read__of_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((FileNotFoundError, ValueError)):
        read_index(tmp_path / "file")


@pytest.mark.parametrize("role", ROLES)
def test_read__rejects_a_missing_part(folder, role):
    _part(folder, role).unlink()
    with pytest.raises(ValueError, match="is missing"):
        read_index(folder)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("role", [*ROLES, "config"])
def test_read__rejects_a_truncated_part(folder, role, share):
    path = folder / "config.json" if role == "config" else _part(folder, role)
    content = path.read_bytes()
    path.write_bytes(content[: min(int(share * len(content)), len(content) - 2)])
    with pytest.raises(ValueError, match="damaged bundle"):
        read_index(folder)


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
@pytest.mark.parametrize("role", ROLES)
def test_read__rejects_a_truncated_part_with_the_right_hash(folder, tmp_path, role, share):
    content = _part(folder, role).read_bytes()
    path = tmp_path / f"part{_part(folder, role).suffix}"
    path.write_bytes(content[: int(share * len(content))])
    _name_part(folder, role, path)
    with pytest.raises(ValueError, match=r"cannot read|do not fit|codes of"):
        read_index(folder)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    role=st.sampled_from(ROLES), position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7)
)
def test_read__rejects_a_flipped_bit(folder, role, position, bit):
    path = _part(folder, role)
    original = path.read_bytes()
    damaged = bytearray(original)
    damaged[int(position * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(ValueError, match="altered or truncated"):
            read_index(folder)
    finally:
        path.write_bytes(original)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_read__of_a_changed_config_is_refused_or_finds_the_same(folder, index, position, flip):
    path = folder / "config.json"
    original = path.read_bytes()
    damaged = bytearray(original)
    damaged[int(position * len(damaged))] ^= flip
    path.write_bytes(damaged)
    try:
        with contextlib.suppress(ValueError):
            # What changed is only told, not used: a version, a training constant.
            assert _fingerprint(read_index(folder))[:-3] == _fingerprint(index)[:-3]
    finally:
        path.write_bytes(original)


def test_read__takes_format_1(folder, index):
    config = json.loads((folder / "config.json").read_text())
    _of_format_2(config)
    for new in ("sha256", "refine", "k_factor"):
        del config[new]
    config.update(format=1)
    (folder / "config.json").write_text(json.dumps(config))
    assert _fingerprint(read_index(folder)) == _fingerprint(index)


def test_read__rejects_an_altered_configuration(folder):
    config = json.loads((folder / "config.json").read_text())
    config["search_type"] = "sdc"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json was altered"):
        read_index(folder)


def test_read__rejects_a_newer_format(folder):
    _edit_config(folder, lambda config: config.update(format=bundle.FORMAT + 1))
    with pytest.raises(ValueError, match="newer"):
        read_index(folder)


@pytest.mark.parametrize("value", [None, "1", 0, -1, 1.0, []])
def test_read__rejects_a_config_without_a_format(folder, value):
    _edit_config(folder, lambda config: config.update(format=value))
    with pytest.raises(ValueError, match="names no format version"):
        read_index(folder)


@pytest.mark.parametrize("content", ["", "[]", "3", "null", "{", "\xff", '{"format": 1}'])
def test_read__rejects_another_config(folder, content):
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="damaged bundle"):
        read_index(folder)


@pytest.mark.parametrize("key", ["model", "metric", "search_type", "files"])
@pytest.mark.parametrize("value", [None, "other", 5, []])
def test_read__rejects_a_config_with_a_wrong_value(folder, key, value):
    _edit_config(folder, lambda config: config.update({key: value}))
    with pytest.raises(ValueError, match=r"damaged bundle|expected"):
        read_index(folder)


@pytest.mark.parametrize("key", ["model", "metric", "search_type", "files"])
def test_read__rejects_a_config_that_lacks_a_key(folder, key):
    _edit_config(folder, lambda config: config.pop(key))
    with pytest.raises(ValueError, match=f"lacks or misuses '{key}'"):
        read_index(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("M", 4), ("nbits", 4), ("nbits", 99), ("input_shape", [1, 9, 9])]
)
def test_read__rejects_a_model_of_other_sizes(folder, key, value):
    _edit_config(folder, lambda config: config["model"].update({key: value}))
    with pytest.raises(ValueError, match=r"do not fit|expected"):
        read_index(folder)


@pytest.mark.parametrize("prefix", ["../", "sub/", "./", "/"])
@pytest.mark.parametrize("role", ROLES)
def test_read__rejects_parts_outside_the_folder(folder, role, prefix):
    part = _part(folder, role)
    (folder / "sub").mkdir()
    for place in (folder.parent, folder / "sub"):
        shutil.copy(part, place / part.name)
    name = str(folder.parent / part.name) if prefix == "/" else prefix + part.name
    _edit_config(folder, lambda config: config["files"][role].update(name=name))
    with pytest.raises(ValueError, match="is not a file of the bundle"):
        read_index(folder)


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", 3, None])
def test_read__rejects_names_that_are_none(folder, name):
    _edit_config(folder, lambda config: config["files"]["model"].update(name=name))
    with pytest.raises(ValueError, match="damaged bundle"):
        read_index(folder)


@pytest.mark.parametrize("role", ROLES)
def test_read__rejects_a_part_of_another_bundle(folder, tmp_path, role, other):
    write_index(other, tmp_path / "other")
    _name_part(folder, role, _part(tmp_path / "other", role))
    with pytest.raises(ValueError, match="are not those of the model"):
        read_index(folder)


def test_read__rejects_a_model_of_other_widths(folder, tmp_path, make_index):
    write_index(make_index(width=8), tmp_path / "other")
    _name_part(folder, "model", _part(tmp_path / "other", "model"))
    with pytest.raises(ValueError, match="do not fit the configuration"):
        read_index(folder)


def test_read__rejects_an_untrained_model(folder, tmp_path, make_index, index):
    tensors = index.model.state_dict()
    tensors["fitted"] = tensors["fitted"].clone().fill_(False)
    path = tmp_path / "part.safetensors"
    safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    _name_part(folder, "model", path)
    with pytest.raises(ValueError, match="untrained"):
        read_index(folder)


def _other_metric(index: LatentIndex) -> Any:
    native = faiss.clone_index(index.faiss_index)
    native.metric_type = faiss.METRIC_INNER_PRODUCT
    return native


def _other_dimension(index: LatentIndex) -> Any:
    native = faiss.clone_index(index.faiss_index)
    native.d = 400
    return native


def _too_many(index: LatentIndex) -> Any:
    native = faiss.clone_index(index.faiss_index)
    native.ntotal = 10**6
    return native


def _untrained(index: LatentIndex) -> Any:
    native = faiss.clone_index(index.faiss_index)
    native.is_trained = False
    return native


@pytest.mark.parametrize(
    "make",
    [
        lambda index: faiss.IndexFlatL2(8),
        lambda index: faiss.IndexPQ(8, 4, 8),
        lambda index: faiss.IndexPQ(16, 2, 8),
        lambda index: faiss.IndexPQ(8, 2, 4),
        _other_metric,
        _other_dimension,
        _too_many,
        _untrained,
    ],
    ids=["flat", "M", "d", "nbits", "metric", "pq.d", "ntotal", "untrained"],
)
def test_read__rejects_another_native_index(folder, tmp_path, make, index):
    path = tmp_path / "part.faiss"
    faiss.write_index(make(index), str(path))
    _name_part(folder, "index", path)
    with pytest.raises(ValueError, match=r"expected|cannot read"):
        read_index(folder)
