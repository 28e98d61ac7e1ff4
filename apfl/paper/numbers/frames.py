"""Items by what they share, and a table by its parts and its rows, of whose types pandas itself says nothing."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import pandas as pd

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """By key the items that have it, keys and items in the order given."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def parts(table: pd.DataFrame, column: str, sort: bool = False) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows by what stands in a column, as text: in the order of the table, unless they are sorted by it."""
    return ((str(value), part) for value, part in table.groupby(column, sort=sort))


def tuples(table: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, whose fields are the columns."""
    return table.itertuples(index=False)
