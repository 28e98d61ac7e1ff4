"""Tables 2 to 4, laid out for the eye: panels of sections (data sets), groups (settings) and lines (published, tests).

The layout is one for all formats; `apfl.paper.tables.formats` turns it into Markdown, LaTeX and HTML. In each line the
best entry is bold; entries that print alike share the honour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

import pandas as pd

from apfl.data.catalogue import IN_PAPER
from apfl.paper.labels import ROLE_LABELS, dataset_label, partition_label
from apfl.paper.numbers import tidy
from apfl.paper.numbers.frames import parts
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.tables import layout
from apfl.paper.tables.layout import Entry, Table, TableLine
from apfl.study.cells import Cell
from apfl.study.outputs import OUTPUTS
from apfl.study.tuning import TUNED

PANEL_TITLES = {
    "title": {
        "all": "Methods",
        "paper": "Methods of the paper",
        "further": "Further methods",
        "reading": "Further readings of AP-FL",
    },
    "semantics": {"all": "Semantics", "paper": "Semantics of the paper", "further": "Further semantics and controls"},
}
"""By kind of columns: of tables that compare methods, and of the table that compares semantics."""
OF_PAPER = ("column_group", "published_mean", "published_std")
"""What a tidy row says of the paper."""


def build(name: str, cells: Sequence[Cell], metrics: Metrics, paper: bool = True) -> Table:
    """``table2``, ``table3`` or ``table4`` from the study's cells and its runs' metrics; without the ``paper`` all that
    the study runs side by side, and nothing else."""
    rows = tidy.rows(name, cells, metrics, paper)
    if not paper:
        whole = _panel(rows, tuple(dict.fromkeys(rows["column"])), "")
        return Table(OUTPUTS[name].shown(paper), (whole,), _notes(name, rows, paper), rows.drop(columns=[*OF_PAPER]))
    planned = rows.groupby("dataset")["seeds_planned"].transform("sum") > 0
    panels = []
    for title, columns in _parts(name, rows) if planned.any() else ():
        said = rows["column"].isin(columns) & ((rows["seeds_planned"] > 0) | rows["published_mean"].notna())
        panels.append(_panel(rows[planned & rows["dataset"].isin(rows.loc[said, "dataset"])], columns, title))
    if not planned.all():
        printed = (rows["column_group"] == "paper") & ~rows["column"].str.endswith(TUNED)
        columns = rows.loc[printed, "column"].unique()
        absent = _panel(rows[~planned], tuple(columns), "Published results on data sets that this study does not run")
        panels.append(replace(absent, in_study=False))
    return Table(OUTPUTS[name], tuple(panels), _notes(name, rows, paper), rows)


def _parts(name: str, rows: pd.DataFrame) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The columns of each panel: the paper's, further ones, other readings; fewer panels where columns are few. Where
    they are many, tuned ones have a panel behind that of the same methods as published."""
    columns = rows.drop_duplicates("column")
    kinds, tuned = columns["column_group"], columns["column"].str.endswith(TUNED)
    if OUTPUTS[name].columns == "semantics":
        kinds = kinds.where(kinds != "reading", "Reading " + columns["reading"])
    if len(columns) <= layout.COLUMNS_IN_A_PANEL:
        kinds, tuned = kinds.where(kinds == "", ""), tuned & False
    elif kinds[~tuned].isin(["paper", "further"]).sum() <= layout.COLUMNS_IN_A_PANEL:
        kinds = kinds.replace(["paper", "further"], "all")
    titles = kinds.replace(PANEL_TITLES[OUTPUTS[name].columns]) + tuned.map({True: ", tuned", False: ""})
    for title, part in columns["column"].groupby(titles, sort=False):
        size = ceil(len(part) / ceil(len(part) / layout.COLUMNS_IN_A_PANEL))
        for start in range(0, len(part), size):
            yield str(title), tuple(part[start : start + size])


def _panel(rows: pd.DataFrame, columns: tuple[str, ...], title: str) -> layout.Panel:
    sections = []
    for dataset, part in parts(rows, "dataset"):
        labels = _group_labels(part)
        groups = tuple(layout.Group(label, _lines(part[labels == label], columns)) for label in dict.fromkeys(labels))
        sections.append(layout.Section(dataset_label(dataset), groups))
    reading = title.removeprefix("Reading ")
    return layout.Panel(title, tuple(column.removesuffix(f" [{reading}]") for column in columns), tuple(sections))


def _group_labels(rows: pd.DataFrame) -> pd.Series:
    """For each tidy row of a data set the name of its group; settings that would share one are told apart."""
    labels = rows.apply(_group_label, axis=1)
    shared = rows.groupby(labels)["setting"].transform("nunique") > 1
    return labels.where(~shared, labels + " [" + rows["setting"] + "]")


