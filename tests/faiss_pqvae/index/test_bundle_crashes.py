"""Writing a bundle: old or new after any crash, and nothing left behind."""

import contextlib
import errno
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faiss_pqvae import LatentIndex, files, read_index, write_index
from faiss_pqvae.index import bundle
from faiss_pqvae.index.bundle import read_config
from faiss_pqvae.index.items import Items
from faiss_pqvae.index.items_file import to_bytes
from faiss_pqvae.index.transforms import Transforms
from faiss_pqvae.native import faiss

L2 = faiss.METRIC_L2


def _fingerprint(index: LatentIndex) -> tuple[Any, ...]:
    """Everything that has to survive, to the bit."""
    x = np.random.default_rng(7).standard_normal((4, *index.input_shape), dtype=np.float32)
    D, I = index.search(x, 3)  # noqa: E741
    native = faiss.serialize_index(index.faiss_index).tobytes()
    names = None if index.items is None else to_bytes(index.items)
    return (
        D.tobytes(),
        I.tobytes(),
        native,
        names,
        index.search_type,
        repr(index),
        index.model.config,
    )


def _part(folder: Path, role: str) -> Path:
    return folder / read_config(folder)["files"][role]["name"]


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _named(folder: Path) -> set[str]:
    """What has to be in the folder, and nothing else."""
    parts = read_config(folder)["files"].values()
    return {"config.json", *(part["name"] for part in parts)}


@pytest.fixture(scope="module")
def made(make_identity) -> dict[str, LatentIndex]:
    """Indexes whose bundles have different parts."""
    flat, transform = faiss.IndexFlatL2(8), faiss.index_factory(8, "L2norm,Flat")
    made = {
        "plain": make_identity("PQ", 4, L2),
        "other": make_identity("PQ", 8, L2),
        "refined": make_identity("HNSW", 4, L2, refine=flat),
        "decoder": make_identity("IVF", 4, L2, refine="decoder"),
        "transformed": make_identity("PQfs", 4, L2),
        "later": make_identity("PQ", 5, L2),
    }
    plain = make_identity("PQ", 4, L2)
    both = made["both"] = LatentIndex(
        plain.model,
        faiss_index=plain.faiss_index,
        transforms=Transforms(transform),
        refine_index=faiss.IndexFlatL2(8),
    )
    made["transformed"] = LatentIndex(plain.model, transforms=Transforms(transform))
    assert both.transforms is not None
    x = np.random.default_rng(0).standard_normal((20, 8), dtype=np.float32)
    for index in made.values():
        index.add(x)
    both.items = Items.of_names([f"item {i}" for i in range(20)])
    return made


@pytest.fixture
def index(made) -> LatentIndex:
    return made["plain"]


@pytest.fixture
def other(made) -> LatentIndex:
    return made["other"]


@pytest.fixture
def folder(index: LatentIndex, tmp_path: Path) -> Path:
    """A bundle of `index`."""
    write_index(index, tmp_path / "bundle")
    return tmp_path / "bundle"


PAIRS = [
    (None, "both"),
    ("plain", "both"),
    ("both", "plain"),
    ("refined", "transformed"),
    ("decoder", "refined"),
]


# -- crashes: one step of the writing after the other


class Killed(BaseException):
    """Stands for kill -9: nothing that comes after it reaches the disk."""


# What changes or secures the disk, as the writing calls it.
STEPS = [
    (Path, "mkdir"),
    (faiss, "write_index"),
    (bundle, "sync"),
    (files, "sync"),
    (Path, "write_bytes"),
    (Path, "replace"),
    (Path, "unlink"),
]
# Those that write content die half way as well: the position of the path in their arguments.
WRITERS = {"write_index": 1, "write_bytes": 0}


