"""One self-contained HTML page for a study: its tables, its figures, and where every number comes from.

A page is a list of sections, each with an id, a title and trusted HTML; whoever has more to say adds a section. A page
can be made at any time: what has not been run is named on it, with the command that makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2.utils import htmlsafe_json_dumps

from apfl.data.catalogue import images_of
from apfl.paper import html
from apfl.paper.html import PageSection
from apfl.paper.labels import TEST_LABELS, TEST_MEANINGS, dataset_label
from apfl.paper.report.material import gather
from apfl.paper.report.provenance import Facts, Sources
from apfl.paper.report.sections import sections
from apfl.study.outputs import OUTPUTS
from apfl.study.study import Study


def study_facts(study: Study) -> Facts:
    """The scale of a study: which data, how long it trains, over which seeds."""
    training, generative = study.training, any(method.generative for method in study.methods.values())
    data = [f"{dataset_label(name)} ({images_of(entry)})" for name, entry in study.data.items()]
    return (
        ("Data sets", ", ".join(data)),
        ("Seeds", ", ".join(map(str, study.seeds))),
        ("Training", _training(training)),
        *(
            (f"Training, {dataset_label(name)}", _training({**training, **own}))
            for name, own in training["datasets"].items()
        ),
        ("Methods", ", ".join(method.title for method in study.methods.values())),
        *((("Readings of AP-FL", ", ".join(study.apfl["readings"])),) if generative else ()),
    )


def _training(values: Mapping[str, Any]) -> str:
    return (
        f"{values['rounds']} rounds of {values['local_epochs']} local epochs, batch {values['batch_size']}, "
        f"{values['optimizer']}, learning rate {values['learning_rate']:g}"
    )


def render(study: Study, parts: Sequence[PageSection], made: Sources | None = None, unfinished: int = 0) -> str:
    """The page: what the study is, then its sections; ``unfinished`` runs are announced at its head."""
    shown = {
        test for name in (*study.tables, *study.figures) for tests in OUTPUTS[name].tests.values() for test in tests
    }
    body = html.render(
        "report.html.j2",
        name=study.name,
        description=study.description,
        facts=study_facts(study),
        unfinished=unfinished,
        tests=[test for test in TEST_LABELS if test in shown],
        meanings=TEST_MEANINGS,
        sections=parts,
    )
    data = htmlsafe_json_dumps(made.data if made else {}, separators=(",", ":"), allow_nan=False)
    return html.page(
        f"AP-FL bench: {study.name}", body, data=data, script=(html.TEMPLATES / "script.js").read_text("utf-8")
    )


def build(study: Study, results: str | Path, file: str | Path) -> str:
    """The page of a study from what there is under ``results``; ``file`` is the study's."""
    material = gather(study, results, file)
    unfinished = len(material.planned) - len(material.records)
    return render(study, list(sections(material)), material.sources, unfinished)
