"""How long a study would take on this machine: the work that its runs ask for at the prices of `apfl.prices`.

A federated run is one round times the rounds (or the share of it that a schedule lets arrive) and its evaluations, a
generator is its steps with the images that its teachers see, a personalization is itself. Where runs of a method are
finished, their seconds correct what is said of its other runs.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apfl.clock import Schedule
from apfl.clock import plan as course
from apfl.config import Study
from apfl.data.dataset import Dataset
from apfl.data.partition import Partition, make_partition
from apfl.data.sizes import channels_of, size_of
from apfl.federation import load_method
from apfl.memorization import GeneratorConfig, teachers_of
from apfl.plan import Run
from apfl.prices import (
    Amounts,
    Trial,
    at_full_size,
    base_of,
    generator_prices,
    network_prices,
    personal_amounts,
    round_amounts,
    start_seconds,
    trial,
)
from apfl.status import jobs
from apfl.statuspage import hours
from apfl.study import job_counts, runs
from apfl.training import TrainingConfig
from apfl.tuning import tune_process

MOST_EXPENSIVE = 5


@dataclass
class Pricing:
    """The seconds of a study's runs, of which everything is measured once and kept.

    Everything is computed on the CPU with one thread, as the jobs of the default profile are. Seconds are those that
    the process computes, so that other programs at work do not count.
    """

    study: Study
    kept: dict[tuple, Any] = field(default_factory=dict)

    def seconds(self, run: Run) -> float | None:
        """Seconds of a run on one core, without the start of its process; None where nobody can know them: of foreign
        programs, and of data sets of unknown size."""
        kinds = {"federate": self._federate, "memorize": self._memorize, "personalize": self._personalize}
        if run.stage not in kinds or size_of(self.study.data[run.dataset], run.dataset) is None:
            return None
        return kinds[run.stage](run)

    def _federate(self, run: Run) -> float:
        module, values = run.spec["module"], run.spec["parameters"]
        partition, rounds = self._partition(run), run.spec["training"]["rounds"]
        key = (run.stage, run.dataset, partition.clients, int(partition.dropout.sum()), module, str(values))
        training, looking = self._once(key, lambda: at_full_size(
            values, lambda some: round_amounts(load_method(module, some), self._trial(run))))  # fmt: skip
        share = 1.0
        if "schedule" in run.spec:
            schedule = Schedule(**{k: tuple(v) if isinstance(v, list) else v for k, v in run.spec["schedule"].items()})
            clients = load_method(module, values).clients(self._trial(run))
            timeline = course(schedule, clients, rounds, run.seed)
            share = sum(len(merge.arrivals) for merge in timeline.merges) / max(1, rounds * len(clients))
        looks = len(run.spec["training"]["evaluate_rounds"])
        return rounds * share * self._charged(run, training) + looks * self._charged(run, looking)

    def _memorize(self, run: Run) -> float:
        config, problem = GeneratorConfig(**run.spec["parameters"]), self._trial(run)
        teachers, weights = teachers_of(problem, base_of(problem), config)
        held = (weights > 0).sum(0)  # by how many teachers, each class
        groups = int((held > 0).sum()) * max(1, round(config.samples_per_class / config.group))
        steps = config.passes * -(-groups // (config.batch_size // config.group))
        seen = steps * config.batch_size * float(held[held > 0].float().mean())
        tested = (len(teachers) + 1) * sum(map(len, problem.test))
        work = Amounts(trained=seen, classified=tested, seconds=steps * self._generator(run, config)[0])
        return len(run.spec["rounds"]) * self._charged(run, work)

    def _personalize(self, run: Run) -> float:
        module, values = run.spec["module"], run.spec["parameters"]
        generator = self._generators.get(run.inputs.get("generator", ""))
        key = (run.stage, run.dataset, run.setting, module, str(values), str(generator))
        (work,) = self._once(key, lambda: at_full_size(
            values, lambda some: personal_amounts(load_method(module, some), self._trial(run), generator)))  # fmt: skip
        return len(run.spec["rounds"]) * self._charged(run, work, generator)

    def _charged(self, run: Run, work: Amounts, generator: GeneratorConfig | None = None) -> float:
        """Seconds of an amount of work; a batch is as large as those of the clients are on average."""
        training, partition = TrainingConfig(**run.spec["training"]), self._partition(run)
        sizes = partition.counts.sum(1)
        batch = max(1, round(sizes.sum() / max(1, np.ceil(sizes / training.batch_size).sum())))
        channels, classes = channels_of(run.dataset), self.study.classes(run.dataset)
        key = ("network", channels, classes, training.optimizer, training.precision, batch)
        trained, classified = self._once(
            key, lambda: network_prices(run.spec["network"], channels, classes, training, batch)
        )
        drawn = self._generator(run, generator)[1] if generator else 0.0
        return work.trained * trained + work.classified * classified + work.drawn * drawn + work.seconds

    def _generator(self, run: Run, config: GeneratorConfig) -> tuple[float, float]:
        channels, classes = channels_of(run.dataset), self.study.classes(run.dataset)
        key = ("generator", channels, classes, str(replace(config, samples_per_class=1, epochs=1, steps_as_with=0)))
        precision = run.spec["training"]["precision"]
        return self._once(key, lambda: generator_prices(config, channels, classes, precision))

    @cached_property
    def _generators(self) -> dict[str, GeneratorConfig]:
        made = (run for run in runs(self.study) if run.stage == "memorize")
        return {run.path: GeneratorConfig(**run.spec["parameters"]) for run in made}

    def _trial(self, run: Run) -> Trial:
        training = TrainingConfig(**run.spec["training"])
        return trial(self._partition(run), channels_of(run.dataset), run.spec["network"], training)

    def _partition(self, run: Run) -> Partition:
        """A partition of as many images with evenly distributed labels."""

        def make() -> Partition:
            size, classes = size_of(self.study.data[run.dataset], run.dataset), self.study.classes(run.dataset)
            labels, nothing = np.arange(size, dtype=np.int64) % classes, np.broadcast_to(np.uint8(0), (size, 1, 32, 32))
            dataset = Dataset(run.dataset, nothing, labels, tuple(map(str, range(classes))), {})
            return make_partition(dataset, run.setting, self.study.seeds[0], self.study.validation)

        return self._once(("partition", run.dataset, run.setting), make)

    def _once(self, key: tuple, measure: Callable[[], Any]) -> Any:
        if key not in self.kept:
            try:
                self.kept[key] = measure()
            except Exception as error:  # which would come again, as slowly
                self.kept[key] = error
        if isinstance(self.kept[key], Exception):
            raise self.kept[key]
        return self.kept[key]


@dataclass(frozen=True)
class Estimate:
    """Seconds of one core by run, without the start of its process; why some have none; and how many ``jobs`` start,
    each in ``start`` seconds.

    ``finished``: runs whose seconds correct those of others; ``gpu``: there is one, which is not in the estimate.
    """

    seconds: Sequence[tuple[Run, float]]
    unknown: Mapping[str, int]
    jobs: int
    start: float
    cores: int
    finished: int = 0
    gpu: bool = False


def estimate(study: Study, results: Path, notify: Callable[[int, int], None] = lambda done, of: None) -> Estimate:
    """Price every run of a study whose finished runs, if there are any, are in ``results``; ``notify`` is told how many
    of how many are priced."""
    tune_process()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pricing, planned = Pricing(study), runs(study)
    seconds: dict[str, float] = {}
    unknown: Counter[str] = Counter()
    try:
        for number, run in enumerate(planned):
            notify(number, len(planned))
            try:
                with redirect_stdout(sys.stderr):  # a method may print
                    here = pricing.seconds(run)
                if here is not None:
                    seconds[run.path] = here
                else:
                    unknown[f"{_name(run)} on {run.dataset} (a foreign program, or a data set of unknown size)"] += 1
            except Exception as error:  # whatever a method's code does on random images
                unknown[f"{_name(run)} ({' '.join(str(error).split()) or type(error).__name__})"] += 1
    finally:
        torch.set_num_threads(threads)
    took = {job.path: job.seconds for job in jobs(study, results) if job.path in seconds and job.seconds is not None}
    priced = [run for run in planned if run.path in seconds]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Estimate(
        corrected([(run, seconds[run.path]) for run in priced], took),
        unknown,
        job_counts(study).total(),
        start_seconds(),
        cores,
        len(took),
        torch.cuda.is_available(),
    )


def corrected(seconds: Sequence[tuple[Run, float]], took: Mapping[str, float]) -> list[tuple[Run, float]]:
    """The seconds of runs, times the ratio of what finished runs of their method ``took`` to what is said of these."""
    said, true = Counter(), Counter()
    for run, one in seconds:
        if run.path in took:
            said[_kind(run)] += one
            true[_kind(run)] += took[run.path]
    return [(run, one * true[_kind(run)] / said[_kind(run)] if said[_kind(run)] else one) for run, one in seconds]


def _kind(run: Run) -> tuple[str, str]:
    return run.stage, run.spec.get("module", "")


def _name(run: Run) -> str:
    return "generators" if run.stage == "memorize" else run.method


def described(found: Estimate) -> Iterator[str]:
    """The estimate in lines for people."""
    stages, pairs = Counter(), Counter()
    for run, seconds in found.seconds:
        stages[run.stage] += seconds
        pairs[_name(run), run.dataset] += seconds
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


@contextmanager
def progress() -> Iterator[Callable[[int, int], None]]:
    """A line on a terminal's standard error that says how far the estimate is; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, of: None
        return
    with console.status("estimate") as status:
        yield lambda done, of: status.update(f"estimate: {done} of {of} runs priced")
