"""How long a study would take on this machine: its runs' seconds from `apfl.calibration`, packed by `apfl.packing`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

from apfl.calibration import Calibration
from apfl.config import Study
from apfl.crowd import Crowd, measure
from apfl.packing import Packed, Task, longest_first, pack, tasks_of
from apfl.plan import Run
from apfl.statuspage import hours
from apfl.study import runs

DEAREST = 5
MANY = 16
"""Cores of a larger machine, for the comparison of orders."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of one core by run, without the start of its process; why some have none; and the jobs, packed.

    ``tasks`` are all jobs with their starts, as long as they take with one on every core; ``gpu``: there is one, which
    is not in the estimate.
    """

    seconds: Sequence[tuple[Run, float]]
    unknown: Mapping[str, int]
    crowd: Crowd
    cores: int
    tasks: Sequence[Task]
    gpu: bool = False

    @property
    def packed(self) -> Packed:
        """The jobs on this machine's cores in the workflow's order."""
        return pack(self.tasks, self.cores)


def estimate(study: Study, notify: Callable[[int, int], None] = lambda done, of: None) -> Estimate:
    """Calibrate and estimate; ``notify`` is told how many of how many runs are priced."""
    import torch

    from apfl.tuning import tune_process

    tune_process()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calibration, planned = Calibration(study), runs(study)
        seconds: list[tuple[Run, float]] = []
        unknown: Counter[str] = Counter()
        for number, run in enumerate(planned):
            notify(number, len(planned))
            try:
                with redirect_stdout(sys.stderr):  # a method may print
                    here = calibration.seconds(run)
                if here is not None:
                    seconds.append((run, here))
                else:
                    unknown[f"{run.method} on {run.dataset} (a foreign program, or a data set of unknown size)"] += 1
            except Exception as error:  # whatever a method's code does on random images
                unknown[f"{run.method} ({' '.join(str(error).split()) or type(error).__name__})"] += 1
    finally:
        torch.set_num_threads(threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    crowd = measure(cores)
    by_path = {run.path: one for run, one in seconds}
    tasks = tasks_of(study, crowd.slower * crowd.start, lambda kind, path: crowd.slower * by_path.get(path, 0.0))
    return Estimate(seconds, unknown, crowd, cores, tasks, torch.cuda.is_available())


def described(found: Estimate) -> Iterator[str]:
    """The estimate in lines for people."""
    stages, pairs = Counter(), Counter()
    for run, seconds in found.seconds:
        stages[run.stage] += seconds
        pairs[run.method if run.stage != "memorize" else "generators", run.dataset] += seconds
    starts = found.crowd.start * len(found.tasks)
    parts = ", ".join(f"{what} {hours(seconds)}" for what, seconds in (stages | {"starting jobs": starts}).items())
    least = "at least " if found.unknown else ""
    yield f"computing on one core: {least}{hours(stages.total() + starts)} ({parts})"
    if pairs:
        dearest = (f"{method} on {data} {hours(seconds)}" for (method, data), seconds in pairs.most_common(DEAREST))
        yield f"dearest: {', '.join(dearest)}"
    for reason, number in found.unknown.items():
        yield f"not in it: {number} {'run' if number == 1 else 'runs'} of {reason}"
    if found.gpu:
        yield "not in it: the GPU of this machine, on which the runs would be trained"
    packed = found.packed
    cores = "1 core" if found.cores == 1 else f"{found.cores} cores"
    yield (
        f"on this machine: {least}{hours(packed.makespan)} with {cores}, busy {100 * packed.busy:.0f} % of it"
        f" (with a job on each, a job takes {found.crowd.slower:.2f} times as long as alone)"
    )
    yield "longest jobs first would gain " + " and ".join(
        f"{round(100 * gain(found.tasks, cores), 1) + 0.0} % with {cores} cores" for cores in (2, MANY)
    )


def gain(tasks: Sequence[Task], cores: int) -> float:
    """The share of the time that longest first saves over the workflow's order; negative where it is slower."""
    usual, other = pack(tasks, cores), pack(tasks, cores, longest_first)
    return 1 - other.makespan / usual.makespan if usual.makespan else 0.0


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """A line on a terminal's standard error that says how far the calibration is; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, of: None
        return
    with console.status("calibration") as status:
        yield lambda done, of: status.update(f"calibration: {done} of {of} runs priced")
