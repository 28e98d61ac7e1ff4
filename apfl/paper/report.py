"""One self-contained HTML page for a study: its tables, its figures, and where every number comes from.

A page is a list of sections, each with an id, a title and trusted HTML; whoever has more to say adds a section.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from apfl.paper import figures
from apfl.paper.labels import dataset_label
from apfl.paper.metrics import Metrics
from apfl.paper.render import environment, fragment, page
from apfl.paper.tables import Table

if TYPE_CHECKING:
    from apfl.study import Cell, Study

Facts = tuple[tuple[str, str], ...]
"""Pairs of a name and what is to be said under it."""


@dataclass(frozen=True)
class Section:
    """A part of the page; ``body`` is trusted HTML."""

    identifier: str
    title: str
    body: str


def table_section(table: Table) -> Section:
    return Section(table.name, table.heading, fragment(table))


def figure_section(name: str, cells: Sequence[Cell], metrics: Metrics) -> Section:
    """The figure on each of its tests, drawn into the page."""
    pictures = [
        {"title": picture.title, "svg": Markup(_svg(name, picture))}
        for picture in figures.pictures(name, cells, metrics)[0]
    ]
    heading = figures.HEADINGS.get(name, f"Figure {name.removeprefix('figure')}")
    template = environment().get_template("figure.html.j2")
    body = template.render(name=name, heading=heading, caption=figures.CAPTIONS[name], pictures=pictures)
    return Section(name, heading, body)


def _svg(name: str, picture: figures.Picture) -> str:
    label = f"{figures.CAPTIONS[name]} {picture.title}".strip()
    return inline_svg(figures.encode(picture.figure, "svg").decode(), f"{name}{picture.suffix}-", label)


def inline_svg(text: str, prefix: str, label: str) -> str:
    """An SVG file as an element of a page: no prolog, ids of its own, and a label for those who cannot see it."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'href="#', f'href="#{prefix}', text)
    text = re.sub(r"url\(#", f"url(#{prefix}", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(label)}" ', 1)


def provenance_section(records: Mapping[str, Mapping[str, Any]], planned: int) -> Section:
    """What made the numbers; ``records`` are the run.json of the finished runs, of ``planned`` in the study."""
    body = (
        environment()
        .get_template("facts.html.j2")
        .render(identifier="provenance", title="Provenance", facts=provenance_facts(records, planned))
    )
    return Section("provenance", "Provenance", body)


def provenance_facts(records: Mapping[str, Mapping[str, Any]], planned: int) -> Facts:
    """Commits, versions, machines and time of the runs; several values are all listed."""
    every = list(records.values())
    versions = {name: _values(record.get("versions", {}).get(name) for record in every) for name in _packages(every)}
    diverged = sorted(run for run, record in records.items() if record.get("status") == "diverged")
    facts = (
        (
            "Runs",
            f"{len(every)} of {planned} finished" + (f", of which diverged: {', '.join(diverged)}" if diverged else ""),
        ),
        ("Computing time", duration(sum(record.get("seconds", 0.0) for record in every))),
        ("Commit", _values(_commit(record) for record in every)),
        ("Versions", ", ".join(f"{name} {text}" for name, text in versions.items() if text)),
        ("Python", _values(record.get("python") for record in every)),
        ("Platform", _values(record.get("platform") for record in every)),
        ("Device", _values(record.get("device") for record in every)),
        ("Precision", _values(record.get("precision") for record in every)),
    )
    return tuple((name, text) for name, text in facts if text)


def _packages(records: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({name for record in records for name in record.get("versions", {})})


def _commit(record: Mapping[str, Any]) -> str | None:
    commit = record.get("commit")
    return commit and (commit if record.get("clean") else f"{commit} with uncommitted changes")


def _values(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values if value}))


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42.4), duration(3723)
    ('42 s', '1 h 02 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


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
    return f"{entry['max_samples']:,} images" if entry.get("max_samples") else "all images"


def _training(values: Mapping[str, Any]) -> str:
    return (
        f"{values['rounds']} rounds of {values['local_epochs']} local epochs, batch {values['batch_size']}, "
        f"{values['optimizer']}, learning rate {values['learning_rate']:g}"
    )


def render(study: Study, sections: Sequence[Section]) -> str:
    """The page: what the study is, then its sections."""
    body = (
        environment()
        .get_template("report.html.j2")
        .render(
            name=study.name,
            description=study.description,
            facts=study_facts(study),
            sections=[
                {"identifier": item.identifier, "title": item.title, "body": Markup(item.body)} for item in sections
            ],
        )
    )
    return page(f"AP-FL bench: {study.name}", body)
