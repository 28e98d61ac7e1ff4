"""Finished runs in virtual time: when a round ended, what had been moved by then, how soon an accuracy was reached.

The course of events does not depend on what training finds, so it is planned anew from the schedule; where a run wrote
its own down, the two must agree. A synchronous run without dropout is one run at every level of heterogeneity.

Models that clients personalise are there later than the round that they start from ended: the server trains the
generator, each client downloads and trains its own. Runs record that in cycles (`apfl.stages.cycles`); runs of a
federated method have none, and runs made before it was recorded count as if they had none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import Timeline, plan, rounds_of, speed_factor
from apfl.data.setting import parse_setting
from apfl.errors import UserError
from apfl.paper.numbers.metrics import Metrics, averages, cell_values, curve, run_frame
from apfl.study.cells import Cell

ROLE = "non_dropout"
MEGABYTE = 1e6


def timeline(cell: Cell, seed: int) -> Timeline:
    """The course of events behind a cell in one of its seeds."""
    return plan(Schedule(**cell.timing.values), range(clients(cell)), cell.rounds[-1], seed)


def clients(cell: Cell) -> int:
    return parse_setting(cell.setting).clients


def check_timelines(cells: Sequence[Cell], metrics: Metrics) -> None:
    """A `UserError` if a run recorded another course of events than its schedule has now."""
    for cell in cells:
        for seed, run in zip(cell.seeds, cell.origins, strict=True):
            recorded = metrics.records.get(run, {}).get("timeline")
            if recorded is None:
                continue
            now = [[getattr(one, name) for name in recorded["columns"]] for one in timeline(cell, seed).arrivals]
            if now != recorded["rows"]:
                raise UserError(f"run {run}: was made with another timeline; run it again")


def round_times(course: Timeline, clients: int, rounds: int) -> np.ndarray:
    """Virtual time at the end of each round, [rounds + 1]: when so many uploads have arrived and are merged."""
    times = [0.0]
    for number, merge in rounds_of(course, clients, rounds):
        times += [merge.time] * (number + 1 - len(times))
    end = course.arrivals[-1].time if course.arrivals else 0.0
    return np.array(times + [end] * (rounds + 1 - len(times)))


def round_ends(cell: Cell, seed: int) -> np.ndarray:
    """`round_times` of a cell in one of its seeds."""
    return round_times(timeline(cell, seed), clients(cell), cell.rounds[-1])


def personal_times(cell: Cell, seed: int, run: str, metrics: Metrics) -> dict[int, tuple[float, float]]:
    """By round, the virtual time that its personalised models take: the server's, and until the last client's is
    there."""
    schedule = Schedule(**cell.timing.values)
    pace = {client: _training_time(schedule, seed, client) for client in range(clients(cell))}
    unit = float(np.mean(list(pace.values()))) if schedule.trace else schedule.mean
    found = {}
    for number, cycles in metrics.records.get(run, {}).get("cycles", {}).items():
        training = [pace[int(client)] * count for client, count in cycles["clients"].items()]
        theirs = schedule.download + max(training) if training else 0.0
        found[int(number)] = (unit * cycles["server"] / cell.timing.server_speed, theirs)
    return found


def _training_time(schedule: Schedule, seed: int, client: int) -> float:
    """How long the client trains in a cycle, on average; what a trace says of it includes the transfers."""
    if not schedule.trace:
        return schedule.mean * speed_factor(schedule, seed, client)
    own = [row for row in schedule.trace if row[0] == client] or schedule.trace
    return float(np.mean([end - start for _, start, end in own]))


def ready(cell: Cell, seed: int, run: str, metrics: Metrics) -> np.ndarray:
    """Virtual time at which the models that a run evaluated of each round are there, [rounds + 1]."""
    times = round_ends(cell, seed)
    for number, parts in personal_times(cell, seed, run, metrics).items():
        times[number] += sum(parts)
    return times


def transfers(course: Timeline, times: np.ndarray) -> np.ndarray:
    """How often the shared state has been moved by each of ``times``: downloads begun before, uploads arrived.

    A lost upload never arrives; one that is discarded does.
    """
    starts = np.sort([one.start for one in course.arrivals])
    ends = np.sort([one.time for one in course.arrivals if one.fate != "lost"])
    return np.searchsorted(starts, times, side="left") + np.searchsorted(ends, times, side="right")


def megabytes(cell: Cell, seed: int, run: str, origin: str, metrics: Metrics) -> np.ndarray:
    """Megabytes moved by the end of each round, [rounds + 1]: what the federated run ``origin`` shared, and for the
    models that ``run`` made of a round the generator, once to each client."""
    shared = metrics.records[origin]["payload"] * transfers(timeline(cell, seed), round_ends(cell, seed))
    generators = clients(cell) * metrics.records[run].get("generator_bytes", 0)
    moved: np.ndarray = (shared + generators) / MEGABYTE
    return moved


def along(cell: Cell, metrics: Metrics, test: str, axis: str) -> pd.DataFrame:
    """Accuracy along virtual ``time`` or ``bytes``, in per cent: columns x, mean, std, seeds.

    A point is a round: its accuracy, and its x, averaged over the seeds that have been run. Personalised models count
    from when they are there, `ready`.
    """
    points = curve(metrics, cell, test, ROLE)
    points = points[points["round"].isin(cell.rounds)]
    done = [
        (seed, run, origin)
        for seed, run, origin in zip(cell.seeds, cell.runs, cell.origins, strict=True)
        if run in metrics.records and (axis == "time" or origin in metrics.records)
    ]
    if points.empty or not done:
        return pd.DataFrame(columns=["x", "mean", "std", "seeds"])
    each = [
        ready(cell, seed, run, metrics) if axis == "time" else megabytes(cell, seed, run, origin, metrics)
        for seed, run, origin in done
    ]
    return points.assign(x=np.mean(each, axis=0)[points["round"]])[["x", "mean", "std", "seeds"]]


class Reached(NamedTuple):
    """When a run reached an accuracy: ``status`` is ok, not reached, not run, diverged, no samples or no target."""

    status: str
    time: float | None = None


def time_to_target(cell: Cell, reference: Cell, share: float, metrics: Metrics, test: str) -> list[Reached]:
    """For each seed, the virtual time at which the models of the first of the cell's rounds are there (`ready`) whose
    accuracy is at least ``share`` of the reference's in its last round.

    Nothing is interpolated between rounds, so the time is never too early. Rounds that another table or figure made the
    run evaluate do not count.
    """
    targets = cell_values(metrics, reference, test, ROLE)
    finals = cell_values(metrics, cell, test, ROLE)
    found = []
    for seed, run, target, final in zip(cell.seeds, cell.runs, targets, finals, strict=True):
        if final.status != "ok":
            found.append(Reached(final.status))
        elif target.weighted is None:
            found.append(Reached("no target"))
        else:
            means = averages(run_frame(metrics, cell, run), cell.model, test, ROLE)
            looked = means[means["round"].isin(cell.rounds)]
            enough = looked.loc[looked["weighted"] >= share * target.weighted, "round"]
            time = float(ready(cell, seed, run, metrics)[enough.min()]) if len(enough) else None
            found.append(Reached("not reached" if time is None else "ok", time))
    return found


class Summary(NamedTuple):
    """Seeds together: a mean only if every seed that has been run has a number."""

    status: str
    mean: float | None = None
    std: float | None = None
    seeds: int = 0
    reached: int = 0


def summary(values: Sequence[Reached]) -> Summary:
    """Mean and standard deviation (n - 1) over seeds; a seed that did not reach the target leaves no mean."""
    states = [value.status for value in values]
    times = np.array([value.time for value in values if value.status == "ok"])
    seeds = len(times) + states.count("not reached")
    for status in ("diverged", "no target", "no samples", "not reached"):
        if status in states:
            return Summary(status, seeds=seeds, reached=len(times))
    if not len(times):
        return Summary("not run")
    std = float(times.std(ddof=1)) if len(times) > 1 else None
    return Summary("ok", float(times.mean()), std, seeds, len(times))


def speedup(times: Sequence[Reached], others: Sequence[Reached]) -> Summary:
    """How many times sooner than the others, seed by seed."""
    ratios = [
        Reached("ok", other.time / one.time)
        if one.time is not None and other.time is not None
        else next(value for value in (one, other) if value.status != "ok")
        for one, other in zip(times, others, strict=True)
    ]
    return summary(ratios)
