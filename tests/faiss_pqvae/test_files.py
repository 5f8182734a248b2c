"""Files: the old content or the new, whatever happens."""

import errno
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faiss_pqvae import files
from faiss_pqvae.files import (
    check_folder,
    read_checked,
    replace_bytes,
    space_for,
    sync,
    write_checked,
)


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
    temporary = steps[0][1]
    assert re.fullmatch(r"\.file\.bin\.[0-9a-f]{16}\.new", temporary)
    assert steps == [("sync", temporary), ("replace", "file.bin"), ("sync", path.parent.name)]


def test_sync__closes_what_it_opened(path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    sync(path)
    sync(path.parent)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_sync__of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "missing")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_space_for__names_the_file_and_what_is_free(path: Path, number: int) -> None:
    expected = rf"cannot write {path}: {os.strerror(number)}; its disk has [\d,]+ bytes free"
    with pytest.raises(OSError, match=expected), space_for(path):
        raise OSError(number, os.strerror(number))


def test_space_for__names_a_file_as_it_is_called_when_it_is_whole(tmp_path: Path) -> None:
    expected = rf"cannot write {tmp_path / 'model'}: No space left on device; its"
    with pytest.raises(OSError, match=expected), space_for(tmp_path / ".model.123.new"):
        raise OSError(errno.ENOSPC, "full")


def test_space_for__leaves_other_errors_alone(path: Path) -> None:
    with pytest.raises(PermissionError, match=r"^\[Errno 13\] no$"), space_for(path):
        raise OSError(errno.EACCES, "no")


def test_replace_bytes__of_a_full_disk_names_the_file(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.setattr(files, "sync", _raise(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=f"cannot write {path}: No space"):
        replace_bytes(path, b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", [".", "made", "made/below"])
def test_check_folder__leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    check_folder(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "below", "below/further"])
def test_check_folder__refuses_a_file_in_the_way(path: Path, below: str) -> None:
    with pytest.raises(OSError, match=rf"cannot write to {path / below}: {path} is a file"):
        check_folder(path / below)
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "cannot write to {folder}: Permission denied"),
        (errno.ENOSPC, "cannot write {folder}: No space left on device; its disk has"),
    ],
)
def test_check_folder__tries_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    refusal = _raise(OSError(number, os.strerror(number)))
    monkeypatch.setattr(tempfile, "TemporaryFile", refusal)
    folder = tmp_path / "made"
    with pytest.raises(OSError, match=message.format(folder=folder)):
        check_folder(folder)
    assert not folder.exists()


def test_read_checked__is_what_was_written_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "made" / "kept"
    assert read_checked(path) is None
    for content in (b"", b"some bytes"):
        write_checked(path, content)
        assert read_checked(path) == content
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", whole[:5] + b"X" + whole[6:]):
        path.write_bytes(damaged)
        assert read_checked(path) is None
