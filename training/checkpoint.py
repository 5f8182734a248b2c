"""Checkpoints: tensors and plain values, written atomically, read without pickle."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from faiss_pqvae.files import replace_bytes

FORMAT = 2
_FORMER = 1  # knew its data by a sample of them


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint; a crash leaves the one before or the new one.

    Args:
        path: the file.
        state: tensors, numbers, strings, and lists and dicts of these.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    replace_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU.

    Raises:
        ValueError: the file is damaged, or of another format version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        former = (
            ", of an earlier version, which cannot tell whether the data are the same: choose "
            "another folder, or remove this one"
        )
        raise ValueError(
            f"expected checkpoint format {FORMAT} in {path}, got {found}"
            + (former if found == _FORMER else "")
        )
    return state
