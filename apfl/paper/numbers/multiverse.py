"""AP-FL minus another method in every reading, as points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.intervals import differences, with_interval
from apfl.paper.numbers.metrics import Metrics, cell_values
from apfl.study.cells import Cell
from apfl.study.readings import LITERAL, options_of

WHEN = "generator trained"
DEFAULTS: Mapping[str, str] = {**LITERAL, WHEN: "afterwards"}
"""The literal reading, with the option that makes a method of its own: when the generator is trained."""
COLUMNS = (
    "test", "dataset", "setting", "against", "method", "title", "reading", "place", "mean", "low", "high", "seeds",
    "seeds_planned", "status", *DEFAULTS,
)  # fmt: skip


def points(cells: Sequence[Cell], metrics: Metrics, test: str) -> pd.DataFrame:
    """One row for each place and reading, in points of accuracy, in the order of the picture.

    In each place the first cell is the one to compare with. ``place`` is the column of the picture, from 1; a reading
    without a pair of seeds in any place has none. ``low`` and ``high`` are there from two seeds on.
    """
    rows = []
    for here in grouped(cells, lambda cell: (cell.dataset, cell.setting)).values():
        against, *others = here
        theirs = cell_values(metrics, against, test, "non_dropout")
        for cell in others:
            ours = cell_values(metrics, cell, test, "non_dropout")
            states = {value.status for value in (*ours, *theirs)}
            broken = next((state for state in ("diverged", "no samples") if state in states), "")
            # The seeds that survived would flatter a method of which one diverged.
            found = differences(() if broken else ours, theirs)
            middle, low, high = with_interval(found)
            rows.append(
                {
                    **{name: getattr(cell, name) for name in ("dataset", "setting", "method", "title", "reading")},
                    "test": test,
                    "against": against.title,
                    "mean": middle,
                    "low": low,
                    "high": high,
                    "seeds": len(found.values),
                    "seeds_planned": len(cell.seeds),
                    "status": broken or ("ok" if len(found.values) else "not run"),
                    **_options(cell, metrics),
                }
            )
    return _ordered(pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "place"]))


def _options(cell: Cell, metrics: Metrics) -> dict[str, str]:
    """The options of a cell: those of its reading, and what its runs record of the hyper-parameters among them."""
    if cell.reading:
        return options_of(cell.reading) | {WHEN: DEFAULTS[WHEN]}
    if not cell.semantics:
        return dict.fromkeys(DEFAULTS, "")
    # A method with semantics but without a generator of its own stage trains it along the rounds.
    records = (metrics.records[run] for run in cell.runs if run in metrics.records)
    chosen: Mapping[str, Any] = next((record["specification"].get("parameters", {}) for record in records), {})
    return dict(LITERAL) | {name: chosen[name] for name in LITERAL if name in chosen} | {WHEN: "in every round"}


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Sorted by place and by the mean of each reading over the places, with the column of the picture."""
    reading = ["method", "reading"]
    drawn = rows.groupby(reading)["mean"].mean().dropna().reset_index().sort_values(["mean", *reading], kind="stable")
    number = drawn.assign(place=range(1, len(drawn) + 1)).set_index(reading)["place"]
    rows = rows.join(number.astype("Int64"), on=reading)
    return (
        rows.assign(panel=rows.groupby(["dataset", "setting"], sort=False).ngroup())
        .sort_values(["panel", "place", "method", "reading"], kind="stable", ignore_index=True)
        .loc[:, list(COLUMNS)]
    )
