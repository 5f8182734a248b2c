"""`build SOURCE... OUT`: from files to measured recall, whatever happens on the way."""

import json
from pathlib import Path

import numpy as np
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.cli import collection, main, recall
from faiss_pqvae.cli.recall import without_self
from faiss_pqvae.cli.sizes import bytes_of, recall_of
from faiss_pqvae.eval.data.brute_force import nearest
from faiss_pqvae.native import faiss
from faiss_pqvae.scale import planning

N, D = 900, 8
OBJECTIVE = fpq.Ranking(anchors=64, sample=64, pool=16, rounds=1, epochs=1)


def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.tanh(rng.standard_normal((N, 3)) @ rng.standard_normal((3, D))).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Two files with all vectors."""
    return write(tmp_path)


def write(folder: Path) -> list[str]:
    paths = [folder / "x1.npy", folder / "x2.npy"]
    for path, part in zip(paths, np.split(vectors(), [500]), strict=True):
        np.save(path, part)
    return [str(path) for path in paths]


@pytest.fixture(scope="module", autouse=True)
def small():
    """Little to learn, from few vectors."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_small(monkeypatch)
        yield


@pytest.fixture(scope="module")
def at_once(small, tmp_path_factory):
    """What is built without an interruption."""
    folder = tmp_path_factory.mktemp("collection")
    build(*write(folder), folder / "out", "--workers", "1")
    return folder / "out"


def make_small(monkeypatch):
    factory = fpq.index_factory

    def made(d, description, *, training):
        training = fpq.TrainingConfig(epochs=1, device="cpu")
        lists = "IVF4," if description.startswith("IVF") else ""
        return factory(d, f"{lists}PQVAE4x4", objective=OBJECTIVE, training=training)

    monkeypatch.setattr(fpq, "index_factory", made)
    for module in (planning, collection):
        monkeypatch.setattr(module, "QUERIES", 100)
    monkeypatch.setattr(planning, "_LISTS_FROM", 500)


def build(*arguments: object) -> None:
    main(["build", *map(str, arguments)])


def content(out: Path) -> tuple[bytes, dict]:
    index = fpq.read_index(out)
    found = json.loads((out / "build.json").read_text())["found"]
    return faiss.serialize_index(index.faiss_index).tobytes(), found


def test_build__a_collection_in_one_command(files, tmp_path, capsys):
    out = tmp_path / "out"
    build(*files, out, "--memory", "4G", "--workers", "1", "--target-recall", "0.8@10")
    said = capsys.readouterr().out
    index, found = fpq.read_index(out), content(out)[1]
    assert index.ntotal == N
    assert found["nprobe"] == index.nprobe
    assert f"recall  {found['recall']:.3f} among 10 results at nprobe {index.nprobe}" in said
    assert [*found["peak_bytes"]] == [*found["seconds"]]
    assert all(0 < peak < 64 << 30 for peak in found["peak_bytes"].values())
    assert f"at most {max(found['peak_bytes'].values()) / 2**30:.1f} GiB of memory" in said
    # Measured as anyone would: each item but itself.
    x, plan = vectors(), json.loads((out / "plan.json").read_text())["plan"]
    learned, asked = collection._sample(planning.Plan(**plan))
    assert not {*learned} & {*asked}
    assert (len(learned), len({*asked})) == (800, 100)
    true = without_self(nearest(x[asked], x, 2).I, asked)[:, 0]
    ids = without_self(index.search(x[asked], 11)[1], asked)
    assert (ids == true[:, None]).any(1).mean() == found["recall"]
    assert index.items.names(np.array([500]))[0].endswith("x2.npy:0")
    assert not (out / "shards").exists()
    build(*files, out, "--memory", "4G", "--workers", "1")  # nothing is left to do
    assert "recall" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (collection, "_trained"),
        (collection, "_encode"),
        (collection, "nearest_others"),
        (collection, "_opened"),
        (collection, "tuned"),
        (collection, "_write"),
        (collection, "_tidy"),
    ],
)
def test_build__goes_on_after_any_phase(
    at_once, files, tmp_path, monkeypatch, capsys, module, name
):
    own, calls = getattr(module, name), []

    def after(*given, **options):
        calls.append(own(*given, **options))
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(module, name, after)
        with pytest.raises(SystemExit) as ended:
            build(*files, tmp_path / "out", "--workers", "1")
    assert ended.value.code == 130
    assert len(calls) == 1
    build(*files, tmp_path / "out", "--workers", "1")
    found, expected = content(tmp_path / "out"), content(at_once)
    assert found[0] == expected[0]
    assert found[1]["recall"] == expected[1]["recall"]


