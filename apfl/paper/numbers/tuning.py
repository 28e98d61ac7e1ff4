"""Which trial of a method is chosen on a data set: by validation images alone, on seeds that no table uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.metrics import Metrics, cell_values
from apfl.storage.files import read_record, sha256_file
from apfl.study.cells import Cell, cells
from apfl.study.study import Study
from apfl.study.tuning import choice_path

TEST = "validation-pooled"
RULE = (
    "the highest mean over seeds of the accuracy, after the last round and averaged over clients by their training "
    "samples, on the validation images of all clients together; of equal ones the first; one that diverged is last"
)


def trials(study: Study) -> dict[tuple[str, str], list[Cell]]:
    """By data set and method, the trials in their order."""
    return grouped(cells(study, "tuning"), lambda cell: (cell.dataset, cell.method))


def choice(among: Sequence[Cell], metrics: Metrics) -> dict[str, Any]:
    """The trials with their hyper-parameters and accuracies in per cent, and which is chosen: the number of the trial,
    from 1, and its hyper-parameters. A trial without a number in every seed has no mean."""
    tried = []
    for cell in among:
        values = cell_values(metrics, cell, TEST, "non_dropout")
        each = [None if value.weighted is None else 100 * value.weighted for value in values]
        known = [value for value in each if value is not None]
        tried.append(
            {
                "trial": cell.axis["trial"],
                "parameters": dict(cell.axis["parameters"]),
                "seeds": list(cell.seeds),
                "validation": each,
                "mean": float(np.mean(known)) if len(known) == len(each) else None,
                "runs": list(cell.runs),
                "status": [value.status for value in values],
            }
        )
    best = max(tried, key=lambda one: -np.inf if one["mean"] is None else one["mean"])  # the first of equal ones
    facts = {name: getattr(among[0], name) for name in ("dataset", "setting", "method", "title", "model")}
    chosen = {"trial": best["trial"], "parameters": best["parameters"]}
    return {**facts, "test": TEST, "rule": RULE, "chosen": chosen, "trials": tried}


def with_digests(choice: dict[str, Any], results: Path) -> dict[str, Any]:
    """The choice with the SHA-256 of the metrics that it was made from, by run."""
    runs = [run for trial in choice["trials"] for run in trial["runs"]]
    paths = {run: results / run / "metrics.parquet" for run in runs}
    return choice | {"metrics": {run: sha256_file(path) for run, path in paths.items() if path.is_file()}}


def read_choices(study: Study, results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By data set and method, the choices that are made already."""
    paths = {key: results / choice_path(study, *key) for key in trials(study)}
    return {key: read_record(path, "choice") for key, path in paths.items() if path.is_file()}
