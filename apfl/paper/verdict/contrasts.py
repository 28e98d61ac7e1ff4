"""From a claim and a study's runs to contrasts: what a claim compares, one number for each row and seed.

All numbers of a contrast are paired by seed, which fixes the partition and the initial parameters. A contrast that
lacks a run has no number at all: no seed is filled in, and those that are there do not stand for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Self

import numpy as np

from apfl.data.catalogue import CATALOGUE, IN_PAPER
from apfl.data.setting import parse_setting
from apfl.paper.numbers.choice import BEST, best_readings
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.verdict.claims import ALL, ANY, Ask, Claim, Row
from apfl.paper.verdict.measures import MEASURES, Series, chosen, mean, weighted, worst
from apfl.paper.verdict.words import label, place
from apfl.study.cells import Cell, cells
from apfl.study.outputs import CLAIMED, OUTPUTS
from apfl.study.study import Study

FEEDBACK = "apfl_feedback"
"""The reading of AP-FL that is a method: its generator is trained in every round."""


@dataclass(frozen=True)
class Contrast:
    """What is compared (``label``), where (``place``), one stratum for each row, and the bounds in points that the
    claim puts on their mean. ``dataset`` is empty where several take part; ``ask`` is the number of the ask.

    ``gate``: not what the claim says but what it needs of a column on a data set (`GATES`). ``choices``: of how many
    this is the one with the highest mean. ``partial``: does the study lack rows of it? ``columns`` are the one that the
    comparison is first about, and those that it is compared with.
    """

    ask: int
    label: str
    place: str
    dataset: str
    rows: tuple[Row, ...]
    strata: tuple[Series, ...]
    low: float | None
    high: float | None
    gate: str = ""
    choices: int = 1
    partial: bool = False
    columns: tuple[str, ...] = ()

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row["dataset"] for row in self.rows))

    @property
    def planned(self) -> bool:
        """Does the study have all of it, run or not?"""
        return all(part.planned for part in self.strata)

    @property
    def status(self) -> str:
        found = worst(part.status for part in self.strata)
        return "one seed" if found == "ok" and len(self.strata[0].values) < 2 else found

    @property
    def bounds_only(self) -> bool:
        """Are some of the numbers only known to be no larger?"""
        return any(part.bounds is not None and part.bounds.any() for part in self.strata)

    def gap(self, middle: float) -> float:
        """How far a mean lies within its nearest bound."""
        gaps = [] if self.low is None else [middle - self.low]
        return min(gaps if self.high is None else [*gaps, self.high - middle])

    def part(self, numbers: Sequence[int], **changes: Any) -> Contrast:
        """The same comparison in some of its rows."""
        rows = tuple(self.rows[number] for number in numbers)
        strata = tuple(self.strata[number] for number in numbers)
        return replace(self, rows=rows, strata=strata, **changes)


@dataclass(frozen=True)
class Question:
    """A claim in a reading and on a test; ``schedule`` is the column of AP-FL where there are several."""

    claim: Claim
    reading: str
    test: str
    schedule: str = ""


@dataclass(frozen=True)
class Source:
    """A study with what its runs measured; ``found`` are its cells by output and data set, with what tells them apart
    (in the rows of Table 2 those of the figure of all readings, too), ``best`` the readings chosen on validation
    images, by data set and test, and ``choice`` the cells behind that, by data set."""

    study: Study
    metrics: Metrics
    found: Mapping[str, Mapping[str, Sequence[tuple[Mapping[str, str], Cell]]]]
    known: dict[tuple[object, ...], Series] = field(default_factory=dict)
    best: Mapping[tuple[str, str], str] = field(default_factory=dict)
    choice: Mapping[str, Sequence[Cell]] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study, metrics: Metrics) -> Self:
        there = [output for output in CLAIMED if output in {**study.tables, **study.figures}]
        pairs = {output: [(_facts(study, cell), cell) for cell in cells(study, output)] for output in there}
        found = {output: grouped(ours, lambda pair: pair[1].dataset) for output, ours in pairs.items()}
        for cell in cells(study, "figure_multiverse") if "table2" in found else ():
            # The same runs in readings that the table does not have, of which one may be the best.
            here, facts = found["table2"].get(cell.dataset, []), _facts(study, cell)
            if cell.reading and any(other.setting == cell.setting for _, other in here):
                here += [] if any(facts == known for known, _ in here) else [(facts, cell)]
        choice = grouped(cells(study, "selection"), lambda cell: cell.dataset)
        return cls(study, metrics, found, best=best_readings(study, metrics), choice=choice)

    def facts(self, output: str) -> list[Mapping[str, str]]:
        """What tells the cells of an output apart."""
        return [facts for ours in self.found.get(output, {}).values() for facts, _ in ours]

    def readings(self) -> tuple[str, ...]:
        """The literal one, the best one where it is chosen, those of the study, and the method that is a reading."""
        methods = (name for name, entry in self.study.methods.items() if entry.card.module == FEEDBACK)
        chosen = (BEST,) if "selection" in self.study.apfl else ()
        return tuple(dict.fromkeys(("literal", *chosen, *self.study.apfl["readings"], *methods)))

    def runs(self, claim: Claim, reading: str) -> bool:
        """Does the study run AP-FL in this reading for the claim's output?"""
        title = self.study.methods[reading].title if reading in self.study.methods else ""
        there = self.facts(claim.output)
        wanted = {*self.study.apfl["readings"]} if reading == BEST else {reading}
        return any(facts["title"] == title if title else facts["reading"] in wanted for facts in there)

    def schedules(self, claim: Claim, reading: str) -> tuple[str, ...]:
        """The columns of AP-FL where it is run on several schedules; one empty name elsewhere."""
        if not OUTPUTS[claim.output].on_schedules:
            return ("",)
        wanted = self._named(claim, reading, "AP-FL", {})
        titles = (facts["title"] for facts in self.facts(claim.output) if wanted.items() <= facts.items())
        return tuple(dict.fromkeys(titles)) or ("",)

    def series(self, asked: Question, ask: Ask, column: str, row: Row) -> Series:
        """A column in a row. ``constant`` and ``Local`` may stand in another output of the same setting."""
        claim, test = asked.claim, asked.test
        seeds = len(self.study.seeds)
        if column == "chance":
            name = row["dataset"]
            classes = self.study.classes(name) if name in self.study.data else CATALOGUE[name].classes
            return Series(np.full(seeds, 100 / classes), "ok")
        name, _, model = column.partition("/")
        role = row.get("role") or next(iter(OUTPUTS[claim.output].tests))
        measure = ask.measure
        if column == "constant":
            name, measure = ask.first.partition("/")[0], "constant"
        found = self._cells(asked, name, row)
        if not found and name == "Local":
            settings = {cell.setting for cell in self._cells(asked, ask.first.partition("/")[0], row)}
            everywhere = (pair for ours in self.found.values() for pair in ours.get(row["dataset"], ()))
            alike = (cell for facts, cell in everywhere if facts["title"] == name and cell.setting in settings)
            found = list({cell.runs: cell for cell in alike}.values())
        answers = [self._measured(replace(cell, model=model) if model else cell, measure, test, role) for cell in found]
        if answers:
            return mean(answers)
        some = self._in_some_reading(asked, name, row)
        if some and self.chosen(asked, row["dataset"]) == BEST:
            waits = self._choosing(row["dataset"])
            return Series(np.full(seeds, np.nan), "not run" if waits else "diverged", missing=waits)
        return Series(np.full(seeds, np.nan), "not in study", planned=some)

    def _in_some_reading(self, asked: Question, name: str, row: Row) -> bool:
        """Is the best reading asked for, and a cell there that it may turn out to be? Then the study plans the cell,
        whether the choice is made or not, and whichever it is: so the families do not depend on it."""
        if asked.reading != BEST or row["dataset"] not in self.choice:
            return False
        some = (replace(asked, reading=reading) for reading in self.study.apfl["readings"])
        return any(self._cells(other, name, row) for other in some)

    def _choosing(self, dataset: str) -> tuple[str, ...]:
        """The runs that the choice of the best reading waits for."""
        chosen_by = (run for cell in self.choice[dataset] for run in cell.runs)
        return tuple(run for run in chosen_by if run not in self.metrics.records)

    def _cells(self, asked: Question, name: str, row: Row) -> list[Cell]:
        wanted = {key: value for key, value in row.items() if key != "role" and value != ANY}
        wanted |= self._named(asked.claim, self.chosen(asked, row["dataset"]), name, row)
        if asked.schedule and name == "AP-FL":
            wanted |= {"title": asked.schedule}
        there = self.found.get(asked.claim.output, {}).get(row["dataset"], ())
        return [cell for facts, cell in there if wanted.items() <= facts.items()]

    def chosen(self, asked: Question, dataset: str) -> str:
        """The reading that is asked on a data set: the best one is another on each, and `BEST` where none is chosen."""
        if asked.reading != BEST:
            return asked.reading
        return self.best.get((dataset, "pooled" if asked.test == "pooled" else "own"), BEST)

    def _named(self, claim: Claim, reading: str, name: str, row: Row) -> dict[str, str]:
        """What tells the cells of a column from others; AP-FL's also have a reading."""
        if OUTPUTS[claim.output].columns == "semantics":
            return {"semantics": self._semantics(row["dataset"]) if name == "default" else name, "reading": reading}
        key = "family" if name == "AP-FL" and OUTPUTS[claim.output].on_schedules else "title"
        if name == "AP-FL" and reading in self.study.methods:
            return {key: self.study.methods[reading].title, "reading": ""}
        return {key: name, "reading": reading if name == "AP-FL" else ""}

    def _semantics(self, dataset: str) -> str:
        if "table4" not in self.study.tables or dataset not in self.study.data:
            return ""
        return self.study.semantics_of(self.study.methods[self.study.tables["table4"]["method"]], dataset)

    def _measured(self, cell: Cell, measure: str, test: str, role: str) -> Series:
        key = (cell.output, cell.runs, cell.title, tuple(cell.axis.items()), cell.model, measure, test, role)
        if key not in self.known:
            self.known[key] = MEASURES[measure](self.study, self.metrics, cell, test, role)
        return self.known[key]