def _group_label(row: pd.Series) -> str:
    if "role" in OUTPUTS[row["table"]].axes:
        return ROLE_LABELS[row["client_role"]]
    if "missing" in OUTPUTS[row["table"]].axes:
        return f"MC {row['missing_percent']} %" + (f", {row['clients']} clients" if row["clients"] != "10" else "")
    clients = f"{row['clients']} clients"
    if row["alpha"] != "-":
        return f"{clients}, α = {row['alpha']}"
    return f"{clients}, {partition_label(row['setting'])}" if row["setting"] else clients


def _lines(rows: pd.DataFrame, columns: tuple[str, ...]) -> tuple[TableLine, ...]:
    """The published line, where there is one, and a line for each test; outside the study, one for all tests."""
    lines = []
    first = rows[rows["test"] == rows["test"].iloc[0]].set_index("column")
    if first.loc[list(columns), "published_mean"].notna().any():
        entries = {
            name: layout.entry_of(row["published_mean"], row["published_std"], "–") for name, row in first.iterrows()
        }
        lines.append(TableLine("published", layout.bold_best(entries, columns)))
    if not rows["seeds_planned"].any():
        return (*lines, TableLine("reproduced", tuple(Entry("not run") for _ in columns)))
    return (*lines, *layout.accuracy_lines(rows, columns))


def _notes(name: str, rows: pd.DataFrame, paper: bool) -> tuple[str, ...]:
    run = rows[rows["seeds_planned"] > 0]
    monopoly = " Monopoly classes: a dropout client's own test images of classes that no other client holds."
    averaged = "averaged over clients, weighted by their training samples"
    notes = [
        (
            f"Reproduced: accuracy after the last round, {averaged} (Eq. 2)"
            if paper
            else f"Accuracy after the last round, {averaged}"
        )
        + "; mean ± standard deviation over seeds (n - 1). Bold: the best of a line over all columns of the table.",
        "Pooled test: the test images of all clients together. Own test: each client's own test images."
        + (monopoly if "dropout" in OUTPUTS[name].tests else ""),
    ]
    if run.empty:
        return (*notes, "This study runs no cell of this table.")
    unknown = [dataset_label(item) for item in dict.fromkeys(run["dataset"]) if item not in IN_PAPER]
    if unknown and paper:
        notes.append(f"The paper prints nothing on: {', '.join(unknown)}.")
    if OUTPUTS[name].columns == "title" and (variants := _variants(run)):
        notes.append(f"{variants}.")
    if run["title"].str.endswith(TUNED).any():
        notes.append(
            f"{TUNED.strip()}: with the hyper-parameters that were chosen on validation images, on seeds that no table "
            f"uses. Columns without it have the {'published' if paper else 'given'} ones."
        )
    if (run["column_group"] == "reading").any():
        notes.append(
            "Square brackets name other readings of what the paper leaves open."
            if OUTPUTS[name].columns == "title"
            else f"Where no reading is named, it is {run['reading'].iloc[0]}."
        )
    if ((run["seeds"] > 0) & (run["seeds"] < run["seeds_planned"])).any():
        notes.append("(n/m): n of the m seeds have been run.")
    if left_out := _left_out(run):
        notes.append(
            "Clients without training samples or without samples of the test are left out of the mean; their number, "
            f"summed over seeds: {left_out}."
        )
    return tuple(notes)


def _variants(rows: pd.DataFrame) -> str:
    """Which reading and which semantics stand behind the columns that have them."""
    said = []
    tuned = rows["title"].str.endswith(TUNED)
    shown = rows[(rows["semantics"] != "") & (rows["column_group"] != "reading") & ~tuned]
    for column, part in parts(shown, "column"):
        several = dict(parts(part.drop_duplicates("dataset"), "semantics"))
        places = {name: ", ".join(map(dataset_label, here["dataset"])) for name, here in several.items()}
        named = [f"{name} ({where})" if len(places) > 1 else name for name, where in places.items()]
        said.append(f"{column}: {part['reading'].iloc[0] or 'literal'} reading, semantics {', '.join(named)}")
    return "; ".join(said)


def _left_out(rows: pd.DataFrame) -> str:
    """Where clients are missing from an average: the worst column of each group, and the tests that it concerns."""
    tests: dict[str, list[str]] = {}
    for dataset, part in parts(rows, "dataset"):
        for (label, test), group in part.groupby([_group_labels(part), "test"], sort=False):
            worst = group.iloc[group["clients_left_out"].argmax()]
            total = worst["clients_left_out"] + worst["clients_evaluated"]
            if worst["clients_left_out"]:
                place = f"{dataset_label(dataset)}, {label}: {worst['clients_left_out']} of {total}"
                tests.setdefault(place, []).append(str(test))
    return "; ".join(f"{place} ({', '.join(names)})" for place, names in tests.items())
