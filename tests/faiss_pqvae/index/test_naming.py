import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from faiss_pqvae.index.naming import items_of


def _source(n=2, **attributes):
    return SimpleNamespace(**attributes) if attributes else np.zeros((n, 4))


def _photos(folder):
    (folder / "a").mkdir(parents=True)
    for name in ("a/1.jpg", "2.jpg"):
        (folder / name).touch()
    return [folder / "a" / "1.jpg", folder / "2.jpg"]


@pytest.mark.parametrize("form", ["absolute", "relative", "here", "link", "slash"])
def test_items_of__a_folder_in_every_form(tmp_path, monkeypatch, form):
    folder = tmp_path / "photos"
    _photos(folder)
    where = {"absolute": folder, "relative": Path("photos"), "here": Path(), "slash": "photos/"}
    monkeypatch.chdir(folder if form == "here" else tmp_path)
    if form == "link":
        where["link"] = tmp_path / "link"
        where["link"].symlink_to(folder)
    paths = [Path(where[form]) / "a" / "1.jpg", Path(where[form]) / "2.jpg"]
    items = items_of(_source(paths=paths), where[form])
    assert items.names([0, 1]).tolist() == ["a/1.jpg", "2.jpg"]
    assert items.root == os.path.realpath(folder)
    assert items.place(0) == (folder.resolve() / "a" / "1.jpg", None)


def test_items_of__links_inside_keep_their_names(tmp_path):
    _photos(tmp_path / "photos")
    (tmp_path / "photos" / "b").symlink_to("a")
    paths = [tmp_path / "photos" / "b" / "1.jpg"]
    assert items_of(_source(paths=paths), tmp_path / "photos").names([0]).tolist() == ["b/1.jpg"]


def test_items_of__a_file_in_every_form(tmp_path, monkeypatch):
    (tmp_path / "x.npy").touch()
    monkeypatch.chdir(tmp_path)
    for where in ("x.npy", tmp_path / "x.npy"):
        items = items_of(_source(3), where)
        assert items.names([2]).tolist() == ["x.npy:2"]
        assert items.root == os.path.realpath(tmp_path)


def test_items_of__parts(tmp_path):
    parts = [(tmp_path / f"{i}.npy", n) for i, n in enumerate((3, 2))]
    items = items_of(_source(parts=parts), tmp_path)
    assert items.names([2, 3]).tolist() == ["0.npy:2", "1.npy:0"]
    left = items_of(_source(parts=parts, ids=np.array([0, 2, 4])), tmp_path)
    assert left.names([0, 1, 2, 3]).tolist() == ["0.npy:0", "0.npy:2", "1.npy:1", ""]


def test_items_of__a_data_set():
    items = items_of(_source(3), "mnist5k")
    assert (items.names([2]).tolist(), items.root) == (["mnist5k:2"], "")
