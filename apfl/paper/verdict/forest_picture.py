"""The forest plot of the verdicts with the grid of claims and data sets beside it, and the files."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from apfl.data.catalogue import IN_PAPER
from apfl.paper.figures.files import inline as inline_figure
from apfl.paper.figures.files import save, save_points
from apfl.paper.figures.style import INK, SOFT, STYLED, LineStyle, dataset_styles
from apfl.paper.numbers.frames import grouped
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.verdict import forest_look as look
from apfl.paper.verdict.family import NOT_RUN
from apfl.paper.verdict.forest import READINGS, Point, frame, limit, points, shaded
from apfl.paper.verdict.verdicts import Finding
from apfl.study.outputs import BESIDE
from apfl.study.study import Study

LAYOUTS = {"wide": look.WIDE, "narrow": look.NARROW}


class ClaimBlock(NamedTuple):
    """A claim's points, in its readings, and where it stands."""

    made: list[Point]
    top: float
    height: float


@STYLED
def draw(made: Sequence[Point], study: str, seeds: int, layout: look.Layout = look.WIDE) -> Figure:
    """The picture; claims share an axis if they share the unit, as other numbers must not be compared."""
    styles = {"": look.ALL} | dataset_styles(IN_PAPER)
    parts = _parts(made)
    readings = [name for name in READINGS if any(one.reading == name for one in made)]
    top = look.depth(layout, readings)
    height = top + sum(_depth(layout, groups) for _, groups in parts)
    figure = Figure(figsize=(layout.width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, layout.width), ylim=(-height, 0))
    axes.set_axis_off()
    look.draw_head(axes, layout, styles, readings, f"study {study}, {seeds} seed{'' if seeds == 1 else 's'}")
    y = -top
    for source, groups in parts:
        axes.text(look.TEXT, y - 0.14, look.PARTS[source], fontsize=9.5, fontweight="bold", color=INK, va="center")
        y -= look.PART
        for group in groups:
            strip, start = Strip(layout, limit(made, group[0][0].unit)), y
            for claim in group:
                _draw_claim(axes, strip, ClaimBlock(claim, y, _height(layout, claim)), styles)
                y -= _height(layout, claim)
            _draw_axis(axes, strip, start, y, group[0][0].unit)
            y -= look.AXIS
    return figure


def _parts(made: Sequence[Point]) -> list[tuple[str, list[list[list[Point]]]]]:
    """By source, by unit, by claim; the unit that most claims have comes first, the others as they come."""
    found = []
    for source in look.PARTS:
        claims = grouped((one for one in made if one.source == source), lambda one: one.claim)
        units = [one.unit for one in made]
        units = sorted(dict.fromkeys(units), key=units.count, reverse=True)
        groups = [[claim for claim in claims.values() if claim[0].unit == unit] for unit in units]
        if claims:
            found.append((source, [group for group in groups if group]))
    return found


def _depth(layout: look.Layout, groups: Sequence[Sequence[list[Point]]]) -> float:
    return look.PART + sum(look.AXIS + sum(_height(layout, claim) for claim in group) for group in groups)


def _height(layout: look.Layout, claim: Sequence[Point]) -> float:
    """Of a claim, its title included."""
    text, readings = _text_height(layout, claim[0]), len({one.reading for one in claim})
    lines = max(layout.least, look.LINE * len(claim) + 2 * look.PAD, (look.HIGH + 0.02) * readings + 0.06)
    return text + lines if layout.above else max(text, lines)


def _text_height(layout: look.Layout, point: Point) -> float:
    title, below = _texts(layout, point)
    return 0.15 * len(title) + 0.12 * len(below) + 0.1


def _texts(layout: look.Layout, point: Point) -> tuple[list[str], list[str]]:
    title, shown = (
        textwrap.wrap(text, most, break_on_hyphens=False)
        for text, most in zip((point.title, point.shown), layout.characters, strict=True)
    )
    return title, shown


class Strip(NamedTuple):
    """Where intervals stand, and how far its axis reaches."""

    layout: look.Layout
    reach: float

    def x(self, value: float) -> float:
        """In inches, at the edge if it lies beyond."""
        share = (np.clip(value, -self.reach, self.reach) + self.reach) / (2 * self.reach)
        return float(self.layout.left + (self.layout.right - self.layout.left) * share)


