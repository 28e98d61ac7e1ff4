"""The mean over cells of differences that are paired by seed, with Student's interval over the seeds' own means.

A seed moves all cells together: they share its initial parameters and often its images. So the mean over cells comes
first, in each seed, and Student's t asks how far those means lie apart. Whatever cells share, the means of different
seeds are independent, so that the interval is right at every level if they are normal (docs/claims.md shows how often
it holds the truth, beside a bootstrap and an interval that takes cells for independent, which do not hold it).

Arrays have seeds as first axis. Whatever follows it is kept, so that a simulation judges many trials at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from apfl.paper.numbers.metrics import SeedValue

LEVEL = 0.95
ERROR = (1 - LEVEL) / 2
"""How often an interval may miss the truth on one side."""


@dataclass(frozen=True)
class Cellwise:
    """One stratum: float64 [seeds, ...] in points; ``resolution`` is the least step that the measure can make."""

    values: np.ndarray
    resolution: float = 0.0


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error, both float or float64 [...], and the degrees of freedom of the latter."""

    estimate: np.ndarray
    error: np.ndarray
    freedom: int

    def interval(self, family: float = 1) -> tuple[float, float]:
        """Student's interval at `LEVEL`, or at the level at which ``family`` of them hold together (Bonferroni)."""
        half = -special.stdtrit(self.freedom, ERROR / family) * self.error
        return self.estimate - half, self.estimate + half

    def above(self, bound: float) -> np.ndarray:
        """One-sided p of the mean being above ``bound``: the least `ERROR` / family whose interval shows it."""
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.asarray(self.estimate - bound) / self.error
        p: np.ndarray = np.nan_to_num(special.stdtr(self.freedom, -away), nan=1.0)
        return p

    def below(self, bound: float) -> np.ndarray:
        return Mean(-self.estimate, self.error, self.freedom).above(-bound)


def mean(strata: Sequence[Cellwise]) -> Mean:
    """Over cells, then over seeds, at least two. Equal values do not show that there is no spread: it is at least what
    one step in each cell makes."""
    means = np.mean([cell.values for cell in strata], axis=0)
    floor = sum(cell.resolution**2 for cell in strata) / len(strata) ** 2
    return Mean(means.mean(axis=0), np.sqrt(np.maximum(means.var(axis=0, ddof=1), floor) / len(means)), len(means) - 1)


def differences(ours: Sequence[SeedValue], others: Sequence[SeedValue]) -> Cellwise:
    """Ours minus theirs in points, one for each seed that both have finished: the same partition and the same initial
    parameters stand behind each. Their least step is that of the value of the fewest images."""
    theirs = {value.seed: value for value in others if value.weighted is not None}
    pairs = [(value, theirs[value.seed]) for value in ours if value.weighted is not None and value.seed in theirs]
    found = np.array([[one.weighted, other.weighted] for one, other in pairs], np.float64).reshape(-1, 2)
    return Cellwise(100 * (found[:, 0] - found[:, 1]), least_step([value for pair in pairs for value in pair]))


def least_step(values: Sequence[SeedValue]) -> float:
    """One image of the fewest behind any of the values, in points; 0 where their number is not known."""
    fewest = min((value.images for value in values), default=0)
    return 100 / fewest if fewest else 0.0


def interval(cell: Cellwise) -> tuple[float, float] | None:
    """Student's interval of the mean over seeds, as verdicts have it for one cell; None for fewer than two seeds, which
    say nothing of the spread."""
    if len(cell.values) < 2:
        return None
    low, high = mean([cell]).interval()
    return float(low), float(high)


def with_interval(cell: Cellwise) -> tuple[float, float, float]:
    """The mean over seeds and its `interval`; NaN where there are too few."""
    low, high = interval(cell) or (np.nan, np.nan)
    return float(cell.values.mean()) if len(cell.values) else np.nan, low, high


def holm(values: np.ndarray, shares: np.ndarray | None = None) -> np.ndarray:
    """p-values [claims, ...] corrected for the number of claims (Holm 1979).

    Where these are lines of claims, already corrected for all lines of their claim, ``shares`` [lines] are those of the
    error that each was given by that, at most 1 in sum for a claim (his weighted procedure).

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values, axis=0, kind="stable")
    weights = np.ones(len(values)) if shares is None else shares
    left = np.cumsum(weights[order[::-1]], axis=0)[::-1]
    risen = np.maximum.accumulate(np.minimum(left * np.take_along_axis(values, order, axis=0), 1), axis=0)
    made = np.empty_like(risen)
    np.put_along_axis(made, order, risen, axis=0)
    return made
