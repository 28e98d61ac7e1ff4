"""Intervals of a mean over cells of differences paired by seed: the stratified bootstrap, and Student's t beside it.

Cells are strata: seeds are drawn anew within each cell, and the cells stay (as in rliable: Agarwal et al., "Deep
reinforcement learning at the edge of the statistical precipice", NeurIPS 2021). With two or three seeds a plain
percentile bootstrap is too short: its spread divides by n where an estimate must divide by n - 1, and its ends are
those of a normal distribution at best. The first is mended by stretching the residuals (Davison and Hinkley, "Bootstrap
methods and their application", 1997; Rao and Wu, JASA 83, 1988, for small strata), the second by asking Student's t as
well, with the degrees of freedom of Welch and Satterthwaite for several cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9_999


@dataclass(frozen=True)
class Cellwise:
    """One stratum: float64 [seeds], at least two, in points; ``resolution`` is the least step that the measure can
    make."""

    values: np.ndarray
    resolution: float = 0.0

    @property
    def variance(self) -> float:
        """Of the mean over seeds. Equal values do not show that there is no spread: it is at least one step."""
        return max(float(self.values.var(ddof=1)), self.resolution**2) / len(self.values)


def estimate(strata: Sequence[Cellwise]) -> float:
    """The mean over cells of the means over seeds."""
    return float(np.mean([cell.values.mean() for cell in strata]))


def bootstrap_interval(
    strata: Sequence[Cellwise], rng: np.random.Generator, level: float = LEVEL, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Percentile interval of `estimate`, seeds drawn anew in each cell."""
    found = stats.bootstrap(
        [_stretched(cell.values) for cell in strata],
        lambda *samples, axis: np.mean([sample.mean(axis=axis) for sample in samples], axis=0),
        vectorized=True,
        paired=False,
        confidence_level=level,
        n_resamples=resamples,
        method="percentile",
        rng=rng,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _stretched(values: np.ndarray) -> np.ndarray:
    """The same mean, with residuals so long that the variance of a resampled mean is s^2 / n, without bias."""
    mean = values.mean()
    return mean + (values - mean) * sqrt(len(values) / (len(values) - 1))


def t_interval(strata: Sequence[Cellwise], level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of `estimate`; degrees of freedom after Welch and Satterthwaite, n - 1 for a single cell."""
    parts = np.array([cell.variance for cell in strata]) / len(strata) ** 2
    total = float(parts.sum())
    if not total:
        return estimate(strata), estimate(strata)
    shares = parts / total
    freedom = 1 / float(np.sum(shares**2 / np.array([len(cell.values) - 1 for cell in strata])))
    return _around(estimate(strata), total, freedom, level)


def clustered_interval(strata: Sequence[Cellwise], level: float = LEVEL) -> tuple[float, float]:
    """Student's interval over the seeds' means over cells, for what a seed does to all cells alike: cells of one seed
    share their initial parameters. All cells have the same seeds; for a single cell it is `t_interval`."""
    means = Cellwise(np.mean([cell.values for cell in strata], axis=0))
    floor = sum(cell.resolution**2 / len(cell.values) for cell in strata) / len(strata) ** 2
    return _around(estimate(strata), max(means.variance, floor), len(means.values) - 1, level)


def _around(middle: float, variance: float, freedom: float, level: float) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + level) / 2, freedom)) * sqrt(variance)
    return middle - half, middle + half


@dataclass(frozen=True)
class Intervals:
    """What a verdict is made from. ``bootstrap`` and ``student``, the wider ends of `t_interval` and
    `clustered_interval`, are at 95 %; ``strict`` is the same with the first of the two at the level that holds for a
    whole family."""

    estimate: float
    bootstrap: tuple[float, float]
    student: tuple[float, float]
    strict: tuple[float, float]

    @property
    def hull(self) -> tuple[float, float]:
        return _wider(self.bootstrap, self.student)

    @property
    def strict_hull(self) -> tuple[float, float]:
        return _wider(self.bootstrap, self.strict)


def intervals(strata: Sequence[Cellwise], bootstrap: tuple[float, float], family: int = 1) -> Intervals:
    """All of them; ``family`` is the number of comparisons that the strict one is to hold for (Bonferroni)."""
    clustered = clustered_interval(strata)
    return Intervals(
        estimate(strata),
        bootstrap,
        _wider(t_interval(strata), clustered),
        _wider(t_interval(strata, 1 - (1 - LEVEL) / family), clustered),
    )


def _wider(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return min(one[0], other[0]), max(one[1], other[1])
