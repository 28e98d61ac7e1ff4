"""Figures as files: equal contents are equal bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from apfl.paper.figures import courses, multiverse
from apfl.paper.figures.curves import TESTS, data, draw, tidy_points
from apfl.paper.figures.style import STYLED
from apfl.paper.html import inline_svg
from apfl.paper.labels import TEST_LABELS
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.numbers.multiverse import points as multiverse_points
from apfl.storage.files import atomic_path, write_text
from apfl.study.cells import Cell

METADATA = {
    "svg": {"Date": None, "Creator": "apfl"},
    "pdf": {"CreationDate": None, "Creator": "apfl"},
    "png": {"Software": "apfl"},
}


@STYLED
def encode(figure: Figure, kind: str) -> bytes:
    """The figure as ``svg``, ``pdf`` or ``png``, with neither date nor random names in it."""
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, dpi=200, metadata=METADATA[kind])
    return shorter(stream.getvalue()) if kind == "svg" else stream.getvalue()


def shorter(svg: bytes) -> bytes:
    """The picture in three quarters of the bytes: no comments, no indents, short ids where something refers to them,
    and none of those that matplotlib gives to every other element.

    >>> shorter(b'<g id="axes_1">\\n <!-- 5 -->\\n <path id="DejaVuSans-35"/>\\n <use href="#DejaVuSans-35"/>\\n</g>')
    b'<g>\\n<path id="i0"/>\\n<use href="#i0"/>\\n</g>'
    """
    referring = re.compile(rb'(href="#|url\(#)([^")]+)')
    ids = {
        name: b"i%d" % number for number, name in enumerate(dict.fromkeys(name for _, name in referring.findall(svg)))
    }
    svg = re.sub(rb"<!--.*?-->", b"", svg, flags=re.DOTALL)
    svg = re.sub(rb' id="[\w.]+_\d+"', b"", svg)
    svg = re.sub(rb' id="([^"]+)"', lambda found: b' id="%s"' % ids.get(found[1], found[1]), svg)
    svg = referring.sub(lambda found: found[1] + ids[found[2]], svg)
    return re.sub(rb"\s*\n\s*", b"\n", svg)


def inline(figure: Figure, prefix: str, label: str) -> str:
    """The figure as an element of a page, with `inline_svg`'s ``prefix`` and ``label``."""
    return inline_svg(encode(figure, "svg").decode(), prefix, label)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write the figure as ``{stem}.{svg,pdf,png}``."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in METADATA]
    for path in paths:
        with atomic_path(path) as temporary:
            temporary.write_bytes(encode(figure, path.suffix[1:]))
    return paths


def save_points(points: pd.DataFrame, path: Path, digits: str = "%.4f") -> Path:
    """Write what is drawn as CSV."""
    write_text(path, points.to_csv(index=False, float_format=digits, lineterminator="\n"))
    return path


@dataclass(frozen=True)
class Picture:
    """One drawing of a figure: what its file's name ends in, the test that it shows, if it shows one, and how it is
    drawn on a telephone, if that differs."""

    suffix: str
    title: str
    figure: Figure
    narrow: Callable[[], Figure] | None = None


def pictures(
    name: str, cells: Sequence[Cell], metrics: Metrics, paper: bool = True
) -> tuple[tuple[Picture, ...], pd.DataFrame]:
    """The drawings of a figure and what is drawn, as a table; beside the ``paper`` they say what of it is not run."""
    if name in courses.DRAWN:
        figure, points = courses.DRAWN[name](cells)
        turned = (lambda: courses.draw_timelines(cells, narrow=True)[0]) if name == "figure_timeline" else None
        return (Picture("", "", figure, turned),), points
    if name == "figure_multiverse":
        rows = {test: multiverse_points(cells, metrics, test) for test in TESTS.values()}
        makers = {test: partial(multiverse.draw, here) for test, here in rows.items()}
        points = pd.concat(rows.values(), ignore_index=True)
    else:
        panels = {test: data(name, cells, metrics, test) for test in TESTS.values()}
        makers = {test: partial(draw, name, here, test, paper) for test, here in panels.items()}
        points = tidy_points(panels)
    drawn = (
        Picture(suffix, TEST_LABELS[test], makers[test](), partial(makers[test], narrow=True))
        for suffix, test in TESTS.items()
    )
    return tuple(drawn), points


def write(name: str, cells: Sequence[Cell], metrics: Metrics, folder: Path, paper: bool = True) -> list[Path]:
    """Write ``{folder}/{name}{,_own}.{svg,pdf,png}`` and what is drawn as ``{name}.csv``."""
    drawn, points = pictures(name, cells, metrics, paper)
    paths = [path for picture in drawn for path in save(picture.figure, folder / f"{name}{picture.suffix}")]
    return [*paths, save_points(points, folder / f"{name}.csv")]
