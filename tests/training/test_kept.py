"""What outlives an interruption, and whose it is."""

import pytest
import torch

from faiss_pqvae.training.kept import CHECKPOINT, Kept

OURS = {"content": "a", "items": 3, "model": {}, "training": {"lr": 1}}


def opened(folder, **changes):
    kept = Kept(folder)
    kept.open({**OURS, **changes})
    return kept


def test_kept__phases_are_made_once_and_named_in_order(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x": torch.ones(2)}

    first = opened(tmp_path)
    for phase in ("zebra", "ant"):
        first.made(phase, make)
    first.put(CHECKPOINT, {"step": 1})
    again = opened(tmp_path, training={"lr": 1.0})  # 1 is 1.0
    assert again.phases == first.phases == ["zebra", "ant"]
    assert torch.equal(again.made("ant", make)["x"], torch.ones(2))
    assert again.take(CHECKPOINT)["step"] == 1
    assert len(made) == 2
    again.drop("zebra", CHECKPOINT)
    assert [path.name for path in tmp_path.iterdir()] == ["phase-ant.pt"]


def test_kept__says_how_long_the_phases_took(tmp_path):
    first = opened(tmp_path)
    for seconds, phase in ((3.0, "ant"), (7.5, "bee")):
        first.clock = lambda seconds=seconds: seconds
        first.put(phase, {})
    assert opened(tmp_path).spent_s == 7.5


@pytest.mark.parametrize("name", [CHECKPOINT, "ant"])
def test_kept__of_another_training_is_refused_and_stays(name, tmp_path):
    opened(tmp_path).put(name, {"step": 1})
    with pytest.raises(ValueError, match=r"\(the content of the items, their number\)"):
        opened(tmp_path, content="b", items=4)
    assert opened(tmp_path).take(name)["step"] == 1


def test_kept__a_damaged_phase_is_named(tmp_path):
    (tmp_path / "phase-ant.pt").write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"cannot read the checkpoint .*phase-ant\.pt"):
        opened(tmp_path)


def test_kept__removes_what_was_killed_while_it_wrote_and_nothing_else(tmp_path):
    leftovers = (".checkpoint.pt.1.new", ".phase-ant.pt.1.new", ".trained.pt.1.new")
    for name in (*leftovers, ".log.jsonl.1.new", ".mine.new", "mine.pt"):
        (tmp_path / name).write_bytes(b"half of it")
    opened(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.new", "mine.pt"]


def test_kept__without_a_folder_keeps_nothing():
    kept = opened(None)
    kept.put("ant", {"x": 1})
    assert kept.take("ant") is None
    assert kept.phases == []
