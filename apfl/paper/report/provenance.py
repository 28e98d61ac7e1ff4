"""Where the numbers of a page come from: for each entry of a table its seeds and runs, and what made each run.

The page carries this as one block of JSON. Runs of a study are alike, so every value stands there once, in ``values``,
and the rest refers to it by position; 1,500 runs take about a megabyte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apfl.durations import duration
from apfl.paper.labels import ROLES, TEST_LABELS, dataset_label, semantics_label
from apfl.paper.numbers.metrics import Metrics, SeedValue, cell_values
from apfl.paper.numbers.virtual import ROLE, time_to_target
from apfl.paper.tables import asynchrony
from apfl.paper.tables.keys import EntryKey, key_of_cell
from apfl.storage.files import read_record
from apfl.study.cells import Cell
from apfl.study.outputs import OUTPUTS
from apfl.study.records import difference
from apfl.study.runs import Run
from apfl.study.study import Study

FACTS = (
    "stage", "status", "code", "commit", "clean", "seconds", "peak_memory", "device", "precision", "threads", "python",
    "platform", "versions",
)  # fmt: skip
"""What a page tells of a run.json as it stands; besides, each entry of its specification, inputs and outputs."""
NESTED = ("specification", "inputs", "outputs")
ACCURACY = ("accuracy (%)", "plain mean (%)", "clients", "left out")
TIME = ("virtual time to the target", *ACCURACY)


class Pool:
    """Values by position, equal ones once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def add(self, value: Any) -> int:
        key = json.dumps(value, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


@dataclass(frozen=True)
class Sources:
    """``entries``: by key the number of its entry in ``data``; ``runs``: by path that of a run; ``data``: as JSON.

    In ``data``, ``values`` are the shared ones, ``runs`` has for each run its path, the positions of its names and
    values, and the runs that it starts from; ``entries`` has for each entry its facts, the names of its columns, its
    seeds (seed, status, a value for each column) and their runs.
    """

    entries: Mapping[EntryKey, int]
    runs: Mapping[str, int]
    data: Mapping[str, Any]


def sources(
    study: Study,
    planned: Sequence[Run],
    records: Mapping[str, Mapping[str, Any]],
    cells: Mapping[str, Sequence[Cell]],
    metrics: Metrics,
) -> Sources:
    """What stands behind every entry of the tables whose ``cells`` are given by name.

    ``records`` are the run.json of the finished ones among the study's ``planned`` runs.
    """
    pool, places = Pool(), {run.path: number for number, run in enumerate(planned)}
    runs = [_run(run, records.get(run.path), places, pool) for run in planned]
    entries: dict[EntryKey, int] = {}
    listed: list[list[Any]] = []
    for name, ours in cells.items():
        for key, facts, columns, seeds, paths in _entries(study, name, ours, metrics):
            entries[key] = len(listed)
            shared = [pool.add(fact) for fact in facts]
            listed.append([shared, pool.add(columns), seeds, [places[path] for path in paths]])
    return Sources(entries, places, {"values": pool.values, "runs": runs, "entries": listed})


def _run(run: Run, record: Mapping[str, Any] | None, places: Mapping[str, int], pool: Pool) -> list[Any]:
    before = [places[path] for path in run.inputs.values() if path in places]
    facts = essentials(record) if record is not None else {}
    return [run.path, pool.add(list(facts)), [pool.add(value) for value in facts.values()], before]


def essentials(record: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run.json by which a run can be told from others and made again, flat.

    >>> essentials({"stage": "federate", "timeline": [], "inputs": {"data": "c0de"}})
    {'stage': 'federate', 'inputs.data': 'c0de'}
    """
    plain = {name: record[name] for name in FACTS if name in record}
    nested = {f"{name}.{key}": value for name in NESTED for key, value in record.get(name, {}).items()}
    return plain | nested


Found = tuple[EntryKey, list[list[str]], Sequence[str], list[list[Any]], Sequence[str]]
"""An entry: its key, facts, columns, seeds and runs."""


def _entries(study: Study, name: str, cells: Sequence[Cell], metrics: Metrics) -> Iterable[Found]:
    if name == "convergence":
        yield from _times(study, cells, metrics)
        return
    for cell in cells:
        for role, tests in OUTPUTS[name].tests.items():
            for test in tests:
                seeds = [_accuracies(value) for value in cell_values(metrics, cell, test, role)]
                yield key_of_cell(cell, role, test), _facts(cell, role, test), ACCURACY, seeds, cell.runs


def _times(study: Study, cells: Sequence[Cell], metrics: Metrics) -> Iterable[Found]:
    share = study.tables["convergence"].get("target", 1.0)
    for here in asynchrony.groups(cells):
        for test in OUTPUTS["convergence"].tests[ROLE]:
            for cell in here:
                reached = time_to_target(cell, here[0], share, metrics, test)
                finals = [_accuracies(value) for value in cell_values(metrics, cell, test, ROLE)]
                seeds = [
                    [final[0], one.status, _rounded(one.time), *final[2:]]
                    for one, final in zip(reached, finals, strict=True)
                ]
                yield key_of_cell(cell, ROLE, test), _facts(cell, ROLE, test), TIME, seeds, cell.runs


def _accuracies(value: SeedValue) -> list[Any]:
    percent = [None if number is None else _rounded(100 * number) for number in (value.weighted, value.plain)]
    return [value.seed, value.status, *percent, value.clients, value.left_out]


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def _facts(cell: Cell, role: str, test: str) -> list[list[str]]:
    named = {
        "Data set": dataset_label(cell.dataset),
        "Setting": cell.setting,
        "Method": cell.title,
        "Schedule": cell.timing.name,
        "Heterogeneity": f"{cell.axis['heterogeneity']:g}" if "heterogeneity" in cell.axis else "",
        "Dropout rate": f"{cell.axis['rate']:g}" if "rate" in cell.axis else "",
        "Reading": cell.reading,
        "Semantics": semantics_label(cell.semantics) if cell.semantics else "",
        "Model": cell.model,
        "Clients": ROLES[role],
        "Test": TEST_LABELS[test],
    }
    return [[name, text] for name, text in named.items() if text]


def read_records(results: str | Path, runs: Iterable[Run]) -> dict[str, Mapping[str, Any]]:
    """By path the ``{results}/{path}/run.json`` of the runs that have one, as the study asks for them."""
    paths = ((run, Path(results) / run.path / "run.json") for run in runs)
    found = [(run, read_record(path)) for run, path in paths if path.is_file()]
    return {run.path: record for run, record in found if not difference(run, record)}


Facts = tuple[tuple[str, str], ...]
"""Pairs of a name and what is to be said under it."""


def provenance_facts(records: Mapping[str, Mapping[str, Any]], planned: int) -> Facts:
    """Commits, versions, machines and time of the runs, of ``planned`` in the study; several values are all listed."""
    every = list(records.values())
    packages = sorted({name for record in every for name in record.get("versions", {})})
    versions = {name: _values(record.get("versions", {}).get(name) for record in every) for name in packages}
    diverged = sorted(run for run, record in records.items() if record.get("status") == "diverged")
    facts = (
        (
            "Runs",
            f"{len(every)} of {planned} finished" + (f", of which diverged: {', '.join(diverged)}" if diverged else ""),
        ),
        ("Computing time", duration(sum(record.get("seconds", 0.0) for record in every))),
        ("Commit", _values(_commit(record) for record in every)),
        ("Versions", ", ".join(f"{name} {text}" for name, text in versions.items() if text)),
        *(
            (name.capitalize(), _values(record.get(name) for record in every))
            for name in ("python", "platform", "device", "precision")
        ),
    )
    return tuple((name, text) for name, text in facts if text)


def _commit(record: Mapping[str, Any]) -> str | None:
    commit = record.get("commit")
    return commit and (commit if record.get("clean") else f"{commit} with uncommitted changes")


def _values(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values if value}))


@dataclass(frozen=True)
class Lacking:
    """A table or figure that waits for runs: how many of its runs are missing, and the file to ask for."""

    name: str
    missing: int
    planned: int
    file: str


def missing(
    study: Study, planned: Sequence[Run], records: Mapping[str, Mapping[str, Any]], cells: Mapping[str, Sequence[Cell]]
) -> list[Lacking]:
    """The outputs that lack runs; those that a run starts from count too."""
    before = {run.path: [path for path in run.inputs.values() if path != run.path] for run in planned}
    found = []
    for name, ours in cells.items():
        needed = {run for cell in ours for run in cell.runs} & set(before)
        while more := {path for run in needed for path in before[run] if path in before} - needed:
            needed |= more
        if lacking := needed - set(records):
            kind = "tables" if name in study.tables else "figures"
            found.append(Lacking(name, len(lacking), len(needed), f"results/{study.name}/{kind}/{name}.csv"))
    return found
