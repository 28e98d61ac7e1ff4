"""How lines look: colours that the colour-blind tell apart, a marker each, and names written beside their lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT = "#1b1f24", "#59636e"
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": SOFT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e8ec",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.5,
    "xtick.color": "#3d444d",
    "ytick.color": "#3d444d",
    "svg.hashsalt": "apfl",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a title may hold dollar signs
}
STYLED = matplotlib.style.context(["default", RC])
"""Before a function that draws: everything in it looks so, whatever others have set."""
EMPHASISED = "AP-FL"
LEADER = {"arrowstyle": "-", "linewidth": 0.5, "alpha": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 3}
"""The thin line from a name to the end of its line."""
NARROW = 4.8
"""How wide in inches a picture is on a telephone, as far as there is room for what it says."""


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in the figure, in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def width_of(axes: Axes) -> float:
    """In inches."""
    return float(axes.get_position().width * axes.figure.get_figwidth())  # type: ignore[union-attr]


def remark(figure: Figure, text: str, left: float = 0.1, bottom: float = 0.1) -> None:
    """A line at the foot of the figure, in inches from its corner."""
    across, up = figure.get_size_inches()
    figure.text(left / across, bottom / up, text, fontsize=7.5, color=SOFT)


def nothing(why: str) -> Figure:
    """A line in place of a picture for which there is nothing to draw."""
    figure = Figure(figsize=(6.0, 0.5))
    figure.text(0.02, 0.4, why, fontsize=9, color=SOFT)
    return figure


@dataclass(frozen=True)
class LineStyle:
    """Colour, marker and dashes of a method; those that the paper does not compare are dashed, with open markers."""

    color: str
    marker: str
    dashed: bool = False

    @property
    def keywords(self) -> dict[str, Any]:
        face = "white" if self.dashed else self.color
        return {
            "color": self.color,
            "marker": self.marker,
            "markerfacecolor": face,
            "linestyle": (0, (4, 1.6)) if self.dashed else "-",
        }


PAPER = {
    "Local": LineStyle("#6b6b6b", "o"),
    "FedAvg": LineStyle("#0072b2", "s"),
    "FedProx": LineStyle("#3d9fd6", "^"),
    "SCAFFOLD": LineStyle("#00805d", "D"),
    "FedGen": LineStyle("#b0508a", "v"),
    "FedDF": LineStyle("#b07d00", "P"),
    "AP-FL": LineStyle("#c43e00", "*"),
}
OTHERS = tuple(
    LineStyle(color, marker, dashed=True)
    for color, marker in zip(
        ("#332288", "#2f8f83", "#882255", "#7a7a18", "#1f77d0", "#aa4499", "#117733", "#661100", "#444b54"),
        ("X", "h", "<", ">", "p", "d", "8", "H", "v"),
        strict=True,
    )
)
DATASETS = tuple(
    LineStyle(PAPER[name].color, marker)
    for name, marker in zip(("FedAvg", "AP-FL", "SCAFFOLD", "FedGen", "FedDF", "Local"), "sDo^vP", strict=True)
)
"""The styles of lines that stand for data sets."""


def method_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each method: the paper's methods always look the same; the others take theirs in the order given."""
    return {name: PAPER[name] for name in names if name in PAPER} | _in_turn(
        [name for name in names if name not in PAPER], OTHERS
    )


def dataset_styles(names: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each data set, in the order given."""
    return _in_turn(names, DATASETS)


def _in_turn(names: Sequence[str], styles: Sequence[LineStyle]) -> dict[str, LineStyle]:
    return {name: styles[place % len(styles)] for place, name in enumerate(names)}


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near ``wanted``, at least ``gap`` apart and within [low, high] as far as there is room.

    >>> spread([1.0, 1.0, 5.0], gap=1.0, low=0.0, high=6.0)
    [0.5, 1.5, 5.0]
    """
    from scipy.optimize import isotonic_regression

    order = np.argsort(wanted, kind="stable")
    steps = gap * np.arange(len(wanted))
    near = isotonic_regression(np.asarray(wanted)[order] - steps).x
    placed = np.empty(len(wanted))
    placed[order] = np.maximum(np.minimum(near, high - gap * (len(wanted) - 1)), low) + steps
    return placed.tolist()


def write_names(
    axes: Axes, names: Sequence[str], ends: Sequence[tuple[float, float]], styles: Sequence[LineStyle]
) -> None:
    """Write each line's name right of the axes, joined to its end, without overlap; the limits must be final."""
    (low, high), size = axes.get_ylim(), 8
    height = axes.get_position().height * axes.figure.get_figheight() * 72  # type: ignore[union-attr]
    lines = max((name.count("\n") + 1 for name in names), default=1)
    places = spread([y for _, y in ends], gap=1.25 * size * lines * (high - low) / height, low=low, high=high)
    for name, (x, y), place, style in zip(names, ends, places, styles, strict=True):
        axes.annotate(name, (x, y), (1.035, place), textcoords=axes.get_yaxis_transform(), color=style.color,
                      fontsize=size, fontweight="bold" if name.startswith(EMPHASISED) else "normal", va="center",
                      annotation_clip=False, arrowprops={**LEADER, "color": style.color})  # fmt: skip
