"""One self-contained HTML page for a study: its tables, its figures, and where every number comes from.

A page is a list of sections, each with an id, a title and trusted HTML; whoever has more to say adds a section. A page
can be made at any time: what has not been run is named on it, with the command that makes it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from apfl.data.sizes import thinning
from apfl.paper import (
    choice,
    cost,
    figures,
    forest_picture,
    gallery,
    ranks_picture,
    tables,
    teachers,
    verdict_pages,
    verdict_section,
    verdicts,
)
from apfl.paper.labels import dataset_label
from apfl.paper.metrics import Metrics, collect
from apfl.paper.outputs import table
from apfl.paper.page import Section, inline_svg
from apfl.paper.places import Place
from apfl.paper.provenance import Facts, Sources, embedded, missing, provenance_facts, read_records, sources
from apfl.paper.render import TEMPLATES, environment, fragment, page
from apfl.paper.tables import Table
from apfl.study import OUTPUTS, artefacts, cells, runs

if TYPE_CHECKING:
    from apfl.plan import Run
    from apfl.study import Cell, Study


@dataclass(frozen=True)
class Material:
    """What a page is made from: a study, its runs in the order of the work, and what the finished ones left.

    ``file`` is the study's; ``cells`` are by name of a table or figure; ``records`` are the run.json of finished runs.
    """

    study: Study
    file: Path
    results: Path
    planned: tuple[Run, ...]
    cells: Mapping[str, Sequence[Cell]]
    metrics: Metrics
    records: Mapping[str, Mapping[str, Any]]

    @property
    def command(self) -> str:
        """What makes all that is missing."""
        return f"snakemake --configfile {shlex.quote(str(self.file))}"

    @cached_property
    def sources(self) -> Sources:
        """What stands behind the entries of the tables."""
        ours = {name: self.cells[name] for name in self.study.tables}
        return sources(self.study, self.planned, self.records, ours, self.metrics)


def gather(study: Study, results: str | Path, file: str | Path) -> Material:
    """Read what there is under ``results``; a `UserError` for files that are damaged or of different code."""
    planned = tuple(runs(study))
    shown = {name: cells(study, name) for name in sorted([*study.tables, *study.figures], key=OUTPUTS.index)}
    paths = {run.path for run in planned}
    read = paths & {run for ours in shown.values() for cell in ours for run in (*cell.runs, *cell.origins)}
    metrics = collect(results, read, partial=True, command=f"snakemake --configfile {file}")
    records = {**metrics.records, **read_records(results, paths - read)}
    return Material(study, Path(file), Path(results), planned, shown, metrics, records)


def sections(material: Material) -> Iterator[Section]:
    """Every part of the page, in its order."""
    study = material.study
    judged = verdicts.findings(study, material.metrics)
    made = verdict_pages.document(study, material.file, judged)
    drawn = forest_picture.inline(study, material.metrics, judged)
    yield verdict_section.section(made, drawn, forest_picture.CAPTION)
    for name, ours in material.cells.items():
        if name in study.tables:
            made = table(study, name, material.results, material.metrics, partial=True)
            yield table_section(made, material.sources.entries)
        else:
            yield figure_section(name, ours, material.metrics)
    if "table2" in study.tables:
        yield ranks_picture.section(material.cells["table2"], material.metrics)
    yield from choice.sections(study, material.metrics)
    yield from teachers.sections(study, material.metrics)
    yield _section("partitions", "Partitions", pictures=gallery.partitions(study, artefacts(study), material.results))
    if pictures := gallery.samples(material.planned, material.records, material.results):
        yield _section("samples", "Synthetic images", pictures=pictures)
    every = cost.costs(study, material.planned, material.records)
    yield _section("cost", "Cost", costs=every, total=cost.total(every), stages=cost.STAGES)
    facts = provenance_facts(material.records, len(material.planned))
    yield _section("provenance", "Provenance", facts=facts, runs=material.planned, material=material)
    if len(material.records) < len(material.planned):
        lacking = missing(study, material.planned, material.records, material.cells)
        yield _section("missing", "What is missing", lacking=lacking, heading=heading, material=material)


def _section(identifier: str, title: str, **values: Any) -> Section:
    template = environment().get_template(f"report_{identifier}.html.j2")
    return Section(identifier, title, template.render(identifier=identifier, title=title, **values))


def table_section(made: Table, entries: Mapping[Place, int] | None = None) -> Section:
    """The table; an entry whose place is in ``entries`` opens what stands behind it."""
    return Section(made.name, made.heading, fragment(made, entries or {}))


def figure_section(name: str, cells: Sequence[Cell], metrics: Metrics) -> Section:
    """The figure on each of its tests, drawn into the page."""
    pictures = [
        {
            "title": picture.title,
            "test": figures.TESTS[picture.suffix] if picture.title else "",
            "svg": Markup(_svg(name, picture)),
        }
        for picture in figures.pictures(name, cells, metrics)[0]
    ]
    template = environment().get_template("figure.html.j2")
    body = template.render(name=name, heading=heading(name), caption=figures.CAPTIONS[name], pictures=pictures)
    return Section(name, heading(name), body)


def heading(name: str) -> str:
    """What a table or figure is called.

    >>> heading("table2"), heading("figure4"), heading("dropout")
    ('Table 2', 'Figure 4', 'Random dropout')
    """
    usual = re.sub(r"^(table|figure)(\d)", lambda match: f"{match[1].capitalize()} {match[2]}", name)
    return (tables.HEADINGS | figures.HEADINGS).get(name, usual)


def _svg(name: str, picture: figures.Picture) -> str:
    label = f"{figures.CAPTIONS[name]} {picture.title}".strip()
    return inline_svg(figures.encode(picture.figure, "svg").decode(), f"{name}{picture.suffix}-", label)


def study_facts(study: Study) -> Facts:
    """The scale of a study: which data, how long it trains, over which seeds."""
    training = study.training
    data = [f"{dataset_label(name)} ({_images(entry)})" for name, entry in study.data.items()]
    return (
        ("Data sets", ", ".join(data)),
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Training", _training(training)),
        *(
            (f"Training, {dataset_label(name)}", _training({**training, **own}))
            for name, own in training["datasets"].items()
        ),
        ("Methods", ", ".join(method.title for method in study.methods.values())),
        ("Readings of AP-FL", ", ".join(study.apfl["readings"])),
    )


def _images(entry: Mapping[str, Any]) -> str:
    return (f"{entry['max_samples']:,} images" if entry.get("max_samples") else "all images") + thinning(entry)


def _training(values: Mapping[str, Any]) -> str:
    return (
        f"{values['rounds']} rounds of {values['local_epochs']} local epochs, batch {values['batch_size']}, "
        f"{values['optimizer']}, learning rate {values['learning_rate']:g}"
    )


def render(study: Study, parts: Sequence[Section], made: Sources | None = None, unfinished: int = 0) -> str:
    """The page: what the study is, then its sections; ``unfinished`` runs are announced at its head."""
    body = (
        environment()
        .get_template("report.html.j2")
        .render(
            name=study.name,
            description=study.description,
            facts=study_facts(study),
            unfinished=unfinished,
            sections=[
                {"identifier": item.identifier, "title": item.title, "body": Markup(item.body)} for item in parts
            ],
        )
    )
    data = embedded(made.data if made else {})
    return page(f"AP-FL bench: {study.name}", body, data=data, script=(TEMPLATES / "script.js").read_text("utf-8"))


def build(study: Study, results: str | Path, file: str | Path) -> str:
    """The page of a study from what there is under ``results``; ``file`` is the study's."""
    material = gather(study, results, file)
    unfinished = len(material.planned) - len(material.records)
    return render(study, list(sections(material)), material.sources, unfinished)