@contextlib.contextmanager
def _fail_at(
    step: int, error: BaseException, *, dead: bool, spare: tuple[str, ...] = ()
) -> Iterator[list[str]]:
    """Raises `error` at the step of that number, and yields the names of the steps taken.

    Args:
        step: counted from 0; a writer is two steps, before its file and with half of it.
        error: what is raised.
        dead: no later step does anything, as after kill -9.
        spare: names of steps that never fail.
    """
    taken: list[str] = []
    failed = False

    def watch(owner: Any, name: str) -> Callable[..., Any]:
        original = getattr(owner, name)

        def due() -> bool:
            nonlocal failed
            taken.append(name)
            failed = failed or len(taken) == step + 1
            return len(taken) == step + 1

        def call(*arguments: Any, **options: Any) -> Any:
            if failed and dead:
                return None
            if name in spare:
                return original(*arguments, **options)
            if due():
                raise error
            if name not in WRITERS:
                return original(*arguments, **options)
            result = original(*arguments, **options)
            if due():
                path = arguments[WRITERS[name]]
                os.truncate(path, Path(path).stat().st_size // 2)
                raise error
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 4_000_000)  # the dead process was another one
        for owner, name in STEPS:
            patch.setattr(owner, name, watch(owner, name))
        yield taken


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_write__killed_at_any_step_leaves_the_old_or_the_new(made, tmp_path, old, new):
    allowed = {_fingerprint(made[name]): name for name in (old, new) if name}
    left = []
    for step in itertools.count():
        folder = tmp_path / str(step)
        if old:
            write_index(made[old], folder)
        with _fail_at(step, Killed(), dead=True) as taken, contextlib.suppress(Killed):
            write_index(made[new], folder)
        if len(taken) <= step:  # the writing was over before
            break
        if old or (folder / "config.json").exists():
            left.append(allowed[_fingerprint(read_index(folder))])
        write_index(made["later"], folder)  # and the next writing cleans up
        assert _fingerprint(read_index(folder)) == _fingerprint(made["later"])
        assert _names(folder) == _named(folder), f"after {taken}"
    assert _names(folder) == _named(folder)
    assert set(taken) == {name for _, name in STEPS} - ({"mkdir"} if old else set())
    content = taken[taken.index("write_bytes") :]
    assert content.index("sync") < content.index("replace")
    # Old up to one step, new from there on.
    first = left.index(new)
    assert left == [old] * first + [new] * (len(left) - first)
    assert bool(first) == (old is not None)


@pytest.mark.parametrize(("old", "new"), PAIRS[1:3])
def test_write__without_space_at_any_step_leaves_the_old(made, tmp_path, old, new):
    folder = tmp_path / "bundle"
    allowed = {_fingerprint(made[name]): name for name in (old, new)}
    write_index(made[old], folder)
    for step in itertools.count():
        error = OSError(errno.ENOSPC, "No space left on device")
        with (
            _fail_at(step, error, dead=False, spare=("unlink",)) as taken,
            contextlib.suppress(OSError),
        ):
            write_index(made[new], folder)
        found = allowed[_fingerprint(read_index(folder))]
        # Nothing that a full disk would have to keep, before another writing succeeds.
        assert _names(folder) == _named(folder), f"after {taken}"
        if len(taken) <= step:
            break
        # The last step, the sync of the folder, is after the replacement.
        parts = len(_named(folder)) if found == new else 99
        done = taken.count("replace") == parts and taken[-1] != "replace"
        assert found == (new if done else old), f"after {taken}"
        write_index(made[old], folder)
    assert found == new


def test_write__without_space_for_the_first_bundle_leaves_nothing(made, tmp_path):
    for step in itertools.count():
        folder = tmp_path / str(step)
        error = OSError(errno.ENOSPC, "No space left on device")
        with (
            _fail_at(step, error, dead=False, spare=("unlink", "mkdir")) as taken,
            contextlib.suppress(OSError),
        ):
            write_index(made["both"], folder)
        if len(taken) <= step:
            break
        if folder.exists():
            assert _names(folder) in (set(), _named_or_none(folder)), f"after {taken}"


