"""What each index can do: every method of faiss.Index, called on every kind.

The table of docs/reference/operations.md is what this file finds: running it as a script (`python`
and its path) writes it.
"""

import copy
import functools
import importlib
import pickle
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faiss_pqvae import LatentIndex, ModelConfig, index_factory, read_index, write_index
from faiss_pqvae.native import faiss

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "operations.md"
START, END = "<!-- operations -->", "<!-- /operations -->"
D, N = 8, 200

KINDS = ["PQVAE4", "PQVAE4x4fs", "IVF4,PQVAE4", "IVF4,PQVAE4x4fs", "HNSW8,PQVAE4", "DPQ4"]
AROUND = ["IDMap2,{}", "{},RFlat", "{},RDecoder"]

# Of faiss.Index, and not of a LatentIndex: for C++, or about one float32 array.
LACKING = {"get_distance_computer", "metric_arg", "search1", "search_subset", "thisown"}
LACKING |= {"train_with_queries", "verbose"}
PROPERTIES = {"d", "is_trained", "metric_type", "ntotal"}


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


def _fit(model: Any, x: Any, **options: Any) -> list[dict[str, Any]]:
    """In the place of a training: random codewords behind an encoder as it was initialised."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.quantizer.codewords.normal_(generator=generator)
        model.fitted.fill_(True)
    return []


def exported(index: LatentIndex) -> Any:
    """A pure index, also where it ranks by tables alone and a warning says so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FAISS cannot run the decoder")
        return index.to_faiss()


