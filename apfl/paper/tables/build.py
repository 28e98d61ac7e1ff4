"""Which module makes which table."""

from __future__ import annotations

from pathlib import Path

from apfl.paper.numbers.metrics import Metrics
from apfl.paper.tables import accuracy as tables
from apfl.paper.tables import asynchrony, table1
from apfl.paper.tables.layout import Table
from apfl.study.cells import cells
from apfl.study.outputs import OUTPUTS
from apfl.study.study import Study


def table(study: Study, name: str, results: Path, metrics: Metrics, partial: bool = False) -> Table:
    """The study's table of this name; ``metrics`` must hold its runs, Table 1 reads its partition under ``results``."""
    ours = cells(study, name)
    if name == "table1":
        return table1.build(ours[0], results, partial, study.paper)
    if OUTPUTS[name].on_schedules:
        return asynchrony.build(name, ours, metrics, study.tables[name].get("target", 1.0))
    return tables.build(name, ours, metrics, study.paper)
