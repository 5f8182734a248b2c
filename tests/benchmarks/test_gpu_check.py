"""The script for a machine with a card: parts that fail, hang and crash, and what it packs."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import gpu_check
import gpu_check_search
import gpu_check_speed
import gpu_check_training
import gpu_pack
import numpy as np
import pytest
import torch
from gpu_check import ENVIRONMENT, NO_CARD, Part, Result, exit_status, run_parts
from gpu_check_compare import clearly_quantized, differing
from gpu_check_indexes import product_index
from gpu_check_part import Check, DiffersError, read_findings

from faiss_pqvae.index import gpu
from faiss_pqvae.native import faiss
from faiss_pqvae.training.kept import Kept

# What parts do here; their processes load neither torch nor FAISS.
STUBS = """
import os, signal, time

def environment(check):
    check.note("libraries", torch="2")

def with_card(check):
    check.note("card", card="a card")

def passes(check):
    check.note("device", device=check.device, left=check.left_s > 0)

def raises(check):
    check.note("before", n=1)
    raise ValueError("not what was expected")

def hangs(check):
    check.note("before", n=2)
    check.folder.joinpath("findings.jsonl").open("a").write('{"what": "cut o')
    time.sleep(60)

def dies(check):
    check.note("before", n=3)
    os.kill(os.getpid(), signal.SIGSEGV)

def tries(check):
    with check.trying("first"):
        raise ValueError("the first one")
    with check.trying("second"):
        check.note("second", fine=True)
