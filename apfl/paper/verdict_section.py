"""The verdicts as a section of the report."""

from __future__ import annotations

from apfl.paper.page import Section
from apfl.paper.render import environment
from apfl.paper.verdict_pages import (
    HEADS,
    INTRODUCTION,
    Document,
    commands,
    decisions,
    entries,
    left_out,
    missing,
    shown,
    source_of,
    summary_lines,
)
from apfl.paper.verdicts import NOT_RUN


def section(made: Document) -> Section:
    """The verdicts as a section of the report; ``made`` is claims.json."""
    claims = [
        {
            **claim,
            "source_text": source_of(claim),
            "rows": [{"status": one["status"], "entries": entries(where, one)} for where, one in shown(claim)],
            "left_out": left_out(claim),
            "missing": missing(claim),
            "commands": commands(claim),
            "decisions": list(decisions(claim)),
            "first": _first(claim),
        }
        for claim in made["claims"]
    ]
    body = (
        environment()
        .get_template("verdicts.html.j2")
        .render(made=made, claims=claims, heads=HEADS, lines=summary_lines(made), introduction=INTRODUCTION)
    )
    return Section("verdicts", "Verdicts", body)


def _first(claim: Document) -> list[str]:
    """The verdicts on the primary test, one a reading that was run: ``literal: contradicted``."""
    ran = [one for one in claim["verdicts"] if one["primary"] and one["reading"] not in left_out(claim)]
    return [f"{one['reading']}: {one['status']}" for one in ran] or [NOT_RUN]
