"""What a study cost: time, memory and device of its finished runs, by stage and method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apfl.paper.numbers.frames import grouped
from apfl.study.runs import Run
from apfl.study.study import Study

STAGES = {
    "federate": "federated training",
    "external": "foreign program",
    "memorize": "generator",
    "personalize": "personalization",
}
"""By stage of a run what it does, in the order of the work."""


@dataclass(frozen=True)
class Cost:
    """The runs of one method in one stage: how many are planned and finished, their seconds in all, the mean and the
    longest, and the most memory in bytes that one of them held; devices and precisions are listed."""

    stage: str
    method: str
    planned: int
    finished: int
    seconds: float
    longest: float
    memory: int
    devices: str
    precisions: str

    @property
    def mean(self) -> float | None:
        return self.seconds / self.finished if self.finished else None


def costs(study: Study, planned: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """One for each stage and method of the study's ``planned`` runs; ``records`` are the run.json of the finished."""
    groups = grouped(planned, lambda run: (run.stage, _method(study, run)))
    order = list(STAGES)
    return [
        _cost(stage, method, [records.get(run.path) for run in groups[stage, method]])
        for stage, method in sorted(groups, key=lambda key: order.index(key[0]))
    ]


def total(every: Sequence[Cost]) -> Cost:
    """All of them together."""
    return Cost(
        stage="all",
        method="",
        planned=sum(one.planned for one in every),
        finished=sum(one.finished for one in every),
        seconds=sum(one.seconds for one in every),
        longest=max((one.longest for one in every), default=0.0),
        memory=max((one.memory for one in every), default=0),
        devices=_listed(one.devices for one in every),
        precisions=_listed(one.precisions for one in every),
    )


def _method(study: Study, run: Run) -> str:
    """Whose run it is; a generator belongs to the method on whose clients it was trained."""
    name = run.spec["base"] if run.stage == "memorize" else run.method
    title = study.methods[name].title if name in study.methods else name
    return f"on {title}" if run.stage == "memorize" else title


def _cost(stage: str, method: str, records: Sequence[Mapping[str, Any] | None]) -> Cost:
    done = [record for record in records if record is not None]
    seconds = [record.get("seconds", 0.0) for record in done]
    return Cost(
        stage=stage,
        method=method,
        planned=len(records),
        finished=len(done),
        seconds=sum(seconds),
        longest=max(seconds, default=0.0),
        memory=max((record.get("peak_memory", 0) for record in done), default=0),
        devices=_listed(record.get("device") for record in done),
        precisions=_listed(record.get("precision") for record in done),
    )


def _listed(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({part for value in values if value for part in value.split(", ")}))
