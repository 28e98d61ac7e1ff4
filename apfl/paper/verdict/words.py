"""Rows and comparisons of claims in words."""

from __future__ import annotations

from collections.abc import Sequence

from apfl.paper.labels import ROLES, dataset_label, semantics_label
from apfl.paper.verdict.claims import ANY, Ask, Row

WORDS = {
    "samples_per_class": "{} samples per class",
    "noise_dimension": "noise dimension {}",
    "alpha": "alpha {}",
    "clients": "{} clients",
    "missing": "{} % of classes missing",
    "rate": "dropout rate {}",
    "heterogeneity": "heterogeneity {}",
    "partition": "{}",
}
MEASURE_WORDS = {"fall": "fall of ", "rise": "rise of ", "climb": "climb of ", "speed": "speed (100 ln) of "}


def place(row: Row) -> str:
    """A row in words.

    >>> place({"dataset": "cifar10", "clients": "5", "alpha": "0.01"})
    'CIFAR-10, 5 clients, alpha 0.01'
    """
    shown = {axis: value for axis, value in row.items() if value not in (ANY, "-")}
    words = [
        dataset_label(value) if axis == "dataset" else ROLES.get(value) or WORDS[axis].format(value)
        for axis, value in shown.items()
    ]
    return ", ".join(words)


def label(ask: Ask, against: Sequence[str], other: str) -> str:
    """What an ask compares, in words.

    >>> label(Ask("AP-FL", ("FedAvg",)), ("FedAvg",), "")
    'AP-FL − FedAvg'
    """
    names = [_column(name) for name in against]
    theirs = f"{'mean' if ask.take == 'mean' else 'best'} of {', '.join(names)}" if len(names) > 1 else "".join(names)
    text = MEASURE_WORDS.get(ask.measure, "") + " − ".join(filter(None, (_column(ask.first), theirs)))
    if ask.slope:
        return f"{text}: slope by doublings of {ask.slope.replace('_', ' ')}"
    if ask.axis:
        sides = [" and ".join(ask.at), *([other] if other else [])]
        return f"{text}: " + " − ".join(WORDS[ask.axis].format(side) for side in sides)
    return text


def _column(name: str) -> str:
    """
    >>> _column("AP-FL/friend"), _column("default"), _column("w2v")
    ('AP-FL (friend)', 'embedding', 'W2V')
    """
    head, _, model = name.partition("/")
    head = {"default": "embedding"}.get(head) or semantics_label(head)
    return f"{head} ({model})" if model else head
