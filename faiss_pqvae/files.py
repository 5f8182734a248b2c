"""Files that are either the old ones or the new ones, at any moment of a crash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: a limit of the process


@contextlib.contextmanager
def space_for(path: Path) -> Iterator[None]:
    """While a file is written: an error of a full disk names it, and how much is free.

    Raises:
        OSError: as it came, or one that says so.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise no_space(path, os.strerror(error.errno)) from error


def no_space(path: Path, reason: str) -> OSError:
    """What to raise when a file cannot be written: its name, why, and how much is free."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free_bytes = shutil.disk_usage(folder).free
    # By its own name, where it has one for the time of writing.
    path = path.with_name(re.sub(r"^\.(.+)\.[0-9a-f]+\.new$", r"\1", path.name))
    return OSError(f"cannot write {path}: {reason}; its disk has {free_bytes:,} bytes free")


def check_folder(folder: Path) -> None:
    """Whether files can be written to a folder, asked before the work that would be lost.

    Leaves nothing behind; a folder that is missing is made and removed again.

    Raises:
        OSError: they cannot; the message says why.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise OSError(f"cannot write to {folder}: {path} is a file and no folder")
        with space_for(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"x")
    except (PermissionError, FileNotFoundError) as error:
        raise OSError(f"cannot write to {folder}: {error.strerror}") from error
    finally:
        for path in missing:
            with contextlib.suppress(OSError):  # never made
                path.rmdir()


def sync(path: Path) -> None:
    """Flushes a file or a folder's entries to the disk.

    Raises:
        OSError: the disk is full or failing.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a crash leaves the old content or the new one.

    Args:
        path: the file; its folder must exist.
        content: what it holds afterwards.

    Raises:
        OSError: the disk is full or failing; the file holds the old content, or the new one when
            only the folder could not be synced.
    """
    if path.is_dir():  # found out by `replace` otherwise, in words about the other name
        raise IsADirectoryError(errno.EISDIR, "expected a file to write, got a folder", str(path))
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    with space_for(path):
        try:
            new.write_bytes(content)
            sync(new)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        sync(path.parent)


def write_checked(path: Path, content: bytes) -> None:
    """As `replace_bytes`, with a checksum before the content; makes the folder when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(path, zlib.crc32(content).to_bytes(4, "little") + content)


def read_checked(path: Path) -> bytes | None:
    """What `write_checked` wrote; None if that is not there, or damaged."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    content = found[4:]
    return content if zlib.crc32(content).to_bytes(4, "little") == found[:4] else None
