"""Several runs in one process: the seeds of a cell, one after another, or side by side where the device gains by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from apfl.engine.device import Engine
from apfl.federation.problem import CarryOut
from apfl.federation.side_by_side import side_by_side
from apfl.stages.federate import federate
from apfl.stages.job import USUAL, Keeping
from apfl.stages.problem import Inputs
from apfl.stages.specification import Specification, training_of
from apfl.stages.stopwatch import SharedTime


@dataclass(frozen=True)
class Call:
    """A run that is asked for: its specification, what it reads, and the folder that it goes to."""

    specification: Specification
    inputs: Inputs
    out: Path
    keeping: Keeping = USUAL


Stage = Callable[..., None]
"""`federate`, `memorize_run` or `personalize_run`: specification, inputs, output folder, device, keeping."""


def federate_all(calls: Sequence[Call], device: str = "auto") -> None:
    """Federated runs; on a device that trains stacks of models, those of one network and length side by side."""
    if len(calls) > 1 and _alike(calls) and _stacks(calls[0], device):
        _side_by_side(calls, device)
    else:
        one_after_another(federate, calls, device)


def one_after_another(stage: Stage, calls: Sequence[Call], device: str = "auto") -> None:
    """Carry out runs of a stage in their order."""
    for call in calls:
        stage(call.specification, call.inputs, call.out, device, keeping=call.keeping)


def _side_by_side(calls: Sequence[Call], device: str) -> None:
    shared = SharedTime()

    def federation(call: Call) -> Callable[[CarryOut], None]:
        run = partial(federate, call.specification, call.inputs, call.out, device, keeping=call.keeping)
        return lambda carry_out: run(carry_out=carry_out, shared=shared)

    side_by_side([federation(call) for call in calls])


def _stacks(call: Call, device: str) -> bool:
    return Engine.choose(training_of(call.specification).precision, device).stack > 1


def _alike(calls: Sequence[Call]) -> bool:
    """Are these runs of one network, data set and precision?"""
    kinds = [(one.dataset, one.network, one.training) for one in (call.specification for call in calls)]
    return all(kind == kinds[0] for kind in kinds)
