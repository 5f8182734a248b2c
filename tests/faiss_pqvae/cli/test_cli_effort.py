"""What a shell sets and says of codes that a decoder chooses."""

import re

import numpy as np
import pytest

from faiss_pqvae import ModelConfig, Synthesis, TrainingConfig, index_factory, read_index
from faiss_pqvae.cli import main
from faiss_pqvae.index.bundle import write_index

X = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)


def bundle(tmp_path, description):
    objective = Synthesis(epochs=1, batch_size=64, effort=1, final_effort=1, rounds=1, filled=0)
    index = index_factory(
        8,
        description,
        model=ModelConfig(width=4),
        training=TrainingConfig(epochs=1, device="cpu", precision="float32"),
        objective=objective if "RDecoder" in description else None,
    )
    index.train(X, progress=False)
    write_index(index, tmp_path / "bundle")
    np.save(tmp_path / "x.npy", X)
    return [str(tmp_path / "bundle"), str(tmp_path / "x.npy")]


def test_build__keeps_the_effort_and_info_says_it(tmp_path, capsys):
    arguments = bundle(tmp_path, "PQVAE2x3,RDecoder")
    main(["build", *arguments, "--effort", "3"])
    index = read_index(arguments[0])
    assert (index.effort, index.ntotal) == (3, 200)
    main(["info", arguments[0]])
    assert "effort 3, k_factor 10" in capsys.readouterr().out


def test_train__vectors_get_sums_of_codewords(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    x, b = str(tmp_path / "x.npy"), str(tmp_path / "b")
    command = ["train", x, b, "--factory", "PQVAE4"]
    with pytest.raises(SystemExit):
        main([*command, "--ranking.rounds", "3"])
    assert "options of the objective 'additive', which is learned here" in capsys.readouterr().err
    main([*command, "--additive.rounds", "1", "--additive.filled", "0"])
    found = capsys.readouterr()
    assert re.search(r"^trained on 200 items in \d+ s; the bundle is", found.out)
    main(["build", b, x, "--effort", "1"])
    main(["info", b])
    said = capsys.readouterr().out
    assert "objective=additive" in said
    assert "of sums of codewords; effort 1" in said


def test_build__refuses_an_effort_where_nothing_is_chosen(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["build", *bundle(tmp_path, "PQVAE2x3"), "--effort", "3"])
    assert "expected no --effort for PQVAE2x3" in capsys.readouterr().err
    assert not read_index(tmp_path / "bundle").ntotal
