"""What tells a number of a table from every other number of its study."""

from __future__ import annotations

from typing import Any

import pandas as pd

from apfl.study.cells import Cell

EntryKey = tuple[str, ...]
"""The values of `FIELDS`, empty where a table does not have one; equal keys are one number."""
FIELDS = (
    "table", "dataset", "setting", "heterogeneity", "rate", "client_role", "method", "schedule", "title", "semantics",
    "reading", "model", "test",
)  # fmt: skip


def key_of_row(row: pd.Series) -> EntryKey:
    """The key of a tidy row; none where the study runs nothing for it."""
    if not row["seeds_planned"]:
        return ()
    values = {"title": row["column"]} | dict(row)
    return tuple(str(values.get(name, "")) for name in FIELDS)


def facts_of_cell(cell: Cell, role: str, test: str) -> dict[str, Any]:
    """Those of `FIELDS` that a cell has, for clients of a role on a test."""
    levels = {name: f"{cell.axis[name]:g}" for name in ("heterogeneity", "rate") if name in cell.axis}
    named = ("dataset", "setting", "method", "title", "semantics", "reading", "model")
    facts = levels | {name: getattr(cell, name) for name in named}
    schedule = cell.timing.name if levels else ""
    return facts | {"table": cell.output, "client_role": role, "schedule": schedule, "test": test}


def key_of_cell(cell: Cell, role: str, test: str) -> EntryKey:
    """The same from the study's cell, for clients of a role on a test."""
    facts = facts_of_cell(cell, role, test)
    return tuple(facts.get(name, "") for name in FIELDS)
