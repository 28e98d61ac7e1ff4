"""Published and reproduced side by side: a pair of marks for AP-FL and for FedAvg in each row of Table 2 that was run,
and the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apfl.paper.figures.files import save, save_points
from apfl.paper.figures.style import EMPHASISED, INK, NARROW, PAPER, SOFT, STYLED, axes_at, nothing
from apfl.paper.labels import dataset_label
from apfl.paper.numbers import tidy
from apfl.paper.numbers.frames import parts, tuples
from apfl.paper.numbers.metrics import Metrics
from apfl.study.cells import Cell

METHODS = ("FedAvg", EMPHASISED)
TEST = "pooled"
COLUMNS = (
    "dataset", "setting", "clients", "alpha", "column", "test", "published_mean", "published_std", "reproduced_mean",
    "reproduced_std", "seeds", "seeds_planned",
)  # fmt: skip
MARK: Mapping[str, Any] = {"marker": "o", "markersize": 5.6, "markeredgewidth": 1.2}
FAINT = "#d8dee4"
HEAD, DATASET, ROW, FOOT = 0.66, 0.28, 0.44, 0.5
"""In inches: the title and the legend, the name of a data set, a row with its two pairs, and the axis below."""


class Layout(NamedTuple):
    """Across, in inches: the whole, and where the axis begins and ends; names stand left of it, numbers right."""

    width: float
    left: float
    right: float


WIDE = Layout(9.24, 1.7, 7.9)
LAYOUTS = {"wide": WIDE, "narrow": Layout(NARROW, 1.35, 3.75)}


def pairs(cells: Sequence[Cell], metrics: Metrics) -> pd.DataFrame:
    """A row of `COLUMNS` for each of `METHODS` in each row of Table 2 that has a printed and a measured number, in
    per cent, on the pooled test."""
    rows = tidy.rows("table2", cells, metrics)
    known = (rows["seeds"] > 0) & (rows["status"] == "ok") & rows["published_mean"].notna()
    shown = rows[known & rows["column"].isin(METHODS) & (rows["test"] == TEST)]
    return shown[list(COLUMNS)].reset_index(drop=True)


@STYLED
def draw(found: pd.DataFrame, layout: Layout = WIDE) -> Figure:
    """`pairs` as dumbbells: hollow what is printed, filled what was measured, with its deviation over seeds."""
    if found.empty:
        return nothing("No row of Table 2 with printed numbers has been run.")
    groups = [(name, list(parts(part, "setting"))) for name, part in parts(found, "dataset")]
    below = sum(DATASET + ROW * len(rows) for _, rows in groups)
    height = HEAD + below + FOOT
    figure = Figure(figsize=(layout.width, height))
    axes = axes_at(figure, layout.left, FOOT, layout.right - layout.left, below)
    ends = found["reproduced_mean"] + found["reproduced_std"].fillna(0)
    most = max(ends.max(), found["published_mean"].max())
    axes.set(xlim=(0, min(100, 10 * (most // 10 + 1))), ylim=(-below, 0), xlabel="accuracy, pooled test (%)")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    y = 0.0
    for dataset, rows in groups:
        _write(axes, layout, "left", y - 0.6 * DATASET, dataset_label(dataset), color=INK, fontweight="bold")
        y -= DATASET
        for _, row in rows:
            _draw_row(axes, layout, row, y)
            y -= ROW
    _draw_legend(figure, layout, height)
    return figure


def _write(axes: Axes, layout: Layout, side: str, y: float, text: str, **look: Any) -> None:
    """In the margin: names begin at the left edge, numbers end at the right one."""
    across = layout.right - layout.left
    edge = 0.08 - layout.left if side == "left" else layout.width - 0.08 - layout.left
    axes.text(edge / across, y, text, transform=axes.get_yaxis_transform(), ha=side, va="center",
              **{"fontsize": 8.5, **look})  # fmt: skip


def _draw_row(axes: Axes, layout: Layout, row: pd.DataFrame, top: float) -> None:
    axes.axhline(top, color=FAINT, linewidth=0.7, zorder=1)
    first = row.iloc[0]
    name = f"{first['clients']} clients" + (f", α = {first['alpha']}" if first["alpha"] != "-" else "")
    few = first["seeds"] < first["seeds_planned"]
    _write(axes, layout, "left", top - (0.35 if few else 0.5) * ROW, name, color=INK)
    if few:
        said = f"{first['seeds']} of {first['seeds_planned']} seeds"
        _write(axes, layout, "left", top - 0.72 * ROW, said, color=SOFT, fontsize=7)
    for one in tuples(row):
        place = METHODS.index(one.column)
        y, color = top - ROW * (0.3 + 0.4 * place), PAPER[one.column].color
        ends = (one.published_mean, one.reproduced_mean)
        axes.plot(ends, (y, y), color=color, linewidth=1.6, alpha=0.35, zorder=2)
        look = dict(MARK) | {"markeredgecolor": color, "clip_on": False}
        gid = f"{one.dataset}-{one.setting}-{one.column}"
        axes.plot(ends[0], y, markerfacecolor="white", zorder=4, gid=f"{gid}-published", **look)
        axes.plot(ends[1], y, markerfacecolor=color, zorder=5, gid=f"{gid}-reproduced", **look)
        if not pd.isna(one.reproduced_std):
            axes.errorbar(ends[1], y, xerr=one.reproduced_std, color=color, capsize=2.2, linewidth=0.9, zorder=3)
        _write(axes, layout, "right", y, f"{ends[0]:.1f} → {ends[1]:.1f}", color=color, fontsize=8,
               fontweight="bold" if one.column == EMPHASISED else "normal")  # fmt: skip


def _draw_legend(figure: Figure, layout: Layout, height: float) -> None:
    """The title, and what the marks and the colours mean."""
    axes = figure.add_axes((0, 1 - HEAD / height, 1, HEAD / height))
    axes.set(xlim=(0, layout.width), ylim=(-HEAD, 0))
    axes.set_axis_off()
    axes.text(0.08, -0.18, "Published and reproduced", fontsize=12, fontweight="bold", color=INK, va="center")
    x = 0.16
    for text, face, edge in (
        ("published", "white", INK),
        ("reproduced", INK, INK),
        *((name, PAPER[name].color, PAPER[name].color) for name in METHODS),
    ):
        axes.plot(x, -0.47, markerfacecolor=face, markeredgecolor=edge, linestyle="none", **MARK)
        axes.text(x + 0.12, -0.47, text, fontsize=8.5, color=edge, va="center")
        x += 0.34 + 0.078 * len(text)


def write(cells: Sequence[Cell], metrics: Metrics, folder: Path) -> list[Path]:
    """Write what is drawn as ``dumbbell.csv``, and the picture ``dumbbell.{svg,pdf,png}``."""
    found = pairs(cells, metrics)
    return [save_points(found, folder / "dumbbell.csv"), *save(draw(found), folder / "dumbbell")]