def _trained(description: str) -> LatentIndex:
    model = ModelConfig(encoder="linear", dsub=2, normalize_latents=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        index = index_factory(D, description, model=model)
    _fit.check, _fit.takes_coarse = lambda n, **given: {}, True
    index.fit = _fit
    index.train(vectors(N), _labels(index), progress=False)
    return index


def _labels(index: LatentIndex) -> Any:
    return np.arange(N) % 2 if index.model.spec.name in ("DQN", "DPQ") else None


def _filled(description: str) -> LatentIndex:
    return copy.deepcopy(_made(description))


@functools.cache
def _made(description: str) -> LatentIndex:
    index = _trained(description)
    if description.startswith("IDMap"):
        index.add_with_ids(vectors(N), np.arange(N))
    else:
        index.add(vectors(N))
    return index


def _ids(index: LatentIndex) -> Any:
    return np.arange(N, N + 3) if index.description.startswith("IDMap") else None


def _read_again(index: LatentIndex) -> int:
    with tempfile.TemporaryDirectory() as folder:
        write_index(index, Path(folder) / "index")
        return read_index(Path(folder) / "index").ntotal


def _sdc(index: LatentIndex) -> Any:
    index.search_type = "sdc"
    return index.search(vectors(3), 2)


def _merged(index: LatentIndex) -> int:
    index.merge_from(_filled(index.description), N if "IVF" in index.description else 0)
    return index.ntotal


def search_pure(index: LatentIndex, pure: faiss.Index) -> None:
    """Items where FAISS runs the encoder, else latents."""
    takes_items = pure.d == vectors(3).shape[1]
    pure.search(vectors(3) if takes_items else index.encode(vectors(3)), 2)


SELECTED = faiss.SearchParameters(sel=faiss.IDSelectorRange(0, 50))
# By the name of faiss.Index's method, or by what is done with it.
OPERATIONS: dict[str, Callable[[LatentIndex], Any]] = {
    "train": lambda index: [
        index.reset(),
        index.train(vectors(N), _labels(index), progress=False),
    ],
    "add": lambda index: index.add(vectors(3)),
    "add_with_ids": lambda index: index.add_with_ids(vectors(3), np.arange(N, N + 3)),
    "add_sa_codes": lambda index: index.add_sa_codes(index.sa_encode(vectors(3)), _ids(index)),
    "sa_encode": lambda index: index.sa_encode(vectors(3)),
    "sa_decode": lambda index: index.sa_decode(index.sa_encode(vectors(3))),
    "sa_code_size": lambda index: index.sa_code_size(),
    "search": lambda index: index.search(vectors(3), 2),
    "search of selected ids": lambda index: index.search(vectors(3), 2, params=SELECTED),
    'search_type = "sdc"': _sdc,
    "assign": lambda index: index.assign(vectors(3), 2),
    "search_and_reconstruct": lambda index: index.search_and_reconstruct(vectors(3), 2),
    "range_search": lambda index: index.range_search(vectors(3), 1.0),
    "range_search of selected ids": lambda index: index.range_search(
        vectors(3), 1.0, params=SELECTED
    ),
    "reconstruct": lambda index: index.reconstruct(7),
    "reconstruct_batch": lambda index: index.reconstruct_batch([7, 3]),
    "reconstruct_n": lambda index: index.reconstruct_n(7, 3),
    "compute_residual": lambda index: index.compute_residual(vectors(1)[0], 7),
    "compute_residual_n": lambda index: index.compute_residual_n(vectors(2), [7, 3]),
    "prefix": lambda index: index.prefix(2),
    "remove_ids": lambda index: index.remove_ids(np.arange(10)),
    "check_compatible_for_merge": lambda index: index.check_compatible_for_merge(
        _trained(index.description)
    ),
    "merge_from": _merged,
    "reset": lambda index: index.reset(),
    "nprobe": lambda index: setattr(index, "nprobe", 2),
    "efSearch": lambda index: setattr(index, "efSearch", 20),
    "write_index": _read_again,
    "to_faiss": lambda index: search_pure(index, exported(index)),
}


def refusal(operation: str, description: str) -> str:
    """Why an index cannot do something, whatever it is called; "" if it can."""
    index = _filled(description)
    try:
        OPERATIONS[operation](index)
    except (ValueError, TypeError) as error:
        reason = re.sub(r"\bIndex\w+", "it", str(error).replace(description, "it"))
    else:
        return ""
    assert index.ntotal == N
    return reason[0].upper() + reason[1:] + "."


def refusals() -> dict[str, dict[str, str]]:
    """By operation and description."""
    descriptions = [around.format(kind) for around in ["{}", *AROUND] for kind in KINDS]
    return {name: {text: refusal(name, text) for text in descriptions} for name in OPERATIONS}


def table(found: dict[str, dict[str, str]]) -> str:
    """Markdown: one row for all operations that are alike, the reasons as footnotes."""
    reasons: list[str] = []

    def cell(reason: str) -> str:
        if not reason:
            return "yes"
        if reason not in reasons:
            reasons.append(reason)
        return f"no [{reasons.index(reason) + 1}]"

    rows: dict[tuple[str, ...], list[str]] = {}
    for operation, by_description in found.items():
        cells = [cell(by_description[kind]) for kind in KINDS]
        for around in AROUND:
            there = [by_description[around.format(kind)] for kind in KINDS]
            same = there == [by_description[kind] for kind in KINDS]
            # One word for all kinds, or every kind's own.
            own = " / ".join(dict.fromkeys(map(cell, there)))
            cells.append("as without" if same else own)
        rows.setdefault(tuple(cells), []).append(f"`{operation}`")
    heads = [*(f"`{kind}`" for kind in KINDS), *(f"`{text.format('...')}`" for text in AROUND)]
    lines = ["| | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    lines += [f"| {', '.join(names)} | {' | '.join(cells)} |" for cells, names in rows.items()]
    notes = [f"{i}. {reason}" for i, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes])


# What of no items at all: by name, as faiss.Index gives it.
NONE = vectors(0)
LISTED = ["IVF4,PQVAE4", "IVF4,PQVAE4x4fs"]
EMPTY: dict[str, Callable[[LatentIndex], Any]] = {
    "add": lambda index: index.add(NONE),
    "add_with_ids": lambda index: index.add_with_ids(NONE, []),
    "add_sa_codes": lambda index: index.add_sa_codes(
        index.sa_encode(NONE), None if _ids(index) is None else []
    ),
    "search": lambda index: index.search(NONE, 3),
    'search_type = "sdc"': lambda index: [
        setattr(index, "search_type", "sdc"),
        *index.search(NONE, 3),
    ],
    "search of selected ids": lambda index: index.search(NONE, 3, params=SELECTED),
    "assign": lambda index: [index.assign(NONE, 3)],
    "search_and_reconstruct": lambda index: index.search_and_reconstruct(NONE, 3),
    "range_search": lambda index: index.range_search(NONE, 1.0),
    "encode": lambda index: [index.encode(NONE)],
    "decode": lambda index: [index.decode(index.encode(NONE))],
    "sa_encode": lambda index: [index.sa_encode(NONE)],
    "sa_decode": lambda index: [index.sa_decode(index.sa_encode(NONE))],
    "reconstruct_batch": lambda index: [index.reconstruct_batch([])],
    "reconstruct_n": lambda index: [index.reconstruct_n(7, 0)],
    "compute_residual_n": lambda index: [index.compute_residual_n(NONE, [])],
    "remove_ids": lambda index: index.remove_ids([]),
    "merge_from": lambda index: index.merge_from(_trained(index.description)),
    "write_index": lambda index: _read_again(index),
}


def _shapes_of_none(index: LatentIndex, operation: str) -> Any:
    """Shapes and dtypes of arrays, or what else there is."""
    d, floats, ids = index.faiss_index.d, (np.float32,), (np.int64,)
    found = [((0, 3), *floats), ((0, 3), *ids)]
    latents = [((0, d), *floats)]
    return {
        "search": found,
        'search_type = "sdc"': found,
        "search of selected ids": found,
        "assign": found[1:],
        "search_and_reconstruct": [*found, ((0, 3, d), *floats)],
        "range_search": [((1,), np.uint64), ((0,), *floats), ((0,), *ids)],
        "encode": latents,
        "decode": [((0, D), *floats)],
        "sa_encode": [((0, index.sa_code_size()), np.uint8)],
        "sa_decode": latents,
        "reconstruct_batch": latents,
        "reconstruct_n": latents,
        "compute_residual_n": latents,
        "remove_ids": 0,
        "write_index": index.ntotal,
    }.get(operation)


@pytest.mark.parametrize("n", [0, N])
@pytest.mark.parametrize("around", ["{}", *AROUND])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.jury
def test_no_items__give_faisss_empty_results(found, kind, around, n):
    description = around.format(kind)
    index = _filled(description)
    if not n:
        index.reset()
    for operation, call in EMPTY.items():
        if found.get(operation, {}).get(description):  # which it cannot do of any
            continue
        results = call(index)
        if isinstance(results, list | tuple):
            results = [(a.shape, a.dtype) for a in results if a is not None]
        assert results == _shapes_of_none(index, operation), operation
        index.search_type = "adc"
        assert index.ntotal == n, operation


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str]]:
    return refusals()


