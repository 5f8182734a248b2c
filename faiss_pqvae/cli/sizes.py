"""What people write for bytes and for a recall."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def bytes_of(text: str, option: str) -> int:
    """Bytes of 4G, 500M, 1.5GiB or 1000000; powers of 1,024.

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)i?b?", text.strip().lower())
    found = 0 if match is None else int(float(match[1]) * _UNITS[match[2]])
    if found < 1:
        raise ValueError(f"expected {option} as in 4G or 500M, got {text!r}")
    return found


def recall_of(text: str) -> tuple[float, int]:
    """A share of queries and among how many results: 0.9@10.

    Raises:
        ValueError: anything else.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)@([0-9]{1,3})", text.strip())
    if match is None or not (0 < float(match[1]) <= 1 and 1 <= int(match[2]) <= 100):
        raise ValueError(f"expected a recall as in 0.9@10, with at most 100 results, got {text!r}")
    return float(match[1]), int(match[2])
