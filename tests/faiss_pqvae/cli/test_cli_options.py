"""Options under the names that they have now, in each command."""

from types import SimpleNamespace

import pytest

from faiss_pqvae import Additive, Contrastive, ModelConfig, Ranking, Reconstruction, Synthesis
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


def test_of_vectors__product_codes_beside_what_descriptions_ask_for(monkeypatch) -> None:
    of_vectors = Learning({}).of_vectors("PQVAE", ModelConfig(), (8,))
    assert of_vectors == (Additive(), Ranking(), Synthesis())
    given = Learning({"ranking": Ranking(epochs=7), "additive": Additive(rounds=2)})
    expected = (Additive(rounds=2), Ranking(epochs=7), Synthesis())
    assert given.of_vectors("PQVAE", ModelConfig(), (8,)) == expected
    other = Learning({"reconstruction": Reconstruction(lambda_=3.0)})
    asked = "objective 'additive' or 'ranking' or 'synthesis', which .*got --reconstruction.lam"
    with pytest.raises(ValueError, match=asked):
        other.of_vectors("PQVAE", ModelConfig(), (8,))

    def of_another(shape, description, *, model):
        assert description in ("PQVAE8", "PQVAE8,RDecoder")
        return SimpleNamespace(fit=Training(Reconstruction()))

    monkeypatch.setattr(options, "index_factory", of_another)
    changed = Reconstruction(lambda_=3.0)
    assert other.of_vectors("PQVAE", ModelConfig(), (8,)) == (changed, Ranking(), changed)


@pytest.mark.parametrize(
    ("config", "learned"),
    [
        (ModelConfig(objective="reconstruction"), Reconstruction()),
        (ModelConfig(objective="ranking"), Ranking()),
        (ModelConfig(objective="additive"), Additive()),
        (ModelConfig(encoder="mlp"), Reconstruction()),
    ],
)
def test_of_vectors__one_objective_has_no_product_codes_beside_it(config, learned) -> None:
    assert Learning({}).of_vectors("PQVAE", config, (8,)) == (learned, None, learned)