def test_page__shows_what_each_index_can_do(found):
    section = PAGE.read_text(encoding="utf-8").split(START)[1].split(END)[0]
    assert section.strip() == table(found)


def test_operations__are_all_of_faiss():
    methods = {name for name in dir(faiss.Index) if not name.startswith("_")}
    methods = {name for name in methods if not name.endswith(("_c", "_ex"))}
    assert methods == (methods & set(OPERATIONS)) | PROPERTIES | LACKING
    assert all(hasattr(LatentIndex, name) for name in methods - LACKING)
    assert not any(hasattr(LatentIndex, name) for name in LACKING)


@pytest.mark.parametrize(
    ("description", "impossible"),
    [
        ("PQVAE4", {"add_with_ids", "nprobe", "efSearch"}),
        ("IDMap2,IVF4,PQVAE4x4fs", {"add", "efSearch"}),
        ("HNSW8,PQVAE4", {"add_with_ids", "remove_ids", "merge_from", "nprobe"}),
        ("IVF4,PQVAE4,RFlat", {"add_sa_codes", "range_search", "efSearch"}),
    ],
)
def test_operations__impossible_ones_say_why(found, description, impossible):
    also = {"check_compatible_for_merge"} if "merge_from" in impossible else set()
    also |= {"range_search of selected ids"} if "range_search" in impossible else set()
    assert {name for name in found if found[name][description]} == impossible | also | {"prefix"}


