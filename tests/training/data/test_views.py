"""Views: each strength changes what it says, and nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faiss_pqvae.training import Views
from faiss_pqvae.training.data.views import PRESETS, random_views


def _images(n: int = 6, shape: tuple[int, ...] = (3, 8, 8)) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0))


def _view(x: torch.Tensor, views: Views, seed: int = 1) -> torch.Tensor:
    return random_views(x, views, torch.Generator().manual_seed(seed))


def _blob(row: float, column: float, size: int = 33) -> torch.Tensor:
    """One image with a soft spot, its center in pixels."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.exp(-((y - row) ** 2 + (x - column) ** 2) / 8)[None, None]


def _centers(x: torch.Tensor) -> np.ndarray:
    """(n, 2) centers of mass, row and column in pixels."""
    mass = (x - x.amin((2, 3), keepdim=True)).sum(1)
    size = x.shape[-1]
    total = mass.sum((1, 2))
    rows = (mass.sum(2) * torch.arange(size)).sum(1) / total
    columns = (mass.sum(1) * torch.arange(size)).sum(1) / total
    return torch.stack([rows, columns], 1).numpy()


VIEWS = st.builds(
    Views,
    min_scale=st.floats(0.1, 1),
    shift=st.floats(0, 0.5),
    rotation=st.floats(0, 180),
    flip=st.floats(0, 1),
    color=st.floats(0, 1),
    hue=st.floats(0, 0.5),
    grayscale=st.floats(0, 1),
    blur=st.floats(0, 0.25),
)
SHAPES = [(1, 8, 8), (3, 5, 9), (1, 28, 28)]


@settings(max_examples=40)
@given(views=VIEWS, shape=st.sampled_from(SHAPES), n=st.integers(1, 5))
def test_random_views__keep_shape_and_range_and_repeat(views, shape, n) -> None:
    x = _images(n, shape)
    before = x.clone()
    first, second = _view(x, views), _view(x, views)
    assert first.shape == x.shape
    assert first.dtype == torch.float32
    # Interpolation rounds.
    assert first.min() >= -1e-6
    assert first.max() <= 1 + 1e-6
    assert torch.equal(first, second)
    assert torch.equal(x, before)


def test_random_views__of_no_strength_change_nothing() -> None:
    x = _images()
    assert _view(x, Views()) is x


@pytest.mark.parametrize(
    "views",
    [
        Views(min_scale=0.5),
        Views(shift=0.2),
        Views(rotation=20),
        Views(color=0.4),
        Views.for_shape((3, 8, 8)),
    ],
    ids=str,
)
def test_random_views__differ_between_images_and_seeds(views: Views) -> None:
    x = _images(1).expand(4, -1, -1, -1)
    out = _view(x, views)
    assert not torch.allclose(out, _view(x, views, seed=2), atol=1e-3)
    assert all(not torch.allclose(out[0], other, atol=1e-3) for other in out[1:])
    assert not torch.allclose(out, x, atol=1e-3)


def test_flip__of_probability_one_mirrors() -> None:
    x = _images()
    torch.testing.assert_close(_view(x, Views(flip=1)), x.flip(3), atol=1e-5, rtol=0)


