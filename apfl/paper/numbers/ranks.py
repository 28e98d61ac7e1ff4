"""Ranks of the methods over the cells of Table 2, after Demšar 2006 with the pairwise tests of Benavoli et al. 2016.

J. Demšar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006: Friedman's test on the ranks,
then pairs, then a picture that joins what does not differ. A. Benavoli, G. Corani and F. Mangili, "Should we really use
post-hoc tests based on mean-ranks?", JMLR 17, 2016: Nemenyi's test on two methods depends on which other methods are in
the pool. Here the pool is whatever a study lists, and adding a poor method must not change what is said of two others,
so pairs are compared by Wilcoxon's signed-rank test, with Holm's correction for their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from apfl.paper.labels import TEST_LABELS, dataset_label
from apfl.paper.numbers import tidy
from apfl.paper.numbers.frames import tuples
from apfl.paper.numbers.intervals import differences, holm, interval
from apfl.paper.numbers.metrics import Metrics, SeedValue, cell_values
from apfl.study.cells import Cell
from apfl.study.tuning import TUNED

TESTS = ("pooled", "own")
BASELINE = "FedAvg"
ALPHA = 0.05
COLUMNS = (
    "test", "method", "mean_rank", "mean_rank_per_seed", "wins", "ties", "losses", "open", "cells", "datasets",
    "seeds", "friedman_statistic", "friedman_p", "status",
)  # fmt: skip
PAIRS = ("test", "better", "worse", "cells", "wilcoxon_p", "holm_p", "differ")
RULE = (
    f"Win, tie, loss: cells in which the 95\N{NO-BREAK SPACE}% interval over seeds of the paired difference from "
    f"{BASELINE} lies above 0, contains 0 or lies below 0. A cell with one seed has no interval and is open."
)
Block = tuple[str, str]
"""A cell of Table 2 for all methods: data set and setting."""


@dataclass(frozen=True)
class Ranking:
    """The ranks on one test.

    ``rows``: `COLUMNS`, the best method first and those that were left out last; ``pairs``: `PAIRS`; ``friedman``:
    statistic and p, None for fewer than three methods or two cells; ``blocks``: the cells; ``empty``: those that no
    method has.
    """

    test: str
    rows: pd.DataFrame
    pairs: pd.DataFrame
    friedman: tuple[float, float] | None
    blocks: tuple[Block, ...]
    empty: tuple[Block, ...]

    @property
    def ranked(self) -> pd.DataFrame:
        """The methods that have every cell."""
        return self.rows[self.rows["status"] == "ok"]

    @property
    def datasets(self) -> int:
        return len({dataset for dataset, _ in self.blocks})

    @property
    def told_apart(self) -> bool:
        """Does a pair of methods differ, and does Friedman's test, where it can be made, tell them apart?"""
        return (self.friedman is None or self.friedman[1] < ALPHA) and bool(self.pairs["differ"].any())


Values = Mapping[str, Mapping[Block, tuple[SeedValue, ...]]]


def values(cells: Sequence[Cell], metrics: Metrics, test: str) -> Values:
    """By method and cell of Table 2 the value of each seed; of several readings the one in the paper's place.

    Columns of tuned settings are left out: with two columns that are much alike a method would count twice.
    """
    shown = (head for head in tidy.columns("table2", cells) if not head.label.endswith(TUNED))
    heads = {head.key: head.label for head in shown if head.group != "reading"}
    found: dict[str, dict[Block, tuple[SeedValue, ...]]] = {label: {} for label in heads.values()}
    for cell in cells:
        if (label := heads.get(tidy.column_key("table2", cell))) is not None:
            found[label][cell.dataset, cell.setting] = cell_values(metrics, cell, test, "non_dropout")
    return {label: given for label, given in found.items() if given}


