import pytest

from faiss_pqvae.data.few import warn_of_few


@pytest.mark.parametrize(("n", "warns"), [(9983, True), (9984, False)])
def test_warn_of_few__below_39_points_a_centroid(n, warns, caplog):
    warn_of_few(n, 256, "vectors", "centroids")
    expected = (
        "9,983 vectors for 256 centroids are few: it goes on, and finds more with 9,984 or more"
    )
    assert caplog.messages == ([expected] if warns else [])
