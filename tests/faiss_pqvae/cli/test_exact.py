"""Exact neighbours part by part are those of one pass, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faiss_pqvae.cli import exact
from faiss_pqvae.cli.exact import nearest_others
from faiss_pqvae.data.open import open_several
from faiss_pqvae.eval.data.brute_force import nearest
from faiss_pqvae.scale.engines import PartsFailedError
from faiss_pqvae.scale.job import source_key

N, D, PARTS = 700, 6, 5


@pytest.fixture
def x(tmp_path: Path) -> Any:
    x = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    x[600:620] = x[5]  # alike, in another part
    np.save(tmp_path / "x.npy", x)
    return x


def _found(tmp_path: Path, x: Any, asked: Any, **options: Any) -> Any:
    given = {"n": len(x), "n_parts": PARTS, "workers": 1, "engine": "local", **options}
    files = [str(tmp_path / "x.npy")]
    source = source_key(open_several(files, in_memory_bytes=0), files)
    return nearest_others(files, source, x[asked], asked, tmp_path / "out", **given)


def test_nearest_others__are_those_of_one_pass(tmp_path: Path, x: Any) -> None:
    asked = np.array([3, 5, 610, 699])
    found = _found(tmp_path, x, asked)
    for row, query in enumerate(asked):
        distances = ((x - x[query]) ** 2).sum(1)
        distances[query] = np.inf
        expected = np.flatnonzero(distances == distances.min())
        assert set(found[row]) - {-2} == set(expected)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["about", "all", "queries"]
    np.testing.assert_array_equal(_found(tmp_path, x, asked), found)


def test_nearest_others__go_on_after_an_interruption(
    tmp_path: Path, x: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = np.array([3, 5])
    own, looked = exact.find_in_part, []

    def stopped(passed: Any, part: int) -> None:
        if part == 3 and 3 not in looked:
            looked.append(part)
            raise KeyboardInterrupt
        looked.append(part)
        own(passed, part)

    monkeypatch.setattr(exact, "find_in_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        _found(tmp_path, x, asked)
    damaged = tmp_path / "out" / "part-00002-of-00005"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    found = _found(tmp_path, x, asked)
    assert looked == [0, 1, 2, 3, 1, 3, 4]
    ids, _ = nearest(x[asked], x, 2)
    assert found[0, 0] == ids[0, 1]


def test_nearest_others__of_other_queries_or_contents_are_found_anew(
    tmp_path: Path, x: Any
) -> None:
    first = _found(tmp_path, x, np.array([3, 5]))
    other = _found(tmp_path, x, np.array([4, 5]))
    assert other[0, 0] != first[0, 0]
    np.save(tmp_path / "x.npy", x[::-1].copy())
    again = _found(tmp_path, x[::-1], np.array([4, 5]))
    assert again[0, 0] != other[0, 0]


def test_nearest_others__by_two_processes(tmp_path: Path, x: Any) -> None:
    asked = np.array([3, 5, 610])
    alone = _found(tmp_path, x, asked)
    (tmp_path / "out" / "all").unlink()
    np.testing.assert_array_equal(_found(tmp_path, x, asked, workers=2), alone)


def test_nearest_others__a_part_that_cannot_be_read_is_named(
    tmp_path: Path, x: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = exact._opened

    def broken(passed: Any) -> Any:
        class Source:
            shape, dtype = (N, D), np.dtype(np.float32)

            def __len__(self) -> int:
                return N

            def __getitem__(self, rows: Any) -> Any:
                if (rows.start if isinstance(rows, slice) else rows.min()) >= 560:
                    raise ValueError("a damaged page")
                return own(passed)[rows]

        return Source()

    monkeypatch.setattr(exact, "_opened", broken)
    with pytest.raises(PartsFailedError, match=r"1 of 5 .*part 5 \(items 560 to 699.* damaged"):
        _found(tmp_path, x, np.array([3]))


def test_nearest_others__that_a_worker_finds_changed_are_refused(tmp_path: Path, x: Any) -> None:
    passed = exact.Pass(tmp_path, (str(tmp_path / "x.npy"),), "another key", N, PARTS, 3)
    with pytest.raises(ValueError, match="expected the 700 vectors as they were"):
        exact._opened(passed)
    with pytest.raises(FileNotFoundError, match="queries is not there, or damaged"):
        passed.asked()
