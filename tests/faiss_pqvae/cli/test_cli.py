import errno
import importlib
import inspect
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
from PIL import Image

import faiss_pqvae as fpq
from faiss_pqvae import cli
from faiss_pqvae.cli import main
from faiss_pqvae.cli.train import _summary
from faiss_pqvae.eval.measure.results import read_results
from faiss_pqvae.index.bundle import read_index, write_index
from faiss_pqvae.index.latent_index import LatentIndex
from faiss_pqvae.native import faiss
from faiss_pqvae.training.objectives import query_map

FAST = [
    *("--model.width", "4", "--model.dsub", "2", "--training.epochs", "2"),
    *("--training.batch-size", "16", "--training.precision", "float32"),
]


DQN = ["--factory", "DQN2x4"]


@pytest.fixture
def images(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (80, 1, 8, 8)).astype(np.uint8)
    np.save(tmp_path / "images.npy", x)
    return tmp_path / "images.npy"


@pytest.fixture
def bundle(tmp_path, images):
    main(["train", str(images), str(tmp_path / "b"), "--factory", "PQVAE2x4", *FAST])
    main(["build", str(tmp_path / "b"), str(images)])
    return tmp_path / "b"


def test_train_build_search__agree_with_the_library(bundle, images, capsys):
    capsys.readouterr()
    main(["search", str(bundle), str(images), "--k", "3", "--json"])
    found = json.loads(capsys.readouterr().out)
    D, I = read_index(bundle).search(np.load(images), 3)  # noqa: E741
    assert found["I"] == I.tolist()
    np.testing.assert_allclose(found["D"], D, rtol=1e-6)


def test_train_build_search__vectors_of_bytes_are_no_pixels(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 256, (60, 4)).astype(np.uint8)
    path = tmp_path / "x.u8bin"
    path.write_bytes(np.array(x.shape, "<u4").tobytes() + x.tobytes())
    bundle = str(tmp_path / "b")
    main(["train", str(path), bundle, "--factory", "PQVAE2x4,RFlat", *FAST])
    main(["build", bundle, str(path)])
    capsys.readouterr()
    main(["search", bundle, str(path), "--k", "60", "--k-factor", "1", "--json"])
    found = json.loads(capsys.readouterr().out)
    squared = ((x[:, None].astype(float) - x) ** 2).sum(-1)  # not divided by 255
    np.testing.assert_allclose(found["D"], np.sort(squared, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("factory", "metric", "options"),
    [
        ("IDMap2,PQVAE2x4", "IP", []),
        ("IVF4,PQVAE2x4fs", "METRIC_INNER_PRODUCT", ["--nprobe", "4"]),
        ("HNSW8,PQVAE2x4", "cosine", ["--ef-search", "50"]),
        ("PQVAE2x4,RFlat", "cosine", ["--k-factor", "30", "--mmap"]),
        ("PQVAE2x4,RDecoder", "inner_product", ["--k-factor", "80"]),
    ],
)
def test_every_kind_of_index(factory, metric, options, images, tmp_path, capsys):
    folder = str(tmp_path / "kind")
    main(["train", str(images), folder, "--factory", factory, "--metric", metric, *FAST])
    main(["build", folder, str(images)])
    main(["info", folder])
    out = capsys.readouterr().out
    assert f"{factory}, inner_product" in out
    assert "perplexity" in out
    main(["search", folder, str(images), "--k", "3", "--json", *options])
    found = json.loads(capsys.readouterr().out)
    assert np.shape(found["I"]) == (80, 3)
    if "RFlat" in factory:  # every item is looked at again
        assert np.mean(np.array(found["I"])[:, 0] == np.arange(80)) == 1


def test_search__parameters_of_another_kind_of_index(bundle, images, capsys):
    with pytest.raises(SystemExit):
        main(["search", str(bundle), str(images), "--nprobe", "2"])
    assert "no inverted lists" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [True, False])
