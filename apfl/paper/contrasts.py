"""From a claim and a study's runs to contrasts: what a claim compares, one number for each row and seed.

All numbers of a contrast are paired by seed, which fixes the partition and the initial parameters. A contrast that
lacks a run has no number at all: no seed is filled in, and those that are there do not stand for the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from apfl.data.setting import parse_setting
from apfl.paper import published
from apfl.paper.claims import ANY, Ask, Claim, Row
from apfl.paper.labels import dataset_label, semantics_label
from apfl.paper.measures import MEASURES, Series, best, mean, weighted, worst
from apfl.paper.metrics import Metrics
from apfl.study import Cell, Study, cells

AXES: Mapping[str, tuple[str, ...]] = {
    "table2": ("dataset", "clients", "alpha"),
    "table3": ("dataset", "missing"),
    "table4": ("dataset", "role"),
    "figure4": ("dataset", "partition"),
    "figure5": ("dataset",),
    "convergence": ("dataset", "heterogeneity"),
    "dropout": ("dataset",),
}
"""What tells the rows of an output apart."""
ROLES: Mapping[str, tuple[str, ...]] = {"table3": ("dropout",), "table4": ("non_dropout", "dropout")}
ON_SCHEDULES = ("convergence", "dropout")
"""Where one method stands in several columns, one for each schedule."""
FEEDBACK = "apfl_feedback"
"""The reading of AP-FL that is a method: its generator is trained in every round."""


@dataclass(frozen=True)
class Contrast:
    """What is compared (``label``), where (``place``), one stratum for each row, and the bounds in points that the
    claim puts on their mean. ``dataset`` is empty where several take part; ``ask`` is the number of the ask."""

    ask: int
    label: str
    place: str
    dataset: str
    rows: tuple[Row, ...]
    strata: tuple[Series, ...]
    low: float | None
    high: float | None

    @property
    def status(self) -> str:
        found = worst(part.status for part in self.strata)
        return "one seed" if found == "ok" and len(self.strata[0].values) < 2 else found

    @property
    def bounds_only(self) -> bool:
        """Are some of the numbers only known to be no larger?"""
        return any(part.bounds is not None and part.bounds.any() for part in self.strata)


@dataclass(frozen=True)
class Source:
    """A study with what its runs measured; ``found`` are its cells by output and data set, with what tells them
    apart."""

    study: Study
    metrics: Metrics
    found: Mapping[str, Mapping[str, Sequence[tuple[Mapping[str, str], Cell]]]]
    known: dict[tuple, Series] = field(default_factory=dict)

    @classmethod
    def of(cls, study: Study, metrics: Metrics) -> Source:
        there = [output for output in AXES if output in study.tables | study.figures]
        found: dict[str, dict[str, list]] = {output: {} for output in there}
        for output in there:
            for cell in cells(study, output):
                found[output].setdefault(cell.dataset, []).append((_facts(study, cell), cell))
        return cls(study, metrics, found)

    def facts(self, output: str) -> list[Mapping[str, str]]:
        """What tells the cells of an output apart."""
        return [facts for ours in self.found.get(output, {}).values() for facts, _ in ours]

    def readings(self) -> tuple[str, ...]:
        """The literal one, those of the study, and the method that is a reading."""
        methods = (name for name, entry in self.study.methods.items() if entry.card.module == FEEDBACK)
        return tuple(dict.fromkeys(("literal", *self.study.apfl["readings"], *methods)))

    def runs(self, claim: Claim, reading: str) -> bool:
        """Does the study run AP-FL in this reading for the claim's output?"""
        title = self.study.methods[reading].title if reading in self.study.methods else ""
        there = self.facts(claim.output)
        return any(facts["title"] == title if title else facts["reading"] == reading for facts in there)

    def series(self, claim: Claim, ask: Ask, reading: str, test: str, column: str, row: Row) -> Series:
        """A column in a row. Where several cells answer, which are schedules, the best of them in each seed counts."""
        seeds = len(self.study.seeds)
        if column == "chance":
            return Series(np.full(seeds, 100 / self._classes(row["dataset"])), "ok")
        name, _, model = column.partition("/")
        wanted = {key: value for key, value in row.items() if key != "role" and value != ANY}
        wanted |= self._named(claim, reading, name, row)
        role = row.get("role") or ROLES.get(claim.output, ("non_dropout",))[0]
        answers = [
            self._measured(replace(cell, model=model) if model else cell, ask.measure, test, role)
            for facts, cell in self.found.get(claim.output, {}).get(row["dataset"], ())
            if wanted.items() <= facts.items()
        ]
        return best(answers) if answers else Series(np.full(seeds, np.nan), "not in study")

    def _classes(self, dataset: str) -> int:
        from apfl.config import CLASSES

        return self.study.classes(dataset) if dataset in self.study.data else CLASSES[dataset]

    def _named(self, claim: Claim, reading: str, name: str, row: Row) -> dict[str, str]:
        """What tells the cells of a column from others; AP-FL's also have a reading."""
        if claim.output == "table4":
            return {"semantics": self._semantics(row["dataset"]) if name == "default" else name, "reading": reading}
        key = "family" if claim.output in ON_SCHEDULES else "title"
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
        "partition": cell.setting.replace(f"-clients{setting.clients}", ""),
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
        found = [
            row for row in _rows_of_study(source, claim, ask) if (row["dataset"] in published.DATASETS) != stand_ins
        ]
    return [row for row in found if test != "monopoly" or row.get("role") != "non_dropout"]


