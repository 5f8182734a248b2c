"""Views of images that are the same whenever they are read."""

import numpy as np
import pytest

from faiss_pqvae.training import PictureViews, Views

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 10), dtype=np.uint8)


def test_picture_views__are_the_same_in_any_order() -> None:
    views = PictureViews(IMAGES, 4, seed=3)
    assert views.shape == (24, 3, 8, 10)
    assert len(views) == 24
    all_of_them = views[:]
    assert all_of_them.dtype == np.uint8
    rows = np.array([23, 0, 7, 7, 12])
    np.testing.assert_array_equal(views[rows], all_of_them[rows])
    np.testing.assert_array_equal(views[5:9], all_of_them[5:9])
    np.testing.assert_array_equal(PictureViews(IMAGES, 4, seed=3)[:], all_of_them)
    assert not np.array_equal(PictureViews(IMAGES, 4, seed=4)[:], all_of_them)
    assert views[4:4].shape == (0, 3, 8, 10)


def test_picture_views__of_an_image_are_side_by_side_and_differ() -> None:
    # Of one colour each, which crops leave as it is.
    colors = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    plain = np.tile(colors, (1, 1, 6, 6))
    crops = PictureViews(plain, 3, Views(min_scale=0.3))[:]
    np.testing.assert_array_equal(crops[:, 0, 0, 0], np.repeat(plain[:, 0, 0, 0], 3))
    first, second = PictureViews(IMAGES, 2)[:2]
    assert not np.array_equal(first, second)


def test_picture_views__of_floats() -> None:
    views = PictureViews(IMAGES.astype(np.float32) / 255, 2, Views(flip=0.5))[:]
    for view, image in zip(views, np.repeat(IMAGES, 2, axis=0), strict=True):
        assert any(np.abs(view.astype(int) - x).max() <= 1 for x in (image, image[:, :, ::-1]))


@pytest.mark.parametrize(
    ("x", "n_views", "views", "message"),
    [
        (np.zeros((5, 4), np.float32), 2, None, r"expected images \(n, c, h, w\) to make views of"),
        (IMAGES, 0, None, "expected n_views >= 1, got 0"),
        (IMAGES, 1.5, None, "expected n_views >= 1, got 1.5"),
        (IMAGES, 2, Views(), "expected views that change something"),
        (IMAGES, 2, Views(noise=0.1), "expected views of images"),
    ],
)
def test_picture_views__refuse(x, n_views, views, message) -> None:
    with pytest.raises(ValueError, match=message):
        PictureViews(x, n_views, views)


def test_picture_views__of_lists_and_numbers_of_numpy() -> None:
    found = PictureViews([*IMAGES], np.int64(2), seed=1)
    np.testing.assert_array_equal(found[:], PictureViews(IMAGES, 2, seed=1)[:])
    with pytest.raises(TypeError, match="views"):
        PictureViews(IMAGES, 2, "natural")
