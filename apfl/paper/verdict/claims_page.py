"""docs/claims.md: the claims of claims.yaml, and how they are judged. What `apfl claims --page` prints."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from markupsafe import Markup

from apfl.paper.html import render
from apfl.paper.labels import TEST_LABELS
from apfl.paper.numbers.frames import tuples
from apfl.paper.verdict.claims import ALL, GATES, Ask, Claim, claims
from apfl.paper.verdict.words import label
from apfl.registry.trees import ROOT

MEASUREMENTS = ROOT / "docs" / "measurements"
SOURCES = {"paper": "Claims of the paper", "summary": "What a summary says, not the paper"}


def page() -> str:
    """The page as Markdown."""
    shown = {"coverage": coverage_table(), "simulation": false_verdicts_table(), "claims": "\n".join(_claims())}
    alike = "each baseline, mean over rows"
    shown["ours_collapse"] = collapses(f"{alike}, AP-FL collapses", "false_reproduced")
    shown["others_collapse"] = collapses(f"{alike}, baselines collapse", "false_contradicted")
    trusted = {name: Markup(text) for name, text in shown.items()}
    return render("claims.md.j2", **trusted)


def coverage_table() -> str:
    """How often intervals hold the truth."""
    lines = [
        "| differences | seeds | cells | bootstrap | t, cells independent | t over seeds' means |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in tuples(_measured("coverage")):
        shares = " | ".join(f"{100 * share:.1f}" for share in (row.bootstrap, row.stratified, row.verdict))
        lines.append(f"| {row.differences} | {row.seeds} | {row.cells} | {shares} |")
    return "\n".join(lines)


def false_verdicts_table() -> str:
    """How often a verdict is wrong: by kind of comparison and number of seeds, the worst of all shared variances. What
    happens if a method collapses is said apart."""
    worst = _worst()
    worst = worst[~worst.index.get_level_values("kind").str.contains("collapse")]
    lines = [f"| comparison | seeds | {' | '.join(SHARES.values())} |", "| --- | ---: " + "| ---: " * len(SHARES) + "|"]
    for (kind, seeds), *shares in worst.itertuples():
        lines.append(f"| {kind} | {seeds} | {' | '.join('–' if one != one else f'{one:.1f}' for one in shares)} |")
    return "\n".join(lines)


def collapses(kind: str, share: str) -> str:
    """How often a verdict is wrong if a method collapses: the worst of all shared variances, by number of seeds.

    >>> collapses("each baseline, mean over rows, AP-FL collapses", "false_reproduced")
    '72, 59 and 35 % with 3, 5 and 10 seeds'
    """
    found = _worst()[share].reset_index()
    found = found[found["kind"] == kind]
    shares, seeds = [f"{one:.0f}" for one in found[share]], list(map(str, found["seeds"]))
    return f"{', '.join(shares[:-1])} and {shares[-1]} % with {', '.join(seeds[:-1])} and {seeds[-1]} seeds"


def _worst() -> pd.DataFrame:
    """In per cent, by kind and number of seeds."""
    return 100 * _measured("false_verdicts").groupby(["kind", "seeds"], sort=False)[[*SHARES]].max()


SHARES = {
    "false_contradicted": "contradicted",
    "false_reproduced": "reproduced",
    "old_contradicted": "contradicted by the former rule",
}


def _measured(name: str) -> pd.DataFrame:
    return pd.read_csv(MEASUREMENTS / f"{name}.csv", float_precision="round_trip")


def _claims() -> Iterator[str]:
    for source, title in SOURCES.items():
        yield f"## {title}\n"
        for claim in claims():
            if claim.source == source:
                yield from _claim(claim)


def _claim(claim: Claim) -> Iterator[str]:
    yield f"### {claim.id}\n"
    yield f"{claim.sentence}\n"
    where = claim.where.rstrip(".")
    yield f"* where: {where}" + (" (**from a summary**)" if claim.source == "summary" else "")
    tests = ", ".join(TEST_LABELS[test] for test in claim.tests)
    rows = len(claim.rows) or "the study's"
    yield f"* asked on: {claim.output}, {rows} rows; {tests}; readings: {', '.join(claim.readings) or 'all'}" + (
        "; not on single data sets" if claim.whole else ""
    )
    for ask in claim.asks:
        yield f"* {GATES.get(ask.gate, 'must hold')}: {_ask(ask)}"
    yield f"* reason: {claim.why}\n"


def _ask(ask: Ask) -> str:
    """An ask in words.

    >>> _ask(Ask("AP-FL", ("FedAvg",), above=0))
    'AP-FL − FedAvg above 0, in each row'
    """
    against = [(name,) for name in ask.against] if ask.take == "each" and ask.against else [ask.against]
    found = "; ".join(dict.fromkeys(label(ask, names, other) for names in against for other in ask.others or ("",)))
    sides = [f"{word} {value:g}" for word, value in (("above", ask.above), ("below", ask.below)) if value is not None]
    over = f"as a mean over {' and '.join(ask.mean_over)}" if ask.mean_over else "in each row"
    over = "as a mean over all rows" if ask.mean_over == ALL else "on each data set" if ask.gate else over
    return f"{found} {' and '.join(sides)}, {over}"
