"""Lists of labelled images: the splits of the literature on hashing."""

import numpy as np
import pytest
from PIL import Image

from faiss_pqvae.eval.data.labelled import LabelledData
from faiss_pqvae.eval.data.load import load
from faiss_pqvae.eval.data.own import OwnData
from faiss_pqvae.eval.data.protocol import DATA_VARIABLE

N = 12
SMALL = OwnData(size=(8, 8))
LISTS = {"database.txt": range(6), "test.txt": (6, 7), "train.txt": (0, 8, 9)}


def picture(path, grey, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def write_lists(folder, *, several=True, prefix="img/", images="img"):
    """12 pictures, whose grey says which is which, 6 of them in the database."""
    for number in range(N):
        picture(folder / images / f"{number}.png", 10 * number, (9 + number, 7))
    for name, numbers in LISTS.items():
        lines = [f"{prefix}{i}.png {' '.join(row(i, several))}\n" for i in numbers]
        (folder / name).write_text("".join(lines))
    return folder


def row(number, several):
    labels = ["0"] * 3
    labels[number % 3] = "1"
    if several:
        labels[2] = "1"
    return labels


def greys(x):
    return np.asarray(x)[:, 0, 0, 0].tolist()


def test_lists__give_their_splits(tmp_path):
    data = load(write_lists(tmp_path / "few"), own=SMALL)
    assert isinstance(data, LabelledData)
    assert data.database.shape == (6, 3, 8, 8)
    assert greys(data.database) == [0, 10, 20, 30, 40, 50]
    assert greys(data.queries) == [60, 70]
    assert greys(data.train) == [0, 80, 90]
    classes = [np.flatnonzero(labels).tolist() for labels in data.database_labels]
    assert classes == [[0, 2], [1, 2], [2]] * 2
    assert data.train_labels.shape == (3, 3)
    assert data.default_k == 6


def test_lists__of_one_class_an_image_are_numbers(tmp_path):
    data = load(write_lists(tmp_path / "few", several=False), own=SMALL)
    assert data.database_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.query_labels.tolist() == [0, 1]
    assert data.train_labels.tolist() == [0, 2, 0]


def test_lists__without_a_training_part_learn_from_the_database(tmp_path):
    write_lists(tmp_path)
    (tmp_path / "train.txt").unlink()
    data = load(tmp_path, own=SMALL)
    assert data.train is data.database
    assert data.labels_to_train is data.database_labels


@pytest.mark.parametrize(
    ("prefix", "images"),
    [("../../data/nus/img/", "img"), ("/home/somebody/nus/img/", "img"), ("", "images")],
)
def test_lists__of_other_folders(tmp_path, prefix, images):
    assert greys(load(write_lists(tmp_path, prefix=prefix, images=images), own=SMALL).queries) == [
        60,
        70,
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("img/0.png", "a path and a 0 or 1 for every class in line 1"),
        ("img/0.png 0 2 1", "in line 1"),
        ("img/0.png 01 1 0", "in line 1"),
        ("img/0.png 0 1 0\nimg/1.png 0 1", "expected 3 classes in line 2"),
        ("\n\n", "expected at least one image"),
        ("img/0.png 0 1", "expected as many classes in all lists"),
    ],
)
def test_lists__damaged(tmp_path, line, message):
    write_lists(tmp_path)
    (tmp_path / "database.txt").write_text(line)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, own=SMALL)


def test_lists__a_query_that_is_searched_in(tmp_path):
    write_lists(tmp_path)
    with (tmp_path / "test.txt").open("a") as file:
        file.write("img/3.png 0 0 1\n")
    with pytest.raises(ValueError, match=r"queries that are not searched in, got 1 image .*3\.png"):
        load(tmp_path, own=SMALL)


def test_lists__images_that_are_not_there(tmp_path):
    write_lists(tmp_path)
    (tmp_path / "img/4.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 image of .*database\.txt not there: .*4\.png"):
        load(tmp_path, own=SMALL)
    (tmp_path / "img/0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"img/0\.png is not there"):
        load(tmp_path, own=SMALL)


def test_lists__options_that_say_nothing_of_them(tmp_path):
    write_lists(tmp_path)
    with pytest.raises(ValueError, match="--size, --crop and --mode alone for the lists"):
        load(tmp_path, own=OwnData(label_column="label"))


def test_lists__of_several_sizes_need_one(tmp_path):
    write_lists(tmp_path)
    with pytest.raises(ValueError, match="--size HEIGHT WIDTH"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["nus-wide", "coco", "imagenet100", "flickr25k"])
def test_names__read_lists_or_say_what_goes_where(tmp_path, monkeypatch, name):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"database\.txt") as error:
        load(name)
    assert str(tmp_path / name) in str(error.value)
    write_lists(tmp_path / name)
    data = load(name)
    assert data.database.shape == (6, 3, 64, 64)
    assert data.default_k == 6
    assert "64 x 64 pixels" in data.description
    monkeypatch.delenv(DATA_VARIABLE)
    with pytest.raises(ValueError, match="https://"):
        load(name)


def test_flickr25k__as_its_archives_come(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    folder = tmp_path / "flickr25k"
    for number in range(1, N + 1):
        picture(folder / f"mirflickr/im{number}.jpg", 10 * number)
    notes = folder / "mirflickr25k_annotations_v080"
    notes.mkdir()
    (notes / "README.txt").write_text("words")
    (notes / "clouds.txt").write_text("\n".join(map(str, range(1, 9))))
    (notes / "clouds_r1.txt").write_text("1\n")
    (notes / "sea.txt").write_text("2\n11\n12\n")
    data = load("flickr25k", n_queries=3)
    assert data.class_names == ("clouds", "sea")
    assert (len(data.database), len(data.queries)) == (N - 3, 3)
    labels = np.concatenate([data.database_labels, data.query_labels])
    assert labels.sum(0).tolist() == [8, 3]
    shown = np.array(greys(data.database) + greys(data.queries))
    assert sorted(shown[labels[:, 1]].tolist()) == [20, 110, 120]
    (notes / "sea.txt").write_text("2 sea\n")
    with pytest.raises(ValueError, match=r"numbers of images in .*sea\.txt, got 'sea'"):
        load("flickr25k")
    (notes / "sea.txt").write_text("99\n")
    with pytest.raises(FileNotFoundError, match=r"1 image of .*sea\.txt not there, such as im99"):
        load("flickr25k")
