"""Files that are either the old ones or the new ones, at any moment of a crash."""

from __future__ import annotations

import os
from pathlib import Path


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


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file so that a crash leaves the old content or the new one.

    Args:
        path: the file; its folder must exist.
        content: what it holds afterwards.

    Raises:
        OSError: the disk is full or failing; the file holds the old content, or the new one when
            only the folder could not be synced.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        new.write_bytes(content)
        sync(new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)
