import pytest

from faiss_pqvae.messages import listed, printable, suggestion


def test_printable__replaces_what_a_terminal_would_obey() -> None:
    assert printable("a\x1b[2J\nü 猫") == "a\ufffd[2J\ufffdü 猫"


@pytest.mark.parametrize(
    ("n", "most", "between", "expected"),
    [
        (0, 3, ", ", ""),
        (3, 3, ", ", "0, 1, 2"),
        (4, 3, ", ", "0, 1, 2 and 1 more"),
        (1006, 1, "; ", "0 and 1,005 more"),
        (3, 2, "; ", "0; 1 and 1 more"),
    ],
)
def test_listed__counts_what_it_does_not_name(n: int, most: int, between: str, expected: str):
    assert listed(range(n), most, between=between) == expected


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("mnst5k", "mnist5k"), ("itq", "ITQ"), ("Spectral Hashng", "Spectral Hashing")),
        *(("xyz", None), (7, None)),
    ],
)
def test_suggestion__is_the_name_that_is_spelled_most_like_it(given, meant) -> None:
    expected = "" if meant is None else f"; did you mean {meant!r}?"
    assert suggestion(given, ["mnist", "mnist5k", "ITQ", "Spectral Hashing"]) == expected
