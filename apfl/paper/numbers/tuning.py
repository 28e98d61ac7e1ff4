"""Which trial of a method is chosen on a data set: by validation images alone, on seeds that no table uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apfl.errors import UserError
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


def trials_of(study: Study, dataset: str, method: str) -> list[Cell]:
    """The trials of a method on a data set, in their order; a `UserError` if it is not tuned there."""
    found = [cell for cell in cells(study, "tuning") if (cell.dataset, cell.method) == (dataset, method)]
    if not found:
        raise UserError(f"study {study.name}: does not tune {method!r} on {dataset!r}; see its `tuning`")
    return found


def choice(trials: Sequence[Cell], metrics: Metrics) -> dict[str, Any]:
    """The trials with their hyper-parameters and accuracies in per cent, and which is chosen: the number of the trial,
    from 1, and its hyper-parameters. A trial without a number in every seed has no mean."""
    tried = []
    for cell in trials:
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
    first = trials[0]
    facts = {"dataset": first.dataset, "setting": first.setting, "method": first.method, "title": first.title}
    measured = {"model": first.model, "test": TEST, "rule": RULE}
    chosen = {"trial": best["trial"], "parameters": best["parameters"]}
    return {**facts, **measured, "chosen": chosen, "trials": tried}


def with_digests(choice: dict[str, Any], results: Path) -> dict[str, Any]:
    """The choice with the SHA-256 of the metrics that it was made from, by run."""
    runs = [run for trial in choice["trials"] for run in trial["runs"]]
    paths = {run: results / run / "metrics.parquet" for run in runs}
    return choice | {"metrics": {run: sha256_file(path) for run, path in paths.items() if path.is_file()}}


def read_choices(study: Study, results: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By data set and method, the choices that are made already."""
    wanted = dict.fromkeys((cell.dataset, cell.method) for cell in cells(study, "tuning"))
    paths = {key: results / choice_path(study, *key) for key in wanted}
    return {key: read_record(path, "choice") for key, path in paths.items() if path.is_file()}
