"""Figures: cells against the definition, drawings against what is in the SVG, bad input."""

import importlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from paper import figures
from paper.figures import Sweep, Trace, latents_figure, save_figure, sweep_figure, traces_figure
from paper.voronoi import Box, voronoi_cells

SVG = "{http://www.w3.org/2000/svg}"
BOX = Box(-2, 3, -1, 4)
DIGITS = tuple("0123456789")


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "DPI", 40)


def area(polygon: npt.NDArray[np.float64]) -> float:
    """Of a polygon (v, 2), by the shoelace formula."""
    x, y = polygon.T
    return 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))


def contains(polygon: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> Any:
    """Which points lie in a convex polygon, with a little tolerance at its sides."""
    if len(polygon) == 0:
        return np.zeros(len(points), bool)
    sides = np.roll(polygon, -1, 0) - polygon
    to = points[:, None] - polygon
    turn = sides[:, 0] * to[..., 1] - sides[:, 1] * to[..., 0]
    return (turn >= -1e-9).all(1) | (turn <= 1e-9).all(1)


def gaussian(n: int, seed: int = 0, scale: float = 1.0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, 2)) * scale


CODEWORDS = {
    "one": np.array([[0.5, 0.5]]),
    "one, outside of the box": np.array([[40.0, -9.0]]),
    "two": np.array([[0.0, 0.0], [1.0, 2.0]]),
    "three": np.array([[0.0, 0.0], [1.0, 2.0], [2.5, 0.0]]),
    "three in a line": np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]),
    "64": gaussian(64),
    "256, hardly any in the box": gaussian(256, scale=40),
    "in a line": np.linspace((-1.5, 0), (2.5, 3), 16),
    "in a line along an axis": np.stack([np.linspace(-1, 2, 9), np.ones(9)], 1),
    "in a grid": np.stack(np.meshgrid(np.arange(-1.0, 3), np.arange(0.0, 4)), -1).reshape(-1, 2),
    "on a circle": np.stack([np.cos(np.arange(12.0)), np.sin(np.arange(12.0))], 1),
    "far and near": np.concatenate([gaussian(8, scale=1e-3), [[1e6, 1e6]]]),
    "duplicates": gaussian(12)[[0, 1, 2, 0, 3, 3, 3, 4]],
    "all the same": np.full((5, 2), 0.25),
    "all but the same": 0.25 + gaussian(6, scale=1e-13),
}


@pytest.mark.parametrize("name", CODEWORDS)
def test_voronoi_cells__tile_the_box(name: str) -> None:
    cells = voronoi_cells(CODEWORDS[name], BOX)
    assert len(cells) == len(CODEWORDS[name])
    assert sum(area(cell) for cell in cells if len(cell)) == pytest.approx(BOX.area, rel=1e-6)


@pytest.mark.parametrize("name", CODEWORDS)
def test_voronoi_cells__hold_what_is_nearest_to_their_codeword(name: str) -> None:
    codewords = CODEWORDS[name]
    points = np.random.default_rng(1).uniform((-2, -1), (3, 4), (500, 2))
    squared = np.square(points[:, None] - codewords).sum(2)
    cells = voronoi_cells(codewords, BOX)
    for k, cell in enumerate(cells):
        # On a border the point belongs to both; what is merged as one lies 1e-7 apart.
        strictly = squared[:, k] < np.delete(squared, k, 1).min(1, initial=np.inf) - 1e-5
        inside = contains(cell, points)
        assert inside[strictly].all()
        assert np.abs(squared[inside, k] - squared[inside].min(1)).max(initial=0) < 1e-5


