"""Holes in tables that have been written."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

from apfl.errors import UserError
from apfl.paper.tables.keys import FIELDS
from apfl.storage.files import require_file

PLACE = ("table", "dataset", "setting", "heterogeneity", "rate", "client_role", "column", "test")
ROW = (*FIELDS, "column", "client", "clients", "alpha", "missing_percent")
"""What tells the rows of a table from each other, those that the study does not run too."""


def holes(path: Path, empty: str = "") -> list[str]:
    """A line for each row of a table's CSV file that the study runs and that lacks its number, or some of its seeds.

    A table of which the study runs nothing is itself a hole, and so is a row that is there in ``empty``, the text of
    the study's table before anything has run, and not in the file.
    """
    try:
        with require_file(path, "table").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        written = set(map(_row, rows))
        gone = (row for row in csv.DictReader(StringIO(empty)) if _row(row) not in written)
        return _holes(path, rows) + [f"{_place(path, row)}: not in {path}" for row in gone]
    except (csv.Error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"table {path}: is not what `apfl tables` writes ({error}); make it again") from None


def _holes(path: Path, rows: list[dict[str, str]]) -> list[str]:
    if path.name == "table1.csv":
        return [f"{_place(path, row)}: {row['status']}" for row in rows if row["status"] != "ok"]
    planned = [row for row in rows if int(row["seeds_planned"])]
    lacking = [row for row in planned if not _answered(row) or row["seeds"] != row["seeds_planned"]]
    found = [f"{_place(path, row)}: {_what(row)}" for row in lacking]
    return found if planned else [f"{path.stem}: the study runs no cell of it"]


def _row(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row.get(name, "") for name in ROW)


def _place(path: Path, row: dict[str, str]) -> str:
    """Table 1 has one row for each client, and the others have none of a single client."""
    if "client" in row:
        return f"{path.stem}: client {row['client']}"
    return ", ".join(row[name] for name in PLACE if name in row)


def _answered(row: dict[str, str]) -> bool:
    """A number, or that there cannot be one: a target that was not reached."""
    return bool(row.get("reproduced_mean") or row.get("time_mean")) or row["status"] == "not reached"


def _what(row: dict[str, str]) -> str:
    return f"{row['seeds']} of {row['seeds_planned']} seeds" if row["status"] == "ok" else row["status"]
