"""How often intervals hold the truth with few seeds: the one of `apfl.paper.numbers.intervals`, and two that are not
used.

Differences are drawn around zero: alike in all cells, of unlike spread (log-normal, sigma 1), or with half of their
variance common to all cells of a seed. ``python -m benchmarks.interval_coverage`` writes the file that docs/claims.md
shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special, stats

from apfl.paper.numbers.intervals import ERROR, LEVEL, Cellwise, mean
from apfl.storage.files import write_text
from apfl.streams import numpy_stream

SEEDS, CELLS = (2, 3, 5), (1, 6, 18)
FILE = Path(__file__).parents[1] / "docs" / "measurements" / "coverage.csv"


def alike(rng: np.random.Generator, cells: int, seeds: int) -> np.ndarray:
    return rng.normal(size=(cells, seeds))


def unlike(rng: np.random.Generator, cells: int, seeds: int) -> np.ndarray:
    return rng.normal(size=(cells, seeds)) * rng.lognormal(0, 1, size=(cells, 1))


def shared(rng: np.random.Generator, cells: int, seeds: int) -> np.ndarray:
    return (rng.normal(size=(cells, seeds)) + rng.normal(size=(1, seeds))) / np.sqrt(2)


KINDS: Mapping[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "alike": alike,
    "unlike": unlike,
    "shared": shared,
}


def bootstrap(values: np.ndarray, rng: np.random.Generator, resamples: int) -> tuple[float, float]:
    """The percentile interval, seeds drawn anew within each cell (Agarwal et al. 2021), its residuals stretched so that
    their variance is without bias (Davison and Hinkley 1997); ``values`` [cells, seeds]."""
    means = values.mean(axis=1, keepdims=True)
    stretched = means + (values - means) * np.sqrt(values.shape[1] / (values.shape[1] - 1))
    found = stats.bootstrap(
        list(stretched),
        lambda *samples, axis: np.mean([sample.mean(axis=axis) for sample in samples], axis=0),
        vectorized=True,
        confidence_level=LEVEL,
        n_resamples=resamples,
        method="percentile",
        rng=rng,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def stratified(values: np.ndarray, error: float | np.ndarray = ERROR) -> tuple[np.ndarray, np.ndarray]:
    """Student's interval with cells taken for independent, degrees of freedom after Welch and Satterthwaite;
    ``values`` [cells, seeds, ...]."""
    cells, seeds = values.shape[:2]
    parts = values.var(axis=1, ddof=1) / seeds / cells**2
    freedom = parts.sum(axis=0) ** 2 * (seeds - 1) / (parts**2).sum(axis=0)
    half = -special.stdtrit(freedom, error) * np.sqrt(parts.sum(axis=0))
    middle = values.mean(axis=(0, 1))
    return middle - half, middle + half


def coverage(kind: str, seeds: int, cells: int, trials: int, resamples: int = 999) -> dict[str, float]:
    """The share of trials in which zero lies in each interval; ``verdict`` is the one over seeds' means."""
    rng = numpy_stream(0, f"coverage/{kind}/{seeds}/{cells}")
    held = dict.fromkeys(("bootstrap", "stratified", "verdict"), 0)
    for _ in range(trials):
        values = KINDS[kind](rng, cells, seeds)
        ends = {
            "bootstrap": bootstrap(values, rng, resamples),
            "stratified": stratified(values),
            "verdict": mean([Cellwise(one) for one in values]).interval(),
        }
        for name, (low, high) in ends.items():
            held[name] += int(low <= 0 <= high)
    return {name: number / trials for name, number in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2_000)
    trials = parser.parse_args().trials
    rows = [
        {"differences": kind, "seeds": seeds, "cells": cells, "trials": trials, **coverage(kind, seeds, cells, trials)}
        for kind in KINDS
        for seeds in SEEDS
        for cells in CELLS
        if cells > 1 or kind == "alike"
    ]
    write_text(FILE, pd.DataFrame(rows).to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
