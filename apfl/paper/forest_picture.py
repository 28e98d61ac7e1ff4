"""The forest plot of the verdicts with the grid of claims and data sets beside it, and the files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from apfl.artifacts import atomic_path, write_text
from apfl.paper import published
from apfl.paper.family import CONTRADICTED, NOT_RUN, NOTHING, OPEN, REPRODUCED
from apfl.paper.figures import encode
from apfl.paper.forest import READINGS, Point, frame, limit, points, shaded
from apfl.paper.page import inline_svg
from apfl.paper.style import RC, LineStyle, dataset_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from apfl.paper.metrics import Metrics
    from apfl.paper.verdicts import Finding
    from apfl.study import Study

FILES = ("forest.csv", "forest.svg", "forest.pdf", "forest.png")
CAPTION = (
    "The claims and what came out, each on its first test. On the left the comparison that is hardest for the claim: a "
    "mean over rows with its 95 % interval (thick), and the interval that holds for all of the claim's comparisons "
    "together, which decides (thin). The claimed side is shaded; × is what the paper prints for the same rows, at its "
    "own scale. A claim is reproduced if all of its comparisons lie on the claimed side. On the right the verdict on "
    "each data set by itself and on all together; in outline it is interim: runs are missing. An arrow points to what "
    "lies beyond the axis."
)
INK, SOFT, FAINT, SHADE = "#1b1f24", "#59636e", "#d8dee4", "#dcebf7"
BOUND = "#7fb0d6"
CROSS = {"markersize": 4.4, "markeredgewidth": 1.1, "color": "#9a5fa8"}
SIGNS = {REPRODUCED: "✓", CONTRADICTED: "✗", OPEN: "?", NOTHING: "–", NOT_RUN: ""}
FILLS = {REPRODUCED: "#0072b2", CONTRADICTED: "#c43e00", OPEN: "#f0e0a8", NOTHING: "#d8dee4", NOT_RUN: "#ffffff"}
EDGES = FILLS | {OPEN: "#b8952f", NOTHING: "#8c959f", NOT_RUN: "#d8dee4"}
WORDS = {REPRODUCED: "#005a8c", CONTRADICTED: "#a83500", OPEN: "#5f4700", NOTHING: "#3d444d", NOT_RUN: "#6e7781"}
NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "emnist": "EMNIST", "fashion_mnist": "Fashion-\nMNIST"}
PARTS = {"paper": "What the paper claims", "summary": "What a summary in circulation says, not the paper"}
ALL = LineStyle(INK, "D")

WIDTH, TEXT, LEFT, RIGHT = 9.24, 0.08, 2.62, 5.5
CELLS, CELL, WORD = 5.9, 0.5, 7.93
TOP, PART, LINE, PAD, LEAST, AXIS = 1.2, 0.3, 0.09, 0.06, 0.42, 0.46
"""In inches. Across: the titles, the strip with the intervals, the cells, and the verdicts on all rows; down: the head,
the name of a part, a line, the space around the lines of a claim, the least height of a claim, and an axis."""
CHARACTERS = 38, 49
"""That fit in a line of a title, and of what is below it."""


class Block(NamedTuple):
    """A claim's points, in its readings, and where it stands."""

    made: list[Point]
    top: float
    height: float


def draw(made: Sequence[Point], study: str, seeds: int) -> Figure:
    """The picture; claims share an axis if they share the unit, as other numbers must not be compared."""
    styles = {"": ALL} | dataset_styles(published.DATASETS)
    with matplotlib.style.context(["default", RC]):
        parts = _parts(made)
        height = TOP + sum(_depth(groups) for _, groups in parts)
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(-height, 0))
        axes.set_axis_off()
        readings = [name for name in READINGS if any(one.reading == name for one in made)]
        _draw_head(axes, styles, readings, f"study {study}, {seeds} seed{'' if seeds == 1 else 's'}")
        y = -TOP
        for source, groups in parts:
            axes.text(TEXT, y - 0.14, PARTS[source], fontsize=9.5, fontweight="bold", color=INK, va="center")
            y -= PART
            for group in groups:
                reach, start = limit(made, group[0][0].unit), y
                for claim in group:
                    block = Block(claim, y, _height(claim))
                    _draw_claim(axes, block, reach, styles)
                    y -= block.height
                _draw_axis(axes, start, y, reach, group[0][0].unit)
                y -= AXIS
        return figure