def _facts(study: Study, cell: Cell) -> dict[str, str]:
    setting = parse_setting(cell.setting)
    axis = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in cell.axis.items()}
    return axis | {
        "dataset": cell.dataset,
        "clients": str(setting.clients),
        "partition": str(setting.whole).replace(f"-clients{setting.clients}", ""),
        "title": cell.title,
        "family": study.methods[cell.method].title,
        "semantics": cell.semantics,
        "reading": cell.reading,
    }


def rows(source: Source, claim: Claim, ask: Ask, test: str, stand_ins: bool = False) -> list[Row]:
    """The rows that the claim speaks of; with ``stand_ins`` the like rows of data sets that are not the paper's."""
    if claim.rows and not stand_ins:
        found = list(claim.rows)
    else:
        found = [row for row in _rows_of_study(source, claim, ask) if (row["dataset"] in IN_PAPER) != stand_ins]
    return [row for row in found if test != "monopoly" or row.get("role") != "non_dropout"]


def _rows_of_study(source: Source, claim: Claim, ask: Ask) -> list[Row]:
    """Every row of the output whose values, the data set apart, the claim names somewhere."""
    axes = [axis for axis in OUTPUTS[claim.output].axes if axis not in (ask.axis, ask.slope)]
    allowed = {axis: {row.get(axis, ANY) for row in claim.rows} or {ANY} for axis in axes[1:]}
    made = []
    for facts in source.facts(claim.output):
        roles = [{"role": role} for role in OUTPUTS[claim.output].tests] if "role" in axes else [{}]
        for role in roles:
            row = {axis: {**facts, **role}[axis] for axis in axes} | dict(claim.only)
            named = all(row[axis] in names or ANY in names for axis, names in allowed.items())
            if named and claim.only.items() <= facts.items():
                made.append(row)
    return [dict(items) for items in dict.fromkeys(tuple(row.items()) for row in made)]


