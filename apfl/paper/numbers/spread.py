"""What a mean over clients does not show: how far they are apart, whom a method hurts, and what a round moves.

Accuracies are those of each client's own model on its own test images, after the last round. The lowest tenth and the
deviation over clients are what T. Li, M. Sanjabi, A. Beirami and V. Smith, "Fair resource allocation in federated
learning", ICLR 2020, compare methods by; how many clients do better alone is asked by S. Wu, T. Li, Z. Charles,
Y. Xiao, Z. Liu, Z. Xu and V. Smith, "Motley: benchmarking heterogeneity and personalization in federated learning",
arXiv 2206.09262, 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd

from apfl.data.setting import parse_setting
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.metrics import Metrics, run_frame
from apfl.paper.numbers.virtual import MEGABYTE
from apfl.study.cells import Cell

ALONE = "Local"
"""What each client can do without the others."""
SHOWN: Mapping[str, str] = {"table2": "non_dropout", "table3": "dropout"}
"""By table, the role of the clients that it shows."""
MEASURES = ("lowest_tenth", "deviation", "hurt")
COLUMNS = (
    "table", "dataset", "setting", "client_role", "title", "reading",
    *(f"{name}_{what}" for name in MEASURES for what in ("mean", "std")),
    "megabytes_down", "megabytes_up", "megabytes_after", "clients", "seeds", "seeds_planned", "status",
)  # fmt: skip
"""In per cent, and points for the deviation; ``hurt`` is the share of clients below `ALONE` in the same seed. Megabytes
are those of one round, of all clients that take part in it; ``megabytes_after`` is what every client is sent once,
after training. ``clients`` is the mean number of clients that are looked at."""


def lowest_tenth(accuracies: np.ndarray) -> float:
    """Mean of the lowest tenth of [clients], rounded up to whole clients.

    >>> lowest_tenth(np.array([0.5, 0.1, 0.9]))
    0.1
    """
    return float(np.sort(accuracies)[: ceil(len(accuracies) / 10)].mean())


def hurt(accuracies: pd.Series, alone: pd.Series) -> float:
    """The share of the clients, which are the index of both, that are better alone.

    >>> hurt(pd.Series([0.5, 0.6]), pd.Series([0.5, 0.7]))
    0.5
    """
    both = accuracies.index.intersection(alone.index)
    return float((accuracies[both] < alone[both]).mean()) if len(both) else float("nan")


def rows(
    cells: Sequence[Cell], metrics: Metrics, origins: Mapping[str, str], records: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """One row of `COLUMNS` for each of the cells of the tables `SHOWN`; ``origins`` has the federated run that a run
    starts from, ``records`` the run.json of both."""
    places = grouped(cells, lambda cell: (cell.output, cell.dataset, cell.setting))
    lines = [line for here in places.values() for line in _lines(here, metrics, origins, records)]
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _lines(
    here: Sequence[Cell], metrics: Metrics, origins: Mapping[str, str], records: Mapping[str, Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    each = {id(cell): _clients(cell, metrics) for cell in here}
    alone = next((each[id(cell)] for cell in here if cell.title == ALONE), {})
    for cell in here:
        found = each[id(cell)]
        measured = [
            (
                lowest_tenth(one.to_numpy()),
                float(one.std(ddof=0)),
                hurt(one, alone[seed]) if seed in alone and cell.title != ALONE else np.nan,
            )
            for seed, one in found.items()
        ]
        table = 100 * pd.DataFrame(measured, columns=list(MEASURES), dtype=float)
        means, deviations = table.mean(skipna=False), table.std(skipna=False)
        states = {metrics.status(run) for run in cell.runs}
        yield {
            **{name: getattr(cell, name) for name in ("dataset", "setting", "title", "reading")},
            "table": cell.output,
            "client_role": SHOWN[cell.output],
            **{f"{name}_mean": means[name] for name in MEASURES},
            **{f"{name}_std": deviations[name] for name in MEASURES},
            **_moved(cell, origins, records),
            "clients": np.mean([len(one) for one in found.values()]) if found else np.nan,
            "seeds": len(found),
            "seeds_planned": len(cell.seeds),
            "status": "ok" if found else "diverged" if "diverged" in states else "not run",
        }


def _clients(cell: Cell, metrics: Metrics) -> dict[int, pd.Series]:
    """By finished seed the accuracy of each client on its own test images; none where a seed diverged, as in the
    tables."""
    if any(metrics.status(run) == "diverged" for run in cell.runs):
        return {}
    found = {}
    for seed, run in zip(cell.seeds, cell.runs, strict=True):
        if metrics.status(run) == "ok":
            frame = run_frame(metrics, cell, run)
            frame = frame[frame["model"] == cell.model]
            last = frame[(frame["round"] == frame["round"].max()) & (frame["test"] == "own")]
            counts = (last["samples"] > 0) & (last["train_samples"] > 0)
            last = last[counts & (last["client_role"] == SHOWN[cell.output])]
            if len(last):
                found[seed] = last.set_index("client")["accuracy"]
    return found


def _moved(cell: Cell, origins: Mapping[str, str], records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What a round of the first finished seed moves, all of which move the same: the shared state to each client, and
    as much back."""
    for run in cell.runs:
        record, origin = records.get(run, {}), records.get(origins.get(run, run), {})
        if "payload" in origin:
            everyone = parse_setting(cell.setting).clients
            # Before it was recorded who takes part in a round, all clients did.
            moved = origin.get("clients", everyone) * origin["payload"] / MEGABYTE
            after = everyone * record.get("generator_bytes", 0) / MEGABYTE
            return {"megabytes_down": moved, "megabytes_up": moved, "megabytes_after": after}
    return {}
