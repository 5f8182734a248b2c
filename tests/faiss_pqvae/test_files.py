"""Files: the old content or the new, whatever happens."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faiss_pqvae import files
from faiss_pqvae.files import replace_bytes, sync


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    return path


def _raise(error: BaseException) -> Callable[..., None]:
    def call(*arguments: Any, **options: Any) -> None:
        raise error

    return call


def test_replace_bytes__replaces(path: Path) -> None:
    replace_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_replace_bytes__makes_a_file(tmp_path: Path) -> None:
    replace_bytes(tmp_path / "made", b"")
    assert (tmp_path / "made").read_bytes() == b""


def test_replace_bytes__needs_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_bytes(tmp_path / "missing" / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_replace_bytes__does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - which one is the system's choice
        replace_bytes(tmp_path / "folder", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


@pytest.mark.parametrize("step", [(Path, "write_bytes"), (files, "sync"), (Path, "replace")])
def test_replace_bytes__after_an_error_keeps_the_old(
    monkeypatch: pytest.MonkeyPatch, path: Path, step: tuple[Any, str]
) -> None:
    monkeypatch.setattr(*step, _raise(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space"):
        replace_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", [(Path, "write_bytes"), (files, "sync"), (Path, "replace")])
def test_replace_bytes__killed_keeps_the_old(
    monkeypatch: pytest.MonkeyPatch, path: Path, step: tuple[Any, str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *arguments, **options: None)
        patch.setattr(*step, _raise(Killed()))
        with pytest.raises(Killed):
            replace_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    replace_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_replace_bytes__syncs_the_content_before_the_name(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    steps = []
    rename = Path.replace
    monkeypatch.setattr(files, "sync", lambda synced: steps.append(("sync", synced.name)))
    monkeypatch.setattr(
        Path, "replace", lambda self, to: steps.append(("replace", to.name)) or rename(self, to)
    )
    replace_bytes(path, b"new")
    temporary = f".file.bin.{os.getpid()}.new"
    assert steps == [("sync", temporary), ("replace", "file.bin"), ("sync", path.parent.name)]


def test_sync__closes_what_it_opened(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    sync(path)
    sync(path.parent)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_sync__of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")