def _draw_claim(axes: Axes, strip: Strip, block: ClaimBlock, styles: dict[str, LineStyle]) -> None:
    layout, (made, top, height) = strip.layout, block
    axes.plot([look.TEXT, layout.width - look.TEXT], [top, top], color=look.FAINT, linewidth=0.7, zorder=1)
    title, below = _texts(layout, made[0])
    text = _text_height(layout, made[0])
    y = top - 0.05 - (0 if layout.above else (height - text) / 2)
    for words in title:
        axes.text(look.TEXT, y - 0.075, words, fontsize=8.5, color=INK, va="center")
        y -= 0.15
    for words in below:
        axes.text(look.TEXT, y - 0.065, words, fontsize=6.8, color=SOFT, va="center")
        y -= 0.12
    if layout.above:
        top, height = top - text, height - text
    for tick in np.linspace(-strip.reach, strip.reach, 5):
        line: dict[str, Any] = (
            {"color": look.FAINT, "linewidth": 0.6, "zorder": 0.5}
            if tick
            else {"color": SOFT, "linewidth": 0.9, "zorder": 2}
        )
        axes.plot([strip.x(tick)] * 2, [top, top - height], **line)
    pitch = (height - 2 * look.PAD) / len(made)
    for number, one in enumerate(sorted(made, key=lambda one: [*styles].index(one.dataset))):
        # The first and the last line's shade reach to the edges of the claim.
        high = top - (0.02 if number == 0 else look.PAD + pitch * number)
        low = top - height + (0.02 if number == len(made) - 1 else look.PAD + pitch * (len(made) - number - 1))
        _draw_shade(axes, strip, one, low, high)
        _draw_point(axes, strip, one, top - look.PAD - pitch * (number + 0.5), styles[one.dataset])
    readings = list(dict.fromkeys(one.reading for one in made))
    for number, reading in enumerate(readings):
        middle = top - height / 2 + (look.HIGH + 0.02) * ((len(readings) - 1) / 2 - number)
        _draw_cells(axes, layout, [one for one in made if one.reading == reading], middle, len(readings) > 1)


def _draw_shade(axes: Axes, strip: Strip, one: Point, low: float, high: float) -> None:
    left, right = (strip.x(end) for end in shaded(one, strip.reach))
    box = Rectangle((left, low), right - left, high - low, facecolor=look.SHADE, linewidth=0, zorder=0)
    box.set_gid(f"{_gid(one)}-claimed")
    axes.add_patch(box)
    for bound in (one.above, one.below):
        if np.isfinite(bound) and bound != 0:
            axes.plot([strip.x(bound)] * 2, [low, high], color=look.BOUND, linewidth=0.8, zorder=1)


def _gid(one: Point) -> str:
    return f"{one.claim}-{one.dataset or 'all'}-{one.reading.partition(' ')[0]}"


def _draw_point(axes: Axes, strip: Strip, one: Point, y: float, style: LineStyle) -> None:
    told = np.isfinite(one.printed) and (np.isfinite(one.estimate) or not one.dataset)
    if told and one.reading == READINGS[0]:
        axes.plot(strip.x(one.printed), y, marker="x", zorder=5, **look.CROSS)
    if not np.isfinite(one.estimate):
        return
    for ends, width, alpha in (((one.strict_low, one.strict_high), 0.8, 0.8), ((one.low, one.high), 2.2, 0.75)):
        left, right = (strip.x(end) for end in ends)
        axes.plot(
            [left, right], [y, y], color=style.color, linewidth=width, alpha=alpha, solid_capstyle="butt", zorder=3
        )
        for end, x, mark in zip(ends, (left, right), "<>", strict=True):
            if abs(end) > strip.reach:
                axes.plot(x, y, marker=mark, markersize=2.6, color=style.color, markeredgewidth=0, zorder=3)
    face = style.color if one.reading == READINGS[0] else "white"
    beyond = abs(one.estimate) > strip.reach
    mark = ("<" if one.estimate < 0 else ">") if beyond else style.marker
    size = 3.9 if style is look.ALL else 3.6
    axes.plot(strip.x(one.estimate), y, marker=mark, markersize=size, color=style.color, markerfacecolor=face,
              markeredgewidth=0.9, zorder=6, gid=_gid(one))  # fmt: skip
    if beyond:
        inward = 0.07 if one.estimate < 0 else -0.07
        said = axes.text(strip.x(one.estimate) + inward, y, f"{one.estimate:+.0f}".replace("-", "−"), fontsize=6,
                         color=style.color, ha="left" if inward > 0 else "right", va="center", zorder=7)  # fmt: skip
        said.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85})