def contrasts(source: Source, claim: Claim, reading: str, test: str, stand_ins: bool = False) -> list[Contrast]:
    """Every contrast that the claim needs, in its order.

    Where the study runs AP-FL on several schedules, the one with the highest mean in what the claim is first about.
    """
    questions = [Question(claim, reading, test, name) for name in source.schedules(claim, reading)]
    places = [rows(source, claim, ask, test, stand_ins) for ask in claim.asks]
    variants = [
        [one for number, ask in enumerate(claim.asks) for one in _of_ask(source, asked, number, ask, places[number])]
        for asked in questions
    ]
    first = next(number for number, ask in enumerate(claim.asks) if not ask.gate)
    ask = claim.asks[first]
    return _highest(variants, *_levels(source, [(asked, ask.first) for asked in questions], ask, places[first]))


def _highest(variants: Sequence[Sequence[Contrast]], levels: np.ndarray, waits: Sequence[str]) -> list[Contrast]:
    """Of several ways to ask the same, the one with the highest of ``levels``: the same for all seeds and rows.

    A maximum in each seed would be one of noise. A mean over all seeds is one as well, for which ``choices`` corrects.
    As long as one of ``waits``, the runs missing from the levels, may change the choice, they are missing from it all.
    """
    if len(variants) == 1:
        return list(variants[0])
    which = np.argmax(levels, axis=0)
    made = []
    for alike in zip(*variants, strict=True):
        strata = zip(*(one.strata for one in alike), strict=True)
        picked = [chosen(parts, which) for parts in strata]
        picked = [replace(part, missing=tuple(dict.fromkeys((*part.missing, *waits)))) for part in picked]
        made.append(replace(alike[0], strata=tuple(picked), choices=len(variants) * alike[0].choices))
    return made


