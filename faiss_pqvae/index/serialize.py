"""Bundles as bytes: for a database, a message, another process."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.types import CodeArray

_NO_BUNDLE = "expected the bytes that faiss_pqvae.serialize_index gives, got"


def serialize_index(index: LatentIndex) -> CodeArray:
    """A bundle as bytes: the files that `write_index` writes, in an uncompressed zip archive.

    Equal indexes give equal bytes. The folder for temporary files holds the bundle meanwhile.

    Args:
        index: a trained index.

    Returns:
        (n,) uint8, as faiss.serialize_index gives.

    Raises:
        TypeError, ValueError, OSError: as `write_index`.
    """
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        write_index(index, folder)
        with zipfile.ZipFile(content, "w") as archive:
            for path in sorted(Path(folder).iterdir()):
                # By name alone, for a file's own entry has its time.
                with archive.open(zipfile.ZipInfo(path.name), "w", force_zip64=True) as file:
                    file.write(path.read_bytes())
    return np.frombuffer(content.getbuffer(), np.uint8)


def deserialize_index(data: Any, *, encoder: Any = None, decoder: Any = None) -> LatentIndex:
    """Reads what `serialize_index` gave; checked as `read_index` checks a folder.

    Args:
        data: (n,) uint8, or bytes.
        encoder: see `read_index`.
        decoder: likewise.

    Raises:
        TypeError: no bytes.
        ValueError: other bytes, altered or truncated ones; what `read_index` refuses.
    """
    files = _files(_content(data))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        try:
            return read_index(folder, encoder=encoder, decoder=decoder)
        except ValueError as error:  # with no place that is gone by now
            message = str(error).replace(f"{folder}/", "").replace(folder, "in the bytes")
            raise ValueError(message) from error


def _content(data: Any) -> bytes:
    """The bytes themselves; raises as `deserialize_index`."""
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 1:
            raise TypeError(f"{_NO_BUNDLE} an array {data.shape} of {data.dtype}")
        return data.tobytes()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"{_NO_BUNDLE} {type(data).__name__}")
    return bytes(data)


def _files(content: bytes) -> dict[str, bytes]:
    """The files of an archive by name; raises as `deserialize_index`."""
    if not content.startswith(b"PK"):
        own = ": faiss.deserialize_index reads those of a FAISS index" * content.startswith(b"I")
        raise ValueError(f"{_NO_BUNDLE} others{own}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            # Uncompressed files take no more memory than there are bytes.
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            files = {entry.filename: archive.read(entry) for entry in entries} if plain else {}
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError) as error:
        raise ValueError(f"{_NO_BUNDLE} altered or truncated ones: {error}") from error
    # A file of a bundle lies in its folder and nowhere else.
    placed = all(re.fullmatch(r"\w[\w.-]*", name) for name in files)
    if "config.json" not in files or not placed or len(files) < len(entries):
        names = sorted(entry.filename for entry in entries)
        raise ValueError(f"{_NO_BUNDLE} another archive, of {names[:9]}")
    return files
