"""How long a study would take on this machine: the work that its runs ask for (`apfl.estimate.amounts`) at the prices
of `apfl.estimate.prices`.

A federated run is one round times the rounds (or the share of it that a schedule lets arrive) and its evaluations, a
generator is its steps with the images that its teachers see, a personalization is itself. Where runs of a method are
finished, their seconds correct what is said of its other runs.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan as course
from apfl.data.catalogue import channels_of, size_of
from apfl.data.partition import Partition
from apfl.engine.process import cores, tune_process
from apfl.engine.settings import TrainingConfig
from apfl.estimate.amounts import (
    SAMPLES,
    Amounts,
    Trial,
    at_size,
    base_of,
    even_partition,
    personal_amounts,
    round_amounts,
    trial,
)
from apfl.estimate.prices import generator_prices, network_prices, start_seconds
from apfl.federation.method import load_method
from apfl.jobs.status import jobs
from apfl.memorization.generator import GeneratorConfig, teachers_of
from apfl.study.cells import job_counts, runs
from apfl.study.runs import Run
from apfl.study.study import Study


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
        training, looking = self._once(key, lambda: self._asked(run, round_amounts))
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
        work = Amounts(seen + tested, seen, seconds=steps * self._generator(run, config)[0])
        return len(run.spec["rounds"]) * self._charged(run, work)

    def _personalize(self, run: Run) -> float:
        module, values = run.spec["module"], run.spec["parameters"]
        generator = self._generators.get(run.inputs.get("generator", ""))
        key = (run.stage, run.dataset, run.setting, module, str(values), str(generator))
        (work,) = self._once(key, lambda: self._asked(run, partial(personal_amounts, generator=generator)))
        return len(run.spec["rounds"]) * self._charged(run, work, generator)

    def _asked(self, run: Run, amounts: Callable[[Any, Trial], tuple[Amounts, ...]]) -> tuple[Amounts, ...]:
        """What the method of a run asks for, judged by few local epochs and few synthetic images."""
        values = run.spec["parameters"]

        def attempt(epochs: int, samples: int) -> tuple[Amounts, ...]:
            few = values | ({"samples_per_class": samples} if samples else {})
            return amounts(load_method(run.spec["module"], few), self._trial(run, epochs))

        some = partial(at_size, values.get("samples_per_class", 0), SAMPLES)
        return at_size(run.spec["training"]["local_epochs"], 1, lambda epochs: some(partial(attempt, epochs)))

    def _charged(self, run: Run, work: Amounts, generator: GeneratorConfig | None = None) -> float:
        """Seconds of an amount of work; a batch is as large as those of the clients are on average."""
        training, partition = TrainingConfig(**run.spec["training"]), self._partition(run)
        sizes = partition.counts.sum(1)
        batch = max(1, round(sizes.sum() / max(1, np.ceil(sizes / training.batch_size).sum())))
        channels, classes = channels_of(run.dataset), self.study.classes(run.dataset)
        key = ("network", channels, classes, training.optimizer, training.precision, batch)
        forward, backward = self._once(
            key, lambda: network_prices(run.spec["network"], channels, classes, training, batch)
        )
        drawn = self._generator(run, generator)[1] if generator else 0.0
        return work.forward * forward + work.backward * backward + work.drawn * drawn + work.seconds

    def _generator(self, run: Run, config: GeneratorConfig) -> tuple[float, float]:
        channels, classes = channels_of(run.dataset), self.study.classes(run.dataset)
        key = ("generator", channels, classes, str(replace(config, samples_per_class=1, epochs=1, steps_as_with=0)))
        precision = run.spec["training"]["precision"]
        return self._once(key, lambda: generator_prices(config, channels, classes, precision))

    @cached_property
    def _generators(self) -> dict[str, GeneratorConfig]:
        made = (run for run in runs(self.study) if run.stage == "memorize")
        return {run.path: GeneratorConfig(**run.spec["parameters"]) for run in made}

    def _trial(self, run: Run, epochs: int = 1) -> Trial:
        training = replace(TrainingConfig(**run.spec["training"]), local_epochs=epochs)
        make = partial(trial, self._partition(run), channels_of(run.dataset), run.spec["network"], training)
        return self._once(("trial", run.dataset, run.setting, str(training)), make)

    def _partition(self, run: Run) -> Partition:
        size, classes = size_of(self.study.data[run.dataset], run.dataset), self.study.classes(run.dataset)
        make = partial(even_partition, size, classes, run.setting, self.study.seeds[0], self.study.validation)
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


def estimate(study: Study, results: Path) -> Estimate:
    """Price every run of a study whose finished runs, if there are any, are in ``results``."""
    tune_process()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pricing, planned = Pricing(study), runs(study)
    seconds: dict[str, float] = {}
    unknown: Counter[str] = Counter()
    try:
        for run in planned:
            try:
                with redirect_stdout(sys.stderr):  # a method may print
                    here = pricing.seconds(run)
                if here is not None:
                    seconds[run.path] = here
                else:
                    unknown[f"{title(run)} on {run.dataset} (a foreign program, or a data set of unknown size)"] += 1
            except Exception as error:  # whatever a method's code does on random images
                unknown[f"{title(run)} ({' '.join(str(error).split()) or type(error).__name__})"] += 1
    finally:
        torch.set_num_threads(threads)
    took = {job.path: job.seconds for job in jobs(study, results) if job.path in seconds and job.seconds is not None}
    priced = [run for run in planned if run.path in seconds]
    return Estimate(
        corrected([(run, seconds[run.path]) for run in priced], took),
        unknown,
        job_counts(study).total(),
        start_seconds(),
        cores(),
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


def title(run: Run) -> str:
    """What a run is called among those that cost much."""
    return "generators" if run.stage == "memorize" else run.method
