"""The hours of a study in lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from apfl.durations import hours

if TYPE_CHECKING:
    from apfl.estimate.estimate import Estimate


MOST_EXPENSIVE = 5
"""How many of the methods that cost most are named."""


def forecast(found: Estimate) -> Iterator[str]:
    """The hours of a study in lines for people."""
    from apfl.estimate.estimate import title

    stages, pairs = Counter(), Counter()
    for run, seconds in found.seconds:
        stages[run.stage] += seconds
        pairs[title(run), run.dataset] += seconds
    stages["starting jobs"] = found.start * found.jobs
    parts = ", ".join(f"{what} {hours(seconds)}" for what, seconds in stages.items())
    least = "at least " if found.unknown else ""
    yield f"computing on one core: {least}{hours(stages.total())} ({parts})"
    if pairs:
        most = (f"{what} on {data} {hours(seconds)}" for (what, data), seconds in pairs.most_common(MOST_EXPENSIVE))
        yield f"most expensive: {', '.join(most)}"
    if found.finished:
        yield f"corrected by the seconds of {found.finished} finished {'run' if found.finished == 1 else 'runs'}"
    for reason, number in found.unknown.items():
        yield f"not in it: {number} {'run' if number == 1 else 'runs'} of {reason}"
    if found.gpu:
        yield "not in it: the GPU of this machine, on which the runs would be trained"
    cores = "1 core" if found.cores == 1 else f"{found.cores} cores"
    yield f"on this machine: {least}{hours(stages.total() / found.cores)} with {cores}, if jobs do not slow each other"
