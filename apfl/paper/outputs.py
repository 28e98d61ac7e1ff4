"""What stands beside verdicts: their picture, published beside reproduced, ranks, choice of the reading, teachers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from apfl.paper.figures import dumbbell
from apfl.paper.figures import ranks as ranks_picture
from apfl.paper.numbers.metrics import Metrics, collect
from apfl.paper.tables import formats, readings, spread, teachers
from apfl.paper.tables.layout import Table
from apfl.paper.verdict import forest_picture
from apfl.paper.verdict.verdicts import Finding
from apfl.study.cells import beside, cells, runs
from apfl.study.outputs import JUDGED
from apfl.study.study import Study


def gather(study: Study, results: str | Path, command: str = "snakemake") -> Metrics:
    """What there is of the runs that are looked at, those behind the claims among them; missing ones are left out. What
    has to be run again is made by the ``command``."""
    wanted = {run for output in JUDGED for cell in cells(study, output) for run in (*cell.runs, *cell.origins)}
    planned = runs(study)
    wanted |= {run.inputs["run"] for run in planned if run.path in wanted and "run" in run.inputs}
    return collect(results, wanted, partial=True, command=command, planned=planned)


def write(study: Study, metrics: Metrics, findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Write what the study has of the files that `apfl.jobs.paths.BESIDE` names; ``findings`` are the verdicts."""

    def table(made: Table) -> list[Path]:
        return formats.write(made, folder, ("csv", "md"))

    writers: Mapping[str, Callable[[], list[Path]]] = {
        "forest": lambda: forest_picture.write(study, metrics, findings, folder),
        "dumbbell": lambda: dumbbell.write(cells(study, "table2"), metrics, folder),
        "ranks": lambda: ranks_picture.write(cells(study, "table2"), metrics, folder),
        "spread": lambda: table(spread.made(study, metrics, metrics.records)),
        "readings": lambda: table(readings.made(study, metrics)),
        "teachers": lambda: table(teachers.of_friends(study, metrics)),
        "controls": lambda: table(teachers.of_controls(study, metrics)),
    }
    return [path for name in beside(study) for path in writers[name]()]