def _rows_of_study(source: Source, claim: Claim, ask: Ask) -> list[Row]:
    """Every row of the output whose values, the data set apart, the claim names somewhere."""
    axes = [axis for axis in AXES[claim.output] if axis not in (ask.axis, ask.slope)]
    allowed = {axis: {row.get(axis, ANY) for row in claim.rows} or {ANY} for axis in axes[1:]}
    made = []
    for facts in source.facts(claim.output):
        roles = [{"role": role} for role in ROLES[claim.output]] if "role" in axes else [{}]
        for role in roles:
            row = {axis: (facts | role)[axis] for axis in axes} | dict(claim.only)
            named = all(row[axis] in names or ANY in names for axis, names in allowed.items())
            if named and claim.only.items() <= facts.items():
                made.append(row)
    return [dict(items) for items in dict.fromkeys(tuple(row.items()) for row in made)]


def contrasts(source: Source, claim: Claim, reading: str, test: str, stand_ins: bool = False) -> list[Contrast]:
    """Every contrast that the claim needs, in its order; of stand-ins, those that the study has."""
    made = [
        contrast
        for number, ask in enumerate(claim.asks)
        for contrast in _of_ask(source, claim, number, ask, reading, test, rows(source, claim, ask, test, stand_ins))
    ]
    return [contrast for contrast in made if not stand_ins or contrast.status != "not in study"]


def _of_ask(
    source: Source, claim: Claim, number: int, ask: Ask, reading: str, test: str, rows: Sequence[Row]
) -> Iterator[Contrast]:
    """One for each column of ``against`` (taken apart), other value of the axis, and row left after the means."""
    places: dict[tuple, list[Row]] = {}
    for row in rows:
        key = tuple((axis, value) for axis, value in row.items() if axis not in ask.mean_over)
        places.setdefault(key, []).append(row)
    againsts = [(name,) for name in ask.against] if ask.take == "each" and ask.against else [ask.against]
    for against, other in product(againsts, ask.others or ("",)):
        for key, alike in places.items():
            strata = tuple(_stratum(source, claim, ask, reading, test, row, against, other) for row in alike)
            here = dict(key)
            yield Contrast(
                number,
                label(ask, against, other),
                place({axis: value for axis, value in here.items() if axis not in claim.only}) or "all rows",
                here.get("dataset", "") or _only(row["dataset"] for row in alike),
                tuple(alike),
                strata,
                ask.above,
                ask.below,
            )


def _stratum(
    source: Source, claim: Claim, ask: Ask, reading: str, test: str, row: Row, against: Sequence[str], other: str
) -> Series:
    """One number for each seed in a row."""

    def at(value: str, axis: str) -> Series:
        here = {**row, axis: value} if axis else row
        ours, *theirs = (source.series(claim, ask, reading, test, name, here) for name in (ask.first, *against))
        return weighted([ours, TAKES[ask.take](theirs)], [1, -1]) if theirs else ours

    if ask.slope:
        doublings = np.log2([float(value) for value in ask.values])
        centred = doublings - doublings.mean()
        return weighted([at(value, ask.slope) for value in ask.values], centred / (centred**2).sum())
    if ask.axis:
        return weighted([at(ask.at, ask.axis), at(other, ask.axis)], [1, -1])
    return at("", "")


TAKES = {"each": best, "best": best, "mean": mean}


def _only(names: Iterator[str]) -> str:
    """The name, if there is but one."""
    found = set(names)
    return found.pop() if len(found) == 1 else ""


WORDS = {
    "samples_per_class": "{} samples per class",
    "noise_dimension": "noise dimension {}",
    "alpha": "alpha {}",
    "clients": "{} clients",
    "missing": "{} % of classes missing",
    "rate": "dropout rate {}",
    "heterogeneity": "heterogeneity {}",
    "partition": "{}",
}
ROLE_WORDS = {"non_dropout": "non-dropout clients", "dropout": "dropout clients"}
MEASURE_WORDS = {"fall": "fall of ", "saving": "time saved by "}


def place(row: Row) -> str:
    """A row in words.

    >>> place({"dataset": "cifar10", "clients": "5", "alpha": "0.01"})
    'CIFAR-10, 5 clients, alpha 0.01'
    """
    shown = {axis: value for axis, value in row.items() if value not in (ANY, "-")}
    words = [
        dataset_label(value) if axis == "dataset" else ROLE_WORDS.get(value) or WORDS[axis].format(value)
        for axis, value in shown.items()
    ]
    return ", ".join(words)


def label(ask: Ask, against: Sequence[str], other: str) -> str:
    """What an ask compares, in words.

    >>> label(Ask("AP-FL", ("FedAvg",)), ("FedAvg",), "")
    'AP-FL − FedAvg'
    """
    names = [_column(name) for name in against]
    theirs = f"{'mean' if ask.take == 'mean' else 'best'} of {', '.join(names)}" if len(names) > 1 else "".join(names)
    text = MEASURE_WORDS.get(ask.measure, "") + " − ".join(filter(None, (_column(ask.first), theirs)))
    if ask.slope:
        return f"{text}: slope by doublings of {ask.slope.replace('_', ' ')}"
    if ask.axis:
        return f"{text}: {WORDS[ask.axis].format(ask.at)} − {WORDS[ask.axis].format(other)}"
    return text


def _column(name: str) -> str:
    """
    >>> _column("AP-FL/friend"), _column("default"), _column("w2v")
    ('AP-FL (friend)', 'embedding', 'W2V')
    """
    head, _, model = name.partition("/")
    head = {"default": "embedding"}.get(head) or semantics_label(head)
    return f"{head} ({model})" if model else head
