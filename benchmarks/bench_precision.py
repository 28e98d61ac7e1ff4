"""Precision.

Pooled accuracy after the last round of FedAvg, in bf16 and in fp32: 10,000 images of CIFAR-10, five clients of a
Dirichlet partition with alpha 0.1, five rounds of four epochs, five seeds ([by seed](measurements/precision.csv)). The
measurement takes a quarter of an hour and needs real images. `python -m benchmarks.precision --data FOLDER` therefore
makes it separately, and this page reads the result.
"""

from __future__ import annotations

import pandas as pd
import pytest

from benchmarks.precision import FILE


def bench_precision(benchmark, record) -> None:
    """Reading what has been measured."""
    if not FILE.is_file():
        pytest.skip("`python -m benchmarks.precision --data FOLDER` has not been run")
    found = benchmark.pedantic(lambda: pd.read_csv(FILE), rounds=1)
    by_seed = 100 * found.pivot(index="seed", columns="precision", values="pooled")
    means, spread = by_seed.mean(), by_seed["fp32"].std()
    record("fp32, mean of five seeds", means["fp32"], "%")
    record("fp32, standard deviation over seeds", spread, "points")
    record("bf16, mean of five seeds", means["bf16"], "%")
    gap = abs(means["bf16"] - means["fp32"])
    record("difference of the means", gap, "points", ratio=gap / spread, against="that deviation", asked="<= 1")
    record("largest difference of a seed", (by_seed["bf16"] - by_seed["fp32"]).abs().max(), "points")
