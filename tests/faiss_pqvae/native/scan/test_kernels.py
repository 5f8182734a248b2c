"""The kernels are measured once, and a cache file that cannot be used is survived."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faiss_pqvae.native import faiss
from faiss_pqvae.native.scan import kernels
from faiss_pqvae.native.scan.kernels import SCALAR, SIMD, Kernels

SPEEDS = {"simd": 100.0, "scalar": 300.0, "sdc": 200.0}


@pytest.fixture(autouse=True)
def measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cache folder that does not exist yet; the list has an entry for every measurement."""
    done: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_measured", None)
    monkeypatch.setattr(kernels, "measure", lambda: done.append("measured") or dict(SPEEDS))
    return done


def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new process knows."""
    monkeypatch.setattr(kernels, "_measured", None)


# -- the cache


def test_fastest__is_measured_once_per_machine(
    measurements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels.fastest() == kernels.fastest() == Kernels(scalar=True, sdc=False)
    assert json.loads(kernels.cache_path().read_text())["machines"] == {kernels.machine(): SPEEDS}
    _forget(monkeypatch)
    assert kernels.fastest() == Kernels(scalar=True, sdc=False)
    assert measurements == ["measured"]


def test_fastest__believes_the_file(
    measurements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.fastest()
    text = kernels.cache_path().read_text()
    kernels.cache_path().write_text(text.replace("300.0", "30.0"))
    _forget(monkeypatch)
    assert kernels.fastest() == SIMD
    assert measurements == ["measured"]


def test_fastest__measures_another_machine_and_keeps_the_first(
    measurements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels.fastest()
    first = kernels.machine()
    _forget(monkeypatch)
    monkeypatch.setattr(kernels, "machine", lambda: "another")
    kernels.fastest()
    assert measurements == ["measured"] * 2
    assert set(json.loads(kernels.cache_path().read_text())["machines"]) == {first, "another"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        b"3",
        b'{"format": 1, "machines": []}',
        b'{"format": 1, "machines": {"KEY": null}}',
        b'{"format": 1, "machines": {"KEY": {"simd": 1.0, "scalar": 2.0}}}',
        b'{"format": 1, "machines": {"KEY": {"simd": 1.0, "scalar": 2.0, "sdc": "fast"}}}',
    ],
)
def test_fastest__survives_a_corrupt_file(
    content: bytes, measurements: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    path = kernels.cache_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(content.replace(b"KEY", kernels.machine().encode()))
    with caplog.at_level(logging.WARNING):
        assert kernels.fastest().scalar
    assert measurements == ["measured"]
    assert "cannot use the measured speeds" in caplog.text
    _forget(monkeypatch)
    kernels.fastest()
    assert measurements == ["measured"]  # the file was replaced


def test_fastest__measures_again_for_a_file_of_another_format(
    measurements: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = kernels.cache_path()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 2}))
    kernels.fastest()
    assert measurements == ["measured"]
    assert not caplog.records


def test_fastest__survives_a_folder_that_cannot_be_written(
    measurements: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert kernels.fastest().scalar
    assert measurements == ["measured"]
    assert "every process will measure" in caplog.text


def test_fastest__survives_a_user_without_a_home(
    measurements: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    assert kernels.fastest().scalar
    assert "every process will measure" in caplog.text


def test_cache_path__is_in_the_user_s_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels.cache_path() == tmp_path / "cache" / "faiss-pqvae" / "kernels.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert kernels.cache_path() == Path.home() / ".cache" / "faiss-pqvae" / "kernels.json"


def test_machine__names_processor_version_and_level() -> None:
    processor, version, level = kernels.machine().rsplit(", ", 2)
    assert processor
    assert version == f"faiss {faiss.__version__}"
    assert level


def test_machine__of_a_faiss_without_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(faiss, "SIMDConfig", raising=False)
    assert kernels.machine().endswith(faiss.get_compile_options().strip())


# -- the choice


@pytest.mark.parametrize(
    ("simd", "scalar", "sdc", "expected"),
    [
        (100, 300, 200, Kernels(scalar=True, sdc=False)),
        (100, 300, 400, Kernels(scalar=True, sdc=True)),
        (100, 50, 200, Kernels(scalar=False, sdc=True)),
        (100, 50, 70, Kernels(scalar=False, sdc=False)),
        (100, 103, 70, Kernels(scalar=False, sdc=False)),  # as good as equal
        (100, 0, 70, Kernels(scalar=False, sdc=False)),
    ],
)
def test_fastest__by_speed(
    simd: float, scalar: float, sdc: float, expected: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"simd": simd, "scalar": scalar, "sdc": sdc}
    monkeypatch.setattr(kernels, "measure", lambda: speeds)
    assert kernels.fastest() == expected


def test_choose__measures_only_what_is_worth_it(measurements: list[str]) -> None:
    assert kernels.choose("auto", kernels.WORTH_MEASURING - 1) == SIMD
    assert kernels.choose("simd", 10**9) == SIMD
    assert kernels.choose("scalar", 10**9) == SCALAR
    assert not measurements
    assert kernels.choose("auto", kernels.WORTH_MEASURING) == SCALAR
    assert kernels.choose("auto", 1) == SCALAR  # it is known by now
    assert measurements == ["measured"]


@pytest.mark.parametrize("mode", kernels.MODES)
def test_scan_mode__from_the_environment(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.scan_mode() == "auto"
    monkeypatch.setenv(kernels.VARIABLE, mode)
    assert kernels.scan_mode() == mode


@pytest.mark.parametrize("mode", ["AUTO", "none", "1"])
def test_scan_mode__refuses_others(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, mode)
    with pytest.raises(ValueError, match=f"FAISS_PQVAE_SCAN .* auto, .* got '{mode}'"):
        kernels.scan_mode()


# -- the measurement itself


@pytest.fixture
def real_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()


@pytest.mark.usefixtures("real_measure")
def test_measure__gives_a_speed_for_every_side() -> None:
    speeds = kernels.measure(n=2000, rounds=2)
    assert set(speeds) == set(kernels.SIDES)
    assert all(1 < speed < 1e5 for speed in speeds.values())


@pytest.mark.usefixtures("real_measure")
def test_measure__does_not_trust_other_results(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make = kernels.byte_quantizer

    def wrong(centroids: np.ndarray, *, scalar: bool) -> Any:
        return make(centroids + scalar, scalar=scalar)

    monkeypatch.setattr(kernels, "byte_quantizer", wrong)
    assert kernels.measure(n=2000, rounds=2)["scalar"] == 0
    assert "other results" in caplog.text


def test_byte_quantizer__has_a_table_that_vector_kernels_do_not_take() -> None:
    centroids = np.ones((2, 256, 3), np.float32)
    assert kernels.byte_quantizer(centroids, scalar=False).ksub == 256
    assert kernels.byte_quantizer(centroids, scalar=True).ksub > 256
    assert kernels.byte_quantizer(centroids[:, :64], scalar=False).ksub == 256
    assert kernels.byte_quantizer(centroids[:, :64], scalar=True).ksub == 64
