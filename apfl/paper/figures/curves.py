"""Figures 4 and 5, and those of virtual time: mean over seeds, band of one standard deviation; the same bytes for the
same numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from apfl.data.catalogue import IN_PAPER
from apfl.paper.figures.style import (
    EMPHASISED,
    NARROW,
    SOFT,
    STYLED,
    LineStyle,
    axes_at,
    dataset_styles,
    method_styles,
    remark,
    width_of,
    write_names,
)
from apfl.paper.labels import TEST_LABELS, dataset_label, ordered, partition_label
from apfl.paper.numbers import tidy, virtual
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.metrics import Metrics, cell_values, curve, estimate
from apfl.study.cells import Cell
from apfl.study.outputs import OUTPUTS, Output

TESTS = {"": "pooled", "_own": "own"}
"""By suffix of the file name, the test set that a figure shows."""
PARAMETERS = {"noise_dimension": "noise dimension", "samples_per_class": "synthetic samples per class"}
ROUND = "round"
TIME_AXES = {"time": "virtual time", "bytes": "data moved (MB)"}
WHAT = {"figure4": "accuracy", "figure5": "friend's accuracy", "figure_time": "accuracy"}
STYLES = {"figure4": method_styles, "figure5": dataset_styles, "figure_time": method_styles}
PLAIN: Mapping[str, Any] = {"linewidth": 1.3, "markersize": 4.5, "zorder": 3}
STRONG: Mapping[str, Any] = {"linewidth": 2.4, "markersize": 9, "zorder": 4}
FEW = 7
"""With more lines than this their bands are fainter."""


@dataclass(frozen=True)
class Curve:
    """A line: ``points`` has columns x, mean, std (NaN for one seed), seeds, in per cent; ``note``: what it lacks."""

    name: str
    points: pd.DataFrame
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """One pair of axes: its title, what x is, and the lines in it."""

    title: str
    xlabel: str
    curves: tuple[Curve, ...]


def data(name: str, cells: Sequence[Cell], metrics: Metrics, test: str) -> tuple[Plot, ...]:
    """The panels of ``figure4``, ``figure5`` or ``figure_time`` on one test set."""
    makers = {"figure4": _along_rounds, "figure5": _along_parameters, "figure_time": _along_time}
    return makers[name](cells, metrics, test)


def _along_time(cells: Sequence[Cell], metrics: Metrics, test: str) -> tuple[Plot, ...]:
    """A row of panels for each data set and level of heterogeneity: along time, along bytes."""
    virtual.check_timelines(cells, metrics)
    places = grouped(cells, lambda cell: (cell.dataset, cell.axis["heterogeneity"]))
    panels = []
    for (dataset, level), here in places.items():
        for axis, xlabel in TIME_AXES.items():
            curves = tuple(
                Curve(cell.title, virtual.along(cell, metrics, test, axis), _note(metrics, cell.runs)) for cell in here
            )
            title = f"{dataset_label(dataset)}, {partition_label(here[0].setting)}, heterogeneity {level:g}"
            panels.append(Plot(title if axis == "time" else "", xlabel, curves))
    return tuple(panels)


def _along_rounds(cells: Sequence[Cell], metrics: Metrics, test: str) -> tuple[Plot, ...]:
    places = grouped(cells, lambda cell: (cell.dataset, cell.setting))
    datasets = ordered((dataset for dataset, _ in places), IN_PAPER)
    heads = tidy.columns("table2", cells)
    panels = []
    for (dataset, setting), ours in sorted(places.items(), key=lambda place: datasets.index(place[0][0])):
        here = {tidy.column_key("table2", cell): cell for cell in ours}
        curves = tuple(_curve(head.label, here[head.key], metrics, test) for head in heads if head.key in here)
        panels.append(Plot(f"{dataset_label(dataset)}, {partition_label(setting)}", ROUND, curves))
    return tuple(panels)


def _curve(name: str, cell: Cell, metrics: Metrics, test: str) -> Curve:
    points = curve(metrics, cell, test, "non_dropout").rename(columns={"round": "x"})
    return Curve(name, points, _note(metrics, cell.runs))


def _note(metrics: Metrics, runs: Sequence[str]) -> str:
    states = [metrics.status(run) for run in runs]
    done = sum(state == "ok" for state in states)
    if "diverged" in states:
        return "diverged"
    return "" if done == len(states) else f"{done} of {len(states)} seeds" if done else "not run"


def _along_parameters(cells: Sequence[Cell], metrics: Metrics, test: str) -> tuple[Plot, ...]:
    panels = []
    for parameter, xlabel in PARAMETERS.items():
        ours = [cell for cell in cells if parameter in cell.axis]
        datasets = ordered((cell.dataset for cell in ours), IN_PAPER)
        lines = grouped(ours, lambda cell: (cell.dataset, cell.reading))
        several = len({reading for _, reading in lines}) > 1
        curves = []
        for (dataset, reading), line in sorted(lines.items(), key=lambda item: datasets.index(item[0][0])):
            name = dataset_label(dataset) + (f" [{reading}]" if several and reading else "")
            curves.append(_parameter_curve(name, parameter, line, metrics, test))
        panels.append(Plot("", xlabel, tuple(curves)))
    return tuple(panels) if any(panel.curves for panel in panels) else ()


def _parameter_curve(name: str, parameter: str, cells: Sequence[Cell], metrics: Metrics, test: str) -> Curve:
    found = [(float(cell.axis[parameter]), estimate(cell_values(metrics, cell, test, "non_dropout"))) for cell in cells]
    rows = [(x, one.mean, one.std, one.seeds) for x, one in sorted(found) if one.status == "ok"]
    points = pd.DataFrame(rows, columns=["x", "mean", "std", "seeds"]).astype({"std": float})
    note = _note(metrics, [run for cell in cells for run in cell.runs])
    return Curve(name, points, note.replace("seeds", "runs"))


WIDTH, HEIGHT = 4.1, 2.6
LEFT, BOTTOM, TOP = 0.65, 0.55, 0.35
FOOT = 0.3
"""In inches: the axes of a panel, the margins around them, and the figure's foot; names stand right of the axes."""
LEAST = 2.2
"""How wide the axes of a panel are at least, in inches."""


