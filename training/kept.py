"""What a training keeps in its folder, to go on after an interruption.

Of several processes the first one reads and writes; all have what it found.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from faiss_pqvae.data.content import key_of_parts
from faiss_pqvae.model import team
from faiss_pqvae.model.backbone import bytes_of

from .checkpoint import load_checkpoint, save_checkpoint

CHECKPOINT, TRAINED = "checkpoint", "trained"  # the state under way, and the end
LOG = "log.jsonl"
_PHASE = "phase-"

# What a fingerprint is made of, in words.
_PARTS = {
    "content": "the content of the items",
    "items": "their number",
    "model": "the model",
    "training": "the settings of the loop",
    "objective": "the objective",
    "pretrained": "the pretrained weights",
    "networks": "the weights of a network that was handed in",
    "given": "what is learned from besides the items",
}


class Kept:
    """States by name, each in a file of its own that says which training it belongs to.

    Args:
        folder: where they are; None keeps nothing.

    Attributes:
        phases: before the first step, whose results are kept, in the order they were made in.
        spent_s: seconds that these took.
        clock: tells the seconds that were spent by now, which are kept with a state.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.phases: list[str] = []
        self.spent_s = 0.0
        self.clock: Callable[[], float] = lambda: self.spent_s
        self._fingerprint = ""
        self._found: dict[str, dict[str, Any]] = {}

    def open(self, fingerprint: dict[str, Any]) -> None:
        """Reads what a training with this fingerprint left behind; makes the folder.

        Args:
            fingerprint: all that must agree, as plain values.

        Raises:
            ValueError: something of another training, or a damaged file.
        """
        self._fingerprint = json.dumps(fingerprint, sort_keys=True)
        if self.folder is not None:
            self._found = team.by_first(self._read)
        self.phases = [name for name in self._found if name not in (TRAINED, CHECKPOINT)]
        self.spent_s = max((self._found[phase]["spent_s"] for phase in self.phases), default=0.0)

    def _read(self) -> dict[str, dict[str, Any]]:
        """All states in the folder, by name, phases in the order they were made in."""
        assert self.folder is not None
        found = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (f"{CHECKPOINT}.pt", f"{TRAINED}.pt", f"{_PHASE}*.pt", LOG):
            for leftover in self.folder.glob(f".{name}.*.new"):  # what was killed while it wrote
                leftover.unlink(missing_ok=True)
        paths = [self._path(name) for name in (TRAINED, CHECKPOINT)]
        phases = sorted(self.folder.glob(f"{_PHASE}*.pt"), key=lambda path: path.stat().st_mtime_ns)
        for path in [*(path for path in paths if path.exists()), *phases]:
            state = load_checkpoint(path)
            self._check(path, state)
            found[path.stem.removeprefix(_PHASE)] = state
        return found

    def _check(self, path: Path, state: dict[str, Any]) -> None:
        found, wanted = json.loads(state["fingerprint"]), json.loads(self._fingerprint)
        if state.get("networks_after", "") == wanted.get("networks"):
            found["networks"] = wanted["networks"]  # they have just been trained here
        changed = [words for part, words in _PARTS.items() if found.get(part) != wanted.get(part)]
        if changed:
            raise ValueError(
                f"{path} belongs to a training with other settings or data ({', '.join(changed)}): "
                f"choose another folder, or remove {path.parent}"
            )

    def take(self, name: str) -> dict[str, Any] | None:
        """A state that was there when the folder was opened; None if there was none."""
        return self._found.pop(name, None)

    def put(self, name: str, state: dict[str, Any]) -> None:
        """Keeps a state: tensors, numbers, strings, and lists and dicts of these."""
        if self.folder is None:
            return
        if team.is_first():
            about = {"fingerprint": self._fingerprint, "spent_s": self.clock()}
            save_checkpoint(self._path(name), {**about, **state})
        if name not in (CHECKPOINT, TRAINED, *self.phases):
            self.phases.append(name)

    def made(self, phase: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of a phase: the one that was kept, or else it is made now, and kept."""
        found = self.take(phase)
        if found is None:
            found = team.agreed(make())
            self.put(phase, found)
        return found

    def drop(self, *names: str) -> None:
        """Removes what is not needed any more."""
        for name in names:
            self._found.pop(name, None)
            if self.folder is not None and team.is_first():
                self._path(name).unlink(missing_ok=True)
        self.phases = [phase for phase in self.phases if phase not in names]

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name if name in (CHECKPOINT, TRAINED) else _PHASE + name}.pt"


def key_of_networks(networks: Sequence[nn.Module]) -> str | None:
    """A key of the weights of networks; None where there are none."""
    if not networks:
        return None
    states = [state for network in networks for state in sorted(network.state_dict().items())]
    tensors = [(name, value) for name, value in states if isinstance(value, Tensor)]
    header = ", ".join(f"{name} {value.dtype} {tuple(value.shape)}" for name, value in tensors)
    return key_of_parts(header, (bytes_of(value) for _, value in tensors))
