"""The table of the spread over clients, with what a round moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from apfl.paper.labels import ROLES
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.numbers.spread import ALONE, MEASURES, SHOWN, rows
from apfl.paper.tables.layout import Entry, Table, TableLine, entry_of
from apfl.paper.tables.teachers import by_setting
from apfl.study.cells import cells, runs
from apfl.study.outputs import BESIDE
from apfl.study.study import Study

HEADS = ("lowest tenth", "deviation over clients", f"below {ALONE} (%)", "MB down a round", "MB up a round", "seeds")
NOTES = (
    "Own test, last round; mean ± standard deviation over seeds (n - 1). Lowest tenth: mean accuracy of the tenth of "
    "the clients (at least one) with the lowest accuracies. Deviation over clients: standard deviation of their "
    "accuracies, in points.",
    f"Below {ALONE}: the share of clients that the method hurts, because their accuracy is below that of {ALONE} in "
    f"the same seed; the study must show {ALONE} in the same table.",
    "MB (10^6 bytes): what the server shares, sent to all clients that take part in a round, and the same amount back. "
    "What is sent once after training, such as a generator, is in a column of the CSV file.",
)


def table(found: pd.DataFrame) -> Table:
    """A line for each method and reading, grouped by setting and role of the clients."""

    def line(row: pd.Series) -> TableLine:
        otherwise = "–" if row["status"] == "ok" else row["status"]
        measured = [entry_of(row[f"{name}_mean"], row[f"{name}_std"], otherwise) for name in MEASURES]
        moved = [entry_of(row[f"megabytes_{way}"], None, "–") for way in ("down", "up")]
        name = f"{row['title']} [{row['reading']}]" if row["reading"] not in ("", "literal") else row["title"]
        seeds = Entry(f"{row['seeds']}/{row['seeds_planned']}")
        return TableLine(name, (*measured, *moved, seeds))

    # Where nobody drops out, that need not be said.
    named = found.assign(client_role=found["client_role"].map({"dropout": ROLES["dropout"], "non_dropout": ""}))
    return Table(BESIDE["spread"], by_setting(named, HEADS, line, "client_role"), NOTES, found)


def made(study: Study, metrics: Metrics, records: Mapping[str, Mapping[str, Any]]) -> Table:
    """The spread in the study's tables; ``records`` are the run.json of finished runs, federated ones among them."""
    origins = {run.path: run.inputs["run"] for run in runs(study) if "run" in run.inputs}
    return table(rows([cell for name in SHOWN for cell in cells(study, name)], metrics, origins, records))
