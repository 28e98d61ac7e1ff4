"""Tables 2 to 4 as tidy rows: one for each cell and test, the published number beside the reproduced one.

A cell that the paper prints and the study does not run is there without a number, with a status that says why. Without
the paper (``paper`` is False) there are the study's cells alone, in its own order.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from apfl.data.catalogue import IN_PAPER
from apfl.data.setting import parse_setting
from apfl.errors import UserError
from apfl.paper import published
from apfl.paper.labels import ordered, semantics_label
from apfl.paper.numbers.metrics import Estimate, Metrics, cell_values, estimate
from apfl.study.cells import Cell
from apfl.study.outputs import OUTPUTS
from apfl.study.tuning import TUNED

COLUMNS = (
    "table", "dataset", "setting", "clients", "alpha", "missing_percent", "client_role", "method", "title", "column",
    "column_group", "semantics", "reading", "model", "test", "published_mean", "published_std", "reproduced_mean",
    "reproduced_std", "plain_mean", "seeds", "seeds_planned", "clients_evaluated", "clients_left_out", "status",
)  # fmt: skip
"""Accuracies are in per cent. ``seeds`` have a number, ``seeds_planned`` are in the study (0: it does not run this
cell); clients are summed over seeds; ``column_group`` is paper, further (methods or semantics that the paper
lacks) or reading (another reading of a column of the other two); ``status`` is ok, diverged or no samples, or says why
there is no run: not run, or, of a column that other data sets of the study have, not tuned or no embedding."""
ColumnKey = tuple[str, str]
"""What tells the columns of a table apart: the title (in Table 4 the semantics) and the reading."""


@dataclass(frozen=True)
class Column:
    """A column of a table; ``published`` names the paper's column whose numbers stand in it."""

    key: ColumnKey
    label: str
    published: str | None
    group: str


def rows(table: str, cells: Sequence[Cell], metrics: Metrics, paper: bool = True) -> pd.DataFrame:
    """The tidy rows of ``table2``, ``table3`` or ``table4``, in the table's order."""
    heads = columns(table, cells, paper)
    by_place = {(_row_key(cell), column_key(table, cell)): cell for cell in cells}
    if len(by_place) < len(cells):
        raise UserError(f"{table}: two cells of the study share one place; give their methods different titles")
    asked = {key for _, key in by_place}

    def found(row: RowKey, column: Column) -> Cell | str:
        return by_place.get((row, column.key)) or _absent(table, row, column, asked)

    lines = [
        _line(table, row, role, column, found(row, column), test, metrics)
        for row in _row_keys(table, cells, paper)
        for role, tests in OUTPUTS[table].tests.items()
        for column in heads
        for test in tests
    ]
    return pd.DataFrame(lines, columns=list(COLUMNS))


@dataclass(frozen=True)
class RowKey:
    """What the rows of a table distinguish: the data set, its partition, and the partition's axes."""

    dataset: str
    setting: str
    clients: str
    alpha: str
    missing_percent: str


def _row_key(cell: Cell) -> RowKey:
    clients = str(parse_setting(cell.setting).clients)
    missing = str(cell.axis["missing"]) if cell.output != "table2" else ""
    return RowKey(cell.dataset, cell.setting, clients, str(cell.axis.get("alpha", "")), missing)


def _published_row(table: str, item: published.Published) -> RowKey:
    if table == "table2":
        return RowKey(item.dataset, "", item.row[0], item.row[1], "")
    return RowKey(item.dataset, "", "10", "", item.row[0] if table == "table3" else "20")


def _row_keys(table: str, cells: Sequence[Cell], paper: bool) -> list[RowKey]:
    """The study's rows, and the paper's that the study leaves out: by data set, clients, alpha, missing classes."""
    ours = dict.fromkeys(_row_key(cell) for cell in cells)
    covered = {_place(row) for row in ours}
    theirs = dict.fromkeys(_published_row(table, item) for item in published.accuracies(table) if paper)
    both = [*ours, *(row for row in theirs if _place(row) not in covered)]
    datasets = ordered((row.dataset for row in both), IN_PAPER if paper else ())
    return sorted(both, key=lambda row: (datasets.index(row.dataset), *_place(row)[1:], row.setting))