def rank(found: Values, test: str) -> Ranking:
    """Rank the methods that have every seed of every cell that any method has."""
    blocks = list(dict.fromkeys(block for given in found.values() for block in given))
    # A cell that has not been run for any method is left out for all, and does not count against one.
    seeds = {
        block: tuple(sorted({value.seed for given in found.values() for value in _done(given, block)}))
        for block in blocks
    }
    empty = tuple(block for block in blocks if not seeds[block])
    blocks = [block for block in blocks if seeds[block]]
    holes = {
        name: [block for block in blocks if {value.seed for value in _done(given, block)} != set(seeds[block])]
        for name, given in found.items()
    }
    names = [name for name in found if blocks and not holes[name]]
    each = [np.array([[value.weighted for value in _done(found[name], block)] for name in names]) for block in blocks]
    # [methods, seeds] for each cell, also where no method is left.
    each = [table.reshape(len(names), len(seeds[block])) for table, block in zip(each, blocks, strict=True)]
    means = np.array([table.mean(axis=1) for table in each]).reshape(len(blocks), len(names))
    mean_ranks = stats.rankdata(-means, axis=1).mean(axis=0) if names else np.zeros(0)  # 1 for the highest
    per_seed = stats.rankdata(-np.hstack(each).T, axis=1).mean(axis=0) if names else np.zeros(0)
    friedman = _friedman(means)
    shared: dict[str, Any] = {
        "test": test,
        "cells": len(blocks),
        "datasets": len({dataset for dataset, _ in blocks}),
        "seeds": max((len(there) for there in seeds.values()), default=0),
        "friedman_statistic": friedman[0] if friedman else np.nan,
        "friedman_p": friedman[1] if friedman else np.nan,
    }
    rows = [
        shared
        | {"method": name, "mean_rank": mean_ranks[place], "mean_rank_per_seed": per_seed[place], "status": "ok"}
        | (_against(found, name, blocks) if BASELINE in names and name != BASELINE else {})
        for place, name in enumerate(names)
    ]
    rows.sort(key=lambda row: (row["mean_rank"], names.index(row["method"])))
    rows += [
        shared | {"method": name, "status": f"left out: lacks {len(lacking)} of {len(blocks)} cells"}
        for name, lacking in holes.items()
        if lacking
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    counts = ["wins", "ties", "losses", "open"]
    frame[counts] = frame[counts].astype("Int64")
    order = [row["method"] for row in rows if row["status"] == "ok"]
    pairs = _pairs(test, order, {name: means[:, place] for place, name in enumerate(names)})
    return Ranking(test, frame, pairs, friedman, tuple(blocks), empty)


def _done(given: Mapping[Block, tuple[SeedValue, ...]], block: Block) -> list[SeedValue]:
    """The finished seeds of a cell, in their order; none of a cell in which one diverged."""
    there = given.get(block, ())
    if any(value.status == "diverged" for value in there):
        return []
    return sorted((value for value in there if value.status == "ok"), key=lambda value: value.seed)


def _friedman(means: np.ndarray) -> tuple[float, float] | None:
    """Friedman's chi-square over [blocks, methods] and its p."""
    if means.shape[0] < 2 or means.shape[1] < 3:
        return None
    if (means == means[:, :1]).all():
        return 0.0, 1.0
    found = stats.friedmanchisquare(*means.T)
    return float(found.statistic), float(found.pvalue)


def _against(found: Values, name: str, blocks: Sequence[Block]) -> dict[str, int]:
    """In how many cells a method wins, ties and loses against `BASELINE`."""
    counts = dict.fromkeys(("wins", "ties", "losses", "open"), 0)
    for block in blocks:
        bounds = interval(differences(found[name][block], found[BASELINE][block]))
        if bounds is None:
            counts["open"] += 1
        else:
            counts["wins" if bounds[0] > 0 else "losses" if bounds[1] < 0 else "ties"] += 1
    return counts


def _pairs(test: str, order: Sequence[str], means: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Every pair, the one of the better mean rank first."""
    pairs = list(combinations(order, 2))
    apart = (means[one] - means[other] for one, other in pairs)
    raw = [float(stats.wilcoxon(cells).pvalue) if cells.any() else 1.0 for cells in apart]
    adjusted = holm(np.array(raw)).tolist()
    rows = [
        (test, one, other, len(means[one]), p, q, q < ALPHA)
        for (one, other), p, q in zip(pairs, raw, adjusted, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(PAIRS))


def cliques(ranking: Ranking) -> list[tuple[str, ...]]:
    """Neighbours in the order of ranks among whom no pair differs, as many as go together; single methods left out.

    None where no pair is told apart: that too little is known does not make methods alike.
    """
    order = ranking.ranked["method"].tolist()
    if not ranking.told_apart:
        return []
    differ = {frozenset((row.better, row.worse)) for row in tuples(ranking.pairs) if row.differ}
    runs: list[tuple[int, int]] = []
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and not any(frozenset((one, order[end])) in differ for one in order[start:end]):
            end += 1
        if end - start > 1 and not (runs and runs[-1][1] >= end):
            runs.append((start, end))
    return [tuple(order[start:end]) for start, end in runs]


def remarks(ranking: Ranking) -> tuple[str, ...]:
    """What has to be known of a ranking: on how much it stands, and who is missing."""
    count, methods = len(ranking.blocks), len(ranking.ranked)
    if methods < 2:
        said = [f"{TEST_LABELS[ranking.test].capitalize()}: fewer than two methods have every cell; nothing is ranked."]
    else:
        friedman = "Friedman's test needs three methods and two cells"
        if ranking.friedman:
            friedman = f"Friedman's test: χ² = {ranking.friedman[0]:.2f}, p = {ranking.friedman[1]:.2g}"
        said = [
            f"{TEST_LABELS[ranking.test].capitalize()}: {methods} methods over {many(count, 'cell')} of "
            f"{many(ranking.datasets, 'data set')}. {friedman}."
        ]
        needed = 2.0 ** (1 - count) * len(ranking.pairs)
        if needed >= ALPHA:
            said.append(
                f"With {many(count, 'cell')} no pair of {methods} methods can differ at level {ALPHA:g}, "
                "whatever the accuracies."
            )
        elif not ranking.told_apart:
            said.append(f"No two methods are told apart at level {ALPHA:g}, so no bar joins any.")
    left_out = ranking.rows[ranking.rows["status"] != "ok"]
    if len(left_out):
        named = ", ".join(f"{row.method} ({row.status.removeprefix('left out: ')})" for row in tuples(left_out))
        said.append(f"Left out: {named}.")
    if ranking.empty:
        named = "; ".join(f"{dataset_label(dataset)} {setting}" for dataset, setting in ranking.empty)
        said.append(f"Run for no method: {named}.")
    return tuple(said)


def many(count: int, noun: str) -> str:
    """A number with its noun: "1 cell", "2 cells"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def rankings(cells: Sequence[Cell], metrics: Metrics) -> tuple[Ranking, ...]:
    """The ranking on each test from the cells of Table 2."""
    return tuple(rank(values(cells, metrics, test), test) for test in TESTS)
