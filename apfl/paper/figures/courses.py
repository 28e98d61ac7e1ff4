"""Pictures of the course of events: who trained when, and how stale the uploads were that the server merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from apfl.clock.timeline import Arrival, Timeline
from apfl.paper.figures.style import INK, NARROW, SOFT, STYLED, axes_at, remark, width_of
from apfl.paper.numbers.frames import grouped, parts
from apfl.paper.numbers.virtual import clients, round_ends, timeline
from apfl.study.cells import Cell

FATES: Mapping[str, Mapping[str, Any]] = {
    "merged": {"facecolor": "#0072b2", "edgecolor": "#ffffff"},
    "waiting": {"facecolor": "#a6cbe3", "edgecolor": "#0072b2"},
    "discarded": {"facecolor": "#f5c48a", "edgecolor": "#a65b00", "hatch": "////"},
    "lost": {"facecolor": "#ffffff", "edgecolor": "#b3261e", "hatch": "////"},
}
"""How the bar of an upload looks, by what became of it."""
EXPLAINED = {
    "merged": "merged",
    "waiting": "waiting in a buffer when the run ended",
    "discarded": "discarded: too stale",
    "lost": "lost: the client dropped out",
}
UPLOAD = ("client", "cycle", "start", "time", "started", "version", "staleness", "fate")
WIDTH, ROW, HEAD, GAP = 7.6, 0.2, 0.3, 0.34
"""In inches: the axes' width, a client's row, the space above a panel for its title, and that below it."""


def events(cells: Sequence[Cell]) -> pd.DataFrame:
    """Every upload of the cells' schedules, in order of arrival: one row each; ``staleness`` counts versions."""
    rows = [
        {
            "schedule": cell.timing.name,
            **{name: cell.axis.get(name, np.nan) for name in ("heterogeneity", "rate")},
            "seed": seed,
            **{name: getattr(one, name) for name in UPLOAD},
        }
        for cell in cells
        for seed in cell.seeds
        for one in timeline(cell, seed).arrivals
    ]
    return pd.DataFrame(rows)


@STYLED
def draw_timelines(cells: Sequence[Cell], narrow: bool = False) -> tuple[Figure, pd.DataFrame]:
    """One panel a course of events, one row a client, for the first seed and as many rounds as the study asks for."""
    recorded, titles = events(cells), _titles(cells)
    cells = [cell for cell in cells if id(cell) in titles]
    end, heights = _end(cells), [ROW * (clients(cell) + 1) for cell in cells]
    seen = {one.fate for cell in cells for one in timeline(cell, cell.seeds[0]).arrivals if one.start < end}
    handles = [Patch(label=EXPLAINED[fate], linewidth=0.7, **FATES[fate]) for fate in FATES if fate in seen]
    width, lines = (NARROW - 1.1, len(handles)) if narrow else (WIDTH, 1)
    bottom, top = 0.75, 0.3 + 0.16 * (lines - 1)
    high = bottom + sum(heights) + HEAD * len(cells) + GAP * (len(cells) - 1) + top
    across, y = 0.85 + width + 0.25, high - top
    figure = Figure(figsize=(across, high))
    for cell, height in zip(cells, heights, strict=True):
        y -= HEAD + height
        axes = axes_at(figure, 0.85, y, width, height)
        _draw_timeline(axes, cell, titles[id(cell)], end, last=cell is cells[-1])
        y -= GAP
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", ncols=1 if narrow else len(handles),
                  bbox_to_anchor=(0.85 / across - 0.01, 1.0))  # fmt: skip
    notes = (
        "Numbers: how many versions old an upload was.",
        "Dotted: another round's worth of uploads has arrived.",
    )
    remark(figure, ("\n" if narrow else " ").join(notes), left=0.85)
    return figure, recorded


def _end(cells: Sequence[Cell]) -> float:
    """When the last of the rounds that are shown has ended."""
    return max(float(round_ends(cell, cell.seeds[0])[: cell.axis["shown"] + 1][-1]) for cell in cells)


def _titles(cells: Sequence[Cell]) -> dict[int, str]:
    """By cell, the title of its panel; schedules with the same events, which differ in merging alone, share one."""
    alike = grouped(cells, lambda cell: (_level(cell), timeline(cell, cell.seeds[0]).arrivals))
    return {
        id(here[0]): f"{', '.join(cell.timing.name for cell in here)}: {level}" for (level, _), here in alike.items()
    }


def _bars(course: Timeline, end: float) -> Iterator[tuple[Arrival, float]]:
    """Every cycle that began before ``end``, and how far its bar goes: a lost client starts again with the others."""
    starts: dict[int, list[float]] = {}
    for one in course.arrivals:
        starts.setdefault(one.client, []).append(one.start)
    for one in course.arrivals:
        later = min((start for start in starts[one.client] if start > one.start), default=one.time)
        if one.start < end:
            yield one, min(one.time, later, end)


