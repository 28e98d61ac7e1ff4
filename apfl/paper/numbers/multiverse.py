"""AP-FL minus another method in every reading, as points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from apfl.paper.numbers.metrics import Metrics, cell_values
from apfl.paper.numbers.paired import differences, interval
from apfl.study.readings import LITERAL, options_of

if TYPE_CHECKING:
    from apfl.study.cells import Cell


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
    for here in _places(cells).values():
        against, *others = here
        theirs = cell_values(metrics, against, test, "non_dropout")
        for cell in others:
            ours = cell_values(metrics, cell, test, "non_dropout")
            found, states = differences(ours, theirs), {value.status for value in (*ours, *theirs)}
            broken = next((state for state in ("diverged", "no samples") if state in states), "")
            # The seeds that survived would flatter a method of which one diverged.
            found = found[:0] if broken else found
            low, high = interval(found) or (np.nan, np.nan)
            rows.append(
                {
                    "test": test,
                    "dataset": cell.dataset,
                    "setting": cell.setting,
                    "against": against.title,
                    "method": cell.method,
                    "title": cell.title,
                    "reading": cell.reading,
                    "mean": found.mean() if len(found) else np.nan,
                    "low": low,
                    "high": high,
                    "seeds": len(found),
                    "seeds_planned": len(cell.seeds),
                    "status": broken or ("ok" if len(found) else "not run"),
                    **_options(cell, metrics),
                }
            )
    return _ordered(pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "place"]))


def _places(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    places: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        places.setdefault((cell.dataset, cell.setting), []).append(cell)
    return places


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
    keys = [rows["method"], rows["reading"]]
    means = rows["mean"].groupby(keys).transform("mean")
    drawn = pd.DataFrame({"mean": means, "method": keys[0], "reading": keys[1]}).dropna().drop_duplicates()
    drawn = drawn.sort_values(["mean", "method", "reading"], kind="stable")
    number = {key: place for place, key in enumerate(zip(drawn["method"], drawn["reading"], strict=True), start=1)}
    rows["place"] = [number.get(key) for key in zip(*keys, strict=True)]
    rows["place"] = rows["place"].astype("Int64")
    order = list(dict.fromkeys(zip(rows["dataset"], rows["setting"], strict=True)))
    panel = [order.index(key) for key in zip(rows["dataset"], rows["setting"], strict=True)]
    return (
        rows.assign(panel=panel)
        .sort_values(["panel", "place", "method", "reading"], kind="stable", ignore_index=True)
        .loc[:, list(COLUMNS)]
    )
