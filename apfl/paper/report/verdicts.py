"""The verdicts as a section of the report."""

from __future__ import annotations

from apfl.paper.html import PageSection, environment
from apfl.paper.verdict.csv import Document, Part
from apfl.paper.verdict.document import (
    HEADS,
    INTRODUCTION,
    across_readings,
    by_source,
    commands,
    decisions,
    entries,
    left_out,
    missing,
    shown,
    source_of,
    summary_lines,
)
from apfl.paper.verdict.family import NOT_RUN


def section(made: Document) -> PageSection:
    """The verdicts as a section of the report; ``made`` is claims.json."""
    parts = [(title, [_claim(one) for one in claims]) for title, claims in by_source(made)]
    values = {"made": made, "parts": parts, "heads": HEADS, "lines": summary_lines(made), "introduction": INTRODUCTION}
    body = environment().get_template("verdicts.html.j2").render(**values)
    return PageSection("verdicts", "Verdicts", body)


def _claim(claim: Part) -> Part:
    return {
        **claim,
        "source_text": source_of(claim),
        "rows": [{"status": one["status"], "entries": entries(where, one)} for where, one in shown(claim)],
        "left_out": left_out(claim),
        "across": across_readings(claim),
        "missing": missing(claim),
        "commands": commands(claim),
        "decisions": list(decisions(claim)),
        "first": _first(claim),
    }


def _first(claim: Part) -> list[dict[str, str]]:
    """The verdicts on the primary test, one a reading that was run: ``literal: contradicted``."""
    ran = [one for one in claim["verdicts"] if one["primary"] and one["reading"] not in left_out(claim)]
    found = [
        {"status": "interim" if one["interim"] else one["status"], "text": f"{one['reading']}: {one['said']}"}
        for one in ran
    ]
    return found or [{"status": NOT_RUN, "text": NOT_RUN}]
