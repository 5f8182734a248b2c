"""What items are, in a few digits: a key for whatever was made of them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from typing import Any


def key_of_parts(header: str, parts: Iterable[Any]) -> str:
    """A key of all bytes, in hexadecimal digits: another content has another one.

    Every part counts by its CRC-32, which costs no more than reading it (measured with one thread:
    2.5 GB/s, against 1.5 for SHA-256 with the processor's help and 1.1 for BLAKE2b). It finds every
    change by accident but one in 2**32; it is no proof against somebody who wants to deceive.

    Args:
        header: what else counts.
        parts: bytes, or contiguous arrays.
    """
    digest = hashlib.blake2b(header.encode(), digest_size=16)
    for part in parts:
        digest.update(zlib.crc32(part).to_bytes(4, "little"))
    return digest.hexdigest()
