"""What a check of the paper against itself finds."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

OUTCOMES = {
    "misfit": "does not fit together",
    "open": "cannot be told",
    "fit": "fits together",
}
"""What a check can come to, and how it is said."""


@dataclass(frozen=True)
class Finding:
    """A question to the paper and what its numbers answer.

    ``numbers``: a column ``item`` that names what is asked about, then one column for each computed quantity, in per
    cent or points where nothing else is said; ``sentence`` is made from them.
    """

    identifier: str
    question: str
    outcome: str
    sentence: str
    numbers: pd.DataFrame

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"finding {self.identifier}: outcome {self.outcome!r} is none of {', '.join(OUTCOMES)}")
