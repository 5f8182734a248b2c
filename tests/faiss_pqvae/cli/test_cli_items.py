"""Names and ids in a shell: what build keeps, add adds and search prints."""

import importlib
import json
import math
import re
import shutil
import tempfile
import webbrowser
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from faiss_pqvae import LatentIndex, read_index, write_index
from faiss_pqvae.cli import main, search_page
from faiss_pqvae.cli.search_page import _shares
from faiss_pqvae.index.items import Items
from faiss_pqvae.messages import printable
from faiss_pqvae.native import faiss
from faiss_pqvae.registry import datasets

search_module = importlib.import_module("faiss_pqvae.cli.search")

NATIVE = {
    "plain": lambda: faiss.IndexPQ(8, 2, 8),
    "IDMap2": lambda: faiss.IndexIDMap2(faiss.IndexPQ(8, 2, 8)),
    "IVF": lambda: _ivf(),
    "HNSW": lambda: faiss.IndexHNSWPQ(8, 2, 8, 8),
}


def _ivf():
    quantizer = faiss.IndexFlatL2(8)
    quantizer.add(np.random.default_rng(9).standard_normal((4, 8), dtype=np.float32))
    index = faiss.IndexIVFPQ(quantizer, 8, 4, 2, 8)
    index.by_residual, index.nprobe = False, 4
    return index


@pytest.fixture
def bundle(tmp_path, make_model):
    """Makes an empty bundle of a kind, for images or vectors, which finds what is asked for."""

    def make(kind="plain", shape=(3, 8, 8)):
        flat = faiss.IndexFlatL2(math.prod(shape))
        index = LatentIndex(
            make_model(shape, encoder="linear"), faiss_index=NATIVE[kind](), refine_index=flat
        )
        index.k_factor, index.description = 100, "PQVAE2x8,RFlat"
        write_index(index, tmp_path / "b")
        return str(tmp_path / "b")

    return make


def _photo(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """A folder of five photographs in two classes."""
    for i, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png"]):
        _photo(tmp_path / "photos" / name, i)
    return tmp_path / "photos"


@pytest.fixture
def vectors(tmp_path):
    """A file of six vectors."""
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((6, 4)).astype("f4"))
    return tmp_path / "x.npy"


def _found(capsys, *arguments):
    capsys.readouterr()
    main(["search", *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out)


def _names(bundle):
    """The names of a bundle's items by id."""
    items = read_index(bundle).items
    ids = items.all_ids()
    return dict(zip(ids.tolist(), items.names(ids).tolist(), strict=True))


def _nearest(found):
    return [row[0] for row in found["names"]]


# -- build and search


@pytest.mark.parametrize("kind", NATIVE)
def test_build__search_names_files(bundle, photos, capsys, kind):
    b = bundle(kind)
    main(["build", b, str(photos)])
    found = _found(capsys, b, photos, "--k", 6)
    names = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png"]
    assert _nearest(found) == found["queries"] == names
    assert found["names"][0][5] is None
    I, D = np.array(found["I"]), np.array(found["D"])  # noqa: E741
    assert I[:, 0].tolist() == list(range(5))
    index = read_index(b)
    np.testing.assert_allclose(D, index.search(_pixels(photos), 6)[0], rtol=1e-5)


def _pixels(folder):
    paths = sorted(folder.rglob("*.png"))
    return np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in paths])


