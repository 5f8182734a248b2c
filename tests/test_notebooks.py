"""The notebooks run from top to bottom, in a smaller form, and show what they gave."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
SMALLER = (
    ("budget_minutes=2", "epochs=1"),
    ("epochs=20", "epochs=1"),
    ("width=16", "width=4"),
    ('"PQVAE8", training', '"PQVAE8x4", objective=fpq.Additive(filled=0, rounds=1), training'),
    ('library.rglob("*.py")', 'library.glob("*.py")'),
    ("order[500:]", "order[500:1200]"),
    ("asked, stored = order[:500]", "asked, stored = order[:60]"),
    ('"PQ8"', '"PQ8x4"'),
    ('"OPQ8,PQ8"', '"OPQ8,PQ8x4"'),
    ('"PQ4"', '"PQ4x4"'),
)


def cells(notebook):
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def test_notebooks__are_two():
    assert [notebook.stem for notebook in NOTEBOOKS] == ["digits", "docstrings"]


@pytest.mark.filterwarnings("ignore:.*training items", "ignore:FigureCanvasAgg is non-interactive")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook__runs(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("Agg")
    code = "\n".join("".join(cell["source"]) for cell in cells(notebook))
    for shown, run in SMALLER:
        code = code.replace(shown, run)
    names = {}
    try:
        exec(compile(code, notebook.name, "exec"), names)
    finally:
        plt.close("all")
    assert list(tmp_path.glob("*.pqvae"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook__shows_what_it_gave_when_it_ran_in_order(notebook):
    assert notebook.stat().st_size < 400_000
    code = cells(notebook)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "".join(output.get("name", "") for output in outputs).count("stderr") == 0
    for cell in code:  # what is printed is there
        if "print(" in "".join(cell["source"]):
            assert any(output.get("name") == "stdout" for output in cell["outputs"])