def _draw_cells(axes: Axes, layout: look.Layout, made: Sequence[Point], y: float, named: bool) -> None:
    """The verdicts on data sets, and in words the one on all rows; ``named``: is the reading written beside them?"""
    by_name = {one.dataset: one for one in made}
    for number, name in enumerate(IN_PAPER):
        if name in by_name:
            _draw_cell(
                axes, by_name[name], layout.cells + layout.cell * number + 0.04, y, layout.cell - 0.08, look.SIGNS
            )
    words = {status: f"{sign} {status}".strip() for status, sign in look.SIGNS.items()}
    _draw_cell(axes, by_name[""], layout.word, y, layout.width - layout.word - look.TEXT, words)
    if named:
        reading = made[0].reading.partition(" ")[0]
        axes.text(layout.cells - 0.01, y, reading, fontsize=6.5, color=SOFT, ha="right", va="center")


def _draw_cell(axes: Axes, one: Point, x: float, y: float, width: float, words: dict[str, str]) -> None:
    """Filled if it is the study's verdict, in outline while it is interim, and pale where nothing was run."""
    final = not one.interim
    box = Rectangle(
        (x, y - look.HIGH / 2), width, look.HIGH, facecolor=look.FILLS[one.status] if final else "white", zorder=2
    )
    box.set(edgecolor=look.EDGES[one.status], linewidth=0.9, gid=f"{_gid(one)}-verdict")
    axes.add_patch(box)
    said = words[one.status] + ((look.SO_FAR if one.dataset else " so far") if one.interim else "")
    weight, size = "normal" if one.status == NOT_RUN else "bold", 7.6 if len(said) < 20 else 5.8
    axes.text(x + width / 2, y - 0.005, said, fontsize=size, fontweight=weight, color=look.ink(one.status, final),
              ha="center", va="center", zorder=3)  # fmt: skip


def _draw_axis(axes: Axes, strip: Strip, top: float, bottom: float, unit: str) -> None:
    layout, reach = strip.layout, strip.reach
    axes.plot([layout.left, layout.right], [bottom, bottom], color=SOFT, linewidth=0.8, zorder=2)
    for tick in np.linspace(-reach, reach, 5):
        x = strip.x(tick)
        axes.plot([x, x], [bottom, bottom - 0.04], color=SOFT, linewidth=0.8)
        said = f"{tick:+g}".replace("-", "−") if tick else "0"
        axes.text(x, bottom - 0.06, said, fontsize=7, color=SOFT, ha="center", va="top")
    middle = (layout.left + layout.right) / 2
    x, side = (look.TEXT, "left") if layout.above else (middle, "center")
    axes.text(x, bottom - 0.19, unit, fontsize=7.5, color=INK, ha=side, va="top")


def inline(study: Study, metrics: Metrics, findings: Sequence[Finding]) -> dict[str, str]:
    """The picture as an element of a page, in its ``wide`` and in its ``narrow`` layout."""
    made, caption = points(study, metrics, findings), BESIDE["forest"].caption
    return {
        name: inline_figure(draw(made, study.name, len(study.seeds), layout), f"{name}-", caption)
        for name, layout in LAYOUTS.items()
    }


def write(study: Study, metrics: Metrics, findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Write ``forest.csv`` and the picture ``forest.{svg,pdf,png}``."""
    made = points(study, metrics, findings)
    drawn = draw(made, study.name, len(study.seeds))
    return [save_points(frame(made), folder / "forest.csv"), *save(drawn, folder / "forest")]
