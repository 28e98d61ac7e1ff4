"""Several runs in one process: the seeds of a cell, one after another, or side by side where the device gains by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apfl.federation.problem import CarryOut
from apfl.federation.side_by_side import side_by_side
from apfl.stages.federate import federate
from apfl.stages.problem import Inputs
from apfl.stages.specification import check_specification, engine_of
from apfl.stages.stopwatch import Company


@dataclass(frozen=True)
class Call:
    """A run that is asked for: its specification, the files that it reads, and the folder that it goes to."""

    specification: Mapping[str, Any]
    inputs: Inputs
    out: Path
    base: Path | None = None
    generator: Path | None = None


def federate_all(calls: Sequence[Call], device: str = "auto") -> None:
    """Federated runs; on a device that trains stacks of models, those of one network and length side by side."""
    for call in calls:
        check_specification(call.specification)
    if len(calls) > 1 and engine_of(calls[0].specification, device).stack > 1 and _alike(calls):
        _side_by_side(calls, device)
    else:
        one_after_another(calls, lambda call: federate(call.specification, call.inputs, call.out, device))


def one_after_another(calls: Sequence[Call], stage: Callable[[Call], Any]) -> None:
    """Carry out runs in their order."""
    for call in calls:
        stage(call)


def _side_by_side(calls: Sequence[Call], device: str) -> None:
    company = Company()

    def task(call: Call) -> Callable[[CarryOut], Any]:
        return lambda carry_out: federate(call.specification, call.inputs, call.out, device, carry_out, company)

    side_by_side([task(call) for call in calls])


def _alike(calls: Sequence[Call]) -> bool:
    """Are these runs of one network, data set and precision?"""
    kinds = [(one.get("dataset"), one.get("network"), one["training"]) for one in (c.specification for c in calls)]
    return all(kind == kinds[0] for kind in kinds)