# -- after `import faiss.contrib.torch_utils`, which replaces methods of every FAISS index

PATCHED = ["PQVAE4", "PQVAE4x4fs", "IVF4,PQVAE4,RFlat", "IDMap2,IVF4,PQVAE4x4fs"]
PATCHED += ["HNSW8,PQVAE4", "DPQ4,RDecoder"]
OF_TENSORS: dict[str, Callable[[LatentIndex], Any]] = {
    "search of a tensor": lambda index: index.search(torch.from_numpy(vectors(1)), 2),
    "encode of a tensor": lambda index: index.encode(torch.from_numpy(vectors(3))),
    "remove_ids of a tensor": lambda index: index.remove_ids(torch.arange(10)),
}


def outcome(operation: str, index: LatentIndex) -> Any:
    """What an operation gives, and what a search finds afterwards; an error by its message."""
    try:
        given = (OPERATIONS | OF_TENSORS)[operation](index)
    except (ValueError, TypeError) as error:
        given = f"{type(error).__name__}: {error}"
    if isinstance(given, LatentIndex):
        given = given.search(vectors(3), 2)
    return given, index.search(vectors(3), 2)


def outcomes(kinds: list[str]) -> dict[tuple[str, str], Any]:
    filled = {kind: _filled(kind) for kind in kinds}
    return {
        (name, kind): outcome(name, copy.deepcopy(index))
        for name in OPERATIONS | OF_TENSORS
        for kind, index in filled.items()
    }


def _assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, tuple | list):
        for part, wanted in zip(found, expected, strict=True):
            _assert_same(part, wanted)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, str], Any]:
    assert "faiss.contrib.torch_utils" not in sys.modules
    return outcomes(PATCHED)


@pytest.fixture
def _torch_utils() -> Iterator[None]:
    """The patch, which is for the whole process, undone afterwards."""
    changed = [faiss, *(kind for kind in vars(faiss).values() if isinstance(kind, type))]
    before = [dict(vars(place)) for place in changed]
    importlib.import_module("faiss.contrib.torch_utils")
    yield
    del sys.modules["faiss.contrib.torch_utils"]
    for place, own in zip(changed, before, strict=True):
        for name, value in list(vars(place).items()):
            if name not in own:
                delattr(place, name)
            elif value is not own[name]:
                setattr(place, name, own[name])


@pytest.mark.usefixtures("_torch_utils")
def test_operations__are_the_same_after_torch_utils(expected):
    with pytest.raises(TypeError, match="params"):  # what would be called without `own`
        faiss.IndexFlat(D).search(vectors(1), 1, params=None)
    found = outcomes(PATCHED)
    for key, wanted in expected.items():
        _assert_same(found[key], wanted)


def test_operations__are_the_same_where_torch_utils_came_first(expected):
    kind = "IVF4,PQVAE4,RFlat"
    code = (
        "import sys, faiss.contrib.torch_utils, torch; torch.set_num_threads(1); "
        f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import pickle, test_operations; "
        f"sys.stdout.buffer.write(pickle.dumps(test_operations.outcomes([{kind!r}])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    found = pickle.loads(done.stdout)
    for operation in OPERATIONS | OF_TENSORS:
        _assert_same(found[operation, kind], expected[operation, kind])


def _write() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    PAGE.write_text(
        f"{before}{START}\n\n{table(refusals())}\n\n{END}{after}", encoding="utf-8", newline="\n"
    )


if __name__ == "__main__":
    _write()
