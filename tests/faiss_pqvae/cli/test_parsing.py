"""Arguments that no command takes: one line says what was expected, and where to look."""

import logging
import subprocess
import sys

import pytest

from faiss_pqvae.cli import main

CASES = {
    "train": "expected DATA and OUT",
    "train x": "expected OUT",
    "info": "expected BUNDLE",
    "search b": "expected QUERIES",
    "report": "expected OUT",
    "search b q a0.jpg": "expected no further argument, got 'a0.jpg'",
    "search b q {here}": "expected no further argument, got '{here}': a folder stands for several "
    "files",
    "train x o --size 64": "expected --size INT INT, got '64'",
    "train x o --size 64 x": "expected --size INT INT, got '64 x'",
    "train x o --training.epochs abc": "expected --training.epochs INT, got 'abc'",
    "train x o --training.epochs=abc": "expected --training.epochs INT, got 'abc'",
    "train x o --training.budget_minutes x": "expected --training.budget-minutes FLOAT, got 'x'",
    "search b q --k": "expected a value after --k",
    "search b q --mode X": "expected --mode of 'L', 'None', 'RGB', got 'X'",
    "build b x --zzz 3": "there is no option --zzz",
}


def refused(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.parametrize(("given", "expected"), CASES.items(), ids=CASES)
def test_main__says_in_one_line_what_is_wrong_with_arguments(given, expected, tmp_path, capsys):
    line = given.format(here=tmp_path)
    help_ = f"see faiss-pqvae {line.split()[0]} --help"
    assert refused(line, capsys) == f"faiss-pqvae: {expected.format(here=tmp_path)}; {help_}\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("search b q --kfactor 3", "--k-factor"),
        ("train x o --trainig.epochs 3", "--training.epochs"),
    ],
)
def test_main__says_which_option_was_meant(given, meant, capsys):
    assert refused(given, capsys).endswith(f" --help; did you mean {meant}?\n")


def test_main__names_all_that_is_missing(capsys):
    assert "expected --dataset STR and --out PATH; see" in refused("evaluate --k 3", capsys)


def test_main__is_ready_for_ctrl_c_before_it_loads_anything():
    """What loads long is loaded where Ctrl-C is answered."""
    code = "import sys, faiss_pqvae.cli; sys.exit('tyro' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_main__keeps_what_torch_counts_for_itself(capsys):
    """It logs the statistics of its caches at the end of a process that loaded it in part."""
    main(["--version"])
    assert not logging.getLogger("torch._subclasses").isEnabledFor(logging.INFO)
