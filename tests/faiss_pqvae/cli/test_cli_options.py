"""Options under the names that they have now, in each command."""

from types import SimpleNamespace

import pytest

from faiss_pqvae import Contrastive, ModelConfig, Ranking, Reconstruction, Synthesis
from faiss_pqvae.cli import options
from faiss_pqvae.cli.evaluate import evaluate
from faiss_pqvae.cli.options import Learning, with_present_names
from faiss_pqvae.cli.train import train
from faiss_pqvae.cli.tune import tune
from faiss_pqvae.index.factory import Training


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


def test_reranked__learns_the_same_unless_its_description_asks_for_another(monkeypatch) -> None:
    given = Learning({"ranking": Ranking(epochs=7), "reconstruction": Reconstruction(lambda_=3.0)})
    asked = r"objective 'ranking' or 'synthesis', which .*got --reconstruction\.lam"
    with pytest.raises(ValueError, match=asked):
        given.reranked("PQVAE", ModelConfig(), (8,))
    only = Learning({"ranking": Ranking(epochs=7)})
    assert only.reranked("PQVAE", ModelConfig(), (8,)) == (Ranking(epochs=7), Synthesis())
    named = ModelConfig(objective="reconstruction")
    assert Learning({}).reranked("PQVAE", named, (8,)) == (Reconstruction(),) * 2

    def of_another(shape, description, *, model):
        assert description.endswith(",RDecoder")
        return SimpleNamespace(fit=Training(Reconstruction()))

    monkeypatch.setattr(options, "index_factory", of_another)
    expected = (Ranking(epochs=7), Reconstruction(lambda_=3.0))
    assert given.reranked("PQVAE", ModelConfig(), (8,)) == expected
    third = Learning({"contrastive": Contrastive(temperature=0.3)})
    with pytest.raises(ValueError, match="objective 'ranking' or 'reconstruction', which is"):
        third.reranked("PQVAE", ModelConfig(), (8,))