def test_voronoi_cells__of_two_codewords_by_hand() -> None:
    left, right = voronoi_cells([[0, 0], [2, 0]], Box(-1, 3, -1, 1))
    assert sorted(map(tuple, left.round(9).tolist())) == [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    assert sorted(map(tuple, right.round(9).tolist())) == [(1, -1), (1, 1), (3, -1), (3, 1)]


def test_voronoi_cells__of_equal_codewords_the_first_has_the_cell() -> None:
    cells = voronoi_cells([[0, 0], [1, 1], [0, 0]], BOX)
    assert [len(cell) > 0 for cell in cells] == [True, True, False]
    assert cells[2].shape == (0, 2)


@pytest.mark.parametrize(
    ("codewords", "message"),
    [
        (np.zeros((4, 3)), r"codewords of shape \(n, 2\).*got \(4, 3\)"),
        (np.zeros((0, 2)), r"n >= 1, got \(0, 2\)"),
        (np.zeros(2), r"got \(2,\)"),
        ([[0, np.nan]], "finite codewords"),
        ([[0, np.inf]], "finite codewords"),
    ],
)
def test_voronoi_cells__rejects_what_is_no_codebook(codewords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        voronoi_cells(codewords, BOX)


@pytest.mark.parametrize("sides", [(0, 0, 0, 1), (0, 1, 1, 0), (0, np.nan, 0, 1)])
def test_box__rejects_empty_ones(sides: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="low < high"):
        Box(*sides)


def test_box__around_a_single_point_has_an_area() -> None:
    assert Box.around([[2, 3]]) == Box(1.5, 2.5, 2.5, 3.5)


def drawn_latents(**changes: Any) -> Figure:
    z = gaussian(300)
    arguments: dict[str, Any] = {
        "latents": z,
        "labels": np.arange(300) % 10,
        "codewords": np.concatenate([z[:15], [[50.0, 50.0]]]),
        "title": "High rate",
        "class_names": DIGITS,
    }
    arguments |= changes
    latents, labels, codewords = (arguments.pop(n) for n in ("latents", "labels", "codewords"))
    return latents_figure(latents, labels, codewords, **arguments)


def texts(svg: Path) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.parse(svg).iter(f"{SVG}text")]


def test_latents_figure__shows_everything_and_is_drawn_the_same_again(tmp_path: Path) -> None:
    figure = drawn_latents()
    axes = figure.axes[0]
    (cells,) = (c for c in axes.collections if isinstance(c, PolyCollection))
    assert len(cells.get_paths()) == 15  # the far codeword's lies outside
    unused, used = (line.get_xydata() for line in axes.lines)
    assert len(np.asarray(used)) == 15
    assert np.asarray(unused).tolist() == [[50.0, 50.0]]
    svg, png = save_figure(figure, tmp_path / "deep" / "a")
    again = save_figure(drawn_latents(), tmp_path / "b")
    assert [path.read_bytes() for path in again] == [svg.read_bytes(), png.read_bytes()]
    assert b"<dc:date>" not in svg.read_bytes()
    found = texts(svg)
    assert "High rate" in found
    assert set(DIGITS) | {"codeword", "unused"} <= set(found)  # in the legend
    assert len(list(ET.parse(svg).iter(f"{SVG}image"))) >= 1  # the latents, as pixels
    assert png.read_bytes().startswith(b"\x89PNG")


def test_latents_figure__names_every_class_once_where_there_is_room() -> None:
    centres = np.repeat([[i % 5, i // 5] for i in range(10)], 30, 0)
    figure = drawn_latents(
        latents=centres + gaussian(300, scale=0.05),
        labels=np.repeat(np.arange(10), 30),
        codewords=[[2.0, 0.5]],
    )
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert sorted(places) == sorted(DIGITS)
    for i, digit in enumerate(DIGITS):
        assert np.hypot(places[digit][0] - i % 5, places[digit][1] - i // 5) < 0.3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"latents": np.zeros((300, 3))}, ValueError, r"latents of shape \(n, 2\)"),
        ({"latents": np.full((300, 2), np.nan)}, ValueError, "finite latents"),
        ({"codewords": np.zeros((2, 2, 2))}, ValueError, r"codewords of shape \(n, 2\)"),
        ({"labels": np.zeros(299, np.int64)}, ValueError, r"labels of shape \(300,\)"),
        ({"labels": np.full(300, 10)}, ValueError, "labels from 0 to 9, got 10"),
        ({"labels": np.full(300, -1)}, ValueError, "labels from 0 to 9, got -1"),
        ({"labels": np.zeros(300)}, TypeError, "int64, got float64"),
        ({"class_names": ()}, ValueError, "1 to 10 class names, got 0"),
        ({"class_names": tuple("abcdefghijk")}, ValueError, "1 to 10 class names, got 11"),
    ],
)
def test_latents_figure__rejects(changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        drawn_latents(**changes)


def sweep(**changes: Any) -> Sweep:
    values: dict[str, Any] = {
        "title": "Network",
        "lambdas": np.array([1.0, 0.01, 0.1]),
        "ratio": np.array([[0.5, 0.52], [0.8, 0.8], [0.6, 0.62]]),
        "error": np.array([[0.3, 0.3], [0.25, 0.26], [0.2, 0.2]]),
        "scores": {
            "mAP@1000": np.array([[0.5, 0.5], [0.7, 0.7], [0.6, 0.6]]),
            "precision@100": np.array([[0.6, 0.6], [0.8, 0.8], [0.7, 0.7]]),
        },
        "permissible": (0.55, 0.85),
    }
    return Sweep(**(values | changes))


def test_sweep_figure__has_a_row_a_network_and_a_point_a_lambda(tmp_path: Path) -> None:
    figure = sweep_figure([sweep(), sweep(title="Other", permissible=None)])
    assert len(figure.axes) == 6
    errors, by_lambda, by_ratio = figure.axes[:3]
    points = np.asarray(errors.collections[-1].get_offsets())
    assert points == pytest.approx(np.array([[0.51, 0.3], [0.8, 0.255], [0.61, 0.2]]))
    (line, *_) = by_lambda.lines
    assert np.asarray(line.get_xydata()) == pytest.approx(
        np.array([[0.01, 70], [0.1, 60], [1, 50]])  # by rising lambda, in per cent
    )
    assert by_lambda.get_xscale() == "log"
    assert np.asarray(by_ratio.lines[0].get_xdata()) == pytest.approx([0.8, 0.61, 0.51])
    # Shaded: the limits of the ratio, and the lambdas whose ratio is inside.
    assert [len(axes.patches) for axes in figure.axes] == [1, 1, 1, 0, 0, 0]
    boxes = [axes.patches[0].get_bbox() for axes in (errors, by_lambda)]
    assert [(box.x0, box.x1) for box in boxes] == [(0.55, 0.85), (0.01, 0.1)]
    svg, _ = save_figure(figure, tmp_path / "four")
    found = texts(svg)
    assert found.count("reconstruction error") == 2
    assert {"Network", "Other", "mAP@1000", "precision@100", "0.01"} <= set(found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lambdas": np.array([1.0, 1.0, 0.1])}, "different lambdas > 0"),
        ({"lambdas": np.array([1.0, 0.0, 0.1])}, "different lambdas > 0"),
        ({"lambdas": np.array([1.0, np.nan, 0.1])}, "finite lambdas"),
        ({"lambdas": np.array([])}, "n >= 1"),
        ({"lambdas": np.array([1.0, 0.1])}, r"ratios of shape \(2, seeds\), got \(3, 2\)"),
        ({"ratio": np.full((3, 2), 1.5)}, r"in \[0, 1\]"),
        ({"error": np.ones((3, 1))}, r"error of shape \(3, 2\), got \(3, 1\)"),
        ({"error": np.full((3, 2), np.nan)}, "finite values of error"),
        ({"scores": {}}, "1 to 3 scores, got 0"),
        ({"scores": {"mAP": np.full((3, 2), np.inf)}}, "finite values of mAP"),
        ({"permissible": (0.9, 0.8)}, "low <= high"),
        ({"permissible": (np.nan, 0.8)}, "low <= high"),
    ],
)
def test_sweep__rejects(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep(**changes)


def test_traces_figure__draws_every_trace_and_level(tmp_path: Path) -> None:
    traces = [Trace("a", np.array([1.0, 2.0]), np.array([3.0, 4.0])), Trace("b", [1.0], [2.0])]

    def drawn() -> Figure:
        return traces_figure(traces, levels={"level": 3.5}, xlabel="minutes", ylabel="mAP [%]")

    lines = {line.get_label(): line for line in drawn().axes[0].get_lines()}
    assert list(lines) == ["a", "b", "level"]
    np.testing.assert_array_equal(lines["a"].get_xydata(), [[1, 3], [2, 4]])
    assert set(lines["level"].get_ydata()) == {3.5}
    assert len({line.get_color() for line in lines.values()}) == 3
    first, again = (
        [path.read_bytes() for path in save_figure(drawn(), tmp_path / name)] for name in "ab"
    )
    assert first == again


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [np.nan]), ([[1.0]], [[1.0]])]
)
def test_trace__rejects(x: Any, y: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        Trace("a", x, y)


def test_traces_figure__rejects_nothing() -> None:
    with pytest.raises(ValueError, match="got 0"):
        traces_figure([], levels={}, xlabel="x", ylabel="y")


def test_sweep_figure__rejects_nothing() -> None:
    with pytest.raises(ValueError, match="at least one sweep"):
        sweep_figure([])


@pytest.fixture(scope="module")
def paper() -> Any:
    """The script that makes the figures."""
    return importlib.import_module("draw_paper")


def run_of(lambda_: float, seed: int, ratio: float, error: float, score: float) -> dict[str, Any]:
    return {
        "lambda_": lambda_,
        "seed": seed,
        "status": "complete",
        "distance_ratio": ratio,
        "reconstruction": error,
        "map@1000": score,
        "precision@100": score,
    }


def test_paper__a_lambda_of_which_a_seed_diverged_has_no_point(paper: Any) -> None:
    runs = [
        run_of(1.0, 0, 0.5, 0.3, 0.4),
        run_of(1.0, 1, 0.7, 0.1, 0.6),
        run_of(0.1, 0, 0.8, 0.2, 0.9),
        {"lambda_": 0.1, "seed": 1, "status": "diverged: NaN"},
    ]
    bad, good = paper.points(runs)
    assert (bad.lambda_, bad.status, bad.converged) == (0.1, "diverged: NaN", False)
    assert (good.lambda_, good.seeds) == (1.0, 2)
    assert (good.distance_ratio, good.reconstruction, good.score) == pytest.approx((0.6, 0.2, 0.5))
    record = {"title": "T", "M": 8, "nbits": 4, "runs": runs, "permissible": {"low": 0, "high": 1}}
    drawn = paper.sweep(record)
    assert drawn.lambdas.tolist() == [1.0]
    assert drawn.error.tolist() == [[0.3, 0.1]]
    assert drawn.scores["mAP@1000"].tolist() == [[0.4, 0.6]]


def test_paper__how_well_cells_and_neighbours_agree_with_labels(paper: Any) -> None:
    """Two clusters of 11; a cell each for the first, the second shares one with two strangers."""
    z = np.concatenate([np.zeros((11, 2)), np.full((11, 2), 9.0)])
    labels = np.array([0] * 11 + [1] * 9 + [0] * 2)
    found = paper._agreement(z, np.array([0] * 11 + [3] * 11), labels)
    assert found["codewords_used"] == 2
    assert found["cell_purity"] == pytest.approx(20 / 22, abs=1e-4)
    # Of 10 others: all; 8 for each of the nine; 1 for each of the two.
    assert found["neighbour_purity"] == pytest.approx((110 + 9 * 8 + 2) / 220, abs=1e-4)
    assert found["latents_rms"] == pytest.approx(np.sqrt(2 * 4.5**2), abs=1e-4)
