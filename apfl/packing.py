"""How jobs fill the cores of a machine: list scheduling of a study's jobs, in the workflow's order and longest first.

Whenever a core is free, the first of the jobs that wait for nothing starts there; what "first" means is the order.
A simulation in place of a run: seconds are given, and all else (disk, memory, other programs) is taken to be no
bottleneck.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from apfl.config import Study
from apfl.plan import Run, job_unit
from apfl.study import artefacts, cells, runs

PRIORITIES: Mapping[str, int] = {
    "data": 50, "partition": 40, "semantics": 40, "federate": 30, "external": 30, "memorize": 20, "personalize": 10,
}  # fmt: skip
"""The priorities in workflow/rules, which a test reads there; a rule without one has 0."""


@dataclass(frozen=True)
class Task:
    """A job: its name and kind (federate, table, ...), its seconds on one core, and the jobs that it waits for."""

    name: str
    kind: str
    seconds: float
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packed:
    """What comes of packing tasks on ``cores``: seconds until the last one ends, and the seconds in which cores work.

    ``bound``: no order can be quicker than this, the larger of the longest chain and the work shared by all cores.
    """

    cores: int
    makespan: float
    work: float
    bound: float

    @property
    def busy(self) -> float:
        """The share of the cores' time that is work, in [0, 1]."""
        return self.work / (self.cores * self.makespan) if self.makespan else 1.0


Order = Callable[[Sequence[Task]], Mapping[str, float]]
"""From tasks to a rank for each, by name: the waiting task of the highest rank starts first, and of equals the one
that comes first."""


def workflow_order(tasks: Sequence[Task]) -> dict[str, float]:
    """The ranks that the rules of the workflow give: `PRIORITIES`."""
    return {task.name: PRIORITIES.get(task.kind, 0) for task in tasks}


def longest_first(tasks: Sequence[Task]) -> dict[str, float]:
    """The seconds from the start of a task to the end of the longest chain that begins with it."""
    after: dict[str, list[Task]] = {}
    for task in tasks:
        for name in task.needs:
            after.setdefault(name, []).append(task)
    left: dict[str, float] = {}
    for task in reversed(_sorted(tasks)):
        left[task.name] = task.seconds + max((left[one.name] for one in after.get(task.name, ())), default=0.0)
    return left


def pack(tasks: Sequence[Task], cores: int, order: Order = workflow_order) -> Packed:
    """List scheduling of the tasks on ``cores``; a task that needs an unknown one, or itself, is a `ValueError`."""
    rank, by_name = order(tasks), {task.name: task for task in tasks}
    waits = {task.name: len(set(task.needs)) for task in _sorted(tasks)}
    position = {task.name: number for number, task in enumerate(tasks)}
    after: dict[str, list[str]] = {}
    for task in tasks:
        for name in set(task.needs):
            after.setdefault(name, []).append(task.name)
    ready = [(-rank[name], position[name], name) for name, count in waits.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < cores:
            name = heapq.heappop(ready)[2]
            heapq.heappush(running, (now + by_name[name].seconds, name))
        now, ended = heapq.heappop(running)
        for name in after.get(ended, ()):
            waits[name] -= 1
            if not waits[name]:
                heapq.heappush(ready, (-rank[name], position[name], name))
    work = sum(task.seconds for task in tasks)
    return Packed(cores, now, work, max(work / cores, max(longest_first(tasks).values(), default=0.0)))


def tasks_of(study: Study, start: float, seconds: Callable[[str, str], float]) -> list[Task]:
    """Every job of the study in the workflow's order; ``seconds`` (kind, path) says how long one takes once it has
    started, which takes ``start`` seconds.

    The path of a table or a figure is its name, as is that of the report and of the claims.
    """
    tasks = [
        Task(entry.path, entry.kind, start + seconds(entry.kind, entry.path), tuple(entry.inputs.values()))
        for entry in artefacts(study)
    ]
    planned = runs(study)
    unit = job_unit(study.one_job_per)
    job = {run.path: run.job(unit) for run in planned}
    together: dict[str, list[Run]] = {}
    for run in planned:
        together.setdefault(job[run.path], []).append(run)

    def needs(paths: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(job.get(path, path) for path in paths))

    for name, made in together.items():
        work = sum(seconds(run.stage, run.path) for run in made)
        read = needs(path for run in made for path in run.inputs.values())
        tasks.append(Task(name, made[0].stage, start + work, read))
    for output in (*study.tables, *study.figures):
        kind = "table" if output in study.tables else "figure"
        read = needs(path for cell in cells(study, output) for path in (*cell.runs, *cell.origins))
        tasks.append(Task(output, kind, start + seconds(kind, output), read))
    return [*tasks, *(Task(page, page, start + seconds(page, page), tuple(together)) for page in ("claims", "report"))]


def _sorted(tasks: Iterable[Task]) -> list[Task]:
    """The tasks, those that others need first."""
    by_name = {task.name: task for task in tasks}
    done: dict[str, Task] = {}
    for first in by_name.values():
        waiting = [first]
        begun: set[str] = set()
        while waiting:
            task = waiting[-1]
            if missing := [name for name in task.needs if name not in done]:
                if task.name in begun or missing[0] not in by_name:
                    raise ValueError(f"{task.name}: needs {missing[0]}, which is unknown or needs it in turn")
                begun.add(task.name)
                waiting += [by_name[name] for name in missing]
            else:
                done[task.name] = waiting.pop()
    return list(done.values())
