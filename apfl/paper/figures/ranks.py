"""The picture of mean ranks (Demšar 2006), and the files."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apfl.paper.figures.files import save, save_points
from apfl.paper.figures.style import EMPHASISED, INK, NARROW, SOFT, STYLED, axes_at, method_styles, nothing
from apfl.paper.labels import TEST_LABELS
from apfl.paper.numbers.frames import tuples
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.numbers.ranks import Ranking, cliques, many, rankings
from apfl.study.cells import Cell

ACROSS, HEAD, ROW, BAR, FOOT = 4.2, 0.58, 0.21, 0.11, 0.24
"""In inches: the scale, the space above it, a name, a bar, and the space below."""


@STYLED
def draw(made: Sequence[Ranking], narrow: bool = False) -> Figure:
    """A scale of mean ranks for each test, the best on the left; bars join methods that do not differ."""
    shown = [ranking for ranking in made if len(ranking.ranked) > 1]
    if not shown:
        return nothing("Fewer than two methods have every cell.")
    joined = [cliques(ranking) for ranking in shown]
    depths = [
        HEAD + BAR * (len(groups) + 1) + ROW * ceil(len(ranking.ranked) / 2) + FOOT
        for ranking, groups in zip(shown, joined, strict=True)
    ]
    side = 0.75 + 0.078 * max(len(name) for one in shown for name in one.ranked["method"])
    across = max(1.8, NARROW - 2 * side) if narrow else ACROSS
    wide, top = across + 2 * side, sum(depths)
    figure = Figure(figsize=(wide, top))
    styles = method_styles(list(dict.fromkeys(name for one in shown for name in one.ranked["method"])))
    for ranking, groups, depth in zip(shown, joined, depths, strict=True):
        axes = axes_at(figure, 0, top - depth, wide, depth)
        axes.set(xlim=(0, wide), ylim=(-depth, 0))
        axes.set_axis_off()
        _draw_scale(axes, ranking, groups, {name: style.color for name, style in styles.items()}, side, across)
        top -= depth
    return figure


def _draw_scale(
    axes: Axes, ranking: Ranking, groups: Sequence[Sequence[str]], colors: dict[str, str], side: float, across: float
) -> None:
    """One scale, ``across`` wide, in axes whose unit is an inch and whose top is 0; ``side`` is the space for names."""
    rows = list(tuples(ranking.ranked))
    worst = len(rows)

    def place(rank: float) -> float:
        return side + across * (rank - 1) / (worst - 1)

    left, right = (0.1, across + 2 * side - 0.1) if across < ACROSS else (side, side + across)
    axes.text(left, -0.14, f"Mean rank, {TEST_LABELS[ranking.test]}", fontsize=10, fontweight="bold", va="center")
    cells = f"{many(len(ranking.blocks), 'cell')}, {many(ranking.datasets, 'data set')}"
    axes.text(right, -0.14, cells, fontsize=8, color=SOFT, ha="right", va="center")
    axes.plot([side, side + across], [-HEAD, -HEAD], color=INK, linewidth=1.0)
    for rank in range(1, worst + 1):
        axes.plot([place(rank)] * 2, [-HEAD, -HEAD + 0.07], color=INK, linewidth=0.8)
        axes.text(place(rank), -HEAD + 0.11, str(rank), ha="center", va="bottom", fontsize=8, color=INK)
    by_name = {row.method: row.mean_rank for row in rows}
    for number, group in enumerate(groups, start=1):
        ends = [place(by_name[group[0]]) - 0.05, place(by_name[group[-1]]) + 0.05]
        axes.plot(ends, [-HEAD - BAR * number] * 2, color="#3d444d", linewidth=3.2, solid_capstyle="butt", zorder=4)
    first = -HEAD - BAR * (len(groups) + 1)
    left = ceil(worst / 2)
    for number, row in enumerate(rows):
        at_left = number < left
        y = first - ROW * (0.5 + (number if at_left else worst - 1 - number))
        end = side - 0.12 if at_left else side + across + 0.12
        x, strong = place(row.mean_rank), row.method == EMPHASISED
        axes.plot([x, x, end], [-HEAD, y, y], zorder=3, color=colors[row.method], linewidth=1.8 if strong else 1.0,
                  solid_joinstyle="miter")  # fmt: skip
        axes.plot(x, -HEAD, marker="o", markersize=4, color=colors[row.method], zorder=5)
        text = f"{row.method}  {row.mean_rank:.2f}" if at_left else f"{row.mean_rank:.2f}  {row.method}"
        axes.text(end - 0.05 if at_left else end + 0.05, y, text, ha="right" if at_left else "left", va="center",
                  fontsize=8.5, color=colors[row.method], fontweight="bold" if strong else "normal")  # fmt: skip


def write(cells: Sequence[Cell], metrics: Metrics, folder: Path) -> list[Path]:
    """Write ``ranks.csv``, ``ranks_pairs.csv`` and the picture ``ranks.{svg,pdf,png}``."""
    made = rankings(cells, metrics)
    tables = {"ranks": [one.rows for one in made], "ranks_pairs": [one.pairs for one in made]}
    joined = {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}
    paths = [save_points(table, folder / f"{name}.csv", "%.4g") for name, table in joined.items()]
    return paths + save(draw(made), folder / "ranks")
