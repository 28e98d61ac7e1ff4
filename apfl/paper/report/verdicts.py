"""The verdicts as a section of the report."""

from __future__ import annotations

from apfl.paper.html import PageSection, render
from apfl.paper.verdict import document
from apfl.paper.verdict.csv import Document, Part
from apfl.paper.verdict.family import NOT_RUN


def section(made: Document) -> PageSection:
    """The verdicts as a section of the report; ``made`` is claims.json."""
    parts = [(title, [_claim(one) for one in claims]) for title, claims in document.by_source(made)]
    body = render(
        "verdicts.html.j2", made=made, parts=parts, heads=document.HEADS, lines=document.summary_lines(made),
        introduction=document.INTRODUCTION,
    )  # fmt: skip
    return PageSection("verdicts", "Verdicts", body)


def _claim(claim: Part) -> Part:
    return {
        **claim,
        "source_text": document.source_of(claim),
        "rows": [
            {"status": one["status"], "entries": document.entries(where, one)} for where, one in document.shown(claim)
        ],
        "left_out": document.left_out(claim),
        "across": document.across_readings(claim),
        "missing": document.missing(claim),
        "commands": document.commands(claim),
        "decisions": list(document.decisions(claim)),
        "first": _first(claim),
    }


def _first(claim: Part) -> list[dict[str, str]]:
    """The verdicts on the primary test, one a reading that was run: ``literal: contradicted``."""
    ran = [one for one in claim["verdicts"] if one["primary"] and one["reading"] not in document.left_out(claim)]
    found = [
        {"status": "interim" if one["interim"] else one["status"], "text": f"{one['reading']}: {one['said']}"}
        for one in ran
    ]
    return found or [{"status": NOT_RUN, "text": NOT_RUN}]
