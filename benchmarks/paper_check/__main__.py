"""Writes docs/paper-check.md and docs/measurements/paper_check.csv, in a few seconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from apfl.registry.trees import ROOT
from apfl.storage.files import write_text
from benchmarks.paper_check import claimed, possible, wording
from benchmarks.paper_check.finding import DIGITS, OUTCOMES, Finding

PAGE = ROOT / "docs" / "paper-check.md"
FILE = ROOT / "docs" / "measurements" / "paper_check.csv"
INTRODUCTION = """# The paper against itself

This page checks whether the paper's printed numbers agree with each other and with its text. It helps you to judge what
can be reproduced at all. Everything is computed from the numbers that the paper prints and from the settings that it
names, not from any run. The paper does not say how many seeds its standard deviations come from; where that matters,
three and five are assumed.

Two bounds recur in the tables. The *own floor* is the accuracy of always answering a client's most frequent class, on a
test with the client's own label distribution. The *pooled ceiling* is the highest accuracy on the pooled test of a
model that only knows its client's classes. Both are means over clients, weighted by their images, and over drawn
partitions; *least* is the smallest value among these.

`python -m benchmarks.paper_check` writes this page, and its numbers as [CSV](measurements/paper_check.csv).
"""


def findings() -> Iterator[Finding]:
    """Every check, those of what is possible first."""
    for module in (possible, claimed, wording):
        yield from module.findings()


def csv(found: Iterable[Finding]) -> str:
    """A line for each computed number."""
    rows = [
        (one.identifier, one.outcome, item, quantity, text(value))
        for one in found
        for item, numbers in one.numbers.iterrows()
        for quantity, value in numbers.items()
    ]
    table = pd.DataFrame(rows, columns=["id", "outcome", "item", "quantity", "value"])
    return table.to_csv(index=False, lineterminator="\n")


def markdown(found: Iterable[Finding]) -> str:
    """Every finding with its numbers."""
    parts = [INTRODUCTION]
    for one in found:
        rows = [[str(item), *map(text, row)] for item, row in zip(one.numbers.index, one.numbers.values, strict=True)]
        lines = [["", *one.numbers], [":--"] + ["--:"] * one.numbers.shape[1], *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## {one.question}\n\n**{OUTCOMES[one.outcome]}.** {one.sentence}\n\n{table}\n")
    return "\n".join(parts)


def text(value: object) -> str:
    """Six digits of a number, the same on every machine; nothing where there is none.

    >>> text(3), text(4.935000000000001), text(-1e-17), text(float("nan")), text("n")
    ('3', '4.935', '0', '', 'n')
    """
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{round(float(value), DIGITS) + 0.0:.6g}"


if __name__ == "__main__":
    made = list(findings())
    write_text(PAGE, markdown(made))
    write_text(FILE, csv(made))