def test_train__with_real_queries(tmp_path, monkeypatch, capsys, kept):
    monkeypatch.setattr(query_map, "_ROUNDS", 2)
    monkeypatch.setattr(query_map, "_CONVINCING", 0.0 if kept else 99.0)
    x = np.random.default_rng(0).standard_normal((500, 8), dtype=np.float32) * np.arange(1, 9)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    np.save(tmp_path / "q.npy", (0.4 * x[::-1] + 6).astype(np.float32))
    b, loop = str(tmp_path / "b"), ["--training.epochs", "1", "--training.batch-size", "16"]
    command = ["train", str(tmp_path / "x.npy"), b, "--factory", "PQVAE2x3", *loop]
    main([*command, "--ranking.anchors", "32", "--queries", str(tmp_path / "q.npy")])
    said = capsys.readouterr().out
    assert "queries: recall@10 of 150 held out is 0." in said
    assert f"it is {'kept' if kept else 'not kept'}\n" in said
    assert (read_index(b).model.query_map is not None) == kept
    main(["info", b])
    assert ("queries  mapped, as real ones taught" in capsys.readouterr().out) == kept


def test_train__refuses_queries_that_are_none(images, tmp_path, capsys):
    command = ["train", str(images), str(tmp_path / "b"), "--factory", "PQVAE2x4", *FAST]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--queries", str(images)])
    message = "expected no queries for the objective 'reconstruction', got some"
    assert message in capsys.readouterr().err


def test_train__logs_beside_the_bundle_and_goes_on(images, tmp_path, capsys):
    command = ["train", str(images), str(tmp_path / "b"), "--factory", "PQVAE2x4", *FAST]
    main(command)
    log = (tmp_path / "b" / "training" / "log.jsonl").read_text()
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "end"
    main(command)
    assert (tmp_path / "b" / "training" / "log.jsonl").read_text() == log


