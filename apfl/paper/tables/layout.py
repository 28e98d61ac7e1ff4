"""A table in every respect but its format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from apfl.paper.labels import TEST_LABELS
from apfl.paper.numbers.frames import parts
from apfl.paper.tables.keys import EntryKey, key_of_row
from apfl.study.outputs import Output

COLUMNS_IN_A_PANEL = 9


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table; ``number`` tells accuracies from remarks such as "not run".

    ``key`` says which cell and test of the study it shows (`apfl.paper.tables.keys`); empty where it shows none.
    """

    text: str
    number: bool = False
    bold: bool = False
    key: EntryKey = ()


@dataclass(frozen=True)
class TableLine:
    """One line of a group: the published numbers, or those reproduced on one ``test``."""

    name: str
    entries: tuple[Entry, ...]
    test: str = ""


@dataclass(frozen=True)
class Group:
    """The lines that belong to one setting."""

    label: str
    lines: tuple[TableLine, ...]


@dataclass(frozen=True)
class Section:
    """The groups of one data set; Table 1 has one section without a name."""

    label: str
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Panel:
    """A part of a table that is set under its own column heads; ``corner`` is the head of the groups' labels."""

    title: str
    columns: tuple[str, ...]
    sections: tuple[Section, ...]
    in_study: bool = True
    corner: str = "setting"

    @property
    def begun(self) -> bool:
        """Whether anything of it has been measured."""
        lines = [line for section in self.sections for group in section.groups for line in group.lines]
        return any(entry.number for line in lines if line.name != "published" for entry in line.entries)


@dataclass(frozen=True)
class Table:
    """A table in every respect but its format; ``rows`` are the tidy ones of the CSV file."""

    output: Output
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        return self.output.name


def measured(row: pd.Series, what: str = "reproduced") -> Entry:
    """Mean and standard deviation of a tidy row, or its status, with the seeds that there are if some are missing."""
    entry = replace(entry_of(row[f"{what}_mean"], row[f"{what}_std"], row["status"]), key=key_of_row(row))
    few = 0 < row["seeds"] < row["seeds_planned"]
    return replace(entry, text=f"{entry.text} ({row['seeds']}/{row['seeds_planned']})") if few else entry


def entry_of(mean: float | None, std: float | None, otherwise: str) -> Entry:
    if pd.isna(mean):
        return Entry(otherwise)
    return Entry(f"{mean:.2f}" if pd.isna(std) else f"{mean:.2f} ± {std:.2f}", number=True)


def accuracy_lines(rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[TableLine]:
    """A line for each test of tidy rows."""
    for test, part in parts(rows, "test"):
        entries = {row["column"]: measured(row) for _, row in part.iterrows()}
        yield TableLine(TEST_LABELS[test], bold_best(entries, columns), test)


def bold_best(
    entries: dict[str, Entry], columns: Iterable[str], best: Callable[[Iterable[float]], float] = max
) -> tuple[Entry, ...]:
    """The entries of ``columns``, bold where the printed mean is the best of *all* the table's columns."""
    numbers = [_printed(entry) for entry in entries.values() if entry.number]
    winner = best(numbers) if numbers else None
    return tuple(
        replace(entry, bold=entry.number and _printed(entry) == winner) for entry in (entries[name] for name in columns)
    )


def _printed(entry: Entry) -> float:
    return float(entry.text.split()[0])
