"""Holes in tables that have been written."""

from __future__ import annotations

import csv
from pathlib import Path

from apfl.errors import UserError
from apfl.storage.files import require_file

PLACE = ("table", "dataset", "setting", "heterogeneity", "rate", "client_role", "column", "test")


def holes(path: Path) -> list[str]:
    """A line for each row of a table's CSV file that the study runs and that lacks its number, or some of its seeds.

    A table of which the study runs nothing is itself a hole.
    """
    try:
        with require_file(path, "table").open(encoding="utf-8", newline="") as stream:
            return _holes(path, list(csv.DictReader(stream)))
    except (csv.Error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"table {path}: is not what `apfl tables` writes ({error}); make it again") from None


def _holes(path: Path, rows: list[dict[str, str]]) -> list[str]:
    if path.name == "table1.csv":
        return [f"table1: client {row['client']}: {row['status']}" for row in rows if row["status"] != "ok"]
    planned = [row for row in rows if int(row["seeds_planned"])]
    lacking = [row for row in planned if not _answered(row) or row["seeds"] != row["seeds_planned"]]
    found = [f"{', '.join(row[name] for name in PLACE if name in row)}: {_what(row)}" for row in lacking]
    return found if planned else [f"{path.stem}: the study runs no cell of it"]


def _answered(row: dict[str, str]) -> bool:
    """A number, or that there cannot be one: a target that was not reached."""
    return bool(row.get("reproduced_mean") or row.get("time_mean")) or row["status"] == "not reached"


def _what(row: dict[str, str]) -> str:
    return f"{row['seeds']} of {row['seeds_planned']} seeds" if row["status"] == "ok" else row["status"]