@STYLED
def draw(name: str, panels: Sequence[Plot], test: str, paper: bool = True, narrow: bool = False) -> Figure:
    """The figure, with a remark at its foot on what of the paper's figure the study does not run; panels stand two
    abreast, or in a ``narrow`` one below each other."""
    columns = 1 if narrow or len(panels) < 2 else 2
    rows = max(1, -(-len(panels) // columns))
    curves = [item for panel in panels for item in panel.curves]
    shown = [_name(item, narrow) for item in curves if len(item.points)]
    right = 0.35 + 0.068 * max((len(line) for text in shown for line in text.split("\n")), default=0)
    height = max(HEIGHT, 0.16 * max((len(panel.curves) for panel in panels), default=0))
    across = max(LEAST, NARROW - LEFT - right) if narrow else WIDTH
    wide, high = LEFT + across + right, BOTTOM + height + TOP
    figure = Figure(figsize=(wide * columns, high * rows + FOOT) if panels else (6.0, 0.5))
    styles = STYLES[name](list(dict.fromkeys(item.name for item in curves)))
    for place, panel in enumerate(panels):
        row, column = divmod(place, columns)
        corner = wide * column + LEFT, FOOT + high * (rows - 1 - row) + BOTTOM
        axes = axes_at(figure, *corner, across, height)
        axes.set_ylim(*_limits(curves if name == "figure5" else panel.curves))
        axes.set_ylabel(f"{WHAT[name]}, {TEST_LABELS[test]} (%)" if column == 0 else "")
        _draw_panel(axes, panel, styles, narrow)
    remark(figure, _absent(OUTPUTS[name].shown(paper), panels))
    return figure


def _draw_panel(axes: Axes, panel: Plot, styles: Mapping[str, LineStyle], narrow: bool) -> None:
    drawn = [item for item in panel.curves if len(item.points)]
    for item in drawn:
        _draw_curve(axes, item, styles[item.name], 0.12 if len(drawn) <= FEW else 0.09)
    axes.set(title=panel.title, xlabel=panel.xlabel)
    axes.margins(x=0.02)
    if panel.xlabel == ROUND:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], integer=True))
    elif panel.xlabel in TIME_AXES.values():
        axes.set_xlim(left=0)
    else:
        axes.set_xscale("log")
        ticks = sorted({x for item in drawn for x in item.points["x"]})
        axes.set_xticks(ticks, _tick_labels(axes, ticks), fontsize=8)
        axes.minorticks_off()
    ends = [(item.points["x"].iloc[-1], item.points["mean"].iloc[-1]) for item in drawn]
    write_names(axes, [_name(item, narrow) for item in drawn], ends, [styles[item.name] for item in drawn])
    if missing := [f"{item.name} ({item.note or 'no samples'})" for item in panel.curves if not len(item.points)]:
        text = "\n".join(["no line:", *missing])
        axes.text(0.99, 0.02, text, transform=axes.transAxes, ha="right", fontsize=7, color=SOFT)
    if not drawn:
        axes.set(xticks=[], yticks=[])  # of nothing


