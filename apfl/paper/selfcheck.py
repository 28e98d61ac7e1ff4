"""The paper against itself: what its printed numbers say of each other and of its text.

Nothing here is measured by this suite. The numbers are the printed ones (`apfl.paper.published`), and bounds that
follow from the printed settings alone (`apfl.paper.drawn`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from apfl.paper import selfcheck_claims, selfcheck_possible, selfcheck_wording
from apfl.paper.finding import OUTCOMES, Finding
from apfl.paper.page import Section

HEADING = "The paper against itself"
INTRODUCTION = (
    "Computed from the numbers that the paper prints and from the settings that it names, not from any run. It is not "
    "said how many seeds stand behind the printed standard deviations; where that matters, three and five are assumed."
)
COLUMNS = ("id", "outcome", "question", "finding", "item", "quantity", "value")


@cache
def findings() -> tuple[Finding, ...]:
    """Every check, those of Table 2 first."""
    checks: Sequence[Callable[[], Finding]] = (
        *selfcheck_possible.CHECKS,
        *selfcheck_claims.CHECKS,
        *selfcheck_wording.CHECKS,
    )
    return tuple(check() for check in checks)


def tidy(found: Sequence[Finding]) -> pd.DataFrame:
    """One row for each computed number."""
    rows = [
        (one.identifier, one.outcome, one.question, one.sentence, row["item"], quantity, row[quantity])
        for one in found
        for _, row in one.numbers.iterrows()
        for quantity in one.numbers.columns.drop("item")
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def markdown(found: Sequence[Finding]) -> str:
    """Every finding with its numbers."""
    parts = [f"# {HEADING}", INTRODUCTION]
    for one in found:
        columns = list(one.numbers.columns)
        lines = [columns, [":--"] + ["--:"] * (len(columns) - 1), *_texts(one.numbers)]
        table = "\n".join("| " + " | ".join(entry.replace("|", "\\|") for entry in line) + " |" for line in lines)
        parts += [f"## {one.question}", f"**{OUTCOMES[one.outcome].capitalize()}.** {one.sentence}", table]
    return "\n\n".join(parts) + "\n"


def _texts(numbers: pd.DataFrame) -> list[list[str]]:
    return [[text(value) for value in row] for row in numbers.to_numpy(dtype=object)]


def text(value: object) -> str:
    """A number with the digits that it deserves; nothing where there is none.

    >>> text(3), text(2.4935), text(0.00012), text("n")
    ('3', '2.49', '0.00012', 'n')
    """
    if isinstance(value, float):
        if pd.isna(value):
            return "–"
        return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:,.2f}".removesuffix(".00")
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(folder: Path) -> list[Path]:
    """Write ``paper.csv`` and ``paper.md``."""
    from apfl.artifacts import write_text

    paths = [Path(folder) / f"paper.{kind}" for kind in ("csv", "md")]
    found = findings()
    write_text(paths[0], tidy(found).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(paths[1], markdown(found))
    return paths


def section() -> Section:
    """The findings for the page; the numbers of each unfold."""
    from apfl.paper.render import environment

    shown = [
        {"finding": one, "said": OUTCOMES[one.outcome], "columns": list(one.numbers), "rows": _texts(one.numbers)}
        for one in findings()
    ]
    template = environment().get_template("paper_check.html.j2")
    return Section("paper-check", HEADING, template.render(heading=HEADING, introduction=INTRODUCTION, shown=shown))
