"""What stands beside the verdicts: their picture, ranks of the methods, the choice of the reading, teachers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apfl.paper import choice, forest_picture, ranks_picture, teachers
from apfl.paper.contrasts import AXES
from apfl.paper.metrics import Metrics, collect
from apfl.study import cells

if TYPE_CHECKING:
    from apfl.config import Study
    from apfl.paper.page import Section
    from apfl.paper.verdicts import Finding

FILES = (
    *forest_picture.FILES,
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
    """What there is of the runs that are looked at, those behind the claims among them; missing ones are left out."""
    outputs = dict.fromkeys((*AXES, *teachers.OUTPUTS, choice.OUTPUT))
    runs = [run for output in outputs for cell in cells(study, output) for run in (*cell.runs, *cell.origins)]
    return collect(results, runs, partial=True)


def write(study: Study, metrics: Metrics, findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Write `FILES` into the folder; ``findings`` are the verdicts."""
    return [
        *forest_picture.write(study, metrics, findings, folder),
        *ranks_picture.write(cells(study, "table2"), metrics, folder),
        *choice.write(study, metrics, folder),
        *teachers.write(study, metrics, folder),
    ]


def sections(study: Study, metrics: Metrics) -> Iterator[Section]:
    """The same as parts of the page."""
    yield ranks_picture.section(cells(study, "table2"), metrics)
    yield from choice.sections(study, metrics)
    yield from teachers.sections(study, metrics)