def _parts(made: Sequence[Point]) -> list[tuple[str, list[list[list[Point]]]]]:
    """By source, by unit, by claim; the unit that most claims have comes first, the others as they come."""
    found = []
    for source in PARTS:
        claims: dict[str, list[Point]] = {}
        for one in (one for one in made if one.source == source):
            claims.setdefault(one.claim, []).append(one)
        units = [one.unit for one in made]
        units = sorted(dict.fromkeys(units), key=units.count, reverse=True)
        groups = [[claim for claim in claims.values() if claim[0].unit == unit] for unit in units]
        if claims:
            found.append((source, [group for group in groups if group]))
    return found


def _depth(groups: Sequence[Sequence[list[Point]]]) -> float:
    return PART + sum(AXIS + sum(_height(claim) for claim in group) for group in groups)


def _height(claim: Sequence[Point]) -> float:
    lines, below = _texts(claim[0])
    text = 0.15 * len(lines) + 0.12 * len(below) + 0.1
    return max(LEAST, text, LINE * len(claim) + 2 * PAD)


def _texts(point: Point) -> tuple[list[str], list[str]]:
    return tuple(
        textwrap.wrap(text, most, break_on_hyphens=False)
        for text, most in zip((point.title, point.shown), CHARACTERS, strict=True)
    )


def _x(value: float, reach: float) -> float:
    """In inches, at the edge if it lies beyond."""
    return LEFT + (RIGHT - LEFT) * (np.clip(value, -reach, reach) + reach) / (2 * reach)


def _draw_claim(axes: Axes, block: Block, reach: float, styles: dict[str, LineStyle]) -> None:
    made, top, height = block
    axes.plot([TEXT, WIDTH - TEXT], [top, top], color=FAINT, linewidth=0.7, zorder=1)
    title, below = _texts(made[0])
    y = top - (height - 0.15 * len(title) - 0.12 * len(below)) / 2
    for line in title:
        axes.text(TEXT, y - 0.075, line, fontsize=8.5, color=INK, va="center")
        y -= 0.15
    for line in below:
        axes.text(TEXT, y - 0.065, line, fontsize=6.8, color=SOFT, va="center")
        y -= 0.12
    pitch = (height - 2 * PAD) / len(made)
    order = sorted(made, key=lambda one: [*styles].index(one.dataset))
    for number, one in enumerate(order):
        # The first and the last line's shade reach to the edges of the claim.
        high = top - (0.02 if number == 0 else PAD + pitch * number)
        low = top - height + (0.02 if number == len(made) - 1 else PAD + pitch * (len(made) - number - 1))
        _draw_shade(axes, one, reach, low, high)
        _draw_point(axes, one, reach, top - PAD - pitch * (number + 0.5), styles[one.dataset])
    readings = list(dict.fromkeys(one.reading for one in made))
    for number, reading in enumerate(readings):
        middle = top - height / 2 + 0.23 * ((len(readings) - 1) / 2 - number)
        _draw_cells(axes, [one for one in made if one.reading == reading], middle, reading if readings[1:] else "")


def _draw_shade(axes: Axes, one: Point, reach: float, low: float, high: float) -> None:
    left, right = (_x(end, reach) for end in shaded(one, reach))
    box = Rectangle((left, low), right - left, high - low, facecolor=SHADE, linewidth=0, zorder=0)
    box.set_gid(f"{_gid(one)}-claimed")
    axes.add_patch(box)
    for bound in (one.above, one.below):
        if np.isfinite(bound) and bound != 0:
            axes.plot([_x(bound, reach)] * 2, [low, high], color=BOUND, linewidth=0.8, zorder=1)


