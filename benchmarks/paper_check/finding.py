"""What a check finds, and the printed numbers that all checks are made from."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from apfl.paper import published
from apfl.paper.labels import dataset_label
from apfl.study.outputs import OUTPUTS

OURS = "AP-FL"
OUTCOMES = {"misfit": "Does not fit together", "open": "Cannot be told", "fit": "Fits together"}
"""What a check can come to, and how it is said."""
WORDS = {
    "dataset": dataset_label,
    "clients": "{} clients".format,
    "alpha": lambda alpha: "" if alpha == "-" else f"α = {alpha}",
    "missing": "{} % missing".format,
    "role": {"non_dropout": "A_n", "dropout": "A_d"}.get,
}
DIGITS = 9
"""Decimals that are kept of what is computed: the last bits of a float differ from machine to machine."""


@dataclass(frozen=True)
class Finding:
    """A question to the paper and what its numbers answer.

    ``numbers``: the index says what is asked about, each column is a quantity, in per cent or points where nothing else
    is said; ``sentence`` is made from them.
    """

    identifier: str
    question: str
    outcome: str
    sentence: str
    numbers: pd.DataFrame


def printed(table: str, value: str = "mean") -> pd.DataFrame:
    """The printed accuracies in per cent [rows of the table, methods], or with ``std`` their deviations."""
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for item in published.accuracies(table):
        rows.setdefault((item.dataset, *item.row), {})[item.column] = getattr(item, value)
    index = pd.MultiIndex.from_tuples(rows, names=OUTPUTS[table].axes)
    return pd.DataFrame(list(rows.values()), index)


def in_words(rows: pd.DataFrame) -> pd.DataFrame:
    """The same numbers, their rows named as in a sentence: ``CIFAR-10, 5 clients, α = 0.1``."""
    names = rows.index.names
    texts = [[WORDS[name](part) for name, part in zip(names, row, strict=True)] for row in rows.index.to_frame().values]
    return rows.set_axis([", ".join(filter(None, text)) for text in texts])


def outcome(contradicts: bool) -> str:
    return "misfit" if contradicts else "fit"
