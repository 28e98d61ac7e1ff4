"""A table by its parts and by its rows, of whose types pandas itself says nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd


def parts(table: pd.DataFrame, column: str, sort: bool = False) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows by what stands in a column, as text: in the order of the table, unless they are sorted by it."""
    return ((str(value), part) for value, part in table.groupby(column, sort=sort))


def tuples(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, whose fields are the columns."""
    return table.itertuples(index=False)
