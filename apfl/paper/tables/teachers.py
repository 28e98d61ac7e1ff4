"""What friends learn from: their teachers' accuracy on real images beside their own, and unseen classes against chance.

A generator learns from its teachers alone, so a friend that learns from its images gets from them what they know. That
is not a bound: friends start from the global model, and can be above their teachers. `apfl.stages.memorize.accuracies`
records both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from apfl.paper.labels import dataset_label, semantics_label, setting_label
from apfl.paper.numbers.frames import parts
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.numbers.teachers import CONTROLS, PARTS, control_rows, teacher_rows
from apfl.paper.tables.layout import Entry, Group, Panel, Section, Table, TableLine, entry_of
from apfl.study.cells import cells
from apfl.study.outputs import BESIDE, NB, WITH_TEACHERS
from apfl.study.study import Study


def teachers_table(rows: pd.DataFrame) -> Table:
    columns = ("teachers", "global model", "friend", "personalized", "friend − teacher", "friend is", "friend − global")

    def line(row: pd.Series) -> TableLine:
        name = f"{row['title']}, {row['reading']}, {semantics_label(row['semantics'])}"
        entries = [entry_of(row[f"{part}_mean"], row[f"{part}_std"], _lacking(row)) for part in PARTS]
        where = {"below": "below it", "above": "above it", "at": "not told from it"}
        entries += [
            _difference(row["friend_minus_teacher"], row["teacher_low"], row["teacher_high"]),
            Entry(where.get(row["friend_is"], "–")),
            _difference(row["friend_minus_global"], row["global_low"], row["global_high"]),
        ]
        return TableLine(name, tuple(entries))

    known = rows[rows["friend_is"] != ""]
    counts = {name: int((known["friend_is"] == name).sum()) for name in ("below", "at", "above")}
    notes = [
        f"Of {len(known)} lines with an interval, the friend is below its teacher in {counts['below']}, not told from "
        f"it in {counts['at']} and above it in {counts['above']}.",
        f"Differences are paired by seed and shown with their 95{NB}% interval. The teacher is the ensemble, or the "
        "global model if the reading says so.",
        "Unless its reading says otherwise, a friend starts from the global model, and can be above its teachers "
        "because of that start.",
    ]
    return Table(BESIDE["teachers"], by_setting(rows, columns, line), (*notes, *_holes(rows)), rows)


def controls_table(rows: pd.DataFrame) -> Table:
    columns = ("unseen classes", "chance", "blind guess", "above chance", "seeds")

    def line(row: pd.Series) -> TableLine:
        if row["kind"] == "difference":
            found = _difference(row["monopoly_mean"], row["above_chance_low"], row["above_chance_high"])
            empty = [Entry("")] * 3
            return TableLine("embeddings − controls", (found, *empty, Entry(f"{row['seeds']}")))
        middle = row["monopoly_mean"] - row["chance"] if row["status"] == "ok" else np.nan
        entries = (
            entry_of(row["monopoly_mean"], row["monopoly_std"], _lacking(row)),
            Entry(f"{row['chance']:.2f}", number=True),
            Entry(f"{row['blind_guess']:.2f}", number=True),
            _difference(middle, row["above_chance_low"], row["above_chance_high"]),
            Entry(f"{row['seeds']}/{row['seeds_planned']}"),
        )
        return TableLine(semantics_label(row["semantics"]), entries)

    notes = (
        "Mean ± standard deviation over seeds. Chance: 1 / number of classes. Blind guess: 1 / number of classes of "
        "the friend's own synthetic images, which in the literal reading are only its client's classes. Only a friend "
        "above the blind guess has learned to recognise classes.",
        "Embeddings − controls: the mean over embeddings minus the mean over controls, paired by seed, with the "
        f"95{NB}% interval over seeds. If the interval contains 0, the accuracy on unseen classes is not shown to be "
        "due to semantics.",
    )
    panels = by_setting(rows, columns, line, "reading" if len(set(rows["reading"])) > 1 else "")
    return Table(BESIDE["controls"], panels, (*notes, *_holes(rows)), rows)


def by_setting(
    rows: pd.DataFrame, columns: tuple[str, ...], line: Callable[[pd.Series], TableLine], beside: str = ""
) -> tuple[Panel, ...]:
    """The rows as one panel: a section for each data set, a group for each setting and value of the column ``beside``;
    none where there are no rows."""
    sections = []
    for dataset, part in parts(rows, "dataset"):
        groups = []
        for (setting, value), here in part.groupby(["setting", beside or "dataset"], sort=False):
            label = setting_label(str(setting)) + (f", {value}" if beside and value else "")
            groups.append(Group(label, tuple(line(row) for _, row in here.iterrows())))
        sections.append(Section(dataset_label(dataset), tuple(groups)))
    return (Panel("", columns, tuple(sections)),) if sections else ()


def _lacking(row: pd.Series) -> str:
    return "–" if row["status"] == "ok" else row["status"]


def _difference(mean: float, low: float, high: float) -> Entry:
    if mean is None or np.isnan(mean):
        return Entry("–")
    bounds = "" if np.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
    return Entry(f"{mean:+.2f}{bounds}", number=True)


def _holes(rows: pd.DataFrame) -> tuple[str, ...]:
    """What is not there, by status."""
    if rows.empty:
        return ("This study runs nothing that this table shows.",)
    bad = rows[rows["status"] != "ok"]
    return tuple(
        f"{status.capitalize()}: " + "; ".join(dict.fromkeys(_named(row) for _, row in part.iterrows())) + "."
        for status, part in parts(bad, "status", sort=True)
    )


def _named(row: pd.Series) -> str:
    parts = (dataset_label(row["dataset"]), setting_label(row["setting"]), row["reading"], row["semantics"])
    return ", ".join(part for part in parts if part)


def of_friends(study: Study, metrics: Metrics) -> Table:
    """The teachers of all runs of AP-FL."""
    return teachers_table(teacher_rows([cell for output in WITH_TEACHERS for cell in cells(study, output)], metrics))


def of_controls(study: Study, metrics: Metrics) -> Table:
    """The controls of Table 4."""
    controls = {name for name, entry in study.semantics.items() if entry["source"] in CONTROLS}
    fourth = cells(study, "table4")
    classes = {cell.dataset: study.classes(cell.dataset) for cell in fourth}
    return controls_table(control_rows(fourth, metrics, classes, controls))