def _draw_curve(axes: Axes, item: Curve, style: LineStyle, shade: float) -> None:
    points, strong = item.points, item.name == EMPHASISED
    step = max(1, len(points) // 6)
    look = {**style.keywords, **(STRONG if strong else PLAIN)}
    marked = ((len(points) - 1) % step, step)
    axes.plot(points["x"], points["mean"], markeredgewidth=0.9, markevery=marked, **look)
    if points["std"].isna().all():
        return
    if len(points) == 1:
        axes.errorbar(points["x"], points["mean"], points["std"], color=style.color, capsize=2, linewidth=0.9, zorder=2)
        return
    low, high = points["mean"] - points["std"], points["mean"] + points["std"]
    alpha = 0.2 if strong else shade
    axes.fill_between(points["x"], low, high, color=style.color, alpha=alpha, linewidth=0, zorder=1)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """The accuracies with their bands, with some room, within 0 and 100 %."""
    points = [item.points for item in curves if len(item.points)]
    if not points:
        return 0.0, 100.0
    low = min((part["mean"] - part["std"].fillna(0)).min() for part in points)
    high = max((part["mean"] + part["std"].fillna(0)).max() for part in points)
    room = max(0.05 * (high - low), 0.5)
    return max(0.0, low - room), min(101.0, high + room)


LONG = 22
"""Characters of a name that is broken in a narrow figure."""


def _name(item: Curve, narrow: bool) -> str:
    text = f"{item.name}  {item.points['mean'].iloc[-1]:.1f}" + (f" ({item.note})" if item.note else "")
    return text.replace("  ", "\n") if narrow and len(text) > LONG else text


def _tick_labels(axes: Axes, ticks: Sequence[float]) -> list[str]:
    """The ticks of a logarithmic axis as text; one that would touch the next is not named."""
    whole = np.log(ticks[-1] / ticks[0]) if len(ticks) > 1 else 1.0
    gaps = [width_of(axes) * np.log(after / x) / whole for x, after in pairwise(ticks)]
    return [f"{x:g}" if gap > 0.2 else "" for x, gap in zip(ticks, [*gaps, np.inf], strict=True)] if ticks else []


def _absent(output: Output, panels: Sequence[Plot]) -> str:
    shown = [panel.title for panel in panels] + [item.name for panel in panels for item in panel.curves]
    named = {re.split(r",| \[", title)[0] for title in shown}  # "CIFAR-10, Dirichlet 0.1", "CIFAR-10 [literal]"
    absent = [label for label in map(dataset_label, output.datasets) if label not in named]
    head = "" if panels else f"{output.heading} is not part of this study. "
    return head + (f"Not run in this study: {', '.join(absent)}." if absent else "")


def tidy_points(panels_by_test: Mapping[str, Sequence[Plot]]) -> pd.DataFrame:
    """The points of a figure: one row for each test, panel, line and x; accuracies in per cent."""
    parts = [
        item.points.assign(test=test, panel=panel.title, axis=panel.xlabel, line=item.name)
        for test, panels in panels_by_test.items()
        for panel in panels
        for item in panel.curves
        if len(item.points)
    ]
    columns = ["test", "panel", "axis", "line", "x", "mean", "std", "seeds"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
