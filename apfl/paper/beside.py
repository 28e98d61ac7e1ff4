"""What stands beside the verdicts: ranks of the methods, the choice of the reading, and teachers of the friends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from apfl.paper import choice, ranks_picture, teachers
from apfl.paper.metrics import Metrics, collect
from apfl.study import cells

if TYPE_CHECKING:
    from apfl.config import Study
    from apfl.paper.page import Section

FILES = (
    "ranks.csv",
    "ranks_pairs.csv",
    "ranks.svg",
    "ranks.pdf",
    "ranks.png",
    "readings.csv",
    "readings.md",
    "teachers.csv",
    "teachers.md",
    "controls.csv",
    "controls.md",
)
"""What `write` makes."""


def gather(study: Study, results: str | Path) -> Metrics:
    """What there is of the runs that are looked at; missing ones are left out."""
    runs = [run for output in (*teachers.OUTPUTS, choice.OUTPUT) for cell in cells(study, output) for run in cell.runs]
    return collect(results, runs, partial=True)


def write(study: Study, metrics: Metrics, folder: Path) -> list[Path]:
    """Write `FILES` into the folder."""
    return [
        *ranks_picture.write(cells(study, "table2"), metrics, folder),
        *choice.write(study, metrics, folder),
        *teachers.write(study, metrics, folder),
    ]


def sections(study: Study, metrics: Metrics) -> Iterator[Section]:
    """The same as parts of the page."""
    yield ranks_picture.section(cells(study, "table2"), metrics)
    yield from choice.sections(study, metrics)
    yield from teachers.sections(study, metrics)
