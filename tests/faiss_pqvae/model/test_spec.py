"""What a code is, and the form of its latents."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch

from faiss_pqvae.model.config import ModelConfig
from faiss_pqvae.model.pqvae import PQVAE, latent_dim_of
from faiss_pqvae.model.spec import CodeSpec, formed


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"structure": "tree"}, "expected structure of 'product', 'residual', got 'tree'"),
        ({"latents": "long"}, "expected latents of 'free', 'unit', 'unit parts', 'short'"),
        ({"metric": "l1"}, "expected metric of 'l2', 'inner_product', got 'l1'"),
        ({"metric": None}, "expected metric of"),
        ({"name": ""}, "expected a code's name as text"),
        ({"name": 3}, "expected a code's name as text"),
        ({"by_residual": 1}, "expected by_residual True or False, got 1"),
        ({"structure": "residual"}, "expected inner products for residual codes, got 'l2'"),
        (
            {"structure": "residual", "latents": "repeated", "metric": "inner_product"},
            "expected product codes for 'repeated' latents",
        ),
    ],
    ids=str,
)
def test_code_spec__rejects(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        CodeSpec(**wrong)


def test_code_spec__is_a_value() -> None:
    assert CodeSpec() == CodeSpec("PQVAE", "product", "free", "l2", by_residual=False)
    assert hash(CodeSpec()) == hash(CodeSpec())
    with pytest.raises(FrozenInstanceError):
        CodeSpec().metric = "inner_product"  # type: ignore[misc]


def test_formed__free_is_what_came(generator: torch.Generator) -> None:
    z = torch.randn(5, 6, generator=generator)
    assert formed(z, "free", 3) is z


def test_formed__unit_has_length_1_and_the_direction(generator: torch.Generator) -> None:
    z = torch.randn(5, 6, generator=generator)
    torch.testing.assert_close(formed(z, "unit", 3), z / z.norm(dim=1, keepdim=True))


def test_formed__unit_parts_are_alike_and_together_of_length_1(generator: torch.Generator) -> None:
    z = torch.randn(5, 6, generator=generator)
    found = formed(z, "unit parts", 3)
    parts = found.view(5, 3, 2)
    torch.testing.assert_close(parts.norm(dim=-1), torch.full((5, 3), 1 / math.sqrt(3)))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    given = z.view(5, 3, 2)
    torch.testing.assert_close(torch.cosine_similarity(parts, given, -1), torch.ones(5, 3))


def test_formed__short_is_shorter_than_1_and_keeps_the_order_of_lengths(
    generator: torch.Generator,
) -> None:
    z = torch.randn(50, 6, generator=generator) * torch.linspace(0.1, 30, 50).unsqueeze(1)
    found = formed(z, "short", 3)
    lengths = found.norm(dim=1)
    assert lengths.max() < 1
    assert torch.equal(lengths.argsort(), z.norm(dim=1).argsort())
    expected = z[7] / math.sqrt(6 + float(z[7].square().sum()))
    torch.testing.assert_close(found[7], expected)


@pytest.mark.parametrize("latents", ["free", "unit", "unit parts", "short"])
def test_formed__of_zeros_is_finite(latents) -> None:
    assert torch.isfinite(formed(torch.zeros(2, 6), latents, 3)).all()


@pytest.mark.parametrize(
    ("structure", "latents", "metric", "latent_dim"),
    [("product", "free", "l2", 12), ("residual", "short", "inner_product", 4)],
)
def test_model__asks_the_spec_alone(structure, latents, metric, latent_dim) -> None:
    spec = CodeSpec(structure=structure, latents=latents, metric=metric)
    config = ModelConfig(encoder="mlp", width=8, dsub=4, objective="nobody's")
    model = PQVAE((5,), 3, 4, config, spec=spec)
    assert (model.spec, model.structure) == (spec, structure)
    assert model.latent_dim == latent_dim == latent_dim_of(model.config, spec.structure, 3)
    assert model.codebooks().structure == structure
    assert model.config.objective == "nobody's"


def test_model__without_a_spec_has_product_codes_by_l2() -> None:
    assert PQVAE((5,), 3, 4).spec == CodeSpec()
    assert PQVAE((5,), 3, 4, ModelConfig(unit_latents=True)).spec == CodeSpec(latents="unit")
