"""Options under the names that they have now, in each command."""

import pytest

from faiss_pqvae import Contrastive, ModelConfig
from faiss_pqvae.cli.evaluate import evaluate
from faiss_pqvae.cli.options import Learning, with_present_names
from faiss_pqvae.cli.train import train
from faiss_pqvae.cli.tune import tune


@pytest.mark.parametrize(
    ("command", "given", "present"),
    [
        (train, "--encoder", "--encoder"),  # which is another thing than --model.encoder there
        (train, "--decoder", "--model.decoder"),
        (evaluate, "--encoder", "--model.encoder"),
        (evaluate, "--decoder=mlp", "--model.decoder=mlp"),
        (tune, "--encoder=conv", "--model.encoder=conv"),
        (tune, "--model.beta", "--reconstruction.beta"),
        (tune, "--training.warmup_steps=3", "--reconstruction.warmup-steps=3"),
        (tune, "encoder", "encoder"),
    ],
)
def test_with_present_names__names_networks_alike_in_all_commands(
    command, given: str, present: str
) -> None:
    assert with_present_names(command, ["x", given]) == ["x", present]


def test_objective__options_of_another_one_are_named_as_they_were_given() -> None:
    learning = Learning({"contrastive": Contrastive(temperature=0.3)})
    with pytest.raises(ValueError, match=r"got --contrastive\.temperature 0\.3: it would"):
        learning.objective("PQVAE", ModelConfig(), (8,))