def _named_or_none(folder: Path) -> set[str]:
    return _named(folder) if (folder / "config.json").exists() else set()


def test_write__over_a_damaged_configuration(index, other, folder):
    """What a damaged bundle has is there until the new one is."""
    (folder / "config.json").write_text("{")
    before = _names(folder)
    for step in itertools.count():
        error = OSError(errno.ENOSPC, "No space left on device")
        with (
            _fail_at(step, error, dead=False, spare=("unlink",)) as taken,
            contextlib.suppress(OSError),
        ):
            write_index(other, folder)
        if len(taken) <= step or (folder / "config.json").read_text() != "{":
            break
        assert before <= _names(folder)
    write_index(other, folder)
    assert _names(folder) == _named(folder)
    assert _fingerprint(read_index(folder)) == _fingerprint(other)


def test_write__what_json_cannot_hold_changes_nothing(made, folder, index):
    before = _names(folder)
    made["other"].description = object()
    try:
        with pytest.raises(TypeError, match="JSON"):
            write_index(made["other"], folder)
    finally:
        made["other"].description = "PQVAE4x8"
    assert _names(folder) == before
    assert _fingerprint(read_index(folder)) == _fingerprint(index)


def test_write__errors_of_faiss_are_os_errors(monkeypatch, index, other, folder):
    def fail(*arguments: Any) -> None:
        raise RuntimeError("Error: write error: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(faiss, "write_index", fail)
        with pytest.raises(OSError, match="cannot write"):
            write_index(other, folder)
    assert _names(folder) == _named(folder)
    assert _fingerprint(read_index(folder)) == _fingerprint(index)


@pytest.mark.parametrize("largest", ["model", "index", "config"])
def test_write__over_a_real_limit_of_file_size(index, other, folder, largest):
    """The kernel refuses, as it does on a full disk: the libraries' own writing fails."""
    model, native = (_part(folder, role).stat().st_size for role in ("model", "index"))
    config = (folder / "config.json").stat().st_size
    limit = {"model": model - 1, "index": native - 1, "config": config - 1}[largest]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OSError, match=r"^cannot write .*bytes free$") as error:
            write_index(other, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert f"{folder}/" in str(error.value)
    assert _names(folder) == _named(folder)
    assert _fingerprint(read_index(folder)) == _fingerprint(index)


WRITE_FOREVER = """
import os, signal, sys
from faiss_pqvae import read_index, write_index
indexes = [read_index(path) for path in sys.argv[1:3]]
writers = []
for target in sys.argv[3:]:
    writers.append(os.fork())  # nothing was searched: no threads to lose
    while not writers[-1]:
        for index in indexes:
            write_index(index, target)
print(*writers, flush=True)
ends = [os.waitpid(writer, 0)[1] for writer in writers]
sys.exit(any(end != signal.SIGKILL for end in ends))
"""


def test_write__killed_for_real(made, tmp_path):
    sources = [tmp_path / "a", tmp_path / "b"]
    for name, source in zip(("both", "plain"), sources, strict=True):
        write_index(made[name], source)
    allowed = {_fingerprint(made["both"]), _fingerprint(made["plain"])}
    delays = random.Random(0)
    targets = [tmp_path / f"target{i}" for i in range(6)]
    for target in targets:
        write_index(made["plain"], target)
    # From another folder: the installed package, not a folder of the same name here.
    command = [sys.executable, "-c", WRITE_FOREVER, *map(str, (*sources, *targets))]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as child:
        assert child.stdout is not None
        writers = [int(pid) for pid in child.stdout.readline().split()]
        for writer in writers:
            time.sleep(delays.uniform(0.02, 0.1))
            os.kill(writer, signal.SIGKILL)
    assert len(writers) == len(targets)
    assert child.returncode == 0
    for target in targets:
        assert _fingerprint(read_index(target)) in allowed
        write_index(made["other"], target)
        assert _names(target) == _named(target)
