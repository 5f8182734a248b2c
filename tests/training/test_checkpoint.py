import pytest
import torch

from faiss_pqvae.training.checkpoint import load_checkpoint, save_checkpoint

STATE = {"step": 3, "weights": {"w": torch.arange(4.0)}, "history": "[]", "none": None}


def test_checkpoint__round_trip(tmp_path):
    save_checkpoint(tmp_path / "c.pt", STATE)
    state = load_checkpoint(tmp_path / "c.pt")
    assert state["step"] == 3
    assert torch.equal(state["weights"]["w"], STATE["weights"]["w"])
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_checkpoint__truncated_raises(tmp_path, keep):
    save_checkpoint(tmp_path / "c.pt", STATE)
    content = (tmp_path / "c.pt").read_bytes()
    (tmp_path / "c.pt").write_bytes(content[:keep])
    with pytest.raises(ValueError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


def test_checkpoint__pickled_objects_are_refused(tmp_path):
    torch.save({"format": 2, "bad": test_checkpoint__round_trip}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="cannot read the checkpoint"):
        load_checkpoint(tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format": 99}, "expected checkpoint format 2 .* got 99$"),
        ([1, 2], "expected checkpoint format 2 .* got list$"),
        ({"format": 1}, "an earlier version, .* remove this one"),
    ],
)
def test_checkpoint__other_format_raises(tmp_path, content, message):
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(tmp_path / "c.pt")


def test_checkpoint__failed_write_keeps_the_old_one(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", STATE)

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("faiss_pqvae.files.sync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "c.pt", {"step": 4})
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["c.pt"]
