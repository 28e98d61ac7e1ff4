"""The table of readings: which is AP-FL's best on a data set, chosen by validation images on seeds of no table."""

from __future__ import annotations

from typing import Any

import numpy as np

from apfl.paper.labels import TEST_LABELS, dataset_label
from apfl.paper.numbers.choice import rows
from apfl.paper.numbers.frames import parts, tuples
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.tables.layout import Entry, Group, Panel, Section, Table, TableLine, bold_best
from apfl.study.cells import cells
from apfl.study.outputs import BESIDE
from apfl.study.study import Study


def made(study: Study, metrics: Metrics) -> Table:
    """The readings of each data set with their accuracy on validation images, the chosen one in bold."""
    found = rows(cells(study, "selection"), metrics)
    readings = tuple(dict.fromkeys(found["reading"]))
    sections = []
    for dataset, part in parts(found, "dataset"):
        lines = []
        for test, here in parts(part, "test"):
            entries = {row.reading: _entry(row) for row in tuples(here)}
            lines.append(TableLine(TEST_LABELS[test], bold_best(entries, readings), test))
        sections.append(Section(dataset_label(dataset), (Group("validation", tuple(lines)),)))
    notes = (
        "Mean over the settings and seeds of the choice. Bold: the reading that is judged as the best on that test.",
    )
    panels = (Panel("", readings, tuple(sections)),) if sections else ()
    return Table(BESIDE["readings"], panels, notes if sections else ("This study chooses no reading.",), found)


def _entry(row: Any) -> Entry:
    if np.isnan(row.validation_mean):
        return Entry(f"{row.runs}/{row.runs_planned} runs")
    return Entry(f"{row.validation_mean:.2f}", number=True)
