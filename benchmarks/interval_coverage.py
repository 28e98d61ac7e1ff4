"""How often the intervals of `apfl.paper.bootstrap` hold the truth with few seeds.

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

from apfl.artifacts import write_text
from apfl.paper.bootstrap import Cellwise, bootstrap_interval, intervals
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


def coverage(kind: str, seeds: int, cells: int, trials: int, resamples: int = 999) -> dict[str, float]:
    """The share of trials in which zero lies in each interval: of the bootstrap, of Student's t, of both together."""
    rng = numpy_stream(0, f"coverage/{kind}/{seeds}/{cells}")
    held = dict.fromkeys(("bootstrap", "student", "verdict"), 0)
    for _ in range(trials):
        strata = [Cellwise(values) for values in KINDS[kind](rng, cells, seeds)]
        found = intervals(strata, bootstrap_interval(strata, rng, resamples=resamples))
        ends = {"bootstrap": found.bootstrap, "student": found.student, "verdict": found.hull}
        for name, (low, high) in ends.items():
            held[name] += low <= 0 <= high
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
