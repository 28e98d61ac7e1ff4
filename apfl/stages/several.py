"""Several runs in one process: one after another, or the seeds of a cell side by side where the device gains by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from apfl.engine.device import Engine
from apfl.federation.problem import CarryOut
from apfl.federation.side_by_side import side_by_side
from apfl.stages.federate import federate
from apfl.stages.job import USUAL, Keeping
from apfl.stages.problem import Inputs
from apfl.stages.specification import Specification, training_of
from apfl.stages.stopwatch import SharedTime

T = TypeVar("T")


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
    """Federated runs; on a device that trains stacks of models, those that follow each other and differ in nothing but
    the seed side by side."""
    parts: list[list[Call]] = []
    for _, group in groupby(calls, lambda call: replace(call.specification, seed=0)):
        cell = list(group)
        parts += [cell] if len(cell) > 1 and _stacks(cell[0], device) else [[call] for call in cell]
    _each(
        lambda part: _side_by_side(part, device) if len(part) > 1 else one_after_another(federate, part, device), parts
    )


def one_after_another(stage: Stage, calls: Sequence[Call], device: str = "auto") -> None:
    """Carry out runs of a stage in their order. If one fails the others are carried out, and the first failure is
    raised when they have ended."""
    _each(lambda call: stage(call.specification, call.inputs, call.out, device, keeping=call.keeping), calls)


def _each(work: Callable[[T], None], pieces: Sequence[T]) -> None:
    failed: Exception | None = None
    for piece in pieces:
        try:
            work(piece)
        except Exception as error:
            if piece is not pieces[-1]:
                print(
                    f"{' '.join(str(error).split()) or type(error).__name__}; going on with the other runs", flush=True
                )
            failed = failed or error
    if failed:
        raise failed


def _side_by_side(calls: Sequence[Call], device: str) -> None:
    shared = SharedTime()

    def federation(call: Call) -> Callable[[CarryOut], None]:
        run = partial(federate, call.specification, call.inputs, call.out, device, keeping=call.keeping)
        return lambda carry_out: run(carry_out=carry_out, shared=shared)

    side_by_side([federation(call) for call in calls])


def _stacks(call: Call, device: str) -> bool:
    return Engine.choose(training_of(call.specification).precision, device).stack > 1
