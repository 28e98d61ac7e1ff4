"""Two cells compared seed by seed: the same partition and the same initial parameters stand behind each difference."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from scipy import stats

from apfl.paper.metrics import SeedValue

LEVEL = 0.95


def differences(ours: Sequence[SeedValue], others: Sequence[SeedValue]) -> np.ndarray:
    """Ours minus theirs in points, one for each seed that both have finished; float64 [seeds]."""
    theirs = {value.seed: value.weighted for value in others if value.status == "ok"}
    found = [value for value in ours if value.status == "ok" and value.seed in theirs]
    return np.array([100 * (value.weighted - theirs[value.seed]) for value in found], dtype=np.float64)


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Student's interval of the mean of ``values``; None for fewer than two, which say nothing of the spread."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half
