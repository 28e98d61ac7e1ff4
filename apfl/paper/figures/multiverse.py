"""The specification curve: AP-FL minus another method in every reading of what the paper leaves open.

Simonsohn, Simmons and Nelson, "Specification curve analysis", Nature Human Behaviour 4, 2020: all defensible choices
side by side, sorted by their result, above a table of the choices. The readings stand in one order in all places (data
sets and partitions), that of their mean over the places, so that a column is one reading from top to bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory

from apfl.paper.figures.style import INK, NARROW, SOFT, STYLED, axes_at, nothing, remark, width_of
from apfl.paper.labels import TEST_LABELS, dataset_label, partition_label
from apfl.paper.numbers.frames import parts, tuples
from apfl.paper.numbers.multiverse import DEFAULTS, WHEN

OPTIONS = {
    "friend_labels": "friend's labels",
    "friend_distribution": "friend's classes",
    "friend_start": "friend starts from",
    "beta_weighs": "β weighs",
    "teacher": "teacher",
    "class_weight": "Eq. 7 over",
    "diversity": "diversity",
    "steps_as_with": "trained for",
    WHEN: WHEN,
}
"""What the options are called in the picture."""
VALUES = {
    "own": "the client's own",
    "global": "global",
    "local": "local model",
    "scratch": "scratch",
    "clients": "client models",
    "paper": "Eq. 8",
    "exp": "exponential",
    "ratio": "mode-seeking ratio",
    "class": "the class",
    "all": "all images",
    0: "epochs",
    600: "steps",
}
GLOBAL = {"friend_distribution": "global prior", "friend_start": "global model", "teacher": "global model"}
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "above": {"color": "#0072b2", "marker": "^", "markerfacecolor": "#0072b2"},
    "below": {"color": "#c43e00", "marker": "v", "markerfacecolor": "#c43e00"},
    "neither": {"color": "#6b7480", "marker": "o", "markerfacecolor": "white"},
    "one seed": {"color": "#6b7480", "marker": "x", "markerfacecolor": "white"},
}
"""Colour and shape by where the interval lies; shapes differ for those who do not tell the colours apart."""
FAINT, BAND = "#c3cad2", "#f3f5f7"
NAMES, RIGHT, TOP, GAP, FOOT = 2.55, 0.25, 0.42, 0.24, 0.32
PANEL, HEAD, ROW = 1.75, 0.36, 0.185
"""In inches: the margins (left: the names of the options), the gap above the matrix, a panel and its title, and a row
of the matrix."""


def verdict(low: float, high: float) -> str:
    """Where an interval lies: ``above`` zero, ``below`` it or ``neither``; ``one seed`` has no interval."""
    if np.isnan(low):
        return "one seed"
    return "above" if low > 0 else "below" if high < 0 else "neither"


@STYLED
def draw(rows: pd.DataFrame, narrow: bool = False) -> Figure:
    """The curve of `points` on one test: a panel for each place, and one matrix of options below them."""
    found = rows.dropna(subset="place")
    if found.empty:
        return nothing("No reading of AP-FL has been run yet.")
    readings = found.drop_duplicates("place").sort_values("place")
    lines = list(_matrix_lines(readings))
    places = list(dict.fromkeys(zip(found["dataset"], found["setting"], strict=True)))
    least, room = (0.1, NARROW - NAMES - RIGHT) if narrow else (0.2, 7.2)
    across = len(readings) * float(np.clip(room / len(readings), least, 0.55))
    across = max(across, min(room, 4.4))
    matrix = ROW * (len(lines) + 1)
    foot = FOOT + 0.15 * max(0, len(missing := _missing(rows)) - 1)
    wide, high = NAMES + across + RIGHT, TOP + (PANEL + HEAD) * len(places) + GAP + matrix + foot
    figure = Figure(figsize=(wide, high))
    for number, place in enumerate(places):
        bottom = high - TOP - (PANEL + HEAD) * (number + 1)
        here = found[(found["dataset"] == place[0]) & (found["setting"] == place[1])]
        _draw_panel(axes_at(figure, NAMES, bottom, across, PANEL), here, readings, 0.6 - NAMES if narrow else 0)
    _draw_matrix(axes_at(figure, NAMES, foot, across, matrix), readings, lines)
    _draw_legend(figure, found, (0.2 if narrow else NAMES) / wide)
    for number, line in enumerate(reversed(missing)):
        remark(figure, line, bottom=0.1 + 0.15 * number)
    return figure


def _bands(axes: Axes, readings: pd.DataFrame) -> None:
    """Every other column shaded, so that the eye finds from a point to its dots; the literal reading framed."""
    axes.set_xlim(0.4, len(readings) + 0.6)
    for place in range(2, len(readings) + 1, 2):
        axes.axvspan(place - 0.5, place + 0.5, color=BAND, linewidth=0, zorder=0)
    for place in readings.loc[readings["reading"] == "literal", "place"]:
        axes.axvspan(place - 0.5, place + 0.5, facecolor="#fbf0d9", linewidth=0, zorder=0)


def _draw_panel(axes: Axes, here: pd.DataFrame, readings: pd.DataFrame, left: float) -> None:
    """``left``: where the title begins, in inches from the axes."""
    _bands(axes, readings)
    axes.axhline(0, color=INK, linewidth=0.9, zorder=2)
    for row in tuples(here):
        look = LOOKS[verdict(row.low, row.high)]
        if not np.isnan(row.low):
            axes.vlines(row.place, row.low, row.high, color=look["color"], linewidth=1.6, alpha=0.55, zorder=3)
        axes.plot(row.place, row.mean, linestyle="none", markersize=5.2, markeredgewidth=1.1, zorder=4, **look)
    first = here.iloc[0]
    setting = f"{dataset_label(first['dataset'])}, {partition_label(first['setting'])}"
    axes.set_title(setting, pad=5, x=left / width_of(axes))
    states = [verdict(row.low, row.high) for row in tuples(here)]
    said = f"{states.count('above')} above, {states.count('below')} below {first['against']}, of {len(here)}"
    axes.text(1.0, 1.045, said, transform=axes.transAxes, ha="right", fontsize=8, color=SOFT)
    axes.set_ylabel(f"AP-FL − {first['against']}\n(points)", fontsize=8)
    axes.margins(y=0.08)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", bottom=False, labelbottom=False)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines["bottom"].set_visible(False)


def _matrix_lines(readings: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The options and their values that there are in the picture, the literal value first."""
    for option, default in DEFAULTS.items():
        there = [value for value in dict.fromkeys(readings[option]) if value != ""]
        yield from ((option, value) for value in sorted(there, key=lambda value: (value != default, value)))


