"""The frame of a stage: what is asked for is recorded, and carried out unless it is finished already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apfl.engine.process import peak_memory
from apfl.federation.problem import Problem
from apfl.stages.problem import Inputs
from apfl.stages.record import run_record
from apfl.stages.specification import Specification
from apfl.stages.stopwatch import SharedTime, Stopwatch
from apfl.storage.locks import alone_in
from apfl.storage.provenance import provenance
from apfl.storage.run_folder import Record, finished, write_run


@dataclass(frozen=True)
class Made:
    """What a run has made: how to write each of its files, what its run.json says beside them, whether it diverged, and
    the seconds that processes took which were interrupted; ``beside``: files from which a longer run can go on."""

    files: Mapping[str, Callable[[Path], None]]
    found: Mapping[str, Any]
    diverged: bool = False
    earlier: float = 0.0
    beside: Sequence[Path] = ()


@dataclass(frozen=True)
class Keeping:
    """What is kept of a finished run beside its files: in a ``store`` the run itself, for others who ask for it, and
    with it the ``last_state``, from which more rounds go on."""

    store: Path | None = None
    last_state: bool = True


USUAL = Keeping()
Work = Callable[[Record, Stopwatch], Made]
"""What carries a run out, once it is known that it has to be."""


def run_once(
    stage: str, specification: Specification, inputs: Inputs, out: Path, prepare: Callable[[], tuple[Problem, Work]],
    shared: SharedTime | None = None, keeping: Keeping = USUAL,
) -> None:  # fmt: skip
    """Carry out a run of a stage and write it to ``out``, unless it is there already, or kept.

    ``prepare`` checks what only this stage asks for, and loads the problem. Runs side by side have a ``shared`` time.
    """
    record, store = run_record(stage, specification, inputs), keeping.store
    if finished(out, record, store):
        return
    problem, work = prepare()
    with alone_in(out):
        if finished(out, record, store):  # by the process that was waited for
            return
        with Stopwatch(shared) as watch:
            made = work(record, watch)
            write_run(out, record, made.files, lambda: _found(made, problem, watch), made.beside, store)


def _found(made: Made, problem: Problem, watch: Stopwatch) -> dict[str, Any]:
    """What run.json says of a run: what it found, how it ended, and what it took."""
    return {
        **made.found,
        "status": "diverged" if made.diverged else "finished",
        "seconds": round(made.earlier + watch.seconds, 3),
        "device": str(problem.engine.device),
        "precision": problem.engine.precision,
        "threads": torch.get_num_threads(),
        "peak_memory": peak_memory(),
        **provenance(),
    }
