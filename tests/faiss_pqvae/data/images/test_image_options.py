import pytest

from faiss_pqvae.data.images import ImageOptions


def test_image_options__like_the_items_of_an_index() -> None:
    assert ImageOptions(orient=False).like((1, 8, 9)) == ImageOptions((8, 9), "L", orient=False)
    assert ImageOptions((8, 9), "RGB").like((3, 8, 9)) == ImageOptions((8, 9), "RGB")
    for vectors in ((4,), None):
        assert ImageOptions().like(vectors) == ImageOptions()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ImageOptions(size=(9, 8)), r"size \(8, 9\), as the index was trained with, got \(9, 8\)"),
        (ImageOptions(mode="RGB"), "mode L, as the index was trained with, got RGB: leave mode"),
    ],
)
def test_image_options__others_than_the_index_has(options: ImageOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options.like((1, 8, 9))
