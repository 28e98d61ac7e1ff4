"""What a study can find out: the smallest difference it would see, the seeds that the printed one needs, and how likely
a claim comes out reproduced if the paper's printed numbers are the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import special

from apfl.paper import published
from apfl.paper.numbers.intervals import ERROR
from apfl.paper.verdict.claims import Ask, Claim, Row
from apfl.paper.verdict.contrasts import Question, Source, contrasts, rows
from apfl.paper.verdict.family import Outcome, judge_claim
from apfl.paper.verdict.measures import Series, expected_constant
from apfl.streams import numpy_stream
from apfl.study.cells import Cell

POWER = 0.8
TRIALS = 1_000
MOST_SEEDS = 1_000
ASSUMED = 0.0
"""The pairing where nothing is measured yet: none, so that seeds help nobody."""


@dataclass(frozen=True)
class Power:
    """What a study can find. At the level at which comparisons are shown to lie on the claimed side: ``smallest``, the
    distance from its bound, in points, found with a power of 80 % in each of the claim's comparisons; ``gap``, that of
    the printed numbers which is hardest to find, and ``seeds``, the number that it needs. Besides, ``chance``, that of
    the claim being reproduced if the printed means and deviations are the truth; ``possible``: could the study
    reproduce it at all, whatever it finds?; ``note``: what these rest on, or why one is not there."""

    smallest: float | None = None
    gap: float | None = None
    seeds: int | None = None
    chance: float | None = None
    possible: bool = True
    note: str = ""

    @property
    def could_confirm(self) -> bool:
        """Not to be denied where nothing is printed."""
        return self.possible and (self.chance is None or self.chance >= 0.5)


def power(source: Source, asked: Question, outcomes: Mapping[str, Outcome]) -> dict[str, Power]:
    """Of a claim in a reading on a test, judged as ``outcomes``: on all data sets (""), and on single ones. The printed
    numbers are taken for those of the first test, and asked of it alone."""
    found = {name: _measured(source, asked, outcome) for name, outcome in outcomes.items()}
    if not all(one.note for one in found.values()):
        how, drawn, exact = _imagined(source, asked)
        for name in (name for name, one in found.items() if not one.note):
            found[name] = _expected(asked.claim, found[name], outcomes[name], drawn[name], exact[name], how)
    return found


def _measured(source: Source, asked: Question, outcome: Outcome) -> Power:
    """What needs no printed number; with a note where these have nothing to add."""
    found = Power(smallest=smallest_difference(outcome))
    judged = [one.contrasts[0] for one in outcome.judged]
    lacking = [one for one in judged if any(part.status == "not in study" for part in one.strata)]
    if not judged or lacking or any(not one.planned for one in judged):
        some = any(part.planned for one in judged if not one.gate for part in one.strata)
        lacks = "lacks rows" if some else "has no row"
        return replace(found, possible=False, note=f"the study {lacks} of the claim, so that it cannot be reproduced")
    if len(source.study.seeds) < 2:
        return replace(found, possible=False, note="one seed says nothing of the spread")
    if any(one.bounds_only for one in judged):
        note = "a run does not reach the target, which bounds its speed from above alone: it cannot be reproduced"
        return replace(found, smallest=None, possible=False, note=note)
    if any(ask.measure == "speed" for ask in asked.claim.asks):
        return replace(
            found, note="the paper prints no numbers for this; runs that may miss the target are not simulated"
        )
    return found if asked.test == asked.claim.tests[0] else replace(found, note="asked of the first test alone")


def _imagined(source: Source, asked: Question) -> tuple[str, dict[str, Outcome], dict[str, Outcome]]:
    """How the claim comes out if the printed numbers are the truth, by data set: in many trials, and if there were no
    deviations; and in words what this rests on."""
    measured = pairing(source, asked)
    how = f"pairing of the methods by seed {measured:.2f}, measured" if measured is not None else "no pairing, assumed"

    def judged(one: Imagined) -> dict[str, Outcome]:
        given = contrasts(one, asked.claim, asked.reading, asked.test)
        whole, parts = judge_claim(given, asked.claim.every, asked.claim.whole)
        return {"": whole, **parts}

    truth = Imagined.like(source, ASSUMED if measured is None else measured, TRIALS)
    drawn, exact = judged(truth), judged(Imagined.like(source, 0.0, 1, spread=0.0))
    how += ", a constant answer from partitions drawn alike" if truth.imagined["drawn"] else ""
    how += ", a constant answer taken to be at chance" if truth.imagined["at chance"] else ""
    return how, drawn, exact


def _expected(claim: Claim, found: Power, outcome: Outcome, drawn: Outcome, exact: Outcome, how: str) -> Power:
    """What the printed numbers add."""
    needed = list(_needed(outcome, drawn, exact))
    if needed:
        seeds, gap = max(needed, key=lambda pair: (MOST_SEEDS if pair[0] is None else pair[0], -pair[1]))
        found = replace(found, gap=gap, seeds=seeds)
    if all(one.contrasts[0].status != "not measured" for one in drawn.judged):
        return replace(found, chance=float(np.mean(drawn.status == "reproduced")), note=f"with {how}")
    note = f"the paper prints no {'deviations' if _means(claim) else 'numbers'} for this"
    if failed := _failed(exact):
        return replace(found, chance=0.0, note=f"{note}, but its means fail {'; '.join(failed)}")
    return replace(found, note=note)


def _needed(outcome: Outcome, drawn: Outcome, exact: Outcome) -> Iterator[tuple[int | None, float]]:
    """Of each comparison whose means are printed, the seeds that its gap from the bound needs, and the gap; by the
    measured deviation, or else by the printed one, if there is either."""
    for one, middle, imagined in zip(outcome.judged, exact.judged, drawn.judged, strict=True):
        contrast, spread = one.contrasts[0], one.mean or imagined.mean
        if not contrast.gate and spread is not None and middle.mean is not None:
            gap = contrast.gap(float(middle.mean.estimate[0]))
            deviation = float(np.sqrt(np.mean(spread.error**2) * (spread.freedom + 1)))
            yield seeds_needed(gap, deviation, outcome.lines * contrast.choices), gap


def _failed(exact: Outcome) -> list[str]:
    """The comparisons, gates among them, that the printed means do not pass."""
    told = [(one, one.mean) for one in exact.judged]
    return [one.title for one, mean in told if mean and one.contrasts[0].gap(float(mean.estimate[0])) <= 0]


def smallest_difference(outcome: Outcome) -> float | None:
    """From the measured deviations and the noncentral t distribution; None where a comparison has no number yet."""
    asked = [one for one in outcome.judged if not one.contrasts[0].gate]
    found = []
    for one in asked:
        if one.mean is None:
            return None
        error = ERROR / (outcome.lines * one.choices)
        away = special.nctdtrinc(one.mean.freedom, 1 - POWER, -special.stdtrit(one.mean.freedom, error))
        found.append(float(away * one.mean.error))
    return max(found, default=None)


def seeds_needed(gap: float, deviation: float, among: int = 1) -> int | None:
    """The fewest seeds whose interval lies beyond a bound that is ``gap`` away with a power of `POWER`; it is one
    ``among`` several, for which its level is corrected: lines, and what the comparison was chosen from.

    >>> seeds_needed(1.0, 1.0), seeds_needed(1.0, 1.0, among=6), seeds_needed(0.0, 1.0)
    (10, 16, None)
    """
    for count in range(2, MOST_SEEDS) if gap > 0 else ():
        away = gap * np.sqrt(count) / max(deviation, 1e-9)
        if special.nctdtr(count - 1, min(away, 100.0), -special.stdtrit(count - 1, ERROR / among)) <= 1 - POWER:
            return count
    return None


def pairing(source: Source, asked: Question) -> float | None:
    """The correlation over seeds of the columns that a claim compares, pooled over its rows; at least 0."""
    apart, alone = 0.0, 0.0
    for ask in (ask for ask in asked.claim.asks if not ask.gate and ask.measure == "accuracy"):
        for row in rows(source, asked.claim, ask, asked.test):
            for place in [{**row, ask.axis: value} for value in (*ask.at, *ask.others)] if ask.axis else [row]:
                ours, *others = (source.series(asked, ask, name, place) for name in (ask.first, *ask.against))
                for theirs in others:
                    if ours.status == theirs.status == "ok" and len(ours.values) > 1:
                        apart += (ours.values - theirs.values).var(ddof=1)
                        alone += ours.values.var(ddof=1) + theirs.values.var(ddof=1)
    return max(0.0, 1 - apart / alone) if alone else None


@dataclass(frozen=True)
class Imagined(Source):
    """A study whose runs measure what the paper prints: normal draws, float64 [seeds, trials], around the printed means
    with ``spread`` times the printed deviations, which need not be printed if that is 0; methods share the part
    ``pairing`` of their variance in each row. A constant answer whose partitions are not there yet is told from
    partitions drawn alike, or taken to be at chance where these are unknown; ``imagined`` counts both."""

    pairing: float = 0.0
    trials: int = 1
    spread: float = 1.0
    drawn: dict[tuple[object, ...], np.ndarray] = field(default_factory=dict)
    imagined: Counter[str] = field(default_factory=Counter)

    @classmethod
    def like(cls, source: Source, pairing: float, trials: int, spread: float = 1.0) -> Imagined:
        return cls(**vars(source), pairing=pairing, trials=trials, spread=spread)

    def series(self, asked: Question, ask: Ask, column: str, row: Row) -> Series:
        found = super().series(asked, ask, column, row)
        shape = (len(self.study.seeds), self.trials)
        if found.status == "not in study":
            return replace(found, values=np.full(shape, np.nan))
        if column == "constant" and found.status == "not run":
            # Before the best reading is chosen: a constant answer does not depend on it.
            others = (replace(asked, reading=reading) for reading in self.study.apfl["readings"])
            known = (super(Imagined, self).series(other, ask, column, row) for other in others)
            found = next((one for one in known if one.status == "ok"), found)
        if column == "constant" and found.status == "not run":
            self.imagined["at chance"] += 1
            found = super().series(asked, ask, "chance", row)
        if column in ("chance", "constant"):
            return Series(np.broadcast_to(found.values[:, None], shape), found.status)
        number = printed(asked.claim.output, column, row) if ask.measure == "accuracy" else None
        if number is None or (number.std is None and self.spread):
            return Series(np.full(shape, np.nan), "not measured")
        shared, own = (self._draw(shape, name, row) for name in ("", column))
        values = np.sqrt(self.pairing) * shared + np.sqrt(1 - self.pairing) * own
        return Series(number.mean + self.spread * (number.std or 0.0) * values, "ok")

    def _measured(self, cell: Cell, measure: str, test: str, role: str) -> Series:
        found = super()._measured(cell, measure, test, role)
        if measure == "constant" and found.status == "not run":
            found = expected_constant(self.study, cell, test, role)
            self.imagined["drawn"] += found.status == "ok"
        return found

    def _draw(self, shape: tuple[int, int], column: str, row: Row) -> np.ndarray:
        key = (column, *sorted(row.items()))
        if key not in self.drawn:
            self.drawn[key] = numpy_stream(0, f"power/{key}").normal(size=shape)
        return self.drawn[key]


def printed(output: str, column: str, row: Mapping[str, str]) -> published.Published | None:
    """What the paper prints for a column in a row, if it does."""
    axes = {"table2": ("clients", "alpha"), "table3": ("missing",), "table4": ("role",)}.get(output, ())
    key = (row["dataset"], tuple(row[axis] for axis in axes if axis in row), column)
    return published.lookup(output).get(key) if axes else None


def _means(claim: Claim) -> bool:
    """Does the paper print means of this output, though no deviations?"""
    return claim.output == "table4" and all("default" not in (ask.first, *ask.against) for ask in claim.asks)
