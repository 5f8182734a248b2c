"""sentence-transformers and Hugging Face's datasets: the how-to's snippets, and what they hand us.

Neither is among what the tests install; no model and no data set is downloaded.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.cli import collection, main
from faiss_pqvae.data.as_rows import as_rows
from faiss_pqvae.data.batches import check_items, read_batches
from faiss_pqvae.scale import planning

NEEDED = ("sentence_transformers", "datasets")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.skipif(
        bool(MISSING), reason=f"pip install sentence-transformers datasets: no {', '.join(MISSING)}"
    ),
    pytest.mark.timeout(300),
]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "sentence-embeddings.md"
TRAINING = fpq.TrainingConfig(epochs=1, precision="float32", device="cpu")
# What the page shows takes minutes; here it has to run.
SMALLER = (
    ('"*.py"', '"[n-z]*.py"'),
    ('"PQVAE8"', '"PQVAE16x4"'),
    ("budget_minutes=1", "epochs=2"),
)


def block(language: str) -> str:
    """All of the page's code in a language, one piece after another."""
    code = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert code
    return "\n".join(code)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page's snippets left: their names, and a folder with their files."""
    folder = tmp_path_factory.mktemp("page")
    code = block("py")
    for shown, run in SMALLER:
        assert shown in code
        code = code.replace(shown, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        names = {}
        exec(compile(code, PAGE.name, "exec"), names)
    known = np.flatnonzero(names["x"].any(1))  # what has a word that the model knows
    return {**names, "folder": folder, "known": [names["sentences"][i] for i in known]}


def test_page__its_snippets_find_sentences_by_their_words(page):
    index, model, sentences = page["index"], page["model"], page["sentences"]
    assert index.ntotal == len(sentences) > 1000
    asked = ["Remove a directory.", "Return the absolute path"]
    _, I = index.search(model.encode(asked), k=10)  # noqa: E741 - FAISS's name
    for found, word in zip(index.items.names(I), ["director", "path"], strict=True):
        assert sum(word in sentence.lower() for sentence in found) >= 5, found


def test_page__the_data_set_searches_itself_as_the_index_does(page):
    D, I = page["index"].search(page["question"][None], 5)  # noqa: E741 - FAISS's name
    np.testing.assert_allclose(page["cosines"], D[0], atol=1e-5)
    assert page["found"]["sentence"] == page["index"].items.names(I[0]).tolist()


def test_page__its_command_makes_an_index_of_the_parquet_file(page, monkeypatch):
    factory = fpq.index_factory
    few = fpq.Ranking(anchors=64, sample=64, pool=16, rounds=1, epochs=1)

    def made(d, description, *, training):
        return factory(d, "PQVAE4x4", objective=few, training=TRAINING)

    monkeypatch.setattr(fpq, "index_factory", made)
    for module in (planning, collection):
        monkeypatch.setattr(module, "QUERIES", 100)
    monkeypatch.chdir(page["folder"])
    program, *arguments = block("sh").split()
    assert program == "faiss-pqvae"
    main([*arguments, "--workers", "1"])
    index = fpq.read_index("corpus.index")
    assert (index.ntotal, index.d) == (len(page["sentences"]), 64)


@pytest.mark.parametrize("kind", [None, "numpy", "torch", "arrow", "pandas"])
def test_column__of_any_format_is_read_as_it_is(page, kind):
    column = page["dataset"].with_format(kind)["embedding"]
    rows = check_items(column, (64,), "items")
    got = np.concatenate([batch.numpy() for batch in read_batches(rows, 1000, "items")])
    np.testing.assert_array_equal(got, page["model"].encode(page["sentences"]))


def test_column__of_rows_that_were_picked_is_read_in_one_go(page):
    picked = page["load_from_disk"](str(page["folder"] / "corpus")).select([7, 3, 7])
    rows = as_rows(picked["embedding"], (64,), "items")
    assert type(rows) is np.ndarray
    np.testing.assert_array_equal(rows, page["model"].encode(page["sentences"])[[7, 3, 7]])


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        ("float", {}),
        ("float", {"convert_to_tensor": True}),
        ("float", {"convert_to_numpy": False}),
        ("float", {"precision": "int8"}),
        ("half", {}),
        ("half", {"convert_to_tensor": True}),
        ("bfloat16", {"convert_to_tensor": True}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*training items")
def test_index__takes_whatever_a_model_encodes_to(page, precision, options):
    model = getattr(page["SentenceTransformer"](str(page["folder"] / "small-model")), precision)()
    x = model.encode(page["known"][:400], **options)
    index = fpq.index_factory(64, "PQVAE8x4,RFlat", "cosine", training=TRAINING)
    index.train(x)
    index.add(x)
    index.k_factor = 400  # all are looked at again
    cosines, _ = index.search(x[:9], k=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-2)  # of the sentence, or of one with its words


@pytest.mark.filterwarnings("ignore:.*training items")
def test_example__takes_the_folder_of_a_model(page, tmp_path):
    (tmp_path / "lines.txt").write_text("\n".join(page["known"][:300]))
    asked = page["known"][123]
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "examples" / "sentence_embeddings.py"), "lines.txt"),
            *("--model", str(page["folder"] / "small-model"), "--code", "PQVAE4x4,RFlat"),
            *("--ask", asked, "--k", "300"),  # all are looked at again
        ],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 300
    assert f"1.00  {asked}" in lines
    assert lines[-1] < "0.50"
