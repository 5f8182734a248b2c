"""What `info` draws: where bytes go, and how evenly codewords and lists are used."""

import io
import re
import sys

import numpy as np
import pytest
import torch

from faiss_pqvae import Backbone, LatentIndex, read_index, write_index
from faiss_pqvae.cli import main
from faiss_pqvae.cli.stored_bytes import stored_bytes
from faiss_pqvae.index.bundle import read_config
from faiss_pqvae.index.front import Front
from faiss_pqvae.index.items import Items
from faiss_pqvae.native import faiss

D, N = 8, 300


def said(capsys, path):
    capsys.readouterr()
    main(["info", str(path)])
    return capsys.readouterr().out


def chart(out):
    """The rows of a chart of bytes: name, bar, bytes, share."""
    block = next(part for part in out.split("\n\n") if part.startswith("bytes on the disk"))
    rows = re.findall(r"^ *(.+?)  ([█▏▎▍▌▋▊▉#]*) +(\S+ k?M?B) +(\d+)%$", block, re.MULTILINE)
    return {name: (drawn, size, int(share)) for name, drawn, size, share in rows}


def put(index, path, n=N):
    if n:
        items = np.random.default_rng(0).standard_normal((n, *index.input_shape), np.float32)
        if index.takes_ids:
            index.add_with_ids(items, np.arange(n))
        else:
            index.add(items)
    write_index(index, path)
    return index


@pytest.mark.parametrize("id_map", ["", "IDMap2"])
@pytest.mark.parametrize("kind", ["PQ", "PQfs", "IVF", "IVFfs", "HNSW"])
def test_stored_bytes__are_those_of_the_files(make_identity, tmp_path, kind, id_map):
    nbits = 4 if kind.endswith("fs") else 8
    index = put(make_identity(kind, nbits, faiss.METRIC_L2, id_map), tmp_path)
    index.items = Items.of_parts([("x.npy", N)], "")
    write_index(index, tmp_path)
    found = stored_bytes(tmp_path, read_config(tmp_path), read_index(tmp_path))
    assert sum(found.parts.values()) == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert min(found.parts.values()) > 0
    assert found.parts["codes"] == N * 4 * nbits // 8
    ids = 8 * N * (kind.startswith("IVF") + bool(id_map))
    assert found.parts.get("ids", 0) == ids
    assert found.parts["codebooks"] == 2 * 4 * 2**nbits * D  # in the index and in the model
    assert found.parts["encoder"] == found.parts["decoder"] == 4 * (D * D + D)
    assert ("graph" in found.parts) == (kind == "HNSW")
    assert found.item >= (found.parts["codes"] + ids) / N
    assert found.memory == sum(found.parts.values()) - found.parts["configuration"]
    assert found.front == 0
    assert 0 <= found.mapped <= found.parts["codes"] + ids


def test_stored_bytes__of_an_item_are_what_more_items_add(make_identity, tmp_path):
    found, sizes = [], []
    for n in (N, 4 * N):
        folder = tmp_path / str(n)
        put(make_identity("IVF", 8, faiss.METRIC_L2), folder, n)
        found.append(stored_bytes(folder, read_config(folder), read_index(folder)))
        sizes.append(sum(path.stat().st_size for path in folder.glob("index-*")))
    assert found[0].item == found[1].item == 4 + 8
    assert (sizes[1] - sizes[0]) / (3 * N) == pytest.approx(12, abs=0.1)


def test_info__draws_where_bytes_go(make_identity, tmp_path, capsys):
    index = make_identity("PQ", 8, faiss.METRIC_L2, refine=faiss.IndexFlatL2(D))
    put(index, tmp_path)
    out = said(capsys, tmp_path)
    drawn = chart(out)
    assert drawn["codes"][1] == "1.2 kB"
    assert drawn["codebooks"][1] == "16.4 kB"
    assert set(drawn["codebooks"][0]) == {"█"}
    lengths = [len(bar) for bar, _, _ in drawn.values()]
    assert lengths == sorted(lengths, reverse=True)
    assert sum(share for _, _, share in drawn.values()) == pytest.approx(100, abs=len(drawn))
    assert f"each item takes {4 + 4 * D + 45 / N:.1f} of them" in out  # a header of 45 bytes
    assert re.search(r"^memory: \S+ kB or more; 10.8 kB less with --mmap$", out, re.MULTILINE)


