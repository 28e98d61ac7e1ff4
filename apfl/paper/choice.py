"""Which reading of AP-FL is its best on a data set, chosen by validation images on seeds that no table uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apfl.artifacts import write_text
from apfl.paper.labels import TEST_LABELS, dataset_label
from apfl.paper.metrics import Metrics, cell_values
from apfl.paper.page import Section as Part
from apfl.paper.render import FORMATS, fragment
from apfl.paper.tables import Entry, Group, Line, Panel, Section, Table, bold_best
from apfl.study import cells

if TYPE_CHECKING:
    from apfl.study import Cell, Study

OUTPUT = "selection"
BEST = "best reading"
"""The name under which the chosen readings are judged."""
VALIDATION = {"pooled": "validation-pooled", "own": "validation-own"}
"""By test, the validation images that stand in for it; what is on the dropout clients' own images goes by ``own``."""
COLUMNS = ("dataset", "test", "reading", "validation_mean", "runs", "runs_planned", "chosen")


CAPTION = (
    "Which reading of AP-FL is judged as its best: accuracy in % on validation images, a tenth of each client's "
    "training images on which nobody trains, on seeds that no table uses."
)


def rows(chosen_among: Sequence[Cell], metrics: Metrics) -> pd.DataFrame:
    """`COLUMNS`: for each data set, test and reading the mean accuracy in per cent on validation images, over settings
    and seeds.

    A reading of which a run is missing or diverged has no mean, and nothing is chosen on a data set while a run is
    missing there. Of equal means the first is chosen.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for test, validation in VALIDATION.items():
        for cell in chosen_among:
            each = cell_values(metrics, cell, validation, "non_dropout")
            values = [np.nan if value.weighted is None else 100 * value.weighted for value in each]
            found.setdefault((cell.dataset, test, cell.reading), []).extend(values)
    unfinished = {cell.dataset for cell in chosen_among if "not run" in map(metrics.status, cell.runs)}
    made = [
        {
            "dataset": dataset,
            "test": test,
            "reading": reading,
            "validation_mean": np.mean(values),
            "runs": int(np.isfinite(values).sum()),
            "runs_planned": len(values),
            "chosen": False,
        }
        for (dataset, test, reading), values in found.items()
    ]
    table = pd.DataFrame(made, columns=list(COLUMNS))
    for (dataset, _), part in table.groupby(["dataset", "test"], sort=False):
        if dataset not in unfinished and part["validation_mean"].notna().any():
            table.loc[part["validation_mean"].idxmax(), "chosen"] = True
    return table


def best_readings(study: Study, metrics: Metrics) -> Mapping[tuple[str, str], str]:
    """By data set and test (``pooled``, ``own``) the reading that was chosen; none where the choice is not made yet."""
    table = rows(cells(study, OUTPUT), metrics)
    return {(row.dataset, row.test): row.reading for row in table[table["chosen"]].itertuples()}


def table(found: pd.DataFrame) -> Table:
    """The readings of each data set with their accuracy on validation images, the chosen one in bold."""
    readings = tuple(dict.fromkeys(found["reading"]))
    sections = []
    for dataset, part in found.groupby("dataset", sort=False):
        lines = []
        for test, here in part.groupby("test", sort=False):
            entries = {row.reading: _entry(row) for row in here.itertuples()}
            lines.append(Line(TEST_LABELS[test], bold_best(entries, readings), test))
        sections.append(Section(dataset_label(dataset), (Group("validation", tuple(lines)),)))
    notes = ("Mean over the settings and seeds of the choice. Bold: the reading that is judged on that test.",)
    panels = (Panel("", readings, tuple(sections)),) if sections else ()
    return Table("readings", CAPTION, panels, notes if sections else ("This study chooses no reading.",), found)


def _entry(row: Any) -> Entry:
    if np.isnan(row.validation_mean):
        return Entry(f"{row.runs}/{row.runs_planned} runs")
    return Entry(f"{row.validation_mean:.2f}", number=True)


def write(study: Study, metrics: Metrics, folder: Path) -> list[Path]:
    """Write ``readings`` as CSV and Markdown."""
    made = table(rows(cells(study, OUTPUT), metrics))
    paths = [Path(folder) / f"{made.name}.{kind}" for kind in ("csv", "md")]
    for path in paths:
        write_text(path, FORMATS[path.suffix[1:]](made))
    return paths


def sections(study: Study, metrics: Metrics) -> Iterator[Part]:
    """The choice as a part of the page, where the study makes one."""
    made = table(rows(cells(study, OUTPUT), metrics))
    if len(made.rows):
        yield Part(made.name, made.heading, fragment(made))
