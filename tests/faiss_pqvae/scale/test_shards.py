"""Shards: made by anyone, in any order, after any crash; searched as one index, or made one."""

import contextlib
import copy
import json
import multiprocessing
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import faiss_pqvae as fpq
from faiss_pqvae.cli import main
from faiss_pqvae.index.encoding import Encoding
from faiss_pqvae.native import faiss
from faiss_pqvae.scale import engines, shard
from faiss_pqvae.scale.engines import PartsFailedError, make_shards
from faiss_pqvae.scale.job import begin, read_job
from faiss_pqvae.scale.joined import merged, missing_parts
from faiss_pqvae.scale.served import open_shards
from faiss_pqvae.scale.shard import is_done, make_shard, shard_path

N, D, PARTS = 1000, 8, 4
OBJECTIVE = fpq.Ranking(anchors=64, sample=64, pool=16, rounds=2, epochs=1)


def vectors(n: int = N, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((3, D))
    return np.tanh(rng.standard_normal((n, 3)) @ mixing).astype(np.float32)


def trained(description: str, metric: str | None = None) -> fpq.LatentIndex:
    index = fpq.index_factory(
        D,
        description,
        metric,
        objective=OBJECTIVE,
        training=fpq.TrainingConfig(epochs=1, device="cpu"),
    )
    index.train(vectors(400, 1), progress=False)
    return index


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained and empty, by description."""
    folder = tmp_path_factory.mktemp("bundles")
    found = {}
    for number, description in enumerate(("PQVAE4x4", "IVF4,PQVAE4x4", "IDMap2,PQVAE4x4")):
        found[description] = folder / str(number)
        fpq.write_index(trained(description), found[description])
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, vectors())
    return path


@pytest.fixture
def job(bundles, data, tmp_path):
    return begin(fpq.read_index(bundles["PQVAE4x4"]), data, tmp_path / "out", PARTS)


def contents(job) -> list[bytes]:
    return [shard_path(job, part).read_bytes() for part in range(PARTS)]


@pytest.mark.parametrize("description", ["PQVAE4x4", "IVF4,PQVAE4x4", "IDMap2,PQVAE4x4"])
def test_shards__are_the_index_that_is_built_at_once(bundles, data, tmp_path, description):
    index = fpq.read_index(bundles[description])
    job = begin(index, data, tmp_path / "out", PARTS)
    assert missing_parts(job) == [0, 1, 2, 3]
    make_shards(job, [3, 1, 0, 2])  # in any order
    assert missing_parts(job) == []
    if index.takes_ids:
        index.add_with_ids(vectors(), np.arange(N))
    else:
        index.add(vectors())
    whole, opened = merged(job), open_shards(tmp_path / "out")
    assert len(opened) == whole.ntotal == N
    codes = faiss.serialize_index(index.faiss_index)
    np.testing.assert_array_equal(faiss.serialize_index(whole.faiss_index), codes)
    assert whole.items.names(np.array([N - 1]))[0].endswith(f"{data.name}:{N - 1}")
    queries = vectors(30, 2)
    if "IVF" in description:
        index.nprobe = opened.nprobe = 3
        assert opened.nprobe == 3
    D_, I_ = opened.search(queries, 10)
    expected = index.search(queries, 10)
    np.testing.assert_allclose(D_, expected[0], rtol=1e-5)
    for query in range(len(queries)):  # of equal distances any may come last
        near = expected[0][query] < expected[0][query, -1] - 1e-6
        assert set(I_[query, near]) == set(expected[1][query, near])


def test_open_shards__more_results_than_items_and_inner_products(data, tmp_path):
    index = trained("PQVAE4x4", "ip")
    make_shards(begin(index, data, tmp_path / "out", 3), range(3))
    opened = open_shards(tmp_path / "out")
    assert all(each.read_only for each in opened.shards)
    D_, I_ = opened.search(vectors(3, 2), N + 5)
    assert (np.diff(D_[:, :N]) <= 0).all()
    assert (I_[:, N:] == -1).all()
    assert (np.sort(I_[:, :N]) == np.arange(N)).all()
    with pytest.raises(ValueError, match="k"):
        opened.search(vectors(3, 2), 0)


def test_open_shards__names_what_is_missing(job, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no shards in .*job\.json is missing"):
        open_shards(tmp_path)
    make_shards(job, [0, 1, 3])
    with pytest.raises(FileNotFoundError, match=r"00003-of-00004.* is not there: .*--part 3/4"):
        open_shards(job.folder)
    make_shard(job, 2)
    path = shard_path(job, 2)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(FileNotFoundError, match=r"00003-of-00004.* is damaged: .*--part 3/4"):
        open_shards(job.folder)


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
        lambda path: path.with_suffix(".json").write_bytes(b"[]"),
        lambda path: path.with_suffix(".json").write_bytes(b"{"),
        lambda path: path.with_suffix(".json").write_bytes(b"[" * 100_000),
        lambda path: path.with_suffix(".json").write_text(
            path.with_suffix(".json").read_text().replace('"start": 250', '"start": 251')
        ),
    ],
)
def test_is_done__only_what_is_whole_and_of_this_job(job, harm):
    make_shards(job, range(PARTS))
    before = contents(job)
    harm(shard_path(job, 1))
    assert missing_parts(job) == [1]
    make_shard(job, 1)
    assert missing_parts(job) == []
    assert contents(job) == before


def test_make_shard__does_nothing_where_it_is_done(job, monkeypatch):
    make_shard(job, 0)
    monkeypatch.setattr(shard, "_opened", None)
    make_shard(job, 0)


@pytest.mark.parametrize("name", ["write_native", "sync", "replace_bytes"])
def test_make_shard__a_full_disk_leaves_nothing_half_done(job, monkeypatch, name):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(shard, name, full)
        with pytest.raises(OSError, match="No space"):
            make_shards(job, [0])
    assert not is_done(job, 0)
    assert not [*job.folder.glob(".*")]
    make_shard(job, 0)
    assert is_done(job, 0)


def test_make_shards__names_the_part_that_cannot_be_read_and_makes_the_others(bundles, tmp_path):
    x = vectors()
    x[620] = np.nan
    np.save(tmp_path / "x.npy", x)
    index = fpq.read_index(bundles["PQVAE4x4"])
    job = begin(index, tmp_path / "x.npy", tmp_path / "out", PARTS)
    message = (
        r"1 of 4 parts failed.*part 3 \(items 500 to 749, rows .*\): .*NaN or infinity in row 120"
    )
    for workers in (1, 2):
        with pytest.raises(PartsFailedError, match=message):
            make_shards(job, range(PARTS), workers=workers)
        assert missing_parts(job) == [2]


def test_make_shards__goes_on_when_workers_are_killed(job, monkeypatch):
    make_shards(job, range(PARTS))
    before = contents(job)
    for part in range(PARTS):
        shard_path(job, part).unlink()
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(killed) < 2 and time.monotonic() < deadline:
            for child in multiprocessing.active_children():
                if child.pid not in killed and not killed[1:]:
                    killed.append(child.pid)
                    os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    make_shards(job, range(PARTS), workers=2)
    killer.join()
    assert len(killed) == 2
    assert contents(job) == before


def test_make_shards__a_part_that_kills_its_worker_is_named(job, monkeypatch):
    def dies(make, parts, workers, bar, failed):
        taken = [parts.popleft() for _ in range(min(len(parts), workers))]
        if 2 in taken:
            return taken
        for part in taken:
            make(part)
        return []

    monkeypatch.setattr(engines, "_until_one_dies", dies)
    with pytest.raises(PartsFailedError, match=r"1 of 4 .*part 3 .*: its worker died 2 times"):
        make_shards(job, range(PARTS), workers=2)
    assert missing_parts(job) == [2]


def kill_a_task_of_ray(killed: list[int]) -> None:
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if path.read_bytes().startswith(b"ray::make_part"):
                    os.kill(int(path.parent.name), signal.SIGKILL)
                    killed.append(int(path.parent.name))
                    return
        time.sleep(0.002)


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_make_shards__by_ray_go_on_when_a_worker_is_killed(bundles, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    x = vectors()
    x[620] = np.nan
    np.save(tmp_path / "x.npy", x)
    index = fpq.read_index(bundles["PQVAE4x4"])
    local = begin(index, tmp_path / "x.npy", tmp_path / "local", PARTS)
    for part in (0, 1, 3):
        make_shard(local, part)
    killed = []
    for attempt in range(5):  # on a busy machine the parts may be done before one is killed
        job = begin(index, tmp_path / "x.npy", tmp_path / f"ray{attempt}", PARTS)
        killer = threading.Thread(target=kill_a_task_of_ray, args=(killed,))
        killer.start()
        with pytest.raises(PartsFailedError, match=r"1 of 4 .*part 3 .*infinity in row 120"):
            make_shards(job, range(PARTS), workers=2, engine="ray")
        if killed:
            break
        killed.append(0)  # nobody: it ends
        killer.join()
        killed.clear()
    killer.join()
    assert len(killed) == 1
    for part in (0, 1, 3):
        assert shard_path(job, part).read_bytes() == shard_path(local, part).read_bytes()


def test_begin__another_model_other_items_or_parts_are_refused(job, bundles, data):
    index = fpq.read_index(bundles["PQVAE4x4"])
    assert begin(index, data, job.folder, PARTS) == job == read_job(job.folder)
    with pytest.raises(ValueError, match=r"n_parts 4 in .*, got 5, other parts"):
        begin(index, data, job.folder, 5)
    index.effort += 1
    with pytest.raises(ValueError, match=r"of model .*, another model"):
        begin(index, data, job.folder, PARTS)
    np.save(data, vectors()[:-1])
    index.effort -= 1
    with pytest.raises(ValueError, match=r"n 1000 in .*, got 999, other items"):
        begin(index, data, job.folder, PARTS)
    with pytest.raises(ValueError, match="got others: name another folder"):
        job.open()
    np.save(data, vectors()[::-1])  # as many, and as large
    with pytest.raises(ValueError, match=r"source .*, other items"):
        begin(index, data, job.folder, PARTS)


def test_begin__says_what_shards_cannot_hold(bundles, data, tmp_path):
    index = fpq.read_index(bundles["PQVAE4x4"])
    for parts in (0, N + 1):
        with pytest.raises(ValueError, match="expected from 1 to 1,000 parts"):
            begin(index, data, tmp_path / "out", parts)
    stored = fpq.LatentIndex(index.model, refine_index=faiss.IndexFlat(D))
    with pytest.raises(ValueError, match="which stores the items as well"):
        begin(stored, data, tmp_path / "out", PARTS)
    assert not (tmp_path / "out").exists()


def test_begin__another_column_is_another_source(bundles, tmp_path):
    table = {name: pa.array([*vectors(40, seed)]) for seed, name in enumerate(("a", "b"))}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    index = fpq.read_index(bundles["PQVAE4x4"])
    begin(index, tmp_path / "x.parquet" / "a", tmp_path / "out", 2)
    with pytest.raises(ValueError, match="other items"):
        begin(index, tmp_path / "x.parquet" / "b", tmp_path / "out", 2)


def test_begin__a_model_that_a_crash_left_alone_or_that_is_damaged_is_replaced(job, bundles, data):
    (job.folder / "job.json").unlink()
    other = fpq.read_index(bundles["IVF4,PQVAE4x4"])
    begun = begin(other, data, job.folder, PARTS)
    make_shard(begun, 0)
    model = next(job.model_folder.glob("model-*"))
    model.write_bytes(model.read_bytes()[:-1])
    make_shard(begin(other, data, job.folder, PARTS), 1)


def test_begin__takes_relative_and_absolute_paths_together(bundles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, part in zip("ab", np.split(vectors(), 2), strict=True):
        np.save(tmp_path / f"{name}.npy", part)
    index = fpq.read_index(bundles["PQVAE4x4"])
    job = begin(index, ["a.npy", tmp_path / "b.npy"], "out", 2)
    make_shards(job, range(2))
    assert merged(job).items.names(np.array([N - 1]))[0].endswith(f"b.npy:{N // 2 - 1}")


def test_open_shards__takes_no_slips_and_travels(job):
    make_shards(job, range(PARTS))
    opened, q = open_shards(job.folder), vectors(5, 2)
    for name in ("nprob", "effort"):
        with pytest.raises(AttributeError, match=name):
            setattr(opened, name, 3)
    with pytest.raises(ValueError, match="no inverted lists"):
        opened.nprobe = 3
    adc = opened.search(q, 5)[0]
    for other in (pickle.loads(pickle.dumps(opened)), copy.deepcopy(opened)):
        np.testing.assert_array_equal(other.search(q, 5)[0], adc)
    opened.search_type = "sdc"
    assert (opened.search(q, 5)[0] != adc).any()


def test_build__of_graphs_is_not_begun_where_it_cannot_be_merged(data, tmp_path, capsys):
    fpq.write_index(trained("HNSW4,PQVAE4x4"), tmp_path / "bundle")
    given = ["build", str(tmp_path / "bundle"), str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*given, "--workers", "1", "--merge"])
    assert "merge" in capsys.readouterr().err
    assert not [*(tmp_path / "out").glob("shard-*")]
    main([*given, "--workers", "1"])
    opened = open_shards(tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no bundle in .*, but shards"):
        fpq.read_index(tmp_path / "out")
    opened.efSearch = 40
    assert {shard.efSearch for shard in opened.shards} == {40}
    with pytest.raises(SystemExit):
        main([*given, "--workers", "1", "--effort", "3"])
    assert "expected no --effort" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", '{"format": 2}', "[]", '{"format": 1, "images": 3}'),
        '{"format": 1, "n": null, "images": {"size": null}}',
        "[" * 100_000,
    ],
)
def test_read_job__damage_is_told(job, text):
    (job.folder / "job.json").write_text(text)
    with pytest.raises(ValueError, match=r"damaged .*job\.json"):
        read_job(job.folder)


def test_job__another_model_in_its_folder_is_told(job, bundles):
    fpq.write_index(fpq.read_index(bundles["IVF4,PQVAE4x4"]), job.model_folder)
    with pytest.raises(ValueError, match=r"expected the model .* of the job, got"):
        make_shard(job, 0)


def test_build__part_by_part_and_merged(bundles, data, tmp_path, capsys):
    bundle, out = str(bundles["IVF4,PQVAE4x4"]), tmp_path / "out"
    given = ["build", bundle, str(data), "--out", str(out)]
    main([*given, "--part", "2/3"])
    assert "part 2 of 3" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*given, "--merge"])
    assert "2 parts of 3 missing, such as 1" in capsys.readouterr().err
    leftovers = [out / f".shard-00001-of-00003.faiss.{number}.new" for number in "01"]
    for leftover in leftovers:
        leftover.write_bytes(b"of a worker that was killed, or is at work")
    os.utime(leftovers[0], (0, 0))
    main([*given, "--workers", "1"])
    assert "open_shards" in capsys.readouterr().out
    assert [*out.glob(".*")] == leftovers[1:]
    main([*given, "--merge"])
    assert "1000 items of 3 bytes" in capsys.readouterr().out
    once = tmp_path / "once"
    main(["build", bundle, str(data), "--out", str(once)])
    found, expected = (fpq.read_index(path) for path in (out, once))
    np.testing.assert_array_equal(
        faiss.serialize_index(found.faiss_index), faiss.serialize_index(expected.faiss_index)
    )
    names = [each.items.names(np.arange(N)) for each in (found, expected)]
    np.testing.assert_array_equal(*names)
    assert json.loads((out / "job.json").read_text())["n"] == N


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--part", "1/2"], "expected --out with another folder"),
        (["--out", "o", "--part", "3/2"], "expected --part as in 17/400"),
        (["--out", "o", "--part", "0/2"], "expected --part as in 17/400"),
        (["--out", "o", "--part", "1/2", "--merge"], "expected --part alone"),
        (["--out", "o", "--workers", "0"], "expected workers >= 1, got 0"),
        (["--out", "o", "--workers", "1", "--ids", "i.npy"], "expected no --ids"),
        (["--out", "o", "--merge", "--engine", "ray"], "expected --workers with --engine ray"),
    ],
)
def test_build__options_of_parts_that_make_no_sense(
    bundles, data, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["build", str(bundles["PQVAE4x4"]), str(data), *options])
    assert message in capsys.readouterr().err


def kill_actors_of_ray(most: int) -> None:
    killed = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if killed < most and path.read_bytes().startswith(b"ray::_Holder"):
                os.kill(int(path.parent.name), signal.SIGKILL)
                killed += 1
    assert killed == most


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_open_shards__by_ray_answer_whole_when_an_actor_is_killed(bundles, data, tmp_path):
    index = fpq.read_index(bundles["IVF4,PQVAE4x4"])
    job = begin(index, data, tmp_path / "out", PARTS)
    make_shards(job, range(PARTS))
    queries = vectors(30, 2)
    with open_shards(job.folder) as opened:
        opened.nprobe = 3
        expected = opened.search(queries, 10)
    with open_shards(job.folder, engine="ray", workers=2) as served:
        assert len(served) == N
        served.nprobe = 3
        with pytest.raises(AttributeError, match="nprobes"):
            served.nprobes = 3
        with pytest.raises(ValueError, match="k"):
            served.search(queries, 0)
        with pytest.raises(ValueError, match="infinity"):
            served.search(np.full((1, 8), np.nan, np.float32), 1)
        for found, wanted in zip(served.search(queries, 10), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        kill_actors_of_ray(1)
        for found, wanted in zip(served.search(queries, 10), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        # Gone for good: named, and not left out.
        shard_path(job, 3).unlink()
        kill_actors_of_ray(2)
        with pytest.raises(FileNotFoundError, match=r"00004-of-00004.* (is damaged|is not there)"):
            served.search(queries, 10)


def test_search__and_info_of_shards(bundles, data, tmp_path, capsys):
    job = begin(fpq.read_index(bundles["IVF4,PQVAE4x4"]), data, tmp_path / "out", PARTS)
    make_shards(job, [0, 1, 3])
    main(["info", str(job.folder)])
    said = capsys.readouterr().out
    assert "3 of 4 are done" in said
    assert "1, such as 3/4: `build --part 3/4` makes it" in said
    with pytest.raises(SystemExit):
        main(["search", str(job.folder), str(data)])
    assert "00003-of-00004" in capsys.readouterr().err
    make_shard(job, 2)
    np.save(tmp_path / "q.npy", vectors()[[5, N - 1]])
    main(["search", str(job.folder), str(tmp_path / "q.npy"), "--k", "5", "--nprobe", "4"])
    lines = capsys.readouterr().out.splitlines()
    assert "nearest ids and names" in lines[0]
    assert f"{N - 1} (x.npy:{N - 1}" in lines[2].replace(f"{N - 1} x.npy", f"{N - 1} (x.npy")
    data.unlink()  # ids are known without it
    main(["search", str(job.folder), str(tmp_path / "q.npy"), "--k", "5"])
    assert "nearest ids (distance)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "slurm"}, "expected engine 'local' or 'ray', got 'slurm'"),
        ({"workers": 2}, "expected workers with engine='ray', got 2 with 'local'"),
        ({"engine": "ray", "workers": 0}, "expected workers >= 1, got 0"),
    ],
)
def test_open_shards__options_that_make_no_sense(job, options, message):
    with pytest.raises(ValueError, match=message):
        open_shards(job.folder, **options)


def test_build__by_processes_that_torchrun_or_slurm_begin(
    bundles, data, tmp_path, monkeypatch, capsys
):
    given = ["build", bundles["IVF4,PQVAE4x4"], data, "--out", tmp_path / "out"]
    command = [*map(str, given), "--engine", "torchrun"]
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit):
        main([*command, "--parts", "5"])
    assert "expected RANK and WORLD_SIZE of torchrun, or SLURM" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    main([*command, "--parts", "5"])
    assert "2 parts of process 1 of 2" in capsys.readouterr().out
    assert missing_parts(read_job(tmp_path / "out")) == [0, 2, 4]
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    main([*command, "--workers", "1"])
    assert missing_parts(read_job(tmp_path / "out")) == []
    monkeypatch.setenv("SLURM_PROCID", "2")
    for more, message in (
        ([], "expected SLURM_PROCID below SLURM_NTASKS, got '2' and '2'"),
        (["--merge"], "expected --merge by one process, when all parts are there"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *more])
        assert message in capsys.readouterr().err
    main([*map(str, given), "--merge"])
    assert fpq.read_index(tmp_path / "out").ntotal == N


def test_open_shards__encode_queries_once(job, monkeypatch):
    make_shards(job, range(PARTS))
    opened, q, counted = open_shards(job.folder), vectors(5, 2), []
    assert len(opened.shards) > 1
    batches = Encoding.batches
    monkeypatch.setattr(
        Encoding, "batches", lambda *given, **how: (counted.append(1), batches(*given, **how))[1]
    )
    D, I = opened.search(q, 4)  # noqa: E741
    assert len(counted) == 1
    found = [shard.search(q, 4) for shard in opened.shards]
    assert D.tolist() == np.sort(np.concatenate([d for d, _ in found], 1), axis=1)[:, :4].tolist()
    assert I.shape == (5, 4)
    assert opened.search(q[:0], 4)[1].shape == (0, 4)
