"""How the forest plot of the verdicts looks: signs and colours, its two layouts, and its legend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from apfl.data.catalogue import CATALOGUE, IN_PAPER
from apfl.paper.figures.style import INK, SOFT, LineStyle
from apfl.paper.verdict.family import CONTRADICTED, NOT_RUN, NOTHING, OPEN, REPRODUCED
from apfl.paper.verdict.forest import READINGS

FAINT, SHADE = "#d8dee4", "#dcebf7"
BOUND = "#7fb0d6"
CROSS: Mapping[str, Any] = {"markersize": 4.4, "markeredgewidth": 1.1, "color": "#9a5fa8"}
SIGNS = {REPRODUCED: "✓", CONTRADICTED: "✗", OPEN: "?", NOTHING: "–", NOT_RUN: ""}
SO_FAR = "…"
"""Beside the sign of an interim verdict on a data set, where there is no room for the words."""
FILLS = {REPRODUCED: "#0072b2", CONTRADICTED: "#c43e00", OPEN: "#f0e0a8", NOTHING: "#d8dee4", NOT_RUN: "#ffffff"}
EDGES = FILLS | {OPEN: "#b8952f", NOTHING: "#8c959f", NOT_RUN: "#d8dee4"}
WORDS = {REPRODUCED: "#005a8c", CONTRADICTED: "#a83500", OPEN: "#5f4700", NOTHING: "#3d444d", NOT_RUN: "#6e7781"}
PARTS = {"paper": "What the paper claims", "summary": "What a summary in circulation says, not the paper"}
ALL = LineStyle(INK, "D")
TEXT, PART, LINE, PAD, AXIS, HIGH = 0.08, 0.3, 0.09, 0.06, 0.46, 0.21
"""In inches: the left margin, the name of a part, a line, the space around those of a claim, an axis, and a cell."""


class Layout(NamedTuple):
    """Where things stand across, in inches: the strip with the intervals, the cells, and the verdicts on all rows.

    Titles stand left of the strip or, where ``above``, over it. ``characters`` fit in a line of a title, and of what is
    below it; ``turned`` are the heads of the columns, in degrees; ``least`` is the least height of a claim.
    """

    width: float
    left: float
    right: float
    cells: float
    cell: float
    word: float
    characters: tuple[int, int]
    above: bool = False
    turned: int = 0
    least: float = 0.42


WIDE = Layout(9.24, 2.62, 5.5, 5.9, 0.5, 7.93, (38, 49))
NARROW = Layout(4.7, 0.2, 1.95, 2.27, 0.28, 3.42, (60, 75), above=True, turned=90, least=0.3)
"""For a page on a telephone."""


class Sample(NamedTuple):
    """An entry of the legend: a status, or what else is drawn."""

    kind: str
    text: str
    filled: bool = True


def _legend(readings: Sequence[str]) -> Iterator[Sample]:
    yield Sample("claimed", "claimed side")
    yield Sample("printed", "printed in the paper")
    best = f" (open marker: {READINGS[1]})" if readings[1:] else ""
    yield Sample("measured", f"measured, 95 % interval and the one that contradicts{best}")
    yield from (Sample(status, status) for status in SIGNS)
    yield Sample(OPEN, f"in outline, {SO_FAR}: so far, as runs are missing", filled=False)


def _places(layout: Layout, readings: Sequence[str]) -> list[tuple[float, float, Sample]]:
    """The entries of the legend in lines that fit; what verdicts look like starts one of its own."""
    x, y, found = TEXT, -0.44, []
    for one in _legend(readings):
        across = 0.42 + 0.056 * len(one.text)
        if x + across > layout.width or one.kind == REPRODUCED:
            x, y = TEXT, y - 0.22
        found.append((x, y, one))
        x += across
    return found


def depth(layout: Layout, readings: Sequence[str]) -> float:
    """Of the head, in inches."""
    return 0.54 - _places(layout, readings)[-1][1] + (0.32 if layout.turned else 0)


def draw_head(axes: Axes, layout: Layout, styles: Mapping[str, LineStyle], readings: Sequence[str], study: str) -> None:
    """What has to be known to read the picture, and the heads of the columns."""
    axes.text(TEXT, -0.16, "The claims and what came out", fontsize=12, fontweight="bold", color=INK, va="center")
    axes.text(layout.width - TEXT, -0.16, study, fontsize=8, color=SOFT, va="center", ha="right")
    for x, y, sample in _places(layout, readings):
        _draw_sample(axes, x, y, sample)
        axes.text(x + 0.27, y, sample.text, fontsize=7.2, color=INK, va="center")
    y = 0.18 - depth(layout, readings) + (0.32 if layout.turned else 0)
    heads = [
        (layout.cells + layout.cell * (n + 0.5), name, CATALOGUE[name].short or CATALOGUE[name].title)
        for n, name in enumerate(IN_PAPER)
    ]
    for x, name, said in [*heads, ((layout.word + layout.width - TEXT) / 2, "", "all together")]:
        style, turned = styles[name], layout.turned if name else 0
        axes.plot(x, y + 0.1, marker=style.marker, markersize=4.6, color=style.color)
        said = said.replace("-\n", "-") if turned else said
        axes.text(x, y + 0.02, said, fontsize=6.6, color=style.color, ha="center", va="top", linespacing=0.95,
                  rotation=turned)  # fmt: skip


def _draw_sample(axes: Axes, x: float, y: float, sample: Sample) -> None:
    kind, _, filled = sample
    if kind == "printed":
        axes.plot(x + 0.14, y, marker="x", **CROSS)
    elif kind == "measured":
        axes.plot([x, x + 0.24], [y, y], color=INK, linewidth=0.8)
        axes.plot([x + 0.05, x + 0.19], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt")
        axes.plot(x + 0.12, y, marker="D", markersize=3.9, color=INK)
    else:
        face, edge = (SHADE, BOUND) if kind == "claimed" else (FILLS[kind] if filled else "white", EDGES[kind])
        axes.add_patch(Rectangle((x, y - 0.07), 0.2, 0.14, facecolor=face, edgecolor=edge, linewidth=0.8))
        sign, color = SIGNS.get(kind, "") + ("" if filled else SO_FAR), ink(kind, filled)
        axes.text(x + 0.1, y - 0.005, sign, fontsize=7.2, color=color, fontweight="bold", ha="center", va="center")


def ink(status: str, filled: bool) -> str:
    """The colour of what is written in a cell."""
    return "white" if filled and status in (REPRODUCED, CONTRADICTED) else WORDS.get(status, INK)
