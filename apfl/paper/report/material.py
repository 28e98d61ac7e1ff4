"""What the page is made from, gathered once: the study, its metrics, its runs' records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from apfl.jobs.paths import command
from apfl.paper.numbers.metrics import Metrics, collect
from apfl.paper.report.provenance import Sources, read_records, sources
from apfl.study.cells import Cell, cells, runs
from apfl.study.outputs import OUTPUTS
from apfl.study.runs import Run
from apfl.study.study import Study


@dataclass(frozen=True)
class Material:
    """What a page is made from: a study, its runs in the order of the work, and what the finished ones left.

    ``file`` is the study's; ``cells`` are by name of a table or figure; ``records`` are the run.json of finished runs.
    """

    study: Study
    file: Path
    results: Path
    planned: tuple[Run, ...]
    cells: Mapping[str, Sequence[Cell]]
    metrics: Metrics
    records: Mapping[str, Mapping[str, Any]]

    @property
    def command(self) -> str:
        """What makes all that is missing."""
        return command(self.file)

    @cached_property
    def sources(self) -> Sources:
        """What stands behind the entries of the tables."""
        ours = {name: self.cells[name] for name in self.study.tables}
        return sources(self.study, self.planned, self.records, ours, self.metrics)


def gather(study: Study, results: str | Path, file: str | Path) -> Material:
    """Read what there is under ``results``; a `UserError` for files that are damaged or of different code."""
    planned = tuple(runs(study))
    shown = {name: cells(study, name) for name in sorted([*study.tables, *study.figures], key=list(OUTPUTS).index)}
    paths = {run.path for run in planned}
    looked_at = (cell for ours in (*shown.values(), cells(study, "selection")) for cell in ours)
    read = paths & {run for cell in looked_at for run in (*cell.runs, *cell.origins)}
    metrics = collect(results, read, partial=True, command=command(file), planned=planned)
    others = read_records(results, [run for run in planned if run.path not in read])
    return Material(study, Path(file), Path(results), planned, shown, metrics, {**metrics.records, **others})
