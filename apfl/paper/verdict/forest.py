"""The verdicts as points: what the forest plot shows of each claim, and its limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain

import numpy as np
import pandas as pd

from apfl.paper.labels import TEST_LABELS
from apfl.paper.numbers.choice import BEST
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.verdict.claims import Ask, Claim, Row
from apfl.paper.verdict.contrasts import Contrast, Question, Source, contrasts
from apfl.paper.verdict.family import Weighed
from apfl.paper.verdict.measures import Series
from apfl.paper.verdict.power import printed
from apfl.paper.verdict.verdicts import Finding, Verdict
from apfl.study.study import Study

READINGS = ("literal", BEST)
"""Those that are drawn, the best one where there is one."""
UNITS = {
    "accuracy": "points of accuracy",
    "fall": "points lost from round to round",
    "speed": "100 ln of the speed (+69: twice as fast)",
}
STEPS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0, 200.0)
"""How far an axis may reach to both sides of 0."""
WITHIN = 0.85
"""The share of what is measured and printed that has to lie on the axis; the rest is shown by arrows."""
Printed = dict[tuple[int, str, tuple[tuple[str, str], ...]], float]
"""The paper's own number for a comparison (the number of the ask, its label) in a row."""


@dataclass(frozen=True)
class Point:
    """A claim in a reading on a data set (on all rows together where ``dataset`` is empty), on its first test.

    Shown is one of the claim's ``comparisons``: over all rows there, the one that is hardest for the claim, or, where
    nothing is measured, the one that the paper's numbers make hardest. ``estimate`` with its 95 % interval, and with
    the ``strict`` one that holds for all comparisons together, which decides, in ``unit``; NaN where there is none.
    The claimed side is between ``above`` and ``below``, ±inf without a bound. ``printed`` is the paper's number for the
    same rows, NaN where it prints none.
    """

    claim: str
    title: str
    source: str
    reading: str
    test: str
    dataset: str
    status: str
    interim: bool
    comparison: str
    place: str
    comparisons: int
    unit: str
    estimate: float
    low: float
    high: float
    strict_low: float
    strict_high: float
    above: float
    below: float
    printed: float

    @property
    def shown(self) -> str:
        """What is compared, in a few words."""
        what = self.comparison if self.comparisons == 1 else f"hardest of {self.comparisons} comparisons"
        what = re.sub(r"(best|mean) of ([^:]+)", lambda found: f"{found[1]} of {found[2].count(',') + 1}", what)
        return "; ".join([*([what] if self.comparisons else []), TEST_LABELS[self.test]])


@dataclass(frozen=True)
class PrintedSource(Source):
    """A study whose runs would measure the means that the paper prints: float64 [1]."""

    def series(self, asked: Question, ask: Ask, column: str, row: Row) -> Series:
        number = printed(asked.claim.output, column, row) if ask.measure == "accuracy" else None
        if number is None:
            return Series(np.full(1, np.nan), "not measured")
        return Series(np.array([number.mean]), "ok")


def points(study: Study, metrics: Metrics, findings: Sequence[Finding]) -> tuple[Point, ...]:
    """For each claim, in each of `READINGS` that is asked: all rows together, then each data set that it speaks of."""
    source = PrintedSource.of(study, metrics)
    return tuple(chain.from_iterable(_of_finding(source, one) for one in findings if _is_drawn(one.verdict)))


def _is_drawn(verdict: Verdict) -> bool:
    return verdict.primary and (verdict.reading == READINGS[0] or (verdict.reading in READINGS and verdict.in_study))


def _of_finding(source: PrintedSource, finding: Finding) -> Iterator[Point]:
    whole = finding.verdict
    told = _printed(contrasts(source, whole.claim, whole.reading, whole.test))
    yield _point(whole, "", told)
    for one in finding.datasets:
        yield _point(one, one.dataset, told)
    if not finding.datasets:
        names = {row["dataset"] for one in whole.outcome.judged for row in one.contrasts[0].rows}
        for name in names if len(names) == 1 else ():
            yield _point(whole, name, told)