def _place(row: RowKey) -> tuple[str, float, float, float]:
    return row.dataset, _number(row.clients), _number(row.alpha), _number(row.missing_percent)


def _number(text: str) -> float:
    return float(text) if text not in ("", "-") else -1.0


def column_key(table: str, cell: Cell) -> ColumnKey:
    return (cell.title if OUTPUTS[table].columns == "title" else cell.semantics), cell.reading


def columns(table: str, cells: Sequence[Cell], paper: bool = True) -> list[Column]:
    """The paper's columns in its order, then the others as the study lists them.

    Where a method was run in several readings, the literal one, or else the study's first, stands in the paper's place.
    """
    names = published.METHODS[table] if paper else ()
    keys = list(dict.fromkeys(column_key(table, cell) for cell in cells))
    readings = sorted(dict.fromkeys(reading for _, reading in keys), key=lambda reading: reading not in ("", "literal"))
    made = []
    for name in ordered([*names, *(key[0] for key in keys)], names):
        alike = [(name, reading) for reading in readings if (name, reading) in keys] or [(name, "")]
        label = name if OUTPUTS[table].columns == "title" else semantics_label(name)
        known = name in names
        made.append(Column(alike[0], label, name if known else None, "paper" if known else "further"))
        made.extend(Column(key, f"{label} [{key[1]}]", None, "reading") for key in alike[1:])

    def place(column: Column) -> tuple[int, int]:
        reading = readings.index(column.key[1]) if column.group == "reading" else 0
        return ("paper", "further", "reading").index(column.group), reading

    return _side_by_side(sorted(made, key=place))


def _side_by_side(made: Sequence[Column]) -> list[Column]:
    """The columns with each of tuned hyper-parameters beside the one of the published ones, in the same group."""
    labels = {column.label for column in made}
    tuned = {column.label.removesuffix(TUNED): column for column in made if column.label.endswith(TUNED)}
    tuned = {label: column for label, column in tuned.items() if label in labels}
    others = [column for column in made if column not in tuned.values()]
    paired = []
    for column in others:
        paired += [column, replace(tuned[column.label], group=column.group)] if column.label in tuned else [column]
    return paired


def _absent(table: str, row: RowKey, column: Column, asked: Container[ColumnKey]) -> str:
    """Why a row has no cell in a column; where other rows of the study do, its data set lacks something."""
    if row.setting and column.key in asked:
        if OUTPUTS[table].columns == "semantics":
            return "no embedding"
        if column.label.endswith(TUNED):
            return "not tuned"
    return "not run"


def _line(
    table: str, row: RowKey, role: str, column: Column, found: Cell | str, test: str, metrics: Metrics
) -> dict[str, Any]:
    """A row of the cell that was ``found``, or without one why there is none."""
    cell = None if isinstance(found, str) else found
    ours = Estimate(found, planned=0) if isinstance(found, str) else estimate(cell_values(metrics, found, test, role))
    printed, by_title = _published(table, row, role, column), OUTPUTS[table].columns == "title"
    return {
        "table": table,
        **vars(row),
        "client_role": role,
        "method": cell.method if cell else "",
        "title": cell.title if cell else column.key[0] if by_title else "AP-FL",
        "column": column.label,
        "column_group": column.group,
        "semantics": cell.semantics if cell else "" if by_title else column.key[0],
        "reading": column.key[1],
        "model": cell.model if cell else "",
        "test": test,
        "published_mean": printed.mean if printed else None,
        "published_std": printed.std if printed else None,
        **ours.columns,
    }


def _published(table: str, row: RowKey, role: str, column: Column) -> published.Published | None:
    other = table == "table4" and row.missing_percent != "20"
    if column.published is None or other or (table != "table2" and row.clients != "10"):
        return None
    printed = {"table2": (row.clients, row.alpha), "table3": (row.missing_percent,), "table4": (role,)}[table]
    return published.lookup(table).get((row.dataset, printed, column.published))
