"""Accuracies of friends beside those of their teachers, and unseen classes against chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from apfl.data.catalogue import IN_PAPER
from apfl.data.setting import parse_setting
from apfl.paper.labels import ordered
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.intervals import Cellwise, differences, least_step, with_interval
from apfl.paper.numbers.metrics import Metrics, SeedValue, averages, cell_values, estimate, tested_images
from apfl.study.cells import Cell
from apfl.study.readings import options_of

CONTROLS = ("onehot", "random", "shuffled")
"""Sources of embeddings that mean nothing: what reaches their accuracy is not owed to semantics."""
PARTS = ("teachers", "global", "friend", "personalized")
COLUMNS = (
    "dataset", "setting", "title", "semantics", "reading",
    *(f"{part}_{what}" for part in PARTS for what in ("mean", "std")),
    "friend_minus_teacher", "teacher_low", "teacher_high", "friend_is", "friend_minus_global", "global_low",
    "global_high", "seeds", "seeds_planned", "status",
)  # fmt: skip
CONTROL_COLUMNS = (
    "dataset", "setting", "reading", "semantics", "kind", "monopoly_mean", "monopoly_std", "chance", "blind_guess",
    "above_chance_low", "above_chance_high", "seeds", "seeds_planned", "status",
)  # fmt: skip


def heights(cell: Cell, metrics: Metrics) -> dict[str, list[SeedValue]]:
    """By part of `PARTS`, each seed's accuracy in [0, 1] in the last round on the pooled test, of a cell that starts
    from a generator; a seed whose run did not record its teachers has the status ``no teachers``."""
    found: dict[str, list[SeedValue]] = {part: [] for part in PARTS}
    for seed, run in zip(cell.seeds, cell.runs, strict=True):
        status, here = _heights(run, metrics)
        images = tested_images(metrics.frames[run], cell.model, "pooled", "non_dropout") if here else 0
        for part in PARTS:
            found[part].append(SeedValue(seed, status, here.get(part), here.get(part), images=images))
    return found


def _heights(run: str, metrics: Metrics) -> tuple[str, dict[str, float]]:
    if (status := metrics.status(run)) != "ok":
        return status, {}
    frame, record = metrics.frames[run], metrics.records[run]
    last = int(frame["round"].max())
    # By round; older records call them a ceiling.
    given = record.get("teachers", record.get("ceiling", {})).get(str(last))
    if given is None:
        return "no teachers", {}
    return "ok", {part: given[part] if part in given else _pooled(frame, part, last) for part in PARTS}


def _pooled(frame: pd.DataFrame, model: str, last: int) -> float:
    means = averages(frame, model, "pooled", "non_dropout")
    found = means.loc[means["round"] == last, "weighted"]
    return float(found.iloc[0]) if len(found) else float("nan")


def teacher_rows(cells: Iterable[Cell], metrics: Metrics) -> pd.DataFrame:
    """`COLUMNS`: one row for each setting, embedding and reading, in per cent and points.

    ``friend_is`` says where the 95 % interval of the friend minus its teacher lies: below, above or ``at`` it. The
    teacher is the reading's: the weighted client models, or the global model.
    """
    unique = {cell.runs: cell for cell in cells if cell.reading}
    rows = [_teacher_row(cell, metrics) for cell in unique.values()]
    return _in_order(pd.DataFrame(rows, columns=list(COLUMNS)))


def _teacher_row(cell: Cell, metrics: Metrics) -> dict[str, Any]:
    every = heights(cell, metrics)
    found = {part: estimate(values) for part, values in every.items()}
    row: dict[str, Any] = {name: getattr(cell, name) for name in COLUMNS[:5]}
    row |= {f"{part}_mean": one.mean for part, one in found.items()} | {f"{p}_std": one.std for p, one in found.items()}
    teacher = "global" if options_of(cell.reading)["teacher"] == "global" else "teachers"
    for name, part in (("teacher", teacher), ("global", "global")):
        row[f"friend_minus_{name}"], row[f"{name}_low"], row[f"{name}_high"] = _compared(every["friend"], every[part])
    states = [one.status for one in every["friend"]]
    status = found["friend"].status
    row |= {"seeds": found["friend"].seeds, "seeds_planned": len(states), "friend_is": _where(row)}
    return row | {"status": "no teachers" if status == "not run" and "no teachers" in states else status}


def _compared(ours: Sequence[SeedValue], theirs: Sequence[SeedValue]) -> tuple[float, float, float]:
    diverged = any(one.status == "diverged" for one in ours)
    return with_interval(differences(() if diverged else ours, theirs))


def _where(row: Mapping[str, Any]) -> str:
    if np.isnan(row["teacher_low"]):
        return ""
    return "below" if row["teacher_high"] < 0 else "above" if row["teacher_low"] > 0 else "at"


def control_rows(
    cells: Iterable[Cell], metrics: Metrics, classes: Mapping[str, int], controls: Iterable[str] = CONTROLS
) -> pd.DataFrame:
    """`CONTROL_COLUMNS`: one row for each data set, reading and embedding of Table 4, in per cent and points.

    ``chance`` is 1 / classes. ``blind_guess`` is what a friend has without having learnt to see, among the classes of
    its own synthetic images: in the literal reading those that its client holds, otherwise all. The row ``difference``
    is the mean of the embeddings minus the mean of the controls, paired by seed; its interval is around that and not
    chance.
    """
    places = grouped(cells, lambda cell: (cell.dataset, cell.setting, cell.reading))
    rows = []
    for (dataset, setting, reading), here in places.items():
        held = parse_setting(setting).classes or classes[dataset]
        own = options_of(reading)["friend_distribution"] == "own"
        shared: dict[str, Any] = {
            "dataset": dataset,
            "setting": setting,
            "reading": reading,
            "chance": 100 / classes[dataset],
            "blind_guess": 100 / (held if own else classes[dataset]),
        }
        kinds: dict[str, list[tuple[SeedValue, ...]]] = {"semantic": [], "control": []}
        for cell in here:
            kind = "control" if cell.semantics in controls else "semantic"
            values = cell_values(metrics, cell, "monopoly", "dropout")
            kinds[kind].append(values)
            row = shared | {"semantics": cell.semantics, "kind": kind}
            rows.append(row | _control(values, shared["chance"]))
        if all(kinds.values()):
            one, other = (_mean_of(kinds[kind]) for kind in ("semantic", "control"))
            diverged = any(value.status == "diverged" for value in (*one, *other))
            found = differences(() if diverged else one, other)
            middle, low, high = with_interval(found)
            rows.append(
                shared
                | {"semantics": "", "kind": "difference", "above_chance_low": low, "above_chance_high": high}
                | {"monopoly_mean": middle, "seeds": len(found.values)}
                | {"monopoly_std": found.values.std(ddof=1) if len(found.values) > 1 else np.nan}
                | {"seeds_planned": len(one)}
                | {"status": "diverged" if diverged else "ok" if len(found.values) else "not run"}
            )
    return _in_order(pd.DataFrame(rows, columns=list(CONTROL_COLUMNS)))


def _control(values: Sequence[SeedValue], chance: float) -> dict[str, Any]:
    found = estimate(values)
    done = [value for value in values if value.weighted is not None and found.status == "ok"]
    above = np.array([100 * value.weighted - chance for value in done if value.weighted is not None])
    _, low, high = with_interval(Cellwise(above, least_step(done)))
    return {
        "monopoly_mean": found.mean,
        "monopoly_std": found.std,
        "above_chance_low": low,
        "above_chance_high": high,
        "seeds": found.seeds,
        "seeds_planned": found.planned,
        "status": found.status,
    }


def _mean_of(cells: Sequence[Sequence[SeedValue]]) -> list[SeedValue]:
    """Seed by seed the mean over cells, where all of them have the seed; diverged where one of them did."""
    means = []
    for values in zip(*cells, strict=True):
        statuses = {value.status for value in values}
        status = "ok" if statuses == {"ok"} else "diverged" if "diverged" in statuses else "not run"
        mean = float(np.mean([value.weighted for value in values])) if status == "ok" else None
        images = min(value.images for value in values)
        means.append(SeedValue(values[0].seed, status, mean, mean, images=images))
    return means


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    datasets = ordered(rows["dataset"], IN_PAPER)
    key = rows["dataset"].map(datasets.index) if len(rows) else rows["dataset"]
    return rows.assign(order=key).sort_values("order", kind="stable", ignore_index=True).drop(columns="order")
