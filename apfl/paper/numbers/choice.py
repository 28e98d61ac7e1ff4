"""Which reading of AP-FL is its best on a data set, chosen by validation images on seeds that no table uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from apfl.paper.numbers.frames import tuples
from apfl.paper.numbers.metrics import Metrics, cell_values
from apfl.study.cells import Cell, cells
from apfl.study.study import Study

BEST = "best reading"
"""The name under which the chosen readings are judged."""
VALIDATION = {"pooled": "validation-pooled", "own": "validation-own"}
"""By test, the validation images that stand in for it; what is on the dropout clients' own images goes by ``own``."""
COLUMNS = ("dataset", "test", "reading", "validation_mean", "runs", "runs_planned", "chosen")


def rows(chosen_among: Sequence[Cell], metrics: Metrics) -> pd.DataFrame:
    """`COLUMNS`: for each data set, test and reading the mean accuracy in per cent on validation images, over settings
    and seeds.

    A reading of which a run is missing or diverged has no mean, and nothing is chosen on a data set while a run is
    missing there. Of equal means the first is chosen.
    """
    accuracies = [
        (cell.dataset, test, cell.reading, np.nan if value.weighted is None else 100 * value.weighted)
        for test, validation in VALIDATION.items()
        for cell in chosen_among
        for value in cell_values(metrics, cell, validation, "non_dropout")
    ]
    unfinished = {cell.dataset for cell in chosen_among if "not run" in map(metrics.status, cell.runs)}
    each = pd.DataFrame(accuracies, columns=[*COLUMNS[:4]]).groupby([*COLUMNS[:3]], sort=False)["validation_mean"]
    parts = {
        "validation_mean": each.agg(lambda values: values.mean(skipna=False)),
        "runs": each.count(),
        "runs_planned": each.size(),
    }
    table = pd.DataFrame(parts).reset_index().assign(chosen=False)
    for (dataset, _), part in table.groupby(["dataset", "test"], sort=False):
        if dataset not in unfinished and part["validation_mean"].notna().any():
            table.loc[part["validation_mean"].idxmax(), "chosen"] = True
    return table


def best_readings(study: Study, metrics: Metrics) -> Mapping[tuple[str, str], str]:
    """By data set and test (``pooled``, ``own``) the reading that was chosen; none where the choice is not made yet."""
    table = rows(cells(study, "selection"), metrics)
    return {(row.dataset, row.test): row.reading for row in tuples(table[table["chosen"]])}