def _draw_matrix(axes: Axes, readings: pd.DataFrame, lines: Sequence[tuple[str, str]]) -> None:
    _bands(axes, readings)
    axes.set_ylim(len(lines) + 0.4, -0.6)
    axes.set_axis_off()
    label: dict[str, Any] = {"transform": _inches(axes), "va": "center", "fontsize": 8}
    for y, (option, value) in enumerate(lines):
        literal = value == DEFAULTS[option]
        there = readings.loc[readings[option] == value, "place"]
        axes.plot(
            there, [y] * len(there), linestyle="none", marker="o", zorder=3,
            markersize=3.6 if literal else 6, color=FAINT if literal else INK,
        )  # fmt: skip
        if option != (lines[y - 1][0] if y else ""):
            axes.text(-NAMES + 0.1, y, OPTIONS[option], fontweight="bold", color=INK, **label)
            if y:
                axes.axhline(y - 0.5, color=FAINT, linewidth=0.6, zorder=1)
        said = GLOBAL.get(option, value) if value == "global" else VALUES.get(value, value)
        axes.text(-0.1, y, said, color=SOFT if literal else INK, ha="right", **label)
    for place in _numbers(len(readings), width_of(axes) / len(readings)):
        axes.text(place, len(lines), str(place), ha="center", va="center", fontsize=7, color=SOFT)
    axes.text(-0.1, len(lines), "reading, by number", color=SOFT, ha="right", **label | {"fontsize": 7})
    for place in readings.loc[readings["reading"] == "literal", "place"]:
        axes.annotate("literal", (place, -0.6), xytext=(0, 1), textcoords="offset points", ha="center", va="bottom",
                      fontsize=7.5, color="#8a5a00", annotation_clip=False)  # fmt: skip


def _inches(axes: Axes) -> Transform:
    """In which x is in inches right of the axes' left edge, and y in the axes' data."""
    figure = axes.figure
    left = ScaledTranslation(axes.get_position().x0 * figure.get_figwidth(), 0, figure.dpi_scale_trans)  # type: ignore[union-attr]
    return blended_transform_factory(figure.dpi_scale_trans + left, axes.transData)


def _numbers(count: int, room: float) -> list[int]:
    """Those that are written under ``count`` columns, each with so much ``room`` in inches."""
    return list(range(1, count + 1)) if count <= 50 and room > 0.13 else list(range(5, count + 1, 5))


def _draw_legend(figure: Figure, found: pd.DataFrame, left: float) -> None:
    names = {
        "above": "interval above 0",
        "neither": "interval holds 0",
        "below": "interval below 0",
        "one seed": "one seed: no interval",
    }
    there = {verdict(row.low, row.high) for row in tuples(found)}
    handles = [
        Line2D([], [], linestyle="none", markersize=5.2, label=text, **LOOKS[name])
        for name, text in names.items()
        if name in there
    ]
    test = TEST_LABELS[found["test"].iloc[0]]
    height = figure.get_figheight()
    figure.text(left, 1 - 0.08 / height, f"Accuracy on the {test}", va="top", fontsize=10, color=INK)
    figure.legend(handles=handles, fontsize=8, frameon=False, loc="upper left", handletextpad=0.2,
                  bbox_to_anchor=(left - 0.015, 1 - 0.23 / height), ncols=len(handles), columnspacing=1.2)  # fmt: skip


def _missing(rows: pd.DataFrame) -> list[str]:
    """What the picture lacks, one line for each kind."""
    lines = []
    for status, part in parts(rows[rows["status"] != "ok"], "status", sort=True):
        named = list(dict.fromkeys(row.reading or row.title for row in tuples(part)))
        lines.append(f"{status.capitalize()}: {len(part)} ({', '.join(named[:4])}{', ...' if len(named) > 4 else ''}).")
    few = rows[(rows["seeds"] > 0) & (rows["seeds"] < rows["seeds_planned"])]
    if len(few):
        lines.append(f"Fewer seeds than planned: {len(few)} points.")
    return lines