def test_flip__mirrors_as_often_as_it_says() -> None:
    x = _images(1).expand(400, -1, -1, -1)
    out = _view(x, Views(flip=0.3))
    mirrored = (out - x.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    kept = (out - x).abs().amax((1, 2, 3)) < 1e-4
    assert (mirrored | kept).all()
    assert 0.2 < mirrored.float().mean() < 0.4


def test_shift__moves_up_to_its_share_of_the_size() -> None:
    x = _blob(16, 16).expand(200, -1, -1, -1)
    moved = _centers(_view(x, Views(shift=0.2))) - 16
    assert np.abs(moved).max() <= 0.2 * 33 + 0.1
    assert (np.abs(moved).max(0) > 0.9 * 0.2 * 33).all()  # along both axes
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.2


def test_rotation__turns_up_to_its_degrees_and_keeps_the_distance() -> None:
    x = _blob(16, 26).expand(200, -1, -1, -1)
    centers = _centers(_view(x, Views(rotation=30))) - 16
    angles = np.degrees(np.arctan2(centers[:, 0], centers[:, 1]))
    np.testing.assert_allclose(np.hypot(*centers.T), 10, atol=0.2)
    assert 27 < angles.max() <= 30.5
    assert -30.5 <= angles.min() < -27


def test_min_scale__magnifies_up_to_its_share_of_the_area() -> None:
    x = (_blob(16, 10) + _blob(16, 22)).clamp(max=1).expand(200, -1, -1, -1)
    area = _view(x, Views(min_scale=0.5)).sum((1, 2, 3)) / x[0].sum()
    assert area.max() > 1.5
    # Of a crop of half of the area everything is twice as large; parts may fall outside.
    assert area.max() <= 2.05


def test_color__changes_brightness_within_its_strength() -> None:
    x = torch.full((200, 3, 4, 4), 0.5)  # no contrast, no saturation
    out = _view(x, Views(color=0.4))
    factors = out.mean((1, 2, 3)) / 0.5
    assert 0.6 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.4


def test_color__of_one_channel_has_no_saturation_to_lose() -> None:
    x = _images(4, (1, 8, 8))
    torch.testing.assert_close(_view(x, Views(grayscale=1)), x, atol=1e-5, rtol=0)


def test_grayscale__makes_the_channels_equal() -> None:
    x = _images()
    out = _view(x, Views(grayscale=1))
    expected = x.mean(1, keepdim=True).expand_as(x)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_grayscale__happens_as_often_as_it_says() -> None:
    x = _images(400, (3, 4, 4))
    out = _view(x, Views(grayscale=0.3))
    gray = (out - out.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-4
    assert 0.2 < gray.float().mean() < 0.4


def test_hue__turns_colours_around_grey() -> None:
    red = torch.tensor([0.6, 0.4, 0.4])[None, :, None, None].expand(500, -1, 2, 2)
    out = _view(red, Views(hue=0.25))[:, :, 0, 0]
    np.testing.assert_allclose(out.mean(1), red[0, :, 0, 0].mean(), atol=1e-5)
    chroma = out - out.mean(1, keepdim=True)
    start = red[0, :, 0, 0] - red[0, :, 0, 0].mean()
    np.testing.assert_allclose(chroma.norm(dim=1), start.norm(), rtol=1e-4)
    cosines = (chroma @ start / start.norm() / chroma.norm(dim=1)).numpy()
    turned = np.degrees(np.arccos(cosines.clip(-1, 1)))
    assert 85 < turned.max() <= 90.1  # a quarter of the circle
    sides = np.sign((chroma[:, 1] - chroma[:, 2]).numpy())
    assert abs(sides.mean()) < 0.2


def test_hue__of_grey_and_of_one_channel_changes_nothing() -> None:
    grey = _images(4, (1, 8, 8))
    assert torch.equal(_view(grey, Views(hue=0.5)), _view(grey, Views(hue=1e-9)))
    three = grey.expand(-1, 3, -1, -1)
    torch.testing.assert_close(_view(three, Views(hue=0.5)), three, atol=1e-5, rtol=0)


def test_blur__is_a_gaussian_within_its_strength() -> None:
    size = 33
    x = torch.zeros(100, 1, size, size)
    x[:, :, 16, 16] = 1
    out = _view(x, Views(blur=0.06))
    torch.testing.assert_close(out.sum((1, 2, 3)), torch.ones(100), atol=1e-4, rtol=0)
    offsets = (torch.arange(size) - 16).float().square()
    deviations = (out.sum((1, 2)) @ offsets).sqrt()
    assert 0.9 * 0.06 * size < deviations.max() <= 0.06 * size + 0.02
    assert deviations.min() < 0.3
    torch.testing.assert_close(out, out.transpose(2, 3), atol=1e-6, rtol=0)


def test_noise__is_of_its_size_in_every_component() -> None:
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 10, 0])
    added = _view(x, Views(noise=0.5)) - x
    np.testing.assert_allclose(added.std(0), [0.5, 5, 0], rtol=0.05, atol=1e-6)


def test_dropout__puts_the_mean_in_the_place_of_its_share() -> None:
    x = torch.randn(500, 20, generator=torch.Generator().manual_seed(0))
    out = _view(x, Views(dropout=0.3))
    lost = out != x
    assert 0.27 < lost.float().mean() < 0.33
    torch.testing.assert_close(out[lost], x.mean(0).expand_as(x)[lost])


def test_mixing__moves_towards_another_item_up_to_its_share() -> None:
    x = torch.eye(200)
    out = _view(x, Views(mixing=0.4))
    torch.testing.assert_close(out.sum(1), torch.ones(200))
    own = out.diagonal()
    assert 0.6 <= own.min() < 0.65
    assert (out.argmax(1) == torch.arange(200)).all()


def test_size__scales_the_whole_picture() -> None:
    x = _images(3, (3, 16, 12))
    small = random_views(x, Views(flip=1e-9), torch.Generator().manual_seed(0), size=(8, 6))
    torch.testing.assert_close(small, torch.nn.functional.avg_pool2d(x, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("views", [Views(noise=0.1), Views(dropout=0.1), Views(mixing=0.1)])
def test_views_of_vectors__differ_and_leave_the_input(views: Views) -> None:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    out = _view(x, views)
    assert not torch.equal(out, x)
    assert torch.equal(out, _view(x, views))
    assert torch.equal(x, before)


def test_presets__fit_their_items() -> None:
    for name, shape in (("natural", (3, 32, 32)), ("digits", (1, 28, 28)), ("vectors", (12,))):
        assert Views.for_shape(shape, strong=True) == PRESETS[name]
        PRESETS[name].check(shape)
    with pytest.raises(ValueError, match="expected views of vectors"):
        PRESETS["natural"].check((12,))
    with pytest.raises(ValueError, match="expected views of images"):
        PRESETS["vectors"].check((3, 32, 32))


def test_for_shape__digits_are_not_mirrored_and_vectors_stay() -> None:
    assert Views.for_shape((12,)) == Views()
    digits, photographs = Views.for_shape((1, 28, 28)), Views.for_shape((3, 32, 32))
    assert (digits.flip, digits.color) == (0, 0)
    assert digits.rotation > 0
    assert photographs.flip > 0
    assert photographs.color > 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("min_scale", [0, -0.1, 1.1]),
        ("shift", [-0.1, 1.1]),
        ("rotation", [-1, 181]),
        ("flip", [-0.1, 1.1]),
        ("color", [-0.1, 1.1]),
        ("grayscale", [-0.1, 1.1]),
        ("hue", [-0.1, 0.6]),
        ("blur", [-0.1, 0.3]),
        ("noise", [-0.1]),
        ("dropout", [-0.1, 1.1]),
        ("mixing", [-0.1, 0.6]),
    ],
)
def test_views__reject_values_out_of_range(name: str, values: list[float]) -> None:
    for value in [*values, float("nan"), float("inf")]:
        with pytest.raises(ValueError, match=f"expected {name} "):
            Views(**{name: value})
