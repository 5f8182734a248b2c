"""Runs all benchmarks in turn: one table, one file (results/benchmarks.json)."""

from __future__ import annotations

import bench_add
import bench_add_memory
import bench_decoder
import bench_residual
import bench_scan
import bench_search
import bench_train_step
from common import run_script

MODULES = (
    bench_train_step,
    bench_add,
    bench_search,
    bench_scan,
    bench_residual,
    bench_add_memory,
    bench_decoder,
)

if __name__ == "__main__":
    run_script("benchmarks", [module.measure for module in MODULES], __doc__)
