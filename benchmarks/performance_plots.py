"""The curves of docs/performance.md: one picture a topic, one panel a plot, both axes logarithmic."""

from __future__ import annotations

import math
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter

from apfl.paper.figures.files import encode
from apfl.paper.figures.style import RC, dataset_styles


def draw(topic: dict[str, Any]) -> bytes:
    """The picture of a topic as SVG: panels that share a unit share their vertical axis."""
    series = topic["series"]
    plots = list(dict.fromkeys(entry["plot"] for entry in series))
    styles = dataset_styles(list(dict.fromkeys(entry["label"] for entry in series)))
    shared = len({entry["unit"] for entry in series}) == 1
    with matplotlib.style.context(["default", RC]):
        layout = ConstrainedLayoutEngine(w_pad=0.15)  # so that numbers below neighbouring panels do not touch
        figure = Figure(figsize=(1.2 + 2.7 * len(plots), 3.1), layout=layout)
        panels = figure.subplots(1, len(plots), sharey=shared, squeeze=False)[0]
        for place, (axes, plot) in enumerate(zip(panels, plots, strict=True)):
            curves = [entry for entry in series if entry["plot"] == plot]
            for entry in curves:
                style = styles[entry["label"]]
                axes.plot(entry["x"], entry["y"], **style.keywords, markersize=5, linewidth=1.6, label=entry["label"])
            axes.set(xscale="log", yscale="log", xlabel=plot)
            places = sorted({x for entry in curves for x in entry["x"]})
            axes.set_xticks(places if len(places) < 5 else [x for x in places if math.log10(x).is_integer()])
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.minorticks_off()
            if not place or not shared:
                axes.set_ylabel(curves[0]["unit"])
        lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
        figure.legend(lines.values(), lines, loc="outside upper left", ncols=len(lines), frameon=False)
    return encode(figure, "svg")