def _gid(one: Point) -> str:
    return f"{one.claim}-{one.dataset or 'all'}-{one.reading.partition(' ')[0]}"


def _draw_point(axes: Axes, one: Point, reach: float, y: float, style: LineStyle) -> None:
    told = np.isfinite(one.printed) and (np.isfinite(one.estimate) or not one.dataset)
    if told and one.reading == READINGS[0]:
        axes.plot(_x(one.printed, reach), y, marker="x", zorder=5, **CROSS)
    if not np.isfinite(one.estimate):
        return
    for ends, width, alpha in (((one.strict_low, one.strict_high), 0.8, 0.8), ((one.low, one.high), 2.2, 0.75)):
        left, right = (_x(end, reach) for end in ends)
        axes.plot(
            [left, right], [y, y], color=style.color, linewidth=width, alpha=alpha, solid_capstyle="butt", zorder=3
        )
        for end, x, mark in zip(ends, (left, right), "<>", strict=True):
            if abs(end) > reach:
                axes.plot(x, y, marker=mark, markersize=2.6, color=style.color, markeredgewidth=0, zorder=3)
    face = style.color if one.reading == READINGS[0] else "white"
    beyond = abs(one.estimate) > reach
    mark = ("<" if one.estimate < 0 else ">") if beyond else style.marker
    size = 3.9 if style is ALL else 3.6
    axes.plot(_x(one.estimate, reach), y, marker=mark, markersize=size, color=style.color, markerfacecolor=face,
              markeredgewidth=0.9, zorder=6, gid=_gid(one))  # fmt: skip
    if beyond:
        inward = 0.07 if one.estimate < 0 else -0.07
        said = axes.text(_x(one.estimate, reach) + inward, y, f"{one.estimate:+.0f}".replace("-", "−"), fontsize=6,
                         color=style.color, ha="left" if inward > 0 else "right", va="center", zorder=7)  # fmt: skip
        said.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85})


def _draw_cells(axes: Axes, made: Sequence[Point], y: float, reading: str) -> None:
    """The verdicts on data sets, and in words the one on all rows."""
    by_name = {one.dataset: one for one in made}
    for number, name in enumerate(published.DATASETS):
        if name in by_name:
            _draw_cell(axes, by_name[name], CELLS + CELL * number + 0.04, y, CELL - 0.08, SIGNS)
    words = {status: f"{sign} {status}".strip() for status, sign in SIGNS.items()}
    _draw_cell(axes, by_name[""], WORD, y, WIDTH - WORD - 0.06, words)
    axes.text(CELLS - 0.02, y, reading.partition(" ")[0], fontsize=6.5, color=SOFT, ha="right", va="center")


def _draw_cell(axes: Axes, one: Point, x: float, y: float, width: float, words: dict[str, str]) -> None:
    """Filled if it is the study's verdict, in outline while it is interim, and pale where nothing was run."""
    high, final = 0.21, not one.interim
    box = Rectangle((x, y - high / 2), width, high, facecolor=FILLS[one.status] if final else "white", zorder=2)
    box.set(edgecolor=EDGES[one.status], linewidth=0.9, gid=f"{_gid(one)}-verdict")
    axes.add_patch(box)
    said = words[one.status] + (" so far" if one.interim and not one.dataset else "")
    dark = final and one.status in (REPRODUCED, CONTRADICTED)
    look = {"color": "white" if dark else WORDS[one.status], "fontsize": 7.6 if len(said) < 20 else 6.0}
    look["fontweight"] = "normal" if one.status == NOT_RUN else "bold"
    axes.text(x + width / 2, y - 0.005, said, ha="center", va="center", zorder=3, **look)