def test_train__leaves_a_filled_index_alone(bundle, images, capsys):
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(images), str(bundle), "--factory", "PQVAE2x4", *FAST])
    assert "80 items" in (message := capsys.readouterr().err)
    assert "name another folder, or remove this one first" in message
    assert before == {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_train__starts_from_another_index(images, tmp_path, capsys):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    contrastive = [*FAST, "--model.objective", "contrastive"]
    main(["train", str(images), first, "--factory", "PQVAE2x4", *contrastive])
    still = [*contrastive, "--training.lr", "0", "--training.weight-decay", "0"]
    main(["train", str(images), second, "--factory", "PQVAE4x4", *still, "--pretrained", first])
    weights = [read_index(folder).model.encoder.state_dict() for folder in (first, second)]
    stem = next(iter(weights[0]))
    np.testing.assert_array_equal(weights[0][stem], weights[1][stem])
    main(["train", str(images), second, "--factory", "PQVAE4x4", *still, "--pretrained", first])


def test_search__prints_a_table_without_padding(bundle, images, capsys):
    capsys.readouterr()
    main(["search", str(bundle), str(images), "--k", "200", "--search-type", "sdc"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 80
    assert "sdc" in lines[0]
    assert lines[1].count("(") == 80
    assert "-1 (" not in lines[1]


def test_search__prints_ids_below_0(make_model, make_items, tmp_path, capsys):
    native = faiss.IndexIDMap2(faiss.IndexPQ(8, 2, 8))
    index = LatentIndex(make_model(), faiss_index=native)
    index.add_with_ids(make_items(3), [-7, -(2**63), 4])
    write_index(index, tmp_path / "bundle")
    np.save(tmp_path / "q.npy", make_items(1))
    main(["search", str(tmp_path / "bundle"), str(tmp_path / "q.npy"), "--k", "5"])
    line = capsys.readouterr().out.splitlines()[1]
    assert line.count("(") == 3
    assert "-7 (" in line
    assert f"{-(2**63)} (" in line


def test_build__another_folder_leaves_the_first_alone(bundle, images, tmp_path):
    before = {path: path.read_bytes() for path in bundle.iterdir() if path.is_file()}
    np.save(tmp_path / "few.npy", np.load(images)[:5])
    main(["build", str(bundle), str(tmp_path / "few.npy"), "--out", str(tmp_path / "c")])
    assert read_index(tmp_path / "c").ntotal == 5
    assert before == {path: path.read_bytes() for path in bundle.iterdir() if path.is_file()}


def test_info__says_what_is_inside(bundle, capsys):
    capsys.readouterr()
    main(["info", str(bundle)])
    out = capsys.readouterr().out
    assert "PQVAE2x4" in out
    assert "80 of 1 bytes" in out
    assert "perplexity" in out


def test_train__folder_of_images_is_resized(tmp_path, capsys):
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(30):
        pixels = rng.integers(0, 256, (10, 12 + number % 3, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    photos, out = str(tmp_path / "photos"), str(tmp_path / "b")
    main(["train", photos, out, "--size", "8", "8", "--factory", "PQVAE2x4", *FAST])
    assert read_index(out).input_shape == (3, 8, 8)
    main(["build", out, photos])
    capsys.readouterr()
    main(["search", out, photos, "--k", "1"])
    assert len(capsys.readouterr().out.splitlines()) == 31


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{images}", "{out}", "--factory", "PQ8"], "faiss.index_factory"),
        (["train", "{images}", "{out}", "--metric", "cosin"], "did you mean 'cosine'?"),
        (
            ["train", "{images}", "{out}", "--metric", "1.5"],
            "'l2', 'inner_product', 'ip', 'cosine'",
        ),
        (["train", "nothing-of-this-name", "{out}"], "nothing-of-this-name"),
        (["train", "missing.npy", "{out}"], "missing.npy does not exist"),
        (["train", "pics/nope", "{out}", "--size", "8", "8"], "pics/nope does not exist"),
        (["train", "pics/nope", "{out}"], "pics/nope does not exist"),
        (["train", "mnst5k", "{out}"], "which does not exist; did you mean 'mnist5k'?"),
        (["train", "{images}", "{out}", "--labels", "no.npy", *DQN], "no.npy does not exist"),
        (["train", "{images}", "{out}", "--pretrained", "{out}"], "{out}, which does not exist"),
        (["train", "{images}", "{out}", "--factory", "PQVE4"], "write 'PQVAE4'"),
        (["train", "{images}", "{out}", "--training.epochs", "-3"], "--training.epochs >= 1"),
        (["train", "{images}", "{out}", "--encoder", "cnov"], "did you mean 'conv'?"),
        (
            ["train", "{images}", "{out}", "--model.objective", "contrastiv"],
            "did you mean 'contrastive'?",
        ),
        (["evaluate", "--dataset", "no.npy", "--out", "{out}"], "which does not exist"),
        (["report", "{out}"], "{out}, which does not exist"),
        (["info", "{out}"], "{out}, which does not exist"),
        (["serach"], "did you mean 'search'?"),
        (["--verison"], "expected a command (demo, "),
        ([], "or --help, got nothing"),
        (["search", "{out}", "{images}"], "no bundle"),
        (["search", "{out}", "{images}", "--k", "0"], "k >= 1"),
        (["build", "{out}", "{images}"], "no bundle"),
        (["info", "{out}"], "no bundle"),
        (["report", "{out}"], "no evaluation in"),
        (["evaluate", "--dataset", "mnist5k", "--bits", "33", "--out", "{out}"], "multiple of 8"),
        (["evaluate", "--dataset", "mnist5k", "--k", "0", "--out", "{out}"], "k >= 1"),
        (["evaluate", "--dataset", "nothing", "--out", "{out}"], "bsds-sift, cifar10"),
        (
            [
                *("evaluate", "--dataset", "mnist5k", "--also-lambdas", "1", "--out", "{out}"),
                *("--model.objective", "contrastive"),
            ],
            "reconstruction objective only",
        ),
    ],
)
def test_main__wrong_input_ends_with_one_line(arguments, message, images, tmp_path, capsys):
    places = {"images": images, "out": tmp_path / "b"}
    with pytest.raises(SystemExit) as error:
        main([argument.format(**places) for argument in arguments])
    assert error.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("faiss-pqvae: ")
    assert message.format(**places) in line
    assert not places["out"].exists()


@pytest.mark.parametrize("below", [".", "below"])
@pytest.mark.parametrize(
    "command",
    [
        "train missing.npy {out}",
        "build missing missing.npy --out {out}",
        "build missing.npy missing.npy {out}",
        "add {out} missing.npy",
        "evaluate --dataset missing --out {out}",
        "demo --out {out}",
        "tune missing.npy --out {out}",
    ],
)
def test_main__looks_at_what_it_writes_to_before_anything_else(command, below, images, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(command.format(out=images / below).split())
    message = f"cannot write to {images / below}: {images} is a file and no folder"
    assert message in capsys.readouterr().err


def test_report__looks_at_what_it_writes_to_before_anything_else(tmp_path, capsys, monkeypatch):
    (tmp_path / "results.json").write_text("never read")
    refusal = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=refusal))
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path)])
    assert f"cannot write to {tmp_path}: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["build", "search"])
