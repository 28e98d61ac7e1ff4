"""Two cells compared seed by seed: the same partition and the same initial parameters stand behind each difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apfl.paper.numbers import intervals
from apfl.paper.numbers.metrics import SeedValue


def differences(ours: Sequence[SeedValue], others: Sequence[SeedValue]) -> np.ndarray:
    """Ours minus theirs in points, one for each seed that both have finished; float64 [seeds]."""
    theirs = {value.seed: value.weighted for value in others if value.weighted is not None}
    found = [(value.weighted, theirs.get(value.seed)) for value in ours]
    return np.array([100 * (our - their) for our, their in found if our is not None and their is not None], np.float64)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Student's interval of the mean of ``values``, as verdicts have it for one cell; None for fewer than two, which
    say nothing of the spread."""
    return intervals.interval([intervals.Cellwise(values)]) if len(values) > 1 else None