def _draw_timeline(axes: Axes, cell: Cell, title: str, end: float, last: bool) -> None:
    course, number = timeline(cell, cell.seeds[0]), clients(cell)
    for one, stop in _bars(course, end):
        width = stop - one.start
        axes.barh(one.client, width, left=one.start, height=0.7, linewidth=0.7, zorder=2, **FATES[one.fate])
        fits = width / end * width_of(axes) > 0.09 + 0.05 * len(str(one.staleness))
        if one.fate != "lost" and cell.timing.values["mode"] == "async" and fits:
            light, middle = "#ffffff" if one.fate == "merged" else INK, one.start + width / 2
            axes.text(middle, one.client, str(one.staleness), ha="center", va="center_baseline", fontsize=6.5,
                      color=light)  # fmt: skip
    merged = [merge.time for merge in course.merges if merge.time <= end]
    axes.plot(merged, [number] * len(merged), "|", color=INK, markersize=7, markeredgewidth=0.9, clip_on=False)
    for time in round_ends(cell, cell.seeds[0])[1:]:
        if time <= end:
            axes.axvline(time, color="#b8c0c8", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    axes.set(xlim=(0, end), ylim=(number + 0.6, -0.6), title=title)
    axes.set_yticks(range(number + 1), [*(f"client {client}" for client in range(number)), "merges"], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelbottom=last)
    if last:
        axes.set_xlabel("virtual time")


def _level(cell: Cell) -> str:
    """
    >>> from types import SimpleNamespace
    >>> _level(SimpleNamespace(axis={"alpha": "0.1", "rate": 0.6}))
    'dropout rate 0.6'
    """
    name = "rate" if "rate" in cell.axis else "heterogeneity"
    return f"{'dropout ' if name == 'rate' else ''}{name} {cell.axis[name]:g}"


def histogram(cells: Sequence[Cell]) -> pd.DataFrame:
    """How many uploads were so many versions old, over all seeds: schedule, heterogeneity, staleness, fate, uploads,
    and their percentage of all uploads that arrived on this schedule at this heterogeneity."""
    every = events(_asynchronous(cells))
    columns = ["schedule", "heterogeneity", "staleness", "fate", "uploads", "percent"]
    if every.empty:
        return pd.DataFrame(columns=columns)
    arrived = every[every["fate"].isin(["merged", "discarded"])]
    counts = arrived.groupby(columns[:4], sort=False).size().rename("uploads").reset_index()
    total = counts.groupby(["schedule", "heterogeneity"])["uploads"].transform("sum")
    return counts.assign(percent=100 * counts["uploads"] / total).sort_values(columns[:4], ignore_index=True)


def _asynchronous(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each asynchronous schedule and level, of the first data set."""
    ours = [cell for cell in cells if cell.timing.values["mode"] == "async" and cell.dataset == cells[0].dataset]
    alike = grouped(ours, lambda cell: (cell.timing.name, cell.axis["heterogeneity"]))
    return [here[0] for here in alike.values()]


@STYLED
def draw_staleness(cells: Sequence[Cell]) -> tuple[Figure, pd.DataFrame]:
    """A row of panels for each asynchronous schedule, a column for each level of heterogeneity."""
    counts, shown = histogram(cells), _asynchronous(cells)
    names = list(dict.fromkeys(cell.timing.name for cell in shown))
    levels = sorted({cell.axis["heterogeneity"] for cell in shown})
    figure = Figure(figsize=(max(2.3 * len(levels) + 0.4, 4.0), max(1.75 * len(names) + 0.5, 0.6)))
    if not shown:
        figure.text(0.02, 0.5, "This study runs no asynchronous schedule.", fontsize=8, color=SOFT)
        return figure, counts
    grid = figure.subplots(len(names), len(levels), sharex=True, sharey="row", squeeze=False)
    for row, name in zip(grid, names, strict=True):
        for axes, level in zip(row, levels, strict=True):
            here = counts[(counts["schedule"] == name) & (counts["heterogeneity"] == level)]
            _draw_histogram(axes, here, f"{name}, heterogeneity {level:g}")
    for axes in grid[-1]:
        axes.set_xlabel("staleness (versions)")
    for row in grid:
        row[0].set_ylabel("uploads (%)")
    if (counts["fate"] == "discarded").any():
        handles = [Patch(label=EXPLAINED[fate], linewidth=0.7, **FATES[fate]) for fate in ("merged", "discarded")]
        grid[0][-1].legend(handles=handles, fontsize=7, frameon=False, loc="center right", bbox_to_anchor=(1, 0.55))
    figure.tight_layout()
    return figure, counts


def _draw_histogram(axes: Axes, here: pd.DataFrame, title: str) -> None:
    for fate, part in parts(here, "fate"):
        look = {**FATES[fate], "edgecolor": FATES[fate]["facecolor"] if fate == "merged" else FATES[fate]["edgecolor"]}
        axes.bar(part["staleness"], part["percent"], width=0.75, linewidth=0.4, zorder=2, **look)
    axes.set_title(title, fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(visible=False, axis="x")
    mean = (here["staleness"] * here["uploads"]).sum() / max(here["uploads"].sum(), 1)
    stale = here.loc[here["fate"] == "discarded", "percent"].sum()
    said = f"mean {mean:.1f}" + (f"\ndiscarded {stale:.1f} %" if stale else "")
    axes.text(0.97, 0.93, said, transform=axes.transAxes, ha="right", va="top", fontsize=8, color=SOFT)


DRAWN: Mapping[str, Callable[[Sequence[Cell]], tuple[Figure, pd.DataFrame]]] = {
    "figure_staleness": draw_staleness,
    "figure_timeline": draw_timelines,
}