def _draw_axis(axes: Axes, top: float, bottom: float, reach: float, unit: str) -> None:
    axes.plot([_x(0, reach)] * 2, [bottom, top], color=SOFT, linewidth=0.9, zorder=2)
    axes.plot([LEFT, RIGHT], [bottom, bottom], color=SOFT, linewidth=0.8, zorder=2)
    for tick in np.linspace(-reach, reach, 5):
        x = _x(tick, reach)
        axes.plot([x, x], [bottom, bottom - 0.04], color=SOFT, linewidth=0.8)
        if tick:
            axes.plot([x, x], [bottom, top], color=FAINT, linewidth=0.6, zorder=0.5)
        said = f"{tick:+g}".replace("-", "−") if tick else "0"
        axes.text(x, bottom - 0.06, said, fontsize=7, color=SOFT, ha="center", va="top")
    axes.text((LEFT + RIGHT) / 2, bottom - 0.19, unit, fontsize=7.5, color=INK, ha="center", va="top")


def _draw_head(axes: Axes, styles: dict[str, LineStyle], readings: Sequence[str], study: str) -> None:
    """What has to be known to read the picture, and the heads of the columns."""
    axes.text(TEXT, -0.16, "The claims and what came out", fontsize=12, fontweight="bold", color=INK, va="center")
    axes.text(WIDTH - TEXT, -0.16, study, fontsize=8, color=SOFT, va="center", ha="right")
    text = {"fontsize": 7.2, "color": INK, "va": "center"}
    y = -0.44
    axes.add_patch(Rectangle((TEXT, y - 0.06), 0.2, 0.12, facecolor=SHADE, edgecolor=BOUND, linewidth=0.6))
    axes.text(TEXT + 0.27, y, "claimed side", **text)
    axes.plot(1.22, y, marker="x", **CROSS)
    axes.text(1.32, y, "printed in the paper", **text)
    axes.plot([2.62, 2.98], [y, y], color=INK, linewidth=0.8)
    axes.plot([2.72, 2.88], [y, y], color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.plot(2.8, y, marker="D", markersize=3.9, color=INK)
    best = f"; open marker: {READINGS[1]}" if readings[1:] else ""
    axes.text(3.05, y, f"measured, with its 95 % interval and the one that decides{best}", **text)
    x, y = TEXT, -0.67
    for status, sign in SIGNS.items():
        axes.add_patch(
            Rectangle((x, y - 0.07), 0.2, 0.14, facecolor=FILLS[status], edgecolor=EDGES[status], linewidth=0.8)
        )
        color = "white" if status in (REPRODUCED, CONTRADICTED) else WORDS[status]
        axes.text(x + 0.1, y - 0.005, sign, ha="center", **text | {"color": color, "fontweight": "bold"})
        axes.text(x + 0.27, y, status, **text)
        x += 0.5 + 0.062 * len(status)
    axes.add_patch(Rectangle((x, y - 0.07), 0.2, 0.14, facecolor="white", edgecolor=EDGES[OPEN], linewidth=0.8))
    axes.text(x + 0.1, y - 0.005, SIGNS[OPEN], ha="center", **text | {"color": WORDS[OPEN], "fontweight": "bold"})
    axes.text(x + 0.27, y, "in outline: interim, runs are missing", **text)
    y = -1.02
    heads = [(CELLS + CELL * (n + 0.5), name, NAMES[name]) for n, name in enumerate(published.DATASETS)]
    for x, name, said in [*heads, ((WORD + WIDTH - 0.06) / 2, "", "all together")]:
        style = styles[name]
        axes.plot(x, y + 0.1, marker=style.marker, markersize=4.6, color=style.color)
        axes.text(x, y + 0.02, said, fontsize=6.6, color=style.color, ha="center", va="top", linespacing=0.95)


def inline(study: Study, metrics: Metrics, findings: Sequence[Finding]) -> str:
    """The picture as an element of a page."""
    figure = draw(points(study, metrics, findings), study.name, len(study.seeds))
    return inline_svg(encode(figure, "svg").decode(), "forest-", CAPTION)


def write(study: Study, metrics: Metrics, findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Write `FILES`."""
    made = points(study, metrics, findings)
    paths = [Path(folder) / name for name in FILES]
    write_text(paths[0], frame(made).to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    for path in paths[1:]:
        with atomic_path(path) as temporary:
            temporary.write_bytes(encode(draw(made, study.name, len(study.seeds)), path.suffix[1:]))
    return paths