def test_commands__tell_shape_and_rows_of_the_whole_file(command, bundle, tmp_path, capsys):
    wide, bad = str(tmp_path / "wide.npy"), str(tmp_path / "bad.npy")
    np.save(wide, np.zeros((3000, 1, 8, 9), np.uint8))
    x = np.zeros((3000, 1, 8, 8), np.float32)
    x[2500, 0, 3] = np.nan
    np.save(bad, x)
    for path in (wide, bad):
        with pytest.raises(SystemExit, match="2"):
            main([command, str(bundle), path])
    shape, row = capsys.readouterr().err.strip().splitlines()[-2:]
    assert f"items of {wide} of shape (n, 1, 8, 8), got (3000, 1, 8, 9)" in shape
    assert "NaN or infinity in row 2500" in row
    assert read_index(bundle).ntotal == 80


@pytest.mark.parametrize(
    "command",
    [[], *([name] for name in ("train", "build", "add", "search", "evaluate", "demo", "info"))],
)
def test_help__teaches(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([*command, "--help"])
    assert error.value.code == 0
    assert "usage: faiss-pqvae" in capsys.readouterr().out


def test_help__lists_every_command_as_it_describes_itself(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())  # in one line
    for name, module in cli.COMMANDS.items():
        command = getattr(importlib.import_module(f"faiss_pqvae.cli.{module}"), name)
        summary = (inspect.getdoc(command) or "").partition("\n\n")[0]
        assert f"• {name} {' '.join(summary.split())}" in shown


def test_version__is_that_of_the_package():
    command = [sys.executable, "-m", "faiss_pqvae", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"faiss-pqvae {fpq.__version__}\n"


@pytest.mark.parametrize(
    ("output", "status", "message"),
    [
        ("closed", 141, ""),
        ("/dev/full", 2, "faiss-pqvae: cannot write the output: No space left on device\n"),
    ],
)
def test_main__whose_output_goes_nowhere(output, status, message):
    """As of `| head`, which ends before everything is printed; and of `> FILE` on a full disk."""
    code = "import sys; from faiss_pqvae.cli import main; sys.stdin.read(); main(['--help'])"
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if output == "closed" else full,
            stderr=subprocess.PIPE,
            text=True,
        )
        if process.stdout is not None:
            process.stdout.close()
            process.stdout = None
        _, err = process.communicate("go")
    assert (process.returncode, err) == (status, message)


def test_evaluate__writes_results_report_and_bundles(tmp_path, capsys):
    out = tmp_path / "run"
    command = [
        *("evaluate", "--dataset", "mnist5k", "--n-database", "300", "--n-queries", "40"),
        *("--bits", "32", "--k", "100", "--out", str(out), *FAST),
        *("--methods", "Exact L2", "LSH", "ITQ", "PQ", "OPQ", "learned"),
    ]
    main(command)
    printed = capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    rows = {(row["method"], row["search"]): row for row in results["rows"]}
    assert {"LSH", "ITQ", "PQ", "OPQ", "PQ-VAE"} <= {name.split("+")[-1] for name, _ in rows}
    assert {row["bytes_per_vector"] for row in rows.values() if not row["reference"]} == {4}
    assert rows["PQ-VAE", "adc"]["train_s"] > 0
    assert rows["PQ-VAE", "sdc"]["metrics"].keys() >= {"map@100", "map@100/min(R,k)"}
    assert "PQ-VAE" in printed
    assert "PQ-VAE, 32 bits" in (out / "report.html").read_text()
    assert read_index(out / "pqvae-32").ntotal == 300
    # A second time everything is found, even where the bundle has lost its items.
    empty = read_index(out / "pqvae-32")
    empty.reset()
    write_index(empty, out / "pqvae-32")
    main(command)
    again = json.loads((out / "results.json").read_text())
    assert [row["metrics"] for row in again["rows"]] == [row["metrics"] for row in results["rows"]]
    assert read_index(out / "pqvae-32").ntotal == 300


def test_evaluate__of_the_contrastive_objective(tmp_path, capsys):
    out = tmp_path / "run"
    command = [
        *("evaluate", "--dataset", "mnist5k", "--n-database", "300", "--n-queries", "40"),
        *("--bits", "32", "--k", "100", "--out", str(out), *FAST),
        *("--model.objective", "contrastive", "--training.budget-minutes", "0.02"),
        *("--methods", "Exact L2", "learned"),
    ]
    main(command)
    results = json.loads((out / "results.json").read_text())
    rows = [row for row in results["rows"] if row["method"] == "PQ-VAE, contrastive"]
    found = {(row["bytes_per_vector"], row["config"]["factory"]) for row in rows}
    assert found == {(4, "PQVAE8x4")}
    assert len({row["train_s"] for row in rows}) == 1
    assert len(list(out.glob("*/training/trained.pt"))) == 1
    assert read_index(out / "pqvae-32").ntotal == 300
    report = (out / "report.html").read_text()
    assert "PQ-VAE, contrastive, 32 bits" in report
    assert "contrastive loss" in report.lower()
    assert "PQ-VAE, contrastive" in capsys.readouterr().out


def test_evaluate__neighbours_by_inner_product(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "small-ip.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = "ip"
        for name, n in (("train", 300), ("test", 5)):
            file[name] = np.random.default_rng(n).standard_normal((n, 8)).astype(np.float32)
    methods = ("Exact L2", "PQ", "LSH")
    command = ["evaluate", "--dataset", str(path), "--out", str(tmp_path / "run")]
    main([*command, "--methods", *methods, "--bits", "32"])
    rows = {row.method: row for row in read_results(tmp_path / "run" / "results.json").rows}
    assert rows.keys() == {"Exact inner product", "PQ", "LSH"}
    assert rows["Exact inner product"].metrics["1-recall@1"] == 1


@pytest.mark.parametrize(
    ("perplexity", "n", "expected"),
    [
        ([15.0, 15.4], 20, "perplexity 15 of 16 codewords"),
        ([8.0, 8.0], 20, "perplexity 8 of 16 codewords"),
        ([7.0, 8.0], 20, "perplexity 8 of 16 codewords (low: train longer, or on more items)"),
        ([9.0, 9.0], 10, "perplexity 9 of 16 codewords (low: train on more items)"),
    ],
)
def test_train__calls_a_perplexity_low_where_half_of_the_codewords_would_do(
    perplexity, n, expected, make_index
):
    index = make_index(nbits=4)
    index.history = [{"perplexity": perplexity}, {"event": "end", "elapsed_s": 3.2, "step": 9}]
    assert _summary(index, n) == f"3 s and 9 steps; {expected}"
