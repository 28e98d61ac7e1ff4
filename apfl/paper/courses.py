"""Pictures of the course of events: who trained when, and how stale the uploads were that the server merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from apfl.paper.labels import dataset_label, partition_label
from apfl.paper.style import RC
from apfl.paper.virtual import clients, round_times, timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from apfl.study import Cell

FATES = {
    "merged": {"facecolor": "#0072b2", "edgecolor": "#0072b2"},
    "waiting": {"facecolor": "#a6cbe3", "edgecolor": "#0072b2"},
    "discarded": {"facecolor": "#f5c48a", "edgecolor": "#a65b00", "hatch": "////"},
    "lost": {"facecolor": "#ffffff", "edgecolor": "#b3261e", "hatch": "xxxx"},
}
"""How the bar of an upload looks, by what became of it."""
EXPLAINED = {
    "merged": "merged",
    "waiting": "in a buffer that the end found unfilled",
    "discarded": "discarded: too stale",
    "lost": "lost: the client dropped out",
}
INK, SOFT = "#1b1f24", "#59636e"
WIDTH, ROW, HEAD, GAP = 7.6, 0.2, 0.3, 0.34
"""In inches: the axes' width, a client's row, the space above a panel for its title, and that below it."""


def events(cells: Sequence[Cell]) -> pd.DataFrame:
    """Every upload of the cells' schedules, in order of arrival: one row each; ``staleness`` counts versions."""
    rows = [
        {
            "schedule": cell.timing.name,
            **{name: cell.axis.get(name, np.nan) for name in ("heterogeneity", "rate")},
            "seed": seed,
            **{name: getattr(one, name) for name in ("client", "cycle", "start", "time", "started", "version")},
            "staleness": one.staleness,
            "fate": one.fate,
        }
        for cell in cells
        for seed in cell.seeds
        for one in timeline(cell, seed).arrivals
    ]
    return pd.DataFrame(rows)


def draw_timelines(cells: Sequence[Cell]) -> tuple[Figure, pd.DataFrame]:
    """One panel a schedule, one row a client, for the first seed and as many rounds as the study asks for."""
    with matplotlib.style.context(["default", RC]):
        heights = [ROW * (clients(cell) + 1) for cell in cells]
        bottom, top = 0.55, 0.45
        high = bottom + sum(heights) + HEAD * len(cells) + GAP * (len(cells) - 1) + top
        size = (0.85 + WIDTH + 0.25, high)
        figure = Figure(figsize=size)
        end = max(float(_round_ends(cell)[min(cell.axis["shown"], cell.rounds)]) for cell in cells)
        y = high - top
        for cell, height in zip(cells, heights, strict=True):
            y -= HEAD + height
            box = (0.85 / size[0], y / high, WIDTH / size[0], height / high)
            _draw_timeline(figure.add_axes(box), cell, end, last=cell is cells[-1])
            y -= GAP
        seen = {one.fate for cell in cells for one in timeline(cell, cell.seeds[0]).arrivals if one.start < end}
        handles = [Patch(label=EXPLAINED[fate], linewidth=0.7, **FATES[fate]) for fate in FATES if fate in seen]
        place = {"loc": "upper left", "bbox_to_anchor": (0.85 / size[0] - 0.01, 1.0), "ncols": len(handles)}
        figure.legend(handles=handles, fontsize=8, frameon=False, **place)
        return figure, events(cells)


def _round_ends(cell: Cell) -> np.ndarray:
    return round_times(timeline(cell, cell.seeds[0]), clients(cell), cell.rounds)


