"""The parts of the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from apfl.paper.figures import curves as figures
from apfl.paper.figures import dumbbell
from apfl.paper.figures.files import Picture, inline, pictures
from apfl.paper.html import PageSection, render
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.report import conclusion, cost, gallery
from apfl.paper.report import tuning as tuning_section
from apfl.paper.report import verdicts as verdict_section
from apfl.paper.report.material import Material
from apfl.paper.report.provenance import missing, provenance_facts
from apfl.paper.report.ranks import section as ranks_section
from apfl.paper.tables import readings as choice
from apfl.paper.tables import spread, teachers
from apfl.paper.tables.build import table
from apfl.paper.tables.formats import fragment
from apfl.paper.tables.keys import EntryKey
from apfl.paper.tables.layout import Table
from apfl.paper.verdict import document as verdict_pages
from apfl.paper.verdict import forest_picture, verdicts
from apfl.study.cells import Cell, artefacts, beside
from apfl.study.outputs import OUTPUTS, Output
from apfl.study.study import Study
from apfl.study.tuning import TUNED


def sections(material: Material) -> Iterator[PageSection]:
    """Every part of the page, in its order."""
    study = material.study
    if study.paper:
        yield from _judged(material)
    for name, ours in material.cells.items():
        if name in study.tables:
            made = table(study, name, material.results, material.metrics, partial=True)
            yield table_section(made, material.sources.entries)
        else:
            yield figure_section(name, ours, material.metrics, study.paper)
    if "ranks" in beside(study) and "table2" in study.tables:
        yield ranks_section(material.cells["table2"], material.metrics, study.paper)
    if len((apart := spread.made(study, material.metrics, material.records)).rows):
        yield PageSection(apart.name, apart.output.heading, fragment(apart, shown=0))
    yield from sections_beside(study, material.metrics)
    if study.tuning:
        tried = tuning_section.panels(study, material.results)
        yield _section("tuning", OUTPUTS["tuning"].title, output=OUTPUTS["tuning"], tuned=tried)
    yield _section("partitions", "Partitions", pictures=gallery.partitions(study, artefacts(study), material.results))
    if shown := gallery.samples(material.planned, material.records, material.results):
        yield _section("samples", "Synthetic images", pictures=shown)
    every = cost.costs(study, material.planned, material.records)
    yield _section("cost", "Cost", costs=every, total=cost.total(every), stages=cost.STAGES)
    facts = provenance_facts(material.records, len(material.planned))
    yield _section("provenance", "Provenance", facts=facts, runs=material.planned, material=material)
    if len(material.records) < len(material.planned):
        lacking = missing(study, material.planned, material.records, material.cells)
        headings = {name: output.shown(study.paper).heading for name, output in OUTPUTS.items()}
        yield _section("missing", "What is missing", lacking=lacking, headings=headings, material=material)


def _judged(material: Material) -> Iterator[PageSection]:
    study, metrics = material.study, material.metrics
    judged = verdicts.findings(study, metrics)
    made = verdict_pages.document(study, material.file, judged)
    found = dumbbell.pairs(material.cells.get("table2", ()), metrics)
    yield conclusion.section(study, made, found, forest_picture.inline(study, metrics, judged))
    yield verdict_section.section(made)


def sections_beside(study: Study, metrics: Metrics) -> Iterator[PageSection]:
    """The choice among readings, the teachers and the controls, each where the study has something for it."""
    for make in (choice.made, teachers.of_friends, teachers.of_controls):
        made = make(study, metrics)
        if len(made.rows):
            yield PageSection(made.name, made.output.heading, fragment(made, shown=0))


def _section(identifier: str, title: str, **values: Any) -> PageSection:
    body = render(f"report_{identifier}.html.j2", identifier=identifier, title=title, **values)
    return PageSection(identifier, title, body)


def table_section(made: Table, entries: Mapping[EntryKey, int] | None = None) -> PageSection:
    """The table with its first panel open, and the tuned columns behind it; an entry whose key is in ``entries`` opens
    what stands behind it."""
    tuned = takewhile(lambda panel: all(column.endswith(TUNED) for column in panel.columns), made.panels[1:])
    return PageSection(made.name, made.output.heading, fragment(made, entries or {}, shown=1 + len([*tuned])))


def figure_section(name: str, cells: Sequence[Cell], metrics: Metrics, paper: bool = True) -> PageSection:
    """The figure on each of its tests, drawn into the page."""
    shown = OUTPUTS[name].shown(paper)
    drawn = [
        {
            "title": picture.title,
            "test": figures.TESTS[picture.suffix] if picture.title else "",
            "layouts": dict(_layouts(shown, picture)),
        }
        for picture in pictures(name, cells, metrics, paper)[0]
    ]
    body = render("figure.html.j2", name=name, heading=shown.heading, caption=shown.caption, pictures=drawn)
    return PageSection(name, shown.heading, body)


def _layouts(shown: Output, picture: Picture) -> Iterator[tuple[str, str]]:
    """The drawing for a ``wide`` page and for a ``narrow`` one, or the one for ``any`` page."""
    label, prefix = f"{shown.caption} {picture.title}".strip(), f"{shown.name}{picture.suffix}-"
    if picture.narrow is None:
        yield "any", inline(picture.figure, prefix, label)
        return
    for name, figure in (("wide", picture.figure), ("narrow", picture.narrow())):
        yield name, inline(figure, f"{prefix}{name}-", label)
