"""The rule of the verdicts: from contrasts to how sure it is that a claim holds, or that it fails.

Both are one-sided p-values, compared with `ERROR`. Every number here is a float, or float64 [trials] where a simulation
judges many at once: benchmarks/false_verdicts.py and `apfl.paper.verdict.power` go through these functions as a study
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from apfl.data.catalogue import IN_PAPER
from apfl.paper.labels import dataset_label, ordered
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.intervals import ERROR, Cellwise, Mean, holm, mean
from apfl.paper.verdict.claims import EITHER, JUDGED, Row
from apfl.paper.verdict.contrasts import Contrast, by_row, in_study

REPRODUCED, CONTRADICTED, OPEN = "reproduced", "contradicted", "open"
NOTHING, NOT_RUN = "nothing to judge", "not run"
STATUSES = (REPRODUCED, CONTRADICTED, OPEN, NOTHING, NOT_RUN)
ROW_ERROR = 0.2
"""A single row has nothing to judge where not even a test at this level shows a gate to be passed. That no test at
`ERROR` does is no sign of it: one of many rows often lacks the power for that, however much was learned there."""


@dataclass(frozen=True)
class Weighed:
    """Contrasts with one label and the mean of them, None without a number.

    ``inside`` and ``outside``: p-values of the mean lying on the claimed side, and of it lying on the other one, both
    corrected for the ``choices`` from which the contrast was chosen. A margin has two other sides, for which
    ``outside`` is corrected, too; within it the mean has to be on the claimed side of both ends.
    """

    contrasts: tuple[Contrast, ...]
    mean: Mean | None
    inside: np.ndarray
    outside: np.ndarray

    @property
    def label(self) -> str:
        return self.contrasts[0].label

    @property
    def place(self) -> str:
        """Where: that of a contrast, or the number of rows and their data set if they have one."""
        if len(self.contrasts) == 1:
            return self.contrasts[0].place
        names = {contrast.dataset for contrast in self.contrasts}
        return f"mean over {len(self.contrasts)} rows" + (f" of {dataset_label(*names)}" if len(names) == 1 else "")

    @property
    def title(self) -> str:
        return f"{self.label}, {self.place}"

    @property
    def choices(self) -> int:
        return self.contrasts[0].choices

    @property
    def ways(self) -> int:
        """Among how many the error of a contradiction is shared: the choices, each with the ends of its margin."""
        one = self.contrasts[0]
        return self.choices * max(1, (one.low is not None) + (one.high is not None))


def weigh(given: Sequence[Contrast]) -> Weighed:
    one = given[0]
    if any(other.status != "ok" for other in given):
        return Weighed(tuple(given), None, np.ones(()), np.ones(()))
    found = mean([Cellwise(part.values, part.resolution) for other in given for part in other.strata])
    bounds_only = any(other.bounds_only for other in given)
    nothing = np.ones_like(found.estimate)
    inside = [found.above(one.low) if one.low is not None else 0 * nothing]
    inside += [found.below(one.high)] if one.high is not None else []
    outside = [found.below(one.low) if one.low is not None else nothing]
    # A number that is only known to be no larger shows that something is too small, and nothing else.
    outside += [found.above(one.high)] if one.high is not None and not bounds_only else []
    sure = not bounds_only and not any(other.partial and not other.gate for other in given)
    within = np.minimum(one.choices * np.max(inside, axis=0), 1) if sure else nothing
    made = Weighed(tuple(given), found, within, nothing)
    return replace(made, outside=np.minimum(made.ways * np.min(outside, axis=0), 1))


def sets(planned: Sequence[Contrast]) -> list[tuple[Contrast, ...]]:
    """What may contradict a claim: each contrast, and the mean of those with one label, on a data set and everywhere.

    If each of several numbers lay within the bounds, so would their mean. Which sets there are is fixed by the claim
    and the study, never by what was measured or by which runs are finished.
    """
    made: dict[tuple[int, ...], None] = dict.fromkeys((number,) for number in range(len(planned)))
    for keys in ([(one.ask, one.label, one.dataset) for one in planned], [(one.ask, one.label) for one in planned]):
        for key in dict.fromkeys(keys):
            made[tuple(number for number, other in enumerate(keys) if other == key)] = None
    return [tuple(planned[number] for number in numbers) for numbers in made]


@dataclass(frozen=True)
class Outcome:
    """``judged``: each contrast by itself; ``tested``: the sets that may contradict, ``family`` of them.

    ``reproduced``: the p-value of the conjunction, the largest of its parts (an intersection-union test; Berger 1982),
    times the number of ``lines`` that are shown beside each other (Bonferroni).
    ``against``: for each of the sets, its p-value times their number (Bonferroni), or those of the gates without which
    it says nothing, if they are larger. ``at_floor``: is there nothing to judge, on each of its data sets?
    ``mean_alone``: is it reproduced as a mean over rows of which some, or a data set, contradict what is said of each,
    or have nothing to judge?
    """

    judged: tuple[Weighed, ...]
    tested: tuple[Weighed, ...]
    family: int
    reproduced: np.ndarray
    against: tuple[np.ndarray, ...]
    at_floor: np.ndarray
    lines: int = 1
    mean_alone: np.ndarray = field(default_factory=lambda: np.zeros((), bool))

    @property
    def contradicted(self) -> np.ndarray:
        return reduce(np.minimum, self.against, np.ones(()))

    @property
    def comparisons(self) -> tuple[Weighed, ...]:
        """Each comparison that is asked, over all of its rows; those that are larger sets stand for their parts."""
        found: dict[tuple[int, str], Weighed] = {}
        for one in (*self.judged, *self.tested):
            first = one.contrasts[0]
            key = (first.ask, first.label)
            if not first.gate and (key not in found or len(one.contrasts) > len(found[key].contrasts)):
                found[key] = one
        return tuple(found.values())

    @property
    def status(self) -> np.ndarray:
        """One of `STATUSES` but `NOT_RUN`, str [...]."""
        held = [self.contradicted <= ERROR, self.reproduced <= ERROR, self.at_floor]
        return np.select(held, [CONTRADICTED, REPRODUCED, NOTHING], OPEN)


def judge(given: Sequence[Contrast], family: int = 0, lines: int = 1, floor: float = ERROR) -> Outcome:
    """``family`` is that of a larger whole, if these are a part of it: one of ``lines`` each of which may be wrong.
    ``floor`` is the level at which a gate has to be shown to be passed for there to be something to judge."""
    judged = [weigh([one]) for one in given]
    single = {id(one.contrasts[0]): one for one in judged}
    asked = [one for one in given if one.planned and not one.gate]
    tested = [single[id(chosen[0])] if len(chosen) == 1 else weigh(chosen) for chosen in sets(asked)]
    family, lines = max(family, len(tested)), max(lines, 1)
    gates = [one for one in judged if one.contrasts[0].gate]
    largest = reduce(np.maximum, [part.inside for part in judged], np.zeros(()) if judged else np.ones(()))
    return Outcome(
        tuple(judged),
        tuple(tested),
        family,
        np.minimum(lines * largest, 1),
        tuple(np.maximum(np.minimum(family * one.outside, 1), _unsaid(one.contrasts, gates)) for one in tested),
        _at_floor([one for one in given if not one.gate], gates, floor),
        lines,
    )


def _gates(one: Contrast, dataset: str, gates: Sequence[Weighed]) -> list[Weighed]:
    """Those of the columns that a comparison has on a data set."""
    here = [(gate, gate.contrasts[0]) for gate in gates]
    return [gate for gate, its in here if its.dataset == dataset and its.columns[0] in one.columns]


def _unsaid(chosen: Sequence[Contrast], gates: Sequence[Weighed]) -> np.ndarray:
    """The p-value of a set having nothing to say: the largest of the gates that a contradiction needs, on each of its
    data sets. Where either side of a comparison has accuracy, there is something that the other has not."""
    found = np.zeros(())
    for here in (_gates(one, dataset, gates) for one in chosen for dataset in one.datasets):
        needed = [gate.inside for gate in here if gate.contrasts[0].gate == JUDGED]
        sides = grouped((gate for gate in here if gate.contrasts[0].gate == EITHER), lambda gate: gate.contrasts[0].ask)
        each = [reduce(np.maximum, [gate.inside for gate in alike]) for alike in sides.values()]
        found = reduce(np.maximum, [*needed, *([reduce(np.minimum, each)] if each else [])], found)
    return found


def _at_floor(asked: Sequence[Contrast], gates: Sequence[Weighed], error: float) -> np.ndarray:
    """Does each comparison fail a gate that was measured, on each of its data sets?"""
    here = [_gates(one, dataset, gates) for one in asked for dataset in one.datasets]
    failed = [[gate.inside > error for gate in each if gate.mean is not None] for each in here]
    each = [reduce(np.logical_or, one, np.zeros((), bool)) for one in failed]
    return reduce(np.logical_and, each, np.full((), bool(each)))


def judge_claim(
    given: Sequence[Contrast], every: bool = False, whole_alone: bool = False
) -> tuple[Outcome, dict[str, Outcome]]:
    """A claim as a whole, and on each of its data sets if there are several, corrected for all of them together; unless
    it is about the ``whole_alone``.

    If its sentence speaks of ``every`` row or data set, neither is reproduced while one of its rows, or of the data
    sets, is contradicted or has nothing to judge; and on a data set the mean over those rows that the study has can
    fail it, though not establish it.
    """
    whole = judge(given)
    names = ordered((row["dataset"] for one in given for row in one.rows), IN_PAPER)
    parts = {name: on_dataset(given, name) for name in names} if len(names) > 1 and not whole_alone else {}
    if every:
        # Before anything is counted: a set of which the study has a part is one that may contradict.
        parts = {name: [in_study(one) for one in part] for name, part in parts.items()}
    family, lines = together(list(parts.values()))
    family = max(whole.family, family)
    found = {name: judge(part, family, lines) for name, part in parts.items()}
    rows = grouped(judge_rows(given, {}) if every else [], lambda one: one.judged[0].contrasts[0].dataset)
    whole = _beside(whole, [*found.values(), *(one for alike in rows.values() for one in alike)], every)
    return whole, {name: _beside(part, rows.get(name, []), every) for name, part in found.items()}


def _beside(mean: Outcome, parts: Sequence[Outcome], every: bool) -> Outcome:
    """An outcome with its parts: where one contradicts it, there was something to judge, and what is said of ``every``
    one is not reproduced, nor is it where one has nothing to judge."""
    failed = reduce(np.logical_or, [one.contradicted <= ERROR for one in parts], np.zeros((), bool))
    kept = replace(mean, at_floor=mean.at_floor & ~failed)
    if not every:
        return kept
    stopped = reduce(np.logical_or, [one.at_floor for one in parts], failed)
    alone = stopped & (mean.reproduced <= ERROR)
    return replace(kept, reproduced=np.where(stopped, 1.0, mean.reproduced), mean_alone=alone)


def corrected(claims: Sequence[Outcome]) -> list[np.ndarray]:
    """The status of each of these claims after one correction for all of them, on each side (Holm 1979)."""
    sides = {
        REPRODUCED: holm(np.array(np.broadcast_arrays(*(one.reproduced for one in claims)))),
        CONTRADICTED: holm(np.array(np.broadcast_arrays(*(one.contradicted for one in claims)))),
    }
    made = []
    for number, one in enumerate(claims):
        lost = np.any([(one.status == status) & (p[number] > ERROR) for status, p in sides.items()], axis=0)
        made.append(np.where(lost, OPEN, one.status))
    return made


def judge_rows(given: Sequence[Contrast], only: Row) -> list[Outcome]:
    """The same asked in each row by itself, corrected for all rows together."""
    each = (one for contrast in given for one in by_row(contrast, only))
    rows = grouped(each, lambda one: tuple(one.rows[0].items()))
    family, lines = together(list(rows.values()))
    return [judge(alike, family, lines, ROW_ERROR) for alike in rows.values()]


def together(parts: Sequence[Sequence[Contrast]]) -> tuple[int, int]:
    """What `judge` has to know of each of several lines for all of them to hold together: how many sets may contradict
    (``family``), and how many ``lines`` may come out reproduced. Neither depends on what was measured."""
    asked = [[one for one in part if not one.gate] for part in parts]
    lines = sum(bool(part) and all(one.planned and not one.partial for one in part) for part in asked)
    return sum(len(sets([one for one in part if one.planned])) for part in asked), lines


def on_dataset(given: Sequence[Contrast], dataset: str) -> list[Contrast]:
    """The contrasts on one data set; of a mean over several, the part of it."""
    found = []
    for contrast in given:
        kept = [place for place, row in enumerate(contrast.rows) if row["dataset"] == dataset]
        if kept:
            where = contrast.place if contrast.dataset else dataset_label(dataset)
            found.append(contrast.part(kept, dataset=dataset, place=where))
    return found
