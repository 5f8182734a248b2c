"""Pictures decoded once: what is decoded again, what stays, and what is removed."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faiss_pqvae.data.images import ImageFolder, ParquetImages, cache, pictures
from faiss_pqvae.data.images.cache import PIXELS, STAMPS, decode_all, decoded
from faiss_pqvae.data.images.decoder import Decoder

N = 7


@pytest.fixture
def folder(tmp_path: Path, pixels: Any) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(N):
        Image.fromarray(pixels(i, 9, 8)).save(root / f"{i}.png")
    return root


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "training"


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the pictures that are decoded."""
    names: list[str] = []
    image = Decoder.image

    def counted(self: Decoder, file: Any, name: str) -> Any:
        names.append(Path(name).name)
        return image(self, file, name)

    monkeypatch.setattr(Decoder, "image", counted)
    return names


def interrupted(source: Any, kept: Path) -> None:
    """A training that does not end."""
    with pytest.raises(KeyboardInterrupt), decoded(source, kept):
        raise KeyboardInterrupt


def test_decoded__hands_out_the_pixels_and_leaves_nothing(folder: Path, kept: Path) -> None:
    source = ImageFolder(folder, (4, 5))
    with decoded(source, kept) as x:
        assert isinstance(x, np.memmap)
        assert not x.flags.writeable
        np.testing.assert_array_equal(x, source[:])
        np.testing.assert_array_equal(np.load(kept / PIXELS), source[:])
    assert list(kept.iterdir()) == []


def test_decoded__goes_on_after_an_interruption(
    folder: Path, kept: Path, decodings: list[str]
) -> None:
    source = ImageFolder(folder, (4, 5))
    interrupted(source, kept)
    assert sorted(decodings) == [f"{i}.png" for i in range(N)]
    decodings.clear()
    with decoded(source, kept) as x:
        assert decodings == []
        np.testing.assert_array_equal(x, source[:])


@pytest.mark.parametrize("parts_done", [0, 1, 3])
def test_decoded__is_whole_after_a_stop_while_it_decodes(
    folder: Path,
    kept: Path,
    decodings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    parts_done: int,
) -> None:
    source = ImageFolder(folder, (4, 5))
    expected = source[:]
    syncs: list[int] = []

    def stopped(file: int) -> None:
        if len(syncs) == parts_done:
            raise KeyboardInterrupt
        syncs.append(file)

    monkeypatch.setattr(pictures, "_CHUNK", 2)  # pictures at a time
    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "fsync", stopped)
        with pytest.raises(KeyboardInterrupt), decoded(source, kept):
            pass
    decodings.clear()
    with decoded(source, kept) as x:
        np.testing.assert_array_equal(x, expected)
    assert len(decodings) == N - 2 * parts_done


@pytest.mark.parametrize("change", ["content", "size", "mode", "added", "orient"])
def test_decoded__decodes_what_has_changed(
    folder: Path, kept: Path, decodings: list[str], pixels: Any, change: str
) -> None:
    interrupted(ImageFolder(folder, (4, 5)), kept)
    options: dict[str, Any] = {"size": (4, 5)}
    again = N
    if change == "content":
        Image.fromarray(pixels(99, 9, 8)).save(folder / "3.png")
        again = 1
    elif change == "added":  # 9 comes behind the others
        Image.fromarray(pixels(99, 9, 8)).save(folder / "9.png")
        again = 1
    else:
        options |= {"size": {"size": (3, 2)}, "mode": {"mode": "L"}, "orient": {"orient": False}}[
            change
        ]
    source = ImageFolder(folder, **options)
    expected = source[:]
    decodings.clear()
    with decoded(source, kept) as x:
        assert len(decodings) == again
        np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("damage", ["cut", "garbage", "no pixels", "no stamps", "cut stamps"])
def test_decoded__believes_no_damaged_file(folder: Path, kept: Path, damage: str) -> None:
    source = ImageFolder(folder, (4, 5))
    interrupted(source, kept)
    pixels, stamps = kept / PIXELS, kept / STAMPS
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-70])
    elif damage == "garbage":
        pixels.write_bytes(b"x" * 50)
    elif damage == "cut stamps":
        stamps.write_bytes(stamps.read_bytes()[:-3])
    else:
        (pixels if damage == "no pixels" else stamps).unlink()
    with decoded(source, kept) as x:
        np.testing.assert_array_equal(x, source[:])


def test_decoded__lists_all_faults_and_keeps_the_good_ones(
    folder: Path, kept: Path, decodings: list[str], pixels: Any
) -> None:
    for name in ("1.png", "5.png"):
        (folder / name).write_text("text")
    with (
        pytest.raises(ValueError, match=r"(?s)2 of 7 images.*1\.png.*5\.png.*--skip-broken"),
        decoded(ImageFolder(folder, (4, 5)), kept),
    ):
        pass
    Image.fromarray(pixels(1)).save(folder / "1.png")
    Image.fromarray(pixels(5)).save(folder / "5.png")
    decodings.clear()
    with decoded(ImageFolder(folder, (4, 5)), kept):
        assert sorted(decodings) == ["1.png", "5.png"]


def test_decoded__leaves_out_broken_files(folder: Path, kept: Path) -> None:
    (folder / "1.png").write_text("text")
    source = ImageFolder(folder, (4, 5), skip_broken=True)
    with decoded(source, kept) as x:
        np.testing.assert_array_equal(x, source[:])
    assert len(x) == N - 1


def test_decoded__of_parquet(folder: Path, kept: Path, decodings: list[str]) -> None:
    path = folder / "x.parquet"
    images = [(folder / f"{i}.png").read_bytes() for i in range(N)]
    pq.write_table(pa.table({"img": images}), path)
    interrupted(ParquetImages(path), kept)
    decodings.clear()
    with decoded(ParquetImages(path), kept) as x:
        assert decodings == []
        np.testing.assert_array_equal(x, ParquetImages(path)[:])
    pq.write_table(pa.table({"img": images[::-1]}), path)
    with decoded(ParquetImages(path), kept) as x:
        np.testing.assert_array_equal(x, ParquetImages(path)[:])


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_decode_all__in_memory_or_in_a_file_without_a_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source = ImageFolder(folder)
    before = set(tmp_path.iterdir())
    x = decode_all(source, memory_bytes=memory_bytes)
    np.testing.assert_array_equal(x, source[:])
    assert isinstance(x, np.memmap) == (memory_bytes == 0)
    assert set(tmp_path.iterdir()) == before


def test_decoded__leaves_other_things_as_they_are(kept: Path) -> None:
    x = np.zeros((3, 2), np.float32)
    with decoded(x, kept) as y:
        assert y is x
    assert decode_all(x) is x
    assert not kept.exists()


def test_decoded__a_full_disk_is_noticed_before_the_work(
    folder: Path, kept: Path, decodings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    source = ImageFolder(folder, (100, 100))
    message = r"cannot write .*images\.npy, which needs 0\.2 MB for images: .* has 0\.0 MB free"
    with pytest.raises(OSError, match=message), decoded(source, kept):
        pass
    with pytest.raises(OSError, match=r"a temporary file in .* \(TMPDIR\), which needs 0\.2 MB"):
        decode_all(source, memory_bytes=0)
    assert decodings == []


def test_decoded__a_disk_that_fills_up_names_the_file(
    folder: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "fsync", full)
    message = r"images\.npy, which needs 0\.0 MB for images: No space left"
    with pytest.raises(OSError, match=message), decoded(ImageFolder(folder), kept):
        pass
