"""The numbers that the paper prints in Tables 1 to 4, read from ``published/*.csv``.

They exist for the paper's four data sets alone. A stand-in, such as a part of the letters or the embedded digits, has
no published number and is never shown as the data set that it stands for.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "published"
METHODS = {
    "table2": ("Local", "FedAvg", "FedProx", "SCAFFOLD", "FedGen", "FedDF", "AP-FL"),
    "table3": ("Local", "FedAvg-FT", "AP-FL"),
    "table4": ("w2v", "bert", "clip"),
}
"""The columns of each table, in the paper's order; Table 4 compares semantics."""
ROWS = {"table2": ("clients", "alpha"), "table3": ("missing_classes_percent",), "table4": ("clients",)}
"""What a table distinguishes besides the data set, as its file calls it."""


@dataclass(frozen=True)
class Device:
    """A client of Table 1: the classes it holds, and whether nobody else holds them."""

    client: int
    classes: tuple[int, ...]
    monopoly: bool


@dataclass(frozen=True)
class Published:
    """One printed accuracy in per cent; Table 4 prints no standard deviation.

    ``row`` is what a table distinguishes besides the data set: (clients, alpha) in Table 2, where alpha is "-" for
    Fashion-MNIST; (missing per cent,) in Table 3; (role of the clients,) in Table 4. ``column`` is the method, or the
    semantics in Table 4.
    """

    dataset: str
    row: tuple[str, ...]
    column: str
    mean: float
    std: float | None


def _rows(table: str) -> list[dict[str, str]]:
    with (FOLDER / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@cache
def table1() -> tuple[Device, ...]:
    """The class assignment of CIFAR-10 at gamma 2 with two classes missing."""
    return tuple(
        Device(int(row["client"]), tuple(int(label) for label in row["classes"].split()), row["monopoly"] == "true")
        for row in _rows("table1")
    )


@cache
def accuracies(table: str) -> tuple[Published, ...]:
    """The printed accuracies of ``table2``, ``table3`` or ``table4``, in the order of the file."""
    return tuple(
        Published(
            row["dataset"],
            tuple(row[name] or "-" for name in ROWS[table]),
            row.get("method") or row["semantics"],
            float(row.get("accuracy_mean") or row["accuracy"]),
            float(row["accuracy_std"]) if "accuracy_std" in row else None,
        )
        for row in _rows(table)
    )


@cache
def lookup(table: str) -> Mapping[tuple[str, tuple[str, ...], str], Published]:
    """The printed accuracies by (data set, row, column).

    >>> lookup("table2")["cifar10", ("5", "0.1"), "AP-FL"].mean
    69.46
    """
    return {(item.dataset, item.row, item.column): item for item in accuracies(table)}
