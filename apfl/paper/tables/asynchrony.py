"""The tables of asynchrony: virtual time to a target accuracy, and accuracy by the rate of random dropout.

A summary in circulation says of the paper that it converges 40 % faster and is robust at 60 % dropout. The paper prints
no number for either, so these tables have no published line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from apfl.paper.labels import TEST_LABELS, dataset_label, partition_label
from apfl.paper.numbers import virtual
from apfl.paper.numbers.frames import grouped, parts
from apfl.paper.numbers.metrics import Metrics, cell_values, estimate
from apfl.paper.numbers.virtual import ROLE
from apfl.paper.tables import layout
from apfl.paper.tables.keys import facts_of_cell, key_of_row
from apfl.paper.tables.layout import Entry, Table, TableLine
from apfl.study.cells import Cell
from apfl.study.outputs import OUTPUTS

PLACE = ("table", "dataset", "setting", "clients", "alpha")
WHAT = ("client_role", "method", "schedule", "mode", "column", "semantics", "reading", "model", "test")
COLUMNS = {
    "convergence": (
        *PLACE, "heterogeneity", *WHAT, "target", "time_mean", "time_std", "server_time", "client_time",
        "speedup_mean", "speedup_std", "compared_with", "seeds_reached", "seeds", "seeds_planned", "status",
    ),
    "dropout": (
        *PLACE, "rate", *WHAT, "lost_percent", "reproduced_mean", "reproduced_std", "plain_mean", "seeds",
        "seeds_planned", "clients_evaluated", "clients_left_out", "status",
    ),
}  # fmt: skip
"""``target`` is a share of the reference's accuracy; times are virtual, ``server_time`` and ``client_time`` what
personalising the last round takes, means over seeds; accuracies and ``lost_percent``, the share of
uploads that the schedule lost, are in per cent. ``seeds`` have been run, ``seeds_reached`` of them reached the target;
``status`` is ok, not reached (in a seed at least), not run, diverged, no samples or no target (the reference has no
accuracy)."""


def build(name: str, cells: Sequence[Cell], metrics: Metrics, share: float = 1.0) -> Table:
    """``convergence`` (to ``share`` of the first entry's accuracy) or ``dropout`` from the study's cells and its runs'
    metrics."""
    virtual.check_timelines(cells, metrics)
    lines = _times(cells, metrics, share) if name == "convergence" else _accuracies(cells, metrics)
    rows = pd.DataFrame(lines, columns=list(COLUMNS[name]))
    columns = list(dict.fromkeys(rows["column"]))
    panels = [
        _panel(name, rows, columns[start : start + layout.COLUMNS_IN_A_PANEL])
        for start in range(0, len(columns), layout.COLUMNS_IN_A_PANEL)
    ]
    return Table(OUTPUTS[name], tuple(panels), _notes(name, cells, rows), rows)


def _facts(cell: Cell, test: str) -> dict[str, Any]:
    return facts_of_cell(cell, ROLE, test) | {
        "clients": virtual.clients(cell),
        "alpha": cell.axis["alpha"],
        "mode": cell.timing.values["mode"],
        "column": cell.title,
        "seeds_planned": len(cell.seeds),
    }


def groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells of one data set at one level, together."""
    return list(grouped(cells, lambda cell: (cell.dataset, cell.axis[OUTPUTS[cell.output].level])).values())


def _times(cells: Sequence[Cell], metrics: Metrics, share: float) -> Iterator[dict[str, Any]]:
    for here in groups(cells):
        for test in OUTPUTS[here[0].output].tests[ROLE]:
            times = {cell.title: virtual.time_to_target(cell, here[0], share, metrics, test) for cell in here}
            for cell in here:
                other = _compared(cell, here)
                found = virtual.summary(times[cell.title])
                ratio = virtual.speedup(times[cell.title], times[other.title]) if other else virtual.Summary("")
                yield _facts(cell, test) | {
                    "target": share,
                    "time_mean": found.mean,
                    "time_std": found.std,
                    **_personal(cell, metrics),
                    "speedup_mean": ratio.mean,
                    "speedup_std": ratio.std,
                    "compared_with": other.title if other else "",
                    "seeds_reached": found.reached,
                    "seeds": found.seeds,
                    "status": found.status,
                }


def _personal(cell: Cell, metrics: Metrics) -> dict[str, float]:
    """What personalising the last round takes, at the server and at the slowest client: means over the seeds that have
    been run, none where no run recorded it."""
    last = [
        parts[cell.rounds[-1]]
        for seed, run in zip(cell.seeds, cell.runs, strict=True)
        if cell.rounds[-1] in (parts := virtual.personal_times(cell, seed, run, metrics))
    ]
    return dict(zip(("server_time", "client_time"), map(float, np.mean(last, axis=0)), strict=True)) if last else {}


def _compared(cell: Cell, here: Sequence[Cell]) -> Cell | None:
    """The run that a run's time is compared with: the same method's synchronous one, otherwise the reference."""
    alike = (other for other in here if other.method == cell.method and other.timing.values["mode"] == "sync")
    other = here[0] if cell.timing.values["mode"] == "sync" else next(alike, here[0])
    return None if other is cell else other


def _accuracies(cells: Sequence[Cell], metrics: Metrics) -> Iterator[dict[str, Any]]:
    for here in groups(cells):
        for test in OUTPUTS[here[0].output].tests[ROLE]:
            for cell in here:
                value = estimate(cell_values(metrics, cell, test, ROLE))
                yield _facts(cell, test) | {"lost_percent": _lost(cell)} | value.columns


def _lost(cell: Cell) -> float:
    """The share of uploads that were lost, in per cent, over all seeds."""
    fates = [one.fate for seed in cell.seeds for one in virtual.timeline(cell, seed).arrivals]
    return 100 * fates.count("lost") / len(fates) if fates else 0.0


def _panel(name: str, rows: pd.DataFrame, shown: Sequence[str]) -> layout.Panel:
    sections, field = [], OUTPUTS[name].level
    for dataset, part in parts(rows, "dataset"):
        first = part.iloc[0]
        label = f"{dataset_label(dataset)}, {first['clients']} clients, {partition_label(first['setting'])}"
        groups = tuple(
            layout.Group(f"{LEVEL_LABELS[field]} {level}", tuple(LINES[name](group, shown)))
            for level, group in parts(part, field)
        )
        sections.append(layout.Section(label, groups))
    return layout.Panel("", tuple(shown), tuple(sections))


def _time_lines(rows: pd.DataFrame, shown: Sequence[str]) -> Iterator[TableLine]:
    for test, part in parts(rows, "test"):
        entries = {row["column"]: _time(row) for _, row in part.iterrows()}
        yield TableLine(f"{TEST_LABELS[test]}, time", layout.bold_best(entries, shown, best=min), test)
        ratios = {row["column"]: _speedup(row) for _, row in part.iterrows()}
        yield TableLine(f"{TEST_LABELS[test]}, speed-up", tuple(ratios[name] for name in shown), test)


def _time(row: pd.Series) -> Entry:
    missed = row["seeds"] - row["seeds_reached"]
    if row["status"] == "not reached" and row["seeds_reached"]:
        return Entry(f"not reached in {missed} of {row['seeds']} seeds", key=key_of_row(row))
    return layout.measured(row, "time")


def _speedup(row: pd.Series) -> Entry:
    if not row["compared_with"]:
        return Entry("reference")
    return Entry("–", key=key_of_row(row)) if pd.isna(row["speedup_mean"]) else layout.measured(row, "speedup")


LEVEL_LABELS = {"heterogeneity": "heterogeneity", "rate": "dropout rate"}
LINES: Mapping[str, Callable[[pd.DataFrame, Sequence[str]], Iterator[TableLine]]] = {
    "convergence": _time_lines,
    "dropout": layout.accuracy_lines,
}


def _notes(name: str, cells: Sequence[Cell], rows: pd.DataFrame) -> tuple[str, ...]:
    notes = [
        *NOTES[name](cells, rows),
        "Pooled test: the test images of all clients together. Own test: each client's own test images.",
    ]
    if name == "convergence":
        notes.append(f"Accuracy is evaluated after rounds {_listed(cells[0].rounds)}.")
        others = {cell.title: cell.rounds for cell in cells if cell.rounds != cells[0].rounds}
        notes += [f"{title}: after rounds {_listed(rounds)} only." for title, rounds in others.items()]
    if ((rows["seeds"] > 0) & (rows["seeds"] < rows["seeds_planned"])).any():
        notes.append("(n/m): n of the m seeds have been run.")
    return tuple(notes)


def _listed(rounds: Sequence[int]) -> str:
    """
    >>> _listed((1, 2, 3, 4)), _listed((2, 5, 20))
    ('1 to 4', '2, 5, 20')
    """
    if len(rounds) > 2 and list(rounds) == list(range(rounds[0], rounds[-1] + 1)):
        return f"{rounds[0]} to {rounds[-1]}"
    return ", ".join(map(str, rounds))


def _notes_on_times(cells: Sequence[Cell], rows: pd.DataFrame) -> Iterator[str]:
    share, reference = rows["target"].iloc[0], cells[0].title
    yield (
        f"Time: virtual time at the end of the first evaluated round whose accuracy is at least {100 * share:g} % of "
        f"that of {reference} after its last round, for the same seed and test; nothing is interpolated. Mean ± "
        "standard deviation over seeds (n - 1). Bold: the shortest time. If a seed does not reach the target, no "
        "mean is shown. All runs end after the same number of uploads, lost ones included."
    )
    yield (
        "Speed-up: the time of the same method's synchronous run divided by the time of this run, seed by seed. "
        f"Synchronous runs, and methods that have none here, are compared with {reference}."
    )
    speed = cells[0].timing.server_speed
    costs = rows.dropna(subset=["server_time"])
    if len(costs):
        yield (
            "Personalised models count from the time at which the last client has its own, that is, after the server "
            f"has trained the generator ({_range(costs['server_time'])} in the last round, at {speed:g} times the pace "
            f"of an average client) and the clients have downloaded it and trained ({_range(costs['client_time'])}). "
            "These times are computed from the numbers of operations."
        )
    derived = [cell.title for cell in cells if cell.runs != cell.origins and cell.title not in set(costs["column"])]
    if derived:
        yield f"The cost of personalising was not recorded for {', '.join(dict.fromkeys(derived))} and counts as zero."
    yield "Heterogeneity: sigma of the log-normal factor by which a client is slower or faster than another."


def _range(times: pd.Series) -> str:
    """
    >>> _range(pd.Series([2.04, 3.1])), _range(pd.Series([2.04, 2.01]))
    ('2.0 to 3.1', '2.0')
    """
    return " to ".join(dict.fromkeys(f"{time:.1f}" for time in (times.min(), times.max())))


def _notes_on_dropout(cells: Sequence[Cell], rows: pd.DataFrame) -> Iterator[str]:
    yield (
        "Accuracy after the last round, averaged over clients, weighted by their training samples (Eq. 2); mean ± "
        "standard deviation over seeds (n - 1). Bold: the best of a line."
    )
    lost = {
        rate: " to ".join(dict.fromkeys(f"{share:.0f}" for share in part["lost_percent"].agg(["min", "max"])))
        for rate, part in parts(rows, "rate")
    }
    yield "Uploads lost: " + ", ".join(f"{share} % at rate {rate}" for rate, share in lost.items()) + "."


NOTES: Mapping[str, Callable[[Sequence[Cell], pd.DataFrame], Iterator[str]]] = {
    "convergence": _notes_on_times,
    "dropout": _notes_on_dropout,
}