def _draw_timeline(axes: Axes, cell: Cell, end: float, last: bool) -> None:
    course, number = timeline(cell, cell.seeds[0]), clients(cell)
    for one in course.arrivals:
        if one.start >= end:
            continue
        width = one.time - one.start
        axes.barh(one.client, width, left=one.start, height=0.66, linewidth=0.6, zorder=2, **FATES[one.fate])
        middle = one.start + width / 2
        if one.fate != "lost" and cell.timing.values["mode"] == "async" and width / end * WIDTH > 0.16 and middle < end:
            light = "#ffffff" if one.fate == "merged" else INK
            axes.text(middle, one.client, one.staleness, ha="center", va="center", fontsize=6.5, color=light, zorder=3)
    merged = [merge.time for merge in course.merges if merge.time <= end]
    axes.plot(merged, [number] * len(merged), "|", color=INK, markersize=7, markeredgewidth=0.9, clip_on=False)
    for time in _round_ends(cell)[1:]:
        if time <= end:
            axes.axvline(time, color="#b8c0c8", linewidth=0.8, linestyle=(0, (2, 2)), zorder=1)
    axes.set(xlim=(0, end), ylim=(number + 0.6, -0.6), title=_title(cell))
    axes.set_yticks(range(number + 1), [*(f"client {client}" for client in range(number)), "merges"], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(labelbottom=last)
    if last:
        axes.set_xlabel("virtual time")


def _title(cell: Cell) -> str:
    return f"{cell.timing.name}, {_level(cell)}"


def _level(cell: Cell) -> str:
    """
    >>> from types import SimpleNamespace
    >>> _level(SimpleNamespace(axis={"alpha": "0.1", "rate": 0.6}))
    'dropout rate 0.6'
    """
    return (
        f"dropout rate {cell.axis['rate']:g}"
        if "rate" in cell.axis
        else f"heterogeneity {cell.axis['heterogeneity']:g}"
    )


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
    found: dict[tuple[str, float], Cell] = {}
    for cell in cells:
        if cell.timing.values["mode"] == "async" and cell.dataset == cells[0].dataset:
            found.setdefault((cell.timing.name, cell.axis["heterogeneity"]), cell)
    return list(found.values())


def draw_staleness(cells: Sequence[Cell]) -> tuple[Figure, pd.DataFrame]:
    """A row of panels for each asynchronous schedule, a column for each level of heterogeneity."""
    counts, shown = histogram(cells), _asynchronous(cells)
    names = list(dict.fromkeys(cell.timing.name for cell in shown))
    levels = sorted({cell.axis["heterogeneity"] for cell in shown})
    with matplotlib.style.context(["default", RC]):
        figure = Figure(figsize=(max(2.3 * len(levels) + 0.4, 4.0), max(1.75 * len(names) + 0.5, 0.6)))
        if not shown:
            figure.text(0.02, 0.5, "This study runs no asynchronous schedule.", fontsize=8, color=SOFT)
            return figure, counts
        grid = figure.subplots(len(names), len(levels), sharex=True, sharey=True, squeeze=False)
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
            grid[0][-1].legend(handles=handles, fontsize=7, frameon=False, loc="center right")
        figure.tight_layout()
        return figure, counts


def _draw_histogram(axes: Axes, here: pd.DataFrame, title: str) -> None:
    for fate, part in here.groupby("fate", sort=False):
        axes.bar(part["staleness"], part["percent"], width=0.8, linewidth=0.6, zorder=2, **FATES[fate])
    axes.set_title(title, fontsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.grid(visible=False, axis="x")
    mean = (here["staleness"] * here["uploads"]).sum() / max(here["uploads"].sum(), 1)
    axes.text(0.97, 0.93, f"mean {mean:.1f}", transform=axes.transAxes, ha="right", va="top", fontsize=8, color=SOFT)


def place(cells: Sequence[Cell]) -> str:
    """Whose runs the pictures show.

    >>> place([])
    ''
    """
    if not cells:
        return ""
    return f"{dataset_label(cells[0].dataset)}, {clients(cells[0])} clients, {partition_label(cells[0].setting)}"


DRAWN: Mapping[str, Callable[[Sequence[Cell]], tuple[Figure, pd.DataFrame]]] = {
    "figure_staleness": draw_staleness,
    "figure_timeline": draw_timelines,
}