"""


def _part(name, limit_s=20.0, **options):
    return Part(name, limit_s, f"gpu_stubs:{name}", **options)


CARD = Part("on a card", 20, "gpu_stubs:passes", needs_card=True)


@pytest.fixture(autouse=True)
def stubs(tmp_path, monkeypatch):
    (tmp_path / "gpu_stubs.py").write_text(STUBS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")
    monkeypatch.setattr(gpu_check, "ENVIRONMENT", _part("environment"))


def _results(out):
    record = json.loads((out / "gpu-check.json").read_text())
    return record, {part["name"]: part for part in record["parts"]}


def test_run_parts__whatever_happens_to_one_the_next_begins(tmp_path, capsys):
    bad = [_part("raises"), _part("hangs", 3.0), _part("dies"), _part("tries")]
    assert run_parts([*bad, CARD, _part("passes")], tmp_path, device="auto") == 1
    record, parts = _results(tmp_path)
    assert {name: part["status"] for name, part in parts.items()} == {
        "environment": "passed",
        "raises": "failed",
        "hangs": "out of time",
        "dies": "failed",
        "tries": "failed",
        "on a card": NO_CARD,
        "passes": "passed",
    }
    for name, n in (("raises", 1), ("hangs", 2), ("dies", 3)):
        assert parts[name]["findings"] == [{"what": "before", "n": n}]
    assert parts["raises"]["error"].endswith("ValueError: not what was expected")
    assert "Traceback" in parts["raises"]["error"]
    assert parts["hangs"]["error"] == "ended at its limit"
    assert 3 <= parts["hangs"]["seconds"] < 20
    assert parts["dies"]["error"].startswith("ended by SIGSEGV\n")
    assert "in dies" in parts["dies"]["error"]  # where it was
    assert parts["tries"]["findings"] == [
        {"what": "first", "error": "ValueError: the first one"},
        {"what": "second", "fine": True},
    ]
    assert "1 failed: first" in parts["tries"]["error"]
    assert parts["passes"]["findings"] == [{"what": "device", "device": "cpu", "left": True}]
    assert (record["device"], record["environment"]) == ("cpu", {"torch": "2"})
    said = capsys.readouterr().out
    assert said.startswith("device: cpu (asked for: auto), no card\n")
    assert "ValueError: not what was expected" in said


def test_run_parts__a_card_that_is_not_there_is_not_replaced(tmp_path, capsys):
    assert run_parts([_part("passes"), CARD], tmp_path, device="cuda") == 1
    record, parts = _results(tmp_path)
    assert record["device"] == "none"
    assert [parts[name]["status"] for name in ("passes", "on a card")] == [NO_CARD, NO_CARD]
    assert "device: none (asked for: cuda), no card" in capsys.readouterr().out


@pytest.mark.parametrize(("device", "taken"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
def test_device_taken__where_there_is_a_card(device, taken):
    assert gpu_check.device_taken(device, {"card": "a card"}) == taken


def test_run_parts__says_what_it_had_no_time_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ENVIRONMENT", Part("environment", 20, "gpu_stubs:with_card"))
    assert run_parts([CARD], tmp_path, minutes=0.001) == 1
    record, parts = _results(tmp_path)
    assert record["device"] == "cuda"
    assert (parts["on a card"]["status"], parts["on a card"]["seconds"]) == ("out of time", 0)


def test_run_parts__ctrl_c_ends_the_part_and_keeps_what_is_there(tmp_path, monkeypatch):
    wait, begun = subprocess.Popen.wait, []

    def interrupted(self, timeout=None):
        if timeout is not None:  # else it was ended before
            begun.append(self.pid)
            if len(begun) == 2:
                raise KeyboardInterrupt
        return wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    assert run_parts([_part("hangs"), _part("passes")], tmp_path) == 130
    _, parts = _results(tmp_path)
    assert [*parts] == ["environment", "hangs"]
    assert (parts["hangs"]["status"], parts["hangs"]["error"]) == ("failed", "interrupted")
    with pytest.raises(ProcessLookupError):
        os.kill(begun[-1], 0)


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["passed", "passed"], 0),
        (["passed", "passed", NO_CARD], 0),
        (["passed", NO_CARD], 1),  # the environment alone shows nothing
        (["passed", "passed", "failed"], 1),
        (["passed", "passed", "out of time"], 1),
        (["failed", "passed"], 1),
    ],
)
def test_exit_status__by_what_was_shown(statuses, status):
    results = [Result(str(i), status) for i, status in enumerate(statuses)]
    assert exit_status(results[:1], results[1:]) == status


def test_parts__are_functions_of_modules_in_the_pack():
    names = [part.name for part in gpu_check.PARTS]
    assert len(set(names)) == len(names)
    packed = gpu_pack.tracked()
    for part in (ENVIRONMENT, *gpu_check.PARTS):
        module, _, function = part.run.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert f"benchmarks/{module}.py" in packed


def test_script__loads_what_may_die_in_processes_of_parts_alone():
    code = "import sys, gpu_check; print({'torch', 'faiss', 'numpy'} & sys.modules.keys())"
    folder = Path(gpu_check.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_row__says_what_was_not_measured_and_why_it_failed():
    findings = [{"what": "a"}, {"what": "b", "not_measured": "1 s left"}]
    said = gpu_check.row(Result("speed", "failed", findings=findings, error="log\nValueError: no"))
    assert said.endswith("2 findings, 1 not measured  ValueError: no")


def test_main__refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(SystemExit, match=r"expected parts of \['search'.*got \['everything'\]"):
        gpu_check.main(tmp_path, only=("search", "everything"))
    with pytest.raises(SystemExit, match="expected minutes > 0, got 0"):
        gpu_check.main(tmp_path, minutes=0)


def test_part_process__ends_itself_when_nobody_is_there(tmp_path):
    ends = str(time.monotonic() - 4.5)  # five seconds after it, a signal ends the process
    command = [sys.executable, gpu_check.__file__, "part", "gpu_stubs:hangs", "cpu", ends, tmp_path]
    assert subprocess.run(command, timeout=20, check=False).returncode == -signal.SIGALRM


# -- what parts compare by

REFERENCE = (
    np.array([[1.0, 2, 2, 3], [1, 2, 3, 9e9]]),
    np.array([[4, 7, -6, 9], [4, 7, 9, -1]]),
)


@pytest.mark.parametrize(
    ("D", "I", "wrong"),
    [
        ([[1, 2], [1, 2]], [[4, 7], [4, 7]], [False, False]),
        ([[1, 2], [1, 2]], [[4, -6], [4, 7]], [False, False]),  # a tie
        ([[1, 2], [1, 2]], [[4, 9], [4, 9]], [True, True]),  # other ids
        ([[1, 2], [1, 2]], [[4, 5], [4, -6]], [True, True]),  # ids that are not there
        ([[1, 3], [1, 3]], [[4, 9], [4, 9]], [True, True]),  # not the first ones
        ([[1, 2, 2], [1, 2, 3]], [[4, 7, 7], [4, 7, 9]], [True, False]),  # one twice
        # More than there is: nothing comes last, and what distance it has does not count.
        ([[1, 2, 2, 3, 0], [1, 2, 3, 0, 0]], [[4, 7, -6, 9, -1], [4, 7, 9, -1, -1]], [False] * 2),
        ([[1, 2, 2, 3, 0], [1, 2, 0, 0, 0]], [[4, 7, -6, 9, 5], [4, 7, -1, -1, -1]], [True] * 2),
        ([[1, 2], [1, 2]], [[4, -1], [-1, 7]], [True, True]),  # something was to find
        ([[np.nan, 2], [1, 2]], [[4, 7], [4, 7]], [True, False]),
    ],
)
def test_differing__finds_what_is_not_first_up_to_ties(D, I, wrong):  # noqa: E741
    found = np.array(D, float), np.array(I)
    assert differing(found, REFERENCE, 1e-5).tolist() == wrong


def test_clearly_quantized__is_not_in_between_two_codewords():
    index = product_index(2, 1)
    near, far = index.model.codebooks().centroids.swapaxes(0, 1)  # (2, dsub) each
    between = np.array([near[0], (near[1] + far[1]) / 2])
    z = np.stack([near, far, between, (near + 2 * far) / 3]).reshape(4, -1)
    assert clearly_quantized(index, z).tolist() == [True, True, False, True]


# -- parts


@pytest.fixture
def check(tmp_path):
    return Check("cpu", time.monotonic() + 60, tmp_path)


def test_layouts__pass_here(check):
    gpu_check_search.layouts(check)
    assert check.failed == []
    found = read_findings(check.folder)
    assert all(each["what"].startswith("layout searched on the CPU: ") for each in found)


@pytest.fixture
def faiss_as_card(monkeypatch):
    """FAISS on the CPU, in the place of FAISS on a card."""

    def copied(check, index, scan, *, nlist=None):
        upload = [lambda layout: layout]
        return gpu.distribute(index, torch.device("cpu"), upload, shard=False, nlist=nlist)

    for module in (gpu_check_search, gpu_check_speed):
        monkeypatch.setattr(module, "copied", copied)
    monkeypatch.setattr(faiss, "index_gpu_to_cpu", lambda layout: layout, raising=False)


@pytest.mark.usefixtures("faiss_as_card")
def test_other_kinds__pass_with_faiss_in_the_card_s_place(check):
    gpu_check_search.other_kinds(check, "faiss")
    assert check.failed == []
    found = {each["what"]: each for each in read_findings(check.folder)}
    assert found["IVF16 of residuals, l2"]["scan"].startswith("IndexIVFPQ")
    assert found["items added to the copy"]["codes_the_same"] == 1


@pytest.mark.usefixtures("faiss_as_card")
def test_lists__names_the_best_of_all_or_what_is_left_out(check, monkeypatch):
    small = gpu_check_speed.filled_index(3000, 8)
    monkeypatch.setattr(gpu_check_speed, "filled_index", lambda n, M: small)
    monkeypatch.setattr(gpu_check_speed, "seconds_of", lambda work, device: len(work.args[0]))
    gpu_check_speed.lists(check)
    found = read_findings(check.folder)
    assert [each["ms_by_nlist"]["8"] for each in found] == [1000, 100_000] * 2
    assert (found[0]["best"], found[0]["sqrt_n_over_best"]) == (1, 1000)
    check.ends = time.monotonic()
    gpu_check_speed.lists(check)
    assert read_findings(check.folder)[-1]["not_measured"][:2] == [1, 8]
    assert check.failed == []


def test_speed__leaves_out_what_there_is_no_time_for(check, monkeypatch):
    monkeypatch.setattr(gpu_check_speed, "bandwidth", lambda device: 1.0)
    check.ends = time.monotonic()
    gpu_check_speed.speed(check)
    assert all("not_measured" in each for each in read_findings(check.folder))
    assert check.failed == []


@pytest.mark.parametrize("resumes", [True, False])
def test_resumed__tells_a_training_that_began_anew(check, monkeypatch, resumes):
    learned, kept = gpu_check_training.objectives()["additive"], []
    if not resumes:
        read = Kept._read
        monkeypatch.setattr(Kept, "_read", lambda self: read(self) and {})
    with gpu_check_training.keeping(kept):
        whole = gpu_check_training.trained(learned, check.folder / "whole")
    raised = contextlib.nullcontext() if resumes else pytest.raises(DiffersError, match="anew")
    with raised:
        gpu_check_training.resumed(check, "additive", learned, whole, kept)
    (found,) = read_findings(check.folder)
    assert (found["states"], found["after"], found["last_apart"]) == (5, 2, 0)
    assert found["then"] == (3 if resumes else 5)


@pytest.mark.parametrize(
    ("epochs", "rate"), [([], 0), ([(10, 4.0)], 2.5), ([(10, 4.0), (20, 6.0), (40, 7.0)], 10)]
)
def test_steps_per_s__leaves_out_what_precedes_the_second_epoch(epochs, rate):
    history = [{"event": "epoch", "step": step, "elapsed_s": end} for step, end in epochs]
    assert gpu_check_training.steps_per_s([{"event": "start"}, *history]) == rate


# -- the pack


def test_tracked__lays_the_rooms_into_the_package():
    files = gpu_pack.tracked()
    assert {
        "faiss_pqvae/index/gpu.py",
        "faiss_pqvae/training/loop.py",
        "faiss_pqvae/eval/measure/environment.py",
        "faiss_pqvae/eval/report/report.html",
        "benchmarks/gpu_check.py",
        *("setup.py", "pyproject.toml", "README.md", "LICENSE"),
    } <= files.keys()
    assert {place.partition("/")[0] for place in files} == {
        *("faiss_pqvae", "benchmarks"),
        *gpu_pack.SINGLE,
    }


def test_write_pack__is_the_same_for_the_same_and_refuses_what_is_too_large(tmp_path):
    noise = tmp_path / "noise.whl"
    noise.write_bytes(os.urandom(100_000))
    out, files = tmp_path / "dist" / "pack.tar.gz", {"faiss/noise.whl": noise}
    assert gpu_pack.write_pack(out, files, limit_mib=1) == out.stat().st_size
    first = out.read_bytes()
    gpu_pack.write_pack(out, files, limit_mib=1)
    assert out.read_bytes() == first
    message = r"at most 0\.05 MiB, got 0\.1 MiB: faiss/noise\.whl 0\.1 MiB"
    with pytest.raises(SystemExit, match=message):
        gpu_pack.write_pack(out, files, limit_mib=0.05)
    assert out.read_bytes() == first


def test_of_faiss__wants_wheels(tmp_path):
    assert gpu_pack.of_faiss(None) == {}
    (tmp_path / "unpack.sh").touch()
    with pytest.raises(SystemExit, match=r"expected wheels of FAISS in .*, got none"):
        gpu_pack.of_faiss(tmp_path)
    (tmp_path / "faiss_gpu-1.whl").touch()
    (tmp_path / "README.md").touch()
    assert gpu_pack.of_faiss(tmp_path).keys() == {"faiss/unpack.sh", "faiss/faiss_gpu-1.whl"}


def test_run_sh__unpacks_what_is_missing_and_runs_the_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import os, sys, lonely; print(sys.argv[1:], os.environ['SOURCED'])")
    shim = tmp_path / "shim.sh"
    shim.write_text('export SOURCED="$(basename "$1") $(basename "$2")"\n')
    wheels = {}
    for name in ("lonely", "numpy"):  # this Python has one of them
        wheels[name] = tmp_path / f"{name}-9-py3-none-any.whl"
        with zipfile.ZipFile(wheels[name], "w") as wheel:
            wheel.writestr(f"{name}.py", "")
    files = {f"wheels/{path.name}": path for path in wheels.values()}
    files |= {"benchmarks/gpu_check.py": script, "faiss/shim.sh": shim}
    gpu_pack.write_pack(tmp_path / "pack.tar.gz", files, limit_mib=1)
    with tarfile.open(tmp_path / "pack.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    command = ["gpu-pack/run.sh", "--out", "there", "--device", "cpu"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "unpacking lonely-9-py3-none-any.whl",
        "['--out', 'there', '--device', 'cpu'] faiss faiss-site",
    ]
    assert not (tmp_path / "gpu-pack" / "site" / "numpy.py").exists()
