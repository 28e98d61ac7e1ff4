"""The ranks as a part of the page."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from apfl.paper.figures.files import inline
from apfl.paper.figures.ranks import draw
from apfl.paper.html import PageSection, render
from apfl.paper.labels import TEST_LABELS
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.numbers.ranks import RULE, Ranking, rankings, remarks
from apfl.study.cells import Cell
from apfl.study.outputs import BESIDE


def section(cells: Sequence[Cell], metrics: Metrics, paper: bool = True) -> PageSection:
    """The ranks on both tests: the picture, the numbers, and what has to be known of them."""
    made, shown = rankings(cells, metrics), BESIDE["ranks"].shown(paper)
    layouts = {
        name: inline(draw(made, name == "narrow"), f"ranks-{name}-", shown.caption) for name in ("wide", "narrow")
    }
    body = render(
        "ranks.html.j2", heading=shown.heading, caption=shown.caption, layouts=layouts, rule=RULE,
        tables=[{"test": one.test, "title": TEST_LABELS[one.test], "rows": _plain(one)} for one in made],
        notes=[remark for one in made for remark in remarks(one)],
    )  # fmt: skip
    return PageSection(shown.name, shown.heading, body)


def _plain(ranking: Ranking) -> list[dict[Hashable, Any]]:
    """The rows of the methods that are ranked; None where there is no number."""
    ranked = ranking.ranked.astype(object)
    return ranked.where(ranked.notna(), None).to_dict("records")