def _printed(given: Sequence[Contrast]) -> Printed:
    return {
        (one.ask, one.label, tuple(row.items())): float(part.values[0])
        for one in given
        for row, part in zip(one.rows, one.strata, strict=True)
    }


def _point(verdict: Verdict, dataset: str, told: Printed) -> Point:
    claim = verdict.claim
    asked = verdict.lines
    ask = next(ask for ask in claim.asks if not ask.gate)
    chosen = hardest(asked, told)
    low, high = (chosen.contrasts[0].low, chosen.contrasts[0].high) if chosen else (ask.above, ask.below)
    mean = chosen.mean if chosen else None
    ends = [np.nan] * 4
    if mean is not None and chosen is not None:
        ends = [*mean.interval(), *mean.interval(max(verdict.outcome.family, 1) * chosen.ways)]
    low_end, high_end, strict_low, strict_high = map(float, ends)
    return Point(
        claim.id, claim.title, claim.source, verdict.reading, verdict.test, dataset, verdict.status, verdict.interim,
        chosen.label if chosen else "", _rows(chosen) if chosen else "", len(asked), unit(claim),
        np.nan if mean is None else float(mean.estimate), low_end, high_end, strict_low, strict_high,
        -np.inf if low is None else low, np.inf if high is None else high, printed_mean(chosen, told),
    )  # fmt: skip


def _rows(chosen: Weighed) -> str:
    places = list(dict.fromkeys(one.place for one in chosen.contrasts))
    return places[0] if len(places) == 1 else f"mean over {len(chosen.contrasts)} rows"


def hardest(asked: Sequence[Weighed], told: Printed) -> Weighed | None:
    """The comparison that is nearest to lying on the other side; without a measured one, by the printed numbers, among
    those with the bounds that most have."""
    if measured := [one for one in asked if one.mean is not None]:
        return min(measured, key=lambda one: float(one.outside))

    def gap(one: Weighed) -> float:
        middle = printed_mean(one, told)
        return np.inf if np.isnan(middle) else one.contrasts[0].gap(middle)

    bounds = [(one.contrasts[0].low, one.contrasts[0].high) for one in asked]
    usual = max(bounds, key=bounds.count, default=None)
    return min((one for one, ends in zip(asked, bounds, strict=True) if ends == usual), key=gap, default=None)


def printed_mean(chosen: Weighed | None, told: Printed) -> float:
    """The paper's numbers for a comparison, as a mean over the same rows."""
    if chosen is None:
        return np.nan
    keys = [(one.ask, one.label, tuple(row.items())) for one in chosen.contrasts for row in one.rows]
    return float(np.mean([told.get(key, np.nan) for key in keys]))


def unit(claim: Claim) -> str:
    ask = next(ask for ask in claim.asks if not ask.gate)
    return f"points per doubling of the {ask.slope.replace('_', ' ')}" if ask.slope else UNITS[ask.measure]


def limit(made: Sequence[Point], of_unit: str) -> float:
    """How far the axis of a unit reaches: the least of `STEPS` within which lie all bounds, and nearly all of the
    numbers and of the ends of their 95 % intervals."""
    here = [one for one in made if one.unit == of_unit]
    bounds = [abs(bound) for one in here for bound in (one.above, one.below) if np.isfinite(bound)]
    values = np.abs([(one.estimate, one.low, one.high, one.printed) for one in here]).ravel()
    values = values[np.isfinite(values)]
    need = max([0.0, *bounds, *([np.quantile(values, WITHIN)] if len(values) else [])])
    return next((step for step in STEPS if step >= 1.02 * need), STEPS[-1])


def shaded(point: Point, reach: float) -> tuple[float, float]:
    """The part of the axis from -reach to reach that is the claimed side."""
    return max(point.above, -reach), min(point.below, reach)


def frame(made: Sequence[Point]) -> pd.DataFrame:
    """A row for each point; no number where there is none, and no bound."""
    found = pd.DataFrame([asdict(one) for one in made], columns=[field.name for field in fields(Point)])
    return found.replace([np.inf, -np.inf], np.nan)
