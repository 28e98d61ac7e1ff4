"""Every trial of every method that is tuned, for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apfl.paper.labels import dataset_label, partition_label
from apfl.paper.numbers.tuning import read_choices, trials
from apfl.study.study import Study


@dataclass(frozen=True)
class TrialRow:
    """A trial: its number, the values of the hyper-parameters in the order of the columns, its mean accuracy in per
    cent (None: there is none), its accuracy in each seed, and whether it is chosen."""

    number: int
    values: tuple[str, ...]
    mean: float | None
    seeds: str
    chosen: bool


@dataclass(frozen=True)
class TrialTable:
    """The trials of a method on a data set; without rows the choice is not made yet, and ``done`` says how many of the
    trials are finished."""

    title: str
    parameters: tuple[str, ...]
    rows: tuple[TrialRow, ...]
    done: str


def panels(study: Study, results: Path) -> list[TrialTable]:
    """A table for each method and data set."""
    made = read_choices(study, results)
    tables = []
    for key, (cell, *others) in trials(study).items():
        finished = [all((results / run / "run.json").is_file() for run in one.runs) for one in (cell, *others)]
        names, choice = tuple(cell.axis["parameters"]), made.get(key, {"trials": [], "chosen": {}})
        title = f"{cell.title}, {dataset_label(cell.dataset)}, {partition_label(cell.setting)}"
        rows = tuple(_row(trial, names, choice["chosen"]["trial"]) for trial in choice["trials"])
        tables.append(TrialTable(title, names, rows, f"{sum(finished)} of {len(finished)}"))
    return tables


def _row(trial: dict[str, Any], names: Sequence[str], chosen: int) -> TrialRow:
    each = ", ".join(
        f"seed {seed}: {status if value is None else f'{value:.2f}'}"
        for seed, value, status in zip(trial["seeds"], trial["validation"], trial["status"], strict=True)
    )
    given = (trial["parameters"][name] for name in names)
    values = tuple(f"{value:g}" if isinstance(value, float) else str(value) for value in given)
    return TrialRow(trial["trial"], values, trial["mean"], each, trial["trial"] == chosen)