def test_search__prints_names_of_queries_and_results(bundle, photos, capsys):
    b = bundle()
    main(["build", b, str(photos)])
    capsys.readouterr()
    main(["search", b, str(photos), "--k", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "ids and names (distance), adc" in lines[0]
    assert re.fullmatch(r"dog/3\.png  4 dog/3\.png \(\S+\)", lines[5])


def test_search__of_a_single_photograph(bundle, photos, capsys):
    b = bundle()
    main(["build", b, str(photos)])
    found = _found(capsys, b, photos / "dog" / "2.png")
    assert found["queries"] == ["2.png"]
    assert _nearest(found) == ["dog/2.png"]


def test_search__without_names_prints_ids(bundle, make_items, capsys):
    b = bundle(shape=(4,))
    index = read_index(b)
    index.add(make_items(5, (4,)))
    write_index(index, b)
    np.save(f"{b}/q.npy", make_items(2, (4,)))
    found = _found(capsys, b, f"{b}/q.npy", "--k", 1)
    assert found["names"] == [[None], [None]]
    assert found["queries"] == ["q.npy:0", "q.npy:1"]
    main(["search", b, f"{b}/q.npy", "--k", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  query  nearest ids (distance), adc"
    assert re.fullmatch(r"      0  0 \(\S+\)", lines[1])


def test_search__a_name_is_not_obeyed_by_the_terminal(bundle, photos, capsys):
    b = bundle()
    shutil.move(photos / "cat" / "1.png", photos / "cat" / "\x1b[2J.png")
    main(["build", b, str(photos)])
    capsys.readouterr()
    main(["search", b, str(photos), "--k", "1"])
    assert "\x1b" not in capsys.readouterr().out


def test_build__of_a_data_set_names_rows(bundle, register, make_items):
    x = make_items(40, (1, 8, 8))
    register(datasets, "tiny", lambda: (x, np.arange(40) % 2))
    b = bundle(shape=(1, 8, 8))
    main(["build", b, "tiny"])
    assert _names(b)[3] == "tiny:3"


@pytest.mark.parametrize(
    ("write", "data", "name"),
    [
        ("hdf5", "x.hdf5/emb", "x.hdf5/emb:5"),
        ("parquet", "x.parquet", "x.parquet:5"),
        ("fvecs", "x.fvecs", "x.fvecs:5"),
        ("npy", "x.npy", "x.npy:5"),
    ],
)
def test_build__of_other_formats_names_rows(bundle, vectors, tmp_path, write, data, name):
    x = np.load(vectors)
    if write == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "x.hdf5", "w") as file:
            file["emb"], file["other"] = x, x
    elif write == "parquet":
        pq.write_table(pa.table({"v": list(x)}), tmp_path / "x.parquet")
    elif write == "fvecs":
        head = np.full((6, 1), 4, np.int32)
        np.hstack([head.view(np.float32), x]).tofile(tmp_path / "x.fvecs")
    b = bundle(shape=(4,))
    main(["build", b, str(tmp_path / data)])
    assert _names(b)[5] == name


def test_build__of_a_folder_of_tables_names_rows_of_files(bundle, photos, tmp_path):
    encoded = [path.read_bytes() for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "tables").mkdir()
    for part, rows in enumerate((encoded[:3], encoded[3:])):
        pq.write_table(pa.table({"image": rows}), tmp_path / "tables" / f"{part}.parquet")
    b = bundle()
    main(["build", b, str(tmp_path / "tables")])
    assert list(_names(b).values()) == [
        *(f"0.parquet:{i}" for i in range(3)),
        *(f"1.parquet:{i}" for i in range(2)),
    ]


@pytest.mark.parametrize("kind", ["IDMap2", "IVF"])
def test_build__again_keeps_the_ids_of_files(bundle, photos, kind, capsys):
    b = bundle(kind)
    main(["build", b, str(photos)])
    before = _names(b)
    _photo(photos / "ant" / "1.png", 8)
    (photos / "dog" / "1.png").unlink()
    main(["build", b, str(photos)])
    del before[2]
    assert _names(b) == before | {5: "ant/1.png"}
    found = _found(capsys, b, photos, "--k", 1)
    assert _nearest(found) == found["queries"]


def test_build__again_of_an_index_that_counts_counts_anew(bundle, photos):
    b = bundle()
    main(["build", b, str(photos)])
    _photo(photos / "ant" / "1.png", 8)
    main(["build", b, str(photos)])
    assert list(_names(b).items())[:2] == [(0, "ant/1.png"), (1, "cat/1.png")]


# -- ids of one's own


@pytest.mark.parametrize("kind", ["plain", "IDMap2", "IVF"])
def test_ids__of_integers(bundle, photos, tmp_path, capsys, kind):
    b, ids = bundle(kind), [70, -8, 2**62, 3, 4]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    main(["build", b, str(photos), "--ids", str(tmp_path / "ids.json")])
    assert ("it is now IDMap2,PQVAE2x8,RFlat" in capsys.readouterr().out) == (kind == "plain")
    found = _found(capsys, b, photos, "--k", 1)
    assert np.ravel(found["I"]).tolist() == ids
    assert _nearest(found) == found["queries"]


@pytest.mark.parametrize("command", ["build", "add"])
def test_ids__beyond_which_none_is_left(bundle, photos, tmp_path, capsys, command):
    b, ids = bundle("IVF"), [2**63 - 1, -8, 5, 3, -(2**63)]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    main(["build", b, str(photos), "--ids", str(tmp_path / "ids.json")])
    main([command, b, str(photos)])  # of what has its id, again
    assert np.ravel(_found(capsys, b, photos, "--k", 1)["I"]).tolist() == ids
    _photo(photos / "ant" / "1.png", 8)
    with pytest.raises(SystemExit):
        main([command, b, str(photos)])
    assert "leave room for more, got 9223372036854775807: give --ids" in capsys.readouterr().err


def test_ids__an_index_that_counts_keeps_what_else_it_was(tmp_path, make_model, vectors):
    index = LatentIndex(make_model((4,)), faiss_index=NATIVE["plain"](), refine_index="decoder")
    index.search_type, index.k_factor, index.description = "sdc", 3, "PQVAE2x8,RDecoder"
    write_index(index, tmp_path / "b")
    (tmp_path / "ids.txt").write_text("5\n6\n7\n8\n9\n10")
    main(["build", str(tmp_path / "b"), str(vectors), "--ids", str(tmp_path / "ids.txt")])
    again = read_index(tmp_path / "b")
    assert (again.search_type, again.k_factor) == ("sdc", 3)
    assert again.description == "IDMap2,PQVAE2x8,RDecoder"
    assert again.refiner is not None
    assert sorted(again.search(np.load(vectors)[:1], 6)[1][0]) == [5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("kind", ["plain", "IVF"])
def test_ids__of_texts_are_names(bundle, photos, tmp_path, capsys, kind):
    b, texts = bundle(kind), ["sku-1", "sku-2", "é", "007", "x y"]
    np.save(tmp_path / "ids.npy", np.array(texts))
    main(["build", b, str(photos), "--ids", str(tmp_path / "ids.npy")])
    found = _found(capsys, b, photos, "--k", 1)
    assert _nearest(found) == texts
    assert np.ravel(found["I"]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keys", [["a", "b", "c"], [30, 10, 20]])
def test_ids__of_a_column(bundle, tmp_path, capsys, keys):
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    data = tmp_path / "x.parquet"
    pq.write_table(pa.table({"v": list(x), "key": keys}), data)
    b = bundle(shape=(4,))
    for place in (data, data / "v"):
        main(["build", b, str(place), "--id-column", "key"])
        found = _found(capsys, b, data, "--k", 1)
        assert (np.ravel(found["I"]).tolist() if keys[0] == 30 else _nearest(found)) == keys


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        ([1, 2, 3], [], "expected an id for each of 5 items, got 3"),
        ([1, 2, 3, 4, 5, 6], [], "expected an id for each of 5 items, got 6"),
        ([1, 2, 3, 2, 1], [], "got 2 in places 1 and 3, and 1 more"),
        (["a", "b", "c", "d", "a"], [], "got 'a' in places 0 and 4"),
        ([1, 2, 3, 4, -1], [], "other than -1"),
        ([1, 2, 3, 4, 5], ["--id-column", "key"], "--ids or --id-column, got both"),
        (None, ["--id-column", "key"], "expected Parquet for --id-column"),
    ],
)
def test_ids__refused(bundle, photos, tmp_path, capsys, ids, options, message):
    b = bundle()
    if ids is not None:
        (tmp_path / "ids.json").write_text(json.dumps(ids))
        options = [*options, "--ids", str(tmp_path / "ids.json")]
    with pytest.raises(SystemExit):
        main(["build", b, str(photos), *options])
    assert message in capsys.readouterr().err
    assert read_index(b).ntotal == 0


class _Holed:
    """Four vectors, of which one could not be read."""

    def __init__(self, x, where):
        self.x, self.ids, self.parts = x[[0, 1, 3]], np.array([0, 1, 3]), [(where, 4)]
        self.shape, self.dtype, self.total = self.x.shape, self.x.dtype, 4

    def __len__(self):
        return 3

    def __getitem__(self, rows):
        return self.x[rows]


@pytest.mark.parametrize("kind", ["plain", "IVF"])
@pytest.mark.parametrize("ids", [None, [7, 8, 9, 10], ["a", "b", "c", "d"]], ids=str)
def test_build__what_was_left_out_leaves_its_place(
    bundle, vectors, tmp_path, monkeypatch, kind, ids
):
    holed = _Holed(np.load(vectors), vectors)
    monkeypatch.setattr("faiss_pqvae.cli.build.open_for", lambda *_: holed)
    b, options = bundle(kind, (4,)), []
    if ids is not None:
        (tmp_path / "ids.json").write_text(json.dumps(ids))
        options = ["--ids", str(tmp_path / "ids.json")]
    main(["build", b, str(vectors), *options])
    names = {i: f"x.npy:{i}" for i in (0, 1, 3)}
    if ids and isinstance(ids[0], int):
        names = {ids[i]: name for i, name in names.items()}
    elif ids:
        names = {i: ids[i] for i in names}
    assert _names(b) == names


# -- add


@pytest.mark.parametrize("kind", NATIVE)
def test_add__renumbers_nothing(bundle, photos, capsys, kind):
    b = bundle(kind)
    main(["build", b, str(photos)])
    before = _names(b)
    _photo(photos / "ant" / "1.png", 8)
    _photo(photos / "new.png", 9)
    capsys.readouterr()
    main(["add", b, str(photos)])
    out = capsys.readouterr().out
    assert "left out, there already: cat/1.png, cat/2.png, dog/1.png and 2 more" in out
    assert "added 2 items; 7 of" in out
    assert _names(b) == before | {5: "ant/1.png", 6: "new.png"}
    found = _found(capsys, b, photos, "--k", 1)
    assert _nearest(found) == found["queries"]


@pytest.mark.parametrize("data", ["", "dog", "dog/1.png"])
def test_add__of_what_is_there_changes_nothing(bundle, photos, tmp_path, capsys, data):
    b = bundle()
    main(["build", b, str(photos)])
    before = {path: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    main(["add", b, str(photos / data)])
    assert "nothing to add" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before


def test_add__of_another_folder_has_whole_paths(bundle, photos, tmp_path, capsys):
    b = bundle()
    main(["build", b, str(photos)])
    _photo(tmp_path / "more" / "1.png", 7)
    main(["add", b, str(tmp_path / "more" / "1.png")])
    assert _names(b)[5] == str((tmp_path / "more" / "1.png").resolve())
    assert _nearest(_found(capsys, b, tmp_path / "more" / "1.png")) == [_names(b)[5]]


def test_add__of_a_file_that_has_grown(bundle, vectors, capsys):
    b, x = bundle(shape=(4,)), np.load(vectors)
    np.save(vectors, x[:4])
    main(["build", b, str(vectors)])
    np.save(vectors, x)
    main(["add", b, str(vectors)])
    assert _nearest(_found(capsys, b, vectors)) == [f"x.npy:{i}" for i in range(6)]


def test_add__of_a_bad_row_names_it_and_changes_nothing(bundle, vectors, tmp_path, capsys):
    b, x = bundle(shape=(4,)), np.load(vectors)
    np.save(vectors, x[:4])
    main(["build", b, str(vectors)])
    before = {path: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    x[5] = np.nan
    np.save(vectors, x)
    with pytest.raises(SystemExit):
        main(["add", b, str(vectors)])
    assert f"finite items of {vectors}, got NaN or infinity in row 5" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "b").iterdir()} == before


@pytest.mark.parametrize("kind", ["IDMap2", "IVF"])
def test_add__counts_on_from_the_largest_id(bundle, photos, kind, tmp_path):
    b = bundle(kind)
    (tmp_path / "ids.txt").write_text("7\n-3\n100\n3\n9")
    main(["build", b, str(photos), "--ids", str(tmp_path / "ids.txt")])
    _photo(photos / "new.png", 9)
    main(["add", b, str(photos)])
    assert _names(b)[101] == "new.png"


def test_add__takes_ids_of_ones_own(bundle, photos, tmp_path, capsys):
    b, ids = bundle("IDMap2"), tmp_path / "ids.txt"
    main(["build", b, str(photos)])
    _photo(photos / "new.png", 9)
    ids.write_text("4")
    with pytest.raises(SystemExit):
        main(["add", b, str(photos / "new.png"), "--ids", str(ids)])
    assert "ids that are not there yet, got 4" in capsys.readouterr().err
    ids.write_text("-44")
    main(["add", b, str(photos / "new.png"), "--ids", str(ids)])
    assert _names(b)[-44] == "new.png"
    ids.write_text("new.png")  # now the user's own name, of the same photograph
    main(["add", b, str(photos / "new.png"), "--ids", str(ids)])
    with pytest.raises(SystemExit):
        main(["add", b, str(photos / "new.png"), "--ids", str(ids)])
    assert "not there yet, got new.png" in capsys.readouterr().err
    assert read_index(b).ntotal == 7


def test_add__of_integer_ids_to_an_index_that_counts(bundle, photos, tmp_path, capsys):
    b = bundle()
    main(["build", b, str(photos)])
    (tmp_path / "ids.txt").write_text("\n".join("56789"))
    shutil.copytree(photos, tmp_path / "copy")
    with pytest.raises(SystemExit):
        main(["add", b, str(tmp_path / "copy"), "--ids", str(tmp_path / "ids.txt")])
    assert "PQVAE2x8,RFlat counts its items and takes no ids" in capsys.readouterr().err


def test_add__to_items_without_names_says_so(bundle, vectors, capsys):
    b = bundle(shape=(4,))
    index = read_index(b)
    index.add(np.load(vectors))
    write_index(index, b)
    main(["add", b, str(vectors)])
    assert "the 6 items that were there have no names" in capsys.readouterr().out
    assert _names(b) == {6 + i: f"x.npy:{i}" for i in range(6)}


def test_add__of_a_folder_that_has_moved(bundle, photos, tmp_path, capsys):
    b = bundle()
    main(["build", b, str(photos)])
    moved = photos.rename(tmp_path / "moved")
    with pytest.raises(SystemExit):
        main(["add", b, str(moved)])
    assert f"give --root {moved.resolve()} if these are they" in capsys.readouterr().err
    _photo(moved / "new.png", 9)
    main(["add", b, str(moved), "--root", str(moved)])
    assert (_names(b)[0], _names(b)[5]) == ("cat/1.png", "new.png")
    assert read_index(b).items.root == str(moved.resolve())


# -- info, pages


def test_info__says_whether_items_have_names(bundle, photos, capsys):
    b = bundle()
    main(["info", b])
    assert re.search(r"names  none, items have ids only", capsys.readouterr().out)
    main(["build", b, str(photos)])
    main(["info", b])
    assert f"names  of 5 items, files in {photos.resolve()}" in capsys.readouterr().out


def _pictures(path):
    return path.read_text().count('src="data:image/')


def test_html__a_folder_is_no_page(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["search", "bundle", "queries", "--html", str(tmp_path)])
    assert f"expected a file for --html, got the folder {tmp_path}\n" in capsys.readouterr().err


def test_html__shows_queries_beside_results(bundle, photos, tmp_path, capsys):
    b, page = bundle(), tmp_path / "page.html"
    shutil.move(photos / "cat" / "1.png", photos / "cat" / "<i>&.png")
    main(["build", b, str(photos)])
    main(["search", b, str(photos / "dog"), "--k", "2", "--html", str(page)])
    assert f"3 of 3 queries in {page}" in capsys.readouterr().err
    assert _pictures(page) == 3 * (1 + 2)
    main(["search", b, str(photos), "--k", "1", "--html", str(page)])
    assert ">cat/&lt;i&gt;&amp;.png</a>" in page.read_text()
    assert "<i>&" not in page.read_text()
    assert '/cat/%3Ci%3E%26.png">' in page.read_text()


@pytest.mark.parametrize(
    "name", ['"><script>alert(1)</script>', "' onload='x", "\x1b[31m", "&amp;"]
)
def test_html__a_name_is_text(bundle, photos, tmp_path, name):
    b, page = bundle(), tmp_path / "page.html"
    folder = photos / name.replace("/", "\N{DIVISION SLASH}")
    shutil.move(photos / "dog", folder)
    main(["build", b, str(photos)])
    main(["search", b, str(photos), "--k", "5", "--html", str(page)])
    seen = Seen(page.read_text())
    assert [value for name, value in seen.attributes if name.startswith("on")] == []
    assert "script" not in seen.tags
    assert sum(text.startswith(printable(folder.name)) for text in seen.texts) == 3 * (1 + 5)
    links = [value for name, value in seen.attributes if name == "href"]
    assert {unquote(link) for link in links} == {
        f"file://{path}" for path in photos.resolve().rglob("*.png")
    }


class Seen(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def test_html__needs_no_other_file_and_says_how_was_searched(bundle, photos, tmp_path):
    b, page = bundle(), tmp_path / "page.html"
    main(["build", b, str(photos)])
    main(["search", b, str(photos), "--k", "3", "--html", str(page)])
    seen = Seen(page.read_text())
    assert {tag for tag in seen.tags if tag in ("script", "link", "iframe")} == set()
    assert all(value.startswith("data:") for name, value in seen.attributes if name == "src")
    assert "url(" not in page.read_text()
    facts = dict(zip(*(_inside(page.read_text(), tag) for tag in ("dt", "dd")), strict=True))
    assert re.fullmatch(r"[0-9.,]+ ms a query, reading .*", facts.pop("time"))
    assert facts == {
        "index": "PQVAE2x8,RFlat",
        "items": "5",
        "search": "adc, k 3",
        "distance": "squared L2, smaller is nearer",
        "queries": "5",
    }
    assert _inside(page.read_text(), "b") == ["query", "1", "2", "3"] * 5  # and ranks


def _inside(text, tag):
    return re.findall(f"<{tag}>(.*?)</{tag}>", text)


def test_html__the_farthest_has_the_longest_bar():
    assert _shares(np.array([1, 2, 4], "f4")) == [0.25, 0.5, 1]
    assert _shares(np.array([3, 0, -1], "f4")) == [1, 0.25, 0]  # inner products
    assert _shares(np.zeros(2, "f4")) == [0, 0]
    assert _shares(np.empty(0, "f4")) == []


def test_html__pictures_that_were_found_twice_are_read_once(bundle, photos, tmp_path, monkeypatch):
    b, page, read = bundle(), tmp_path / "page.html", []
    main(["build", b, str(photos)])
    monkeypatch.setattr(
        search_page, "thumbnail_of_file", lambda path, side: read.append(path) or "AAAA"
    )
    main(["search", b, str(photos), "--k", "5", "--html", str(page)])
    assert _pictures(page) == 5 * (1 + 5)
    assert len(read) == 5 + 5


def test_open__shows_the_page_that_was_written(bundle, photos, tmp_path, monkeypatch, capsys):
    b, page, opened = bundle(), tmp_path / "a page.html", []
    monkeypatch.setattr(webbrowser, "open", lambda uri: opened.append(uri) or True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    main(["build", b, str(photos)])
    main(["search", b, str(photos), "--html", str(page), "--open"])
    assert opened == [f"file://{tmp_path}/a%20page.html"]
    capsys.readouterr()
    main(["search", b, str(photos), "--open"])
    (written,) = tmp_path.glob("faiss-pqvae-*/search.html")
    assert f"5 of 5 queries in {written}\n" in capsys.readouterr().err
    assert opened[1:] == [written.as_uri()]
    assert _pictures(written) == 5 * (1 + 5)


def test_open__without_a_browser_says_where_the_page_is(
    bundle, photos, tmp_path, monkeypatch, capsys
):
    b, page = bundle(), tmp_path / "page.html"
    main(["build", b, str(photos)])
    capsys.readouterr()
    monkeypatch.setattr(webbrowser, "open", lambda uri: False)
    with pytest.raises(SystemExit, match="2"):
        main(["search", b, str(photos), "--html", str(page), "--open"])
    said = capsys.readouterr()
    assert f"faiss-pqvae: found no browser to open {page} in: open it by hand" in said.err
    assert len(said.out.splitlines()) == 1 + 5  # what was found is not lost
    assert _pictures(page) == 5 * (1 + 5)


def test_search__batch_by_batch_finds_the_same(bundle, photos, capsys, monkeypatch):
    b = bundle()
    main(["build", b, str(photos)])
    whole = _found(capsys, b, photos, "--k", 3)
    monkeypatch.setattr(search_module, "_QUERIES", 2)
    parts = _found(capsys, b, photos, "--k", 3)
    assert (parts["I"], parts["names"]) == (whole["I"], whole["names"])
    np.testing.assert_allclose(parts["D"], whole["D"], rtol=1e-5)


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_html__of_rows_that_are_images(bundle, photos, tmp_path, suffix):
    b, page, data = bundle(), tmp_path / "page.html", tmp_path / f"x.{suffix}"
    if suffix == "npy":
        np.save(data, _pixels(photos))
    else:
        pq.write_table(
            pa.table({"image": [path.read_bytes() for path in sorted(photos.rglob("*.png"))]}), data
        )
    main(["build", b, str(data)])
    main(["search", b, str(data), "--k", "2", "--html", str(page)])
    assert _pictures(page) == 5 * (1 + 2)
    queries = tmp_path / f"q.{suffix}"
    data.rename(queries)  # what was stored is gone: names are left
    main(["search", b, str(queries), "--k", "2", "--html", str(page)])
    assert _pictures(page) == 5
    assert f"x.{suffix}:4" in page.read_text()


def test_html__of_a_folder_that_has_moved(bundle, photos, tmp_path, capsys):
    b, page = bundle(), tmp_path / "page.html"
    main(["build", b, str(photos)])
    moved = photos.rename(tmp_path / "moved")
    for options, pictures in (([], 5), (["--root", str(moved)], 10)):
        main(["search", b, str(moved), "--k", "1", "--html", str(page), *options])
        assert _pictures(page) == pictures
        said = f"5 pictures of stored items not found in {photos}: give --root FOLDER"
        assert (said in capsys.readouterr().err) == (pictures == 5)


def test_html__of_vectors_has_names(bundle, vectors, tmp_path, capsys):
    b, page = bundle(shape=(4,)), tmp_path / "page.html"
    main(["build", b, str(vectors)])
    main(["search", b, str(vectors), "--html", str(page)])
    assert _pictures(page) == 0
    assert "x.npy:5" in page.read_text()
    assert "not found" not in capsys.readouterr().err


def test_html__is_not_endless(make_items):
    x, names = make_items(9, (3, 8, 8)), Items.of_parts([("q", 9)], "")
    found = search_page.Found(np.zeros((9, 2), np.float32), np.zeros((9, 2), np.int64), 0.0)
    stored = search_page.Thumbnails(None, None)
    text, shown = search_page.page("q", {}, x, names, found, stored, limit_bytes=1000)
    assert 1 <= shown < 9
    assert f"The first {shown} of 9 queries." in text
