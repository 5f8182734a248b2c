"""What a deep decoder costs: the second look at candidates, and the choice of codes in `add`.

The look at 100 candidates of every query is everything that follows the scan: a longer list of the
tables', its sums of codewords with their exact lengths, and the decoder. Weights and codes are
random: how long all that takes does not depend on what they say.
"""

from __future__ import annotations

import numpy as np
import torch
from bench_scan import one_thread
from common import Figure, Options, count_flops, run_script, timed_pairs

from faiss_pqvae import LatentIndex, ModelConfig, index_factory
from faiss_pqvae.eval.measure.memory import PeakMemory
from faiss_pqvae.model.additive import Tables, lift
from faiss_pqvae.native.inject import inject_codebooks

D, M, K, NQ = 128, 8, 10, 100
SECOND_LOOK, ADD_US = 2.0, 1000.0  # of a scan; microseconds an item
EFFORTS = (0, 4, 16)
WIDTHS = (64, 16)  # of the networks: the default, and one that is measured in parts.py
ADD_MB = 1000.0


def measure(options: Options) -> list[Figure]:
    """Figures of the search by one thread, and of `add` by all."""
    memory = _memory(options, random_index(WIDTHS[0]))  # before others leave memory behind
    with one_thread():
        figures = [_second_look(options, random_index(width), width) for width in WIDTHS]
    index = random_index(WIDTHS[0])
    index.refiner = None
    figures += [_add(options, index, effort) for effort in EFFORTS]
    return [*figures, memory]


def random_index(width: int) -> LatentIndex:
    """An empty index that needs no training."""
    index = index_factory(D, f"PQVAE{M},RDecoder", model=ModelConfig(width=width))
    model, code = index.model, index.model.code_decoder
    assert code is not None
    torch.manual_seed(0)
    code.begin_at(0.2 * torch.randn(M, 256, D))
    with torch.no_grad():
        tables = Tables(code.plain, code.plain.square().sum(-1))
        lifted = lift(tables, code.centre, code.table_shrinks, "l2")
        model.quantizer.codewords.copy_(lifted.codewords)
        code.offset.copy_(lifted.offset)
    model.fitted.fill_(True)
    inject_codebooks(index.faiss_index, model.codebooks())
    return index


def _second_look(options: Options, index: LatentIndex, width: int) -> Figure:
    n = 20_000 if options.quick else 1_000_000
    rng = np.random.default_rng(0)
    index.add_sa_codes(rng.integers(0, 256, (n, M), dtype=np.uint8))
    q = rng.standard_normal((NQ, D), dtype=np.float32)
    refiner = index.refiner

    def whole() -> None:
        index.refiner = refiner
        index.search(q, K)

    def scan() -> None:
        index.refiner = None
        index.search(q, K)

    pairs = timed_pairs(whole, scan, repeats=options.repeats or (3 if options.quick else 11))
    index.refiner = refiner
    index.reset()
    look = [round(ratio - 1, 4) for ratio in pairs.ratios]
    candidates = int(K * index.k_factor)
    flops = count_flops(lambda: index.model.code_decoder.decode(torch.zeros(64, M))) // 64
    all_ms, scan_ms = (1000 * seconds / NQ for seconds in pairs.medians_s)
    return Figure(
        name=f"second look at {candidates} candidates / scan of {n:,} codes, width {width}",
        values=look,
        target=None if options.quick else SECOND_LOOK,
        limit=f"{candidates * flops / 1e6:.0f} MFLOP a query in the decoder",
        details={"scan_ms": round(scan_ms, 3), "all_ms": round(all_ms, 3), "threads": 1},
    )


def _add(options: Options, index: LatentIndex, effort: int) -> Figure:
    n = 1024 if options.quick else 8192
    x = np.random.default_rng(1).standard_normal((n, D), dtype=np.float32)
    plain = index_factory(
        D, f"PQVAE{M}", objective="ranking"
    ).model  # of product codes, of the same size
    index.effort = effort

    def add() -> None:
        index.reset()
        index.add(x)

    def nearest() -> None:
        with torch.inference_mode():
            for part in torch.split(torch.from_numpy(x), index.batch_size):
                plain.quantizer(plain.encode(part))

    plain.eval()
    pairs = timed_pairs(add, nearest, repeats=options.repeats or (2 if options.quick else 5))
    return Figure(
        name=f"add, effort {effort}",
        values=[round(1e6 * seconds / n, 2) for seconds in pairs.a_s],
        target=ADD_US if effort == max(EFFORTS) and not options.quick else None,
        unit="us an item",
        limit=f"nearest codewords of a product code: {1e6 * pairs.medians_s[1] / n:.1f} us",
        details={"threads": torch.get_num_threads()},
    )


def _memory(options: Options, index: LatentIndex) -> Figure:
    n = 4096 if options.quick else 65_536
    x = np.random.default_rng(1).standard_normal((n, D), dtype=np.float32)
    index.effort = max(EFFORTS)
    peaks = []
    for _ in range(options.repeats or 1):
        index.reset()
        with PeakMemory() as memory:
            index.add(x)
        if memory.peak_bytes is None:
            raise OSError(
                "expected a system that says how much memory a process has, see memory.py"
            )
        peaks.append(round(memory.peak_bytes / 1e6, 1))
    return Figure(
        name=f"peak memory of add beside the {n:,} vectors, effort {index.effort}",
        values=peaks,
        target=None if options.quick else ADD_MB,
        unit="MB",
        limit="batches of codes in the making, whose number depends on no number of vectors",
    )


if __name__ == "__main__":
    run_script("decoder", [measure], __doc__)