def test_build__without_lists(files, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(planning, "_LISTS_FROM", 5000)  # all are scanned
    out = tmp_path / "out"
    build(tmp_path / "x*.npy", out, "--workers", "1")
    assert f"an index in {out}" in capsys.readouterr().out
    index, x = fpq.read_index(out), vectors()
    assert (index.search(x[:20], 10)[1] == np.arange(20)[:, None]).any(1).mean() > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["X", "--bytes", "4"], "expected BUNDLE DATA, or SOURCE... OUT, got"),
        ([], "expected BUNDLE DATA, or SOURCE... OUT, got nothing"),
        (["X", "O", "--ids", "i.npy"], "expected no --ids for SOURCE... OUT"),
        (["X", "O", "--out", "p"], "expected no --out for SOURCE... OUT"),
        (["X", "O", "--merge"], "expected no --merge for SOURCE... OUT"),
        (["X", "O", "--mode", "L"], "expected no mode='L' for SOURCE... OUT"),
        (["X", "O", "--memory", "much"], "expected --memory as in 4G or 500M, got 'much'"),
        (["X", "O", "--target-recall", "9@10"], "expected a recall as in 0.9@10"),
        (["X", "O", "--train-minutes", "0"], "expected --train-minutes > 0"),
        (["X", "O", "--train-minutes", "inf"], "expected --train-minutes > 0, got inf"),
        (["X", "O", "--effort", "-1"], "expected --effort >= 0, got -1"),
        (["X", "O", "--workers", "0"], "expected workers >= 1, got 0"),
        (["nothing/*.npy", "O"], "expected files that nothing/*.npy stands for, found none"),
        (["missing", "X", "--memory", "4G"], "for memory='4G', got the bundle missing"),
        (["missing", "X"], "no bundle in missing"),
    ],
)
def test_build__says_what_is_wrong(files, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    given = [files[0] if argument == "X" else argument for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        build(*given)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("O").exists()


def test_build__another_plan_in_its_folder_or_other_files_are_refused(files, tmp_path, capsys):
    out = tmp_path / "out"
    build(*files, out, "--workers", "1")
    with pytest.raises(SystemExit):
        build(*files, out, "--workers", "1", "--bytes", "4")
    assert "expected description IVF16,PQVAE8,RDecoder as in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        build(files[0], tmp_path, "--workers", "1")
    assert "expected an empty folder, or one of such a build" in capsys.readouterr().err
    np.save(tmp_path / "pixels.npy", np.zeros((500, 1, 4, 4), np.uint8))
    with pytest.raises(SystemExit):
        build(tmp_path / "pixels.npy", tmp_path / "other")
    assert "expected vectors, got items of shape (1, 4, 4)" in capsys.readouterr().err


def test_build__of_other_contents_or_damaged_is_told_and_what_is_lost_is_made_again(
    files, tmp_path, capsys
):
    out = tmp_path / "out"
    build(*files, out, "--workers", "1")
    expected = content(out)
    for path in (*out.glob("index-*"), out / "config.json"):
        path.unlink()
    build(*files, out, "--workers", "1")
    assert content(out)[0] == expected[0]
    build(*files, out, "--workers", "1", "--target-recall", "0.2@3")  # measured anew
    assert content(out)[1]["target"] == [0.2, 3]
    assert content(out)[1]["nprobe"] == 1
    for name in ("build.json", "plan.json"):
        before = (out / name).read_bytes()
        for damage in (b"", b"{}", b"[]"):
            (out / name).write_bytes(damage)
            with pytest.raises(SystemExit):
                build(*files, out, "--workers", "1")
            assert f"damaged {out / name}, remove it" in capsys.readouterr().err
        (out / name).write_bytes(before)
    np.save(files[0], vectors()[:500][::-1])
    with pytest.raises(SystemExit):
        build(*files, out, "--workers", "1")
    assert "got others, or other contents" in capsys.readouterr().err


def test_build__of_what_memory_does_not_hold_says_how_it_is_searched(
    files, tmp_path, monkeypatch, capsys
):
    plan = planning.make_plan

    def large(*given):
        return collection.replace(plan(*given), fits=False)

    monkeypatch.setattr("faiss_pqvae.cli.plan.make_plan", large)
    build(*files, tmp_path / "out", "--workers", "1")
    said = capsys.readouterr().out
    assert "searched in its file (--mmap)" in said
    assert f"search {tmp_path / 'out'} QUERIES --mmap" in said


def test_build__items_that_are_alike_are_as_good_as_each_other(tmp_path):
    np.save(tmp_path / "x.npy", np.repeat(vectors()[:45], 20, axis=0))
    build(tmp_path / "x.npy", tmp_path / "out", "--workers", "1")
    found = content(tmp_path / "out")[1]
    assert found["recall"] > 0.9  # of 19 that are alike, 10 are found


def test_build__goes_on_with_another_number_of_processors(files, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as context:
        context.setattr(planning, "_ENCODE_S", 1e-9)
        build(*files, out, "--workers", "1")
    assert json.loads((out / "plan.json").read_text())["plan"]["effort"] == 1
    build(*files, out, "--workers", "2")


def test_plan__prints_what_build_would_make(files, capsys):
    main(["plan", *files, "--bytes", "4", "--workers", "1"])
    said = capsys.readouterr().out
    assert "900 vectors of 8 dimensions" in said
    assert "IVF16,PQVAE4,RDecoder: codes of 4 bytes in 16 inverted lists" in said
    assert "memory  " in said
    with pytest.raises(SystemExit):
        main(["plan"])
    assert "expected at least one path" in capsys.readouterr().err


def test_without_self__leaves_one_out():
    ids = np.array([[3, 7, 9], [4, 5, 6], [8, 8, 1]])
    np.testing.assert_array_equal(without_self(ids, np.array([7, 0, 8])), [[3, 9], [4, 5], [8, 1]])


class Lists:
    """What finds a share of the queries' neighbours by so many lists."""

    description = "IVF16,PQVAE4"

    def __init__(self, shares):
        self.shares, self.nprobe = shares, 1
        self.faiss_index = type("native", (), {"nlist": 16})

    def search(self, x, k):
        found = np.full((len(x), k), -1)
        found[: round(self.shares[self.nprobe] * len(x)), 0] = 5
        return None, found


@pytest.mark.parametrize(
    ("shares", "wanted", "nprobe"),
    [
        ({1: 0.5, 2: 0.8, 4: 0.95, 8: 1, 16: 1}, 0.9, 4),  # as few as reach it
        ({1: 0.5, 2: 0.6, 4: 0.7, 8: 0.71, 16: 0.71}, 0.9, 8),  # or as many as are worth it
        ({1: 0.95, 2: 1, 4: 1, 8: 1, 16: 1}, 0.9, 1),
        ({1: 0.5, 2: 0.7, 4: 0.89, 8: 0.90, 16: 0.90}, 0.9, 8),
    ],
)
def test_tuned__visits_as_few_lists_as_it_takes(shares, wanted, nprobe):
    lists, queries = Lists(shares), np.zeros((100, 2), np.float32)
    asked, truth = np.arange(1000, 1100), np.full((100, 1), 5)
    figures = recall.tuned(lists, queries, asked, truth, wanted, 10)
    assert lists.nprobe == figures["nprobe"] == nprobe
    assert figures["recall"] == shares[nprobe]


@pytest.mark.parametrize(
    ("text", "n"),
    [("4G", 4 << 30), ("500M", 500 << 20), ("1.5GiB", 3 << 29), ("7", 7), ("2kb", 2048)],
)
def test_bytes_of(text, n):
    assert bytes_of(text, "--memory") == n


@pytest.mark.parametrize("text", ["", "0", "-1G", "4X", "G", "1e9", "nan"])
def test_bytes_of__refuses(text):
    with pytest.raises(ValueError, match="expected --memory as in 4G"):
        bytes_of(text, "--memory")


def test_recall_of():
    assert recall_of("0.9@10") == (0.9, 10)
    assert recall_of("1@1") == (1.0, 1)
    for text in ("", "0@10", "0.9", "0.9@0", "0.9@101", "1.1@10"):
        with pytest.raises(ValueError, match=r"expected a recall as in 0\.9@10"):
            recall_of(text)