def _levels(
    source: Source, columns: Sequence[tuple[Question, str]], ask: Ask, rows: Sequence[Row]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """[columns, ...] The mean of each over seeds and all values of the axis alike, over the rows that all of them have:
    whoever lacks a hard row is not the better for it. Where numbers are only known to be no larger, -inf if those of
    another column are known. And the runs that are missing from it."""
    values = [{ask.axis: value} if ask.axis else {} for value in (*ask.at, *ask.others) or ("",)]
    places = [{**row, **value} for row in rows for value in values]
    table = [[source.series(asked, ask, name, place) for asked, name in columns] for place in places]
    shared = [parts for parts in table if all(part.status == "ok" for part in parts)]
    missing = tuple(dict.fromkeys(run for parts in table for part in parts for run in part.missing))
    if not shared:
        return np.zeros(len(columns)), missing
    levels = np.mean([[part.values for part in parts] for parts in shared], axis=(0, 2))
    bounded = [[bool(part.bounds is not None and part.bounds.any()) for part in parts] for parts in shared]
    censored = np.array(bounded).any(axis=0)
    levels[censored & ~censored.all()] = -np.inf
    return levels, missing


def _of_ask(source: Source, asked: Question, number: int, ask: Ask, rows: Sequence[Row]) -> Iterator[Contrast]:
    """One for each column of ``against`` (taken apart), other value of the axis, and row left after the means; a gate
    is a mean over the rows of a data set."""

    def left(row: Row) -> Row:
        kept = {} if ask.mean_over == ALL else _without(row, ask.mean_over)
        return {"dataset": row["dataset"]} if ask.gate else kept

    places = grouped(rows, lambda row: tuple(left(row).items()))
    againsts = [(name,) for name in ask.against] if ask.take == "each" and ask.against else [ask.against]
    for against, other in product(againsts, ask.others or ("",)):
        for key, alike in places.items():
            here = dict(key)
            blank = Contrast(
                number,
                label(ask, against, other),
                place(_without(here, asked.claim.only)) or "all rows",
                here.get("dataset", "") or _only(row["dataset"] for row in alike),
                tuple(alike),
                (),
                ask.above,
                ask.below,
                ask.gate,
                columns=(ask.first, *against),
            )
            made = [
                replace(blank, strata=tuple(_stratum(source, asked, ask, row, names, other) for row in alike))
                for names in ([(name,) for name in against] if ask.take == "best" else [against])
            ]
            if ask.take == "best":
                levels = _levels(source, [(asked, name) for name in against], ask, alike)
                made = _highest([[one] for one in made], *levels)
            yield from made


def _stratum(source: Source, asked: Question, ask: Ask, row: Row, against: Sequence[str], other: str) -> Series:
    """One number for each seed in a row."""

    def at(**axis: str) -> Series:
        ours, *theirs = (source.series(asked, ask, name, {**row, **axis}) for name in (ask.first, *against))
        return weighted([ours, mean(theirs)], [1, -1]) if theirs else ours

    if ask.slope:
        doublings = np.log2([float(value) for value in ask.values])
        centred = doublings - doublings.mean()
        return weighted([at(**{ask.slope: value}) for value in ask.values], centred / (centred**2).sum())
    if ask.axis:
        parts = [mean([at(**{ask.axis: value}) for value in ask.at]), *([at(**{ask.axis: other})] if other else ())]
        return weighted(parts, [1, -1][: len(parts)])
    return at()


def by_row(given: Contrast, only: Row) -> list[Contrast]:
    """The same comparison in each of its rows."""
    return [
        given.part([number], place=place(_without(row, only)), dataset=row["dataset"])
        for number, row in enumerate(given.rows)
    ]


def _without(row: Row, axes: Iterable[str]) -> Row:
    return {axis: value for axis, value in row.items() if axis not in axes}


def in_study(given: Contrast) -> Contrast:
    """The comparison over those of its rows that the study has, ``partial`` if it lacks some; itself if it has none."""
    kept = [number for number, part in enumerate(given.strata) if part.planned]
    if not kept or len(kept) == len(given.rows):
        return given
    where = "" if given.place == "all rows" else f"{given.place}, "
    return given.part(kept, partial=True, place=f"{where}{len(kept)} of {len(given.rows)} rows")


def _only(names: Iterator[str]) -> str:
    """The name, if there is but one."""
    found = set(names)
    return found.pop() if len(found) == 1 else ""