def test_info__a_pipe_of_ascii_gets_ascii(make_identity, tmp_path, monkeypatch):
    put(make_identity("IVF", 8, faiss.METRIC_L2), tmp_path)
    pipe = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", pipe)
    main(["info", str(tmp_path)])
    pipe.flush()
    out = pipe.buffer.getvalue().decode("ascii")
    assert "#####" in out
    assert "\x1b" not in out
    assert max(len(line) for block in out.split("\n\n")[1:] for line in block.splitlines()) <= 80


def test_info__draws_how_often_codewords_are_used(make_identity, tmp_path, capsys):
    index = make_identity("PQ", 4, faiss.METRIC_L2)
    codes = np.zeros((160, 2), np.uint8)  # a byte has two sub-quantizers
    codes[:, 0] = np.arange(160) % 16  # all of the first evenly, one of the second
    index.add_sa_codes(codes)
    write_index(index, tmp_path)
    out = said(capsys, tmp_path)
    assert f"     0  {'█' * 16}  100% used, perplexity 16.0" in out
    assert f"     1  █{' ' * 15}    6% used, perplexity 1.0" in out
    assert "shown are" not in out


def test_info__of_many_sub_quantizers_shows_the_first_and_the_worst(make_model, tmp_path, capsys):
    index = LatentIndex(make_model((8,), M=40, nbits=4, encoder="linear"))
    codes = np.random.default_rng(0).integers(0, 256, (400, 20)).astype(np.uint8)
    codes[:, 15] = 0x21  # the sub-quantizers 30 and 31
    index.add_sa_codes(codes)
    write_index(index, tmp_path)
    out = said(capsys, tmp_path)
    shown = [int(m) for m in re.findall(r"^ +(\d+)  .*perplexity", out, re.MULTILINE)]
    assert shown[:8] == list(range(8))
    assert {30, 31} < set(shown)
    assert len(shown) <= 12
    assert "of all 40: 6% to 100% used, perplexity 1.0 to 15." in out
    assert "the first 8, and the 4 of the lowest perplexity" in out


def test_info__says_how_even_lists_are(make_identity, tmp_path, capsys):
    index = make_identity("IVF", 8, faiss.METRIC_L2)
    codes = np.zeros((8, 5), np.uint8)
    codes[:, 0] = [0, 0, 0, 0, 0, 0, 1, 1]  # lists of 6, 2, 0 and 0
    index.add_sa_codes(codes, np.arange(8))
    write_index(index, tmp_path)
    out = said(capsys, tmp_path)
    assert "inverted lists: 4, imbalance 2.50 (1 is even); a search visits 4" in out  # 4 * 40 / 64
    assert "█▃    0 to 6 items each, 2 empty" in out


@pytest.mark.parametrize("kind", ["PQ", "IVF", "HNSW"])
def test_info__of_an_empty_index(make_identity, tmp_path, capsys, kind):
    put(make_identity(kind, 8, faiss.METRIC_L2), tmp_path, n=0)
    out = said(capsys, tmp_path)
    assert "use of codewords: none yet, the index is empty" in out
    assert ("inverted lists: 4, all empty" in out) == (kind == "IVF")
    assert "codes" not in chart(out)
    assert "each item" not in out


def test_stored_bytes__of_a_frozen_encoder_are_not_in_the_bundle(make_model, tmp_path):
    network = torch.nn.Linear(6, D)
    front = Front(Backbone(network, trainable=False), (6,))
    index = LatentIndex(make_model((D,), encoder="linear"), front=front)
    write_index(index, tmp_path)
    found = stored_bytes(tmp_path, read_config(tmp_path), index)
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found.front == 4 * (6 * D + D)
    assert found.memory == on_disk - found.parts["configuration"] + found.front
