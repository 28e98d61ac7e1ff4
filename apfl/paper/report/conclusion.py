"""What comes first on the page: two sentences, the verdicts as a picture, published and reproduced side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from apfl.data.catalogue import IN_PAPER, images_of
from apfl.paper.figures import dumbbell
from apfl.paper.figures.files import inline
from apfl.paper.html import PageSection, render
from apfl.paper.labels import dataset_label
from apfl.paper.numbers.ranks import many
from apfl.paper.verdict.csv import Document, Part
from apfl.paper.verdict.family import CONTRADICTED, NOT_RUN, REPRODUCED, STATUSES
from apfl.study.outputs import BESIDE
from apfl.study.study import Study

NOT_THE_PAPERS = (
    "This study shows the paper's tables and figures on data that the paper does not have. Its numbers say how the "
    "methods perform on these data, but nothing about the paper, whose claims are shown as not run."
)


def section(study: Study, made: Document, found: pd.DataFrame, forest: Mapping[str, str]) -> PageSection:
    """``made`` is claims.json, ``found`` are the pairs of the dumbbell plot, ``forest`` the other by its layout."""
    drawn = [("forest", forest), *([("dumbbell", _dumbbell(found))] if len(found) else [])]
    pictures = [{"name": name, "layouts": layouts, "caption": BESIDE[name].caption} for name, layouts in drawn]
    papers = set(study.data) & set(IN_PAPER)
    sentences = [_table2(study, found), _claims(made)] if papers else [NOT_THE_PAPERS]
    body = render("conclusion.html.j2", sentences=sentences, pictures=pictures, folded=not papers)
    return PageSection("conclusion", "What came out", body)


def _dumbbell(found: pd.DataFrame) -> dict[str, str]:
    caption = BESIDE["dumbbell"].caption
    return {
        name: inline(dumbbell.draw(found, layout), f"dumbbell-{name}-", caption)
        for name, layout in dumbbell.LAYOUTS.items()
    }


def _table2(study: Study, found: pd.DataFrame) -> str:
    """AP-FL against FedAvg, measured and printed, in the rows that have all four numbers."""
    training, seeds = study.training, len(study.seeds)
    scale = f"{training['rounds']} rounds of {training['local_epochs']} local epochs, {many(seeds, 'seed')}"
    sizes = {images_of(entry) for entry in study.data.values()}
    if len(sizes) == 1:
        scale = f"{sizes.pop()} of each data set, {scale}"
    rows = found.pivot(index=["dataset", "setting"], columns="column", values=["published_mean", "reproduced_mean"])
    rows = rows.dropna() if set(dumbbell.METHODS) <= set(found["column"]) else rows.iloc[:0]
    if rows.empty:
        return f"At the scale of this study ({scale}), AP-FL and FedAvg have not been run in any row of Table 2 yet."
    ours, printed = (
        rows[f"{what}_mean"]["AP-FL"] - rows[f"{what}_mean"]["FedAvg"] for what in ("reproduced", "published")
    )
    where, same = f"on average over the {len(rows)} rows of Table 2 that were run", "the same rows"
    where += f", and is below it in {int((ours < 0).sum())} of them"
    if len(rows) == 1:
        where, same = "in the one row of Table 2 that was run", "this row"
    return (
        f"At the scale of this study ({scale}), AP-FL is {_apart(ours.mean())} FedAvg on the test images of all "
        f"clients, {where}. For {same}, at its own scale, the paper prints AP-FL {_apart(printed.mean())} FedAvg."
    )


def _claims(made: Document) -> str:
    """How many of the paper's claims came out how, in the literal reading, by themselves and corrected for all of them;
    what is interim counts as nothing else."""
    ours = [one for claim in made["claims"] if claim["source"] == "paper" for one in _first(claim)]
    *most, last = _counts(one for one in ours if not one["interim"])
    text = f"Of the paper's {len(ours)} claims, in the literal reading of its text, {', '.join(most)} and {last}"
    if interim := sum(one["interim"] for one in ours):
        text += f"; {interim} {'waits' if interim == 1 else 'wait'} for runs that are missing"
    parts = [part for one in ours for part in one["datasets"] if not part["interim"]]
    found = [(status, [part for part in parts if part["status"] == status]) for status in (REPRODUCED, CONTRADICTED)]
    lines = [_lines(status, alike) for status, alike in found if alike]
    return f"{text}. By data set, {'; '.join(lines)}." if lines else f"{text}."


def _lines(status: str, alike: Sequence[Part]) -> str:
    alone = Counter(part["dataset"] for part in alike)
    *most, last = (f"{number} on {dataset_label(name)}" for name, number in alone.items())
    on = f"{', '.join(most)} and {last}" if most else last
    kept = sum(part["corrected"] == status for part in alike)
    verb = "is" if len(alike) == 1 else "are"
    return f"{on} {verb} {status}, {kept or 'none'} after correction for all claims and data sets"


def _first(claim: Part) -> list[Part]:
    """The verdict on the claim's first test in the literal reading."""
    return [one for one in claim["verdicts"] if one["primary"] and one["reading"] == "literal"]


def _counts(verdicts: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    found = list(verdicts)
    counts, kept = (Counter(one[key] for one in found) for key in ("status", "corrected"))
    for status in STATUSES:
        number = counts[status]
        be, have, was = ("is", "has", "was") if number == 1 else ("are", "have", "were")
        words = {"nothing to judge": f"{have} nothing to judge", NOT_RUN: f"{was} not run"}
        if number or status in (STATUSES[0], CONTRADICTED):
            said = f"{number or 'none'} {words.get(status, f'{be} {status}')}"
            both = number and status in (REPRODUCED, CONTRADICTED)
            yield f"{said} ({kept[status] or 'none'} after correction for all claims)" if both else said


def _apart(number: float) -> str:
    return f"{abs(number):.1f} points {'below' if number < 0 else 'above'}"
