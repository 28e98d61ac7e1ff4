"""docs/claims.md: the claims of claims.yaml, and how they are judged. What `apfl claims --page` prints."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from markupsafe import Markup

from apfl.paper.bootstrap import RESAMPLES
from apfl.paper.claims import Ask, Claim, claims
from apfl.paper.contrasts import label
from apfl.paper.labels import TEST_LABELS
from apfl.paper.render import environment
from apfl.registry import ROOT

COVERAGE = ROOT / "docs" / "measurements" / "coverage.csv"


def page() -> str:
    """The page as Markdown."""
    shown = {"coverage": coverage_table(), "claims": "\n".join(text for claim in claims() for text in _claim(claim))}
    trusted = {name: Markup(text) for name, text in shown.items()}
    return environment().get_template("claims.md.j2").render(resamples=f"{RESAMPLES:,}", **trusted)


def coverage_table() -> str:
    """The committed measurements as a table."""
    with COVERAGE.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    lines = [
        "| differences | seeds | cells | bootstrap | Student's t | both |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        shares = (f"{100 * float(row[name]):.1f}" for name in ("bootstrap", "student", "verdict"))
        lines.append(f"| {row['differences']} | {row['seeds']} | {row['cells']} | {' | '.join(shares)} |")
    return "\n".join(lines)


def _claim(claim: Claim) -> Iterator[str]:
    yield f"### {claim.id}\n"
    yield f"{claim.sentence}\n"
    where = claim.where.rstrip(".")
    yield f"* where: {where}" + (" (**from a summary**)" if claim.source == "summary" else "")
    tests = ", ".join(TEST_LABELS[test] for test in claim.tests)
    yield f"* asked on: {claim.output}, {_rows(claim)}; {tests}; readings: {', '.join(claim.readings) or 'all'}"
    for ask in claim.asks:
        yield f"* must hold: {_ask(ask)}"
    yield f"* why so: {claim.why}\n"


def _rows(claim: Claim) -> str:
    return f"{len(claim.rows)} rows" if claim.rows else "the study's rows"


def _ask(ask: Ask) -> str:
    """An ask in words.

    >>> _ask(Ask("AP-FL", ("FedAvg",), above=0))
    'AP-FL − FedAvg above 0, in each row'
    """
    against = [(name,) for name in ask.against] if ask.take == "each" and ask.against else [ask.against]
    found = "; ".join(dict.fromkeys(label(ask, names, other) for names in against for other in ask.others or ("",)))
    sides = [f"{word} {value:g}" for word, value in (("above", ask.above), ("below", ask.below)) if value is not None]
    over = f"as a mean over {' and '.join(ask.mean_over)}" if ask.mean_over else "in each row"
    return f"{found} {' and '.join(sides)}, {over}"
