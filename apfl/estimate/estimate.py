"""How long a study would take on this machine: what its methods take for a client and for an image, measured
(`apfl.estimate.prices`), times how many there are.

A federated run is its clients in each round, or in the share of rounds that a schedule lets arrive, and the server; a
personalization is its clients, a generator its samples and the teachers that see them; models that are evaluated see
the test images. Where runs of a method are finished, their seconds correct what is said of its other runs.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan as course
from apfl.data.catalogue import channels_of, size_of
from apfl.data.dataset import Dataset
from apfl.data.partition import Partition, make_partition
from apfl.data.setting import parse_setting
from apfl.durations import hours
from apfl.engine.process import cores
from apfl.estimate.prices import Price, measured, price_of_drawing
from apfl.federation.participation import number_drawn
from apfl.jobs.status import jobs
from apfl.memorization.generator import GeneratorConfig
from apfl.stages.specification import configure
from apfl.study.cells import job_counts, runs
from apfl.study.runs import Run
from apfl.study.study import Study

FORWARD = 1 / 3
"""What classifying an image takes, as a part of training on it; and drawing one, as a part of learning to draw it."""
START = 1.5
"""Seconds of computing until the process of a job has begun: torch is imported."""
MOST_EXPENSIVE = 5
"""How many of the methods that cost most are named."""


@dataclass
class Pricing:
    """The seconds of a study's runs on one core of the CPU; what is measured once is kept.

    Seconds are those that the process computes, so that other programs at work do not count.
    """

    study: Study
    kept: dict[str, Price | Exception] = field(default_factory=dict)

    @cached_property
    def generators(self) -> dict[str, GeneratorConfig]:
        made = (run for run in runs(self.study) if run.stage == "memorize")
        return {run.path: GeneratorConfig(**run.spec["parameters"]) for run in made}

    def seconds(self, run: Run) -> float | None:
        """Seconds of a run without the start of its process; None where they are unknown: of foreign programs, and of
        data sets of unknown size."""
        size = size_of(self.study.data[run.dataset], run.dataset)
        if run.stage == "external" or size is None:
            return None
        part = even_partition(size, self.study.classes(run.dataset), run.setting, self.study.validation)
        if run.stage == "memorize":
            return self._memorize(run, part)
        price, training = self._price(run, part), run.spec["training"]
        heard = part.counts[~part.dropout] if run.stage == "federate" else part.counts
        clients = len(heard) * price.client + int(heard.sum()) * price.image
        if run.stage == "personalize":
            return len(run.spec["rounds"]) * (clients + self._evaluated(run, part, price))
        trained = int(training["rounds"]) * (arriving(run, part) * clients + price.server)
        return trained + len(training["evaluate_rounds"]) * self._evaluated(run, part, price)

    def _memorize(self, run: Run, part: Partition) -> float:
        config, held = GeneratorConfig(**run.spec["parameters"]), (part.counts[~part.dropout] > 0).sum(0)
        teachers = float(held[held > 0].mean()) if config.teacher == "clients" else 1.0
        drawn = self._once(
            f"{channels_of(run.dataset)} {config.width}", lambda: price_of_drawing(config, channels_of(run.dataset))
        )
        learnt = drawn.image / FORWARD + teachers * self._network(run, part)
        images = config.passes * config.samples_per_class * int((held > 0).sum())
        return len(run.spec["rounds"]) * (images * learnt + self._evaluated(run, part, Price(0.0, 0.0)))

    def _evaluated(self, run: Run, part: Partition, price: Price) -> float:
        """Seconds of classifying the images that are set aside with the models of all clients."""
        count = int((part.client >= 0).sum() - part.counts.sum())
        return part.clients * price.models * count * FORWARD * self._network(run, part)

    def _network(self, run: Run, part: Partition) -> float:
        """Seconds of training the network on an image once."""
        plain = replace(run, stage="federate", inputs={}, spec={**run.spec, "module": "fedavg", "parameters": {}})
        return self._price(plain, part).image / int(run.spec["training"]["local_epochs"])

    def _price(self, run: Run, part: Partition) -> Price:
        """The price of a method where clients have as many classes as here on average, and images for these."""
        images, held = part.counts.sum() / part.clients, max(1, round((part.counts > 0).sum(1).mean()))
        generator, classes = self.generators.get(run.inputs.get("generator", "")), self.study.classes(run.dataset)
        # To synthetic images it matters how many real ones there are, and of how many classes.
        shape = (round(images), held) if "samples_per_class" in run.spec["parameters"] else (part.clients,)
        # A number that is not whole, such as a learning rate, changes no price.
        training, drawing = run.spec["training"], vars(generator) if generator else {}
        values = [[one for one in each.values() if not isinstance(one, float)] for each in (
            run.spec["parameters"], {**training, "evaluate_rounds": (), "save_rounds": ()}, drawing
        )]  # fmt: skip
        key = str((run.stage, run.spec["module"], values, run.dataset, shape))
        return self._once(key, lambda: measured(run, generator, part.clients, images, held, classes))

    def _once(self, key: str, measure: Callable[[], Price]) -> Price:
        if key not in self.kept:
            try:
                self.kept[key] = measure()
            except Exception as error:  # which would come again, as slowly
                self.kept[key] = error
        if isinstance(found := self.kept[key], Exception):
            raise found
        return found


@cache
def even_partition(size: int, classes: int, setting: str, validation: bool) -> Partition:
    """A partition of ``size`` images, as many of each class; a data set's own clients are taken to be alike."""
    labels, nothing = np.arange(size, dtype=np.int64) % classes, np.broadcast_to(np.uint8(0), (size, 1, 32, 32))
    dataset = Dataset("random", nothing, labels, tuple(map(str, range(classes))), {})
    named = parse_setting(setting)
    return make_partition(dataset, replace(named, kind="iid") if named.kind == "natural" else named, 0, validation)


def arriving(run: Run, part: Partition) -> float:
    """The share of the clients' rounds that the server draws and a run's schedule lets arrive."""
    clients, training = np.flatnonzero(~part.dropout).tolist(), run.spec["training"]
    drawn = number_drawn(training.get("clients_per_round"), len(clients)) / max(1, len(clients))
    if "schedule" not in run.spec:
        return drawn
    rounds = int(training["rounds"])
    merges = course(configure(Schedule, run.spec["schedule"], "schedule"), clients, rounds, run.seed).merges
    return drawn * sum(len(merge.arrivals) for merge in merges) / max(1, rounds * len(clients))


@dataclass(frozen=True)
class Estimate:
    """Seconds of one core by run, without the start of its process; why some have none; how many ``jobs`` start.

    ``finished``: runs whose seconds correct those of others; ``gpu``: there is one, which is not in the estimate.
    """

    seconds: Sequence[tuple[Run, float]]
    unknown: Mapping[str, int]
    jobs: int
    cores: int
    finished: int = 0
    gpu: bool = False


def estimate(study: Study, results: Path) -> Estimate:
    """Price every run of a study whose finished runs, if there are any, are in ``results``."""
    threads, pricing = torch.get_num_threads(), Pricing(study)
    priced: list[tuple[Run, float]] = []
    unknown = Counter[str]()
    torch.set_num_threads(1)  # as the jobs of the default profile have
    for run in runs(study):
        try:
            with redirect_stdout(sys.stderr):  # a method may print
                seconds = pricing.seconds(run)
            if seconds is not None:
                priced.append((run, seconds))
            else:
                unknown[f"{title(run)} on {run.dataset} (a foreign program, or a data set of unknown size)"] += 1
        except Exception as error:  # whatever a method's code does on random images
            unknown[f"{title(run)} ({' '.join(str(error).split()) or type(error).__name__})"] += 1
    torch.set_num_threads(threads)
    paths = {run.path for run, _ in priced}
    took = {job.path: job.seconds for job in jobs(study, results) if job.path in paths and job.seconds is not None}
    total = job_counts(study).total()
    return Estimate(corrected(priced, took), unknown, total, cores(), len(took), torch.cuda.is_available())


def corrected(seconds: Sequence[tuple[Run, float]], took: Mapping[str, float]) -> list[tuple[Run, float]]:
    """The seconds of runs, times the ratio of what finished runs of their method ``took`` to what is said of these."""
    said, true = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], float](float)
    for run, one in seconds:
        if run.path in took:
            said[kind(run)] += one
            true[kind(run)] += took[run.path]
    return [(run, one * true[kind(run)] / said[kind(run)] if said[kind(run)] else one) for run, one in seconds]


def kind(run: Run) -> tuple[str, str]:
    return run.stage, run.spec.get("module", "")


def title(run: Run) -> str:
    """What a run is called among those that cost much."""
    return "generators" if run.stage == "memorize" else run.method


def in_words(found: Estimate) -> Iterator[str]:
    """The hours of a study, in lines for people."""
    stages, pairs = defaultdict[str, float](float), defaultdict[tuple[str, str], float](float)
    for run, seconds in found.seconds:
        stages[run.stage] += seconds
        pairs[title(run), run.dataset] += seconds
    stages["starting jobs"] = START * found.jobs
    total, parts = sum(stages.values()), ", ".join(f"{what} {hours(seconds)}" for what, seconds in stages.items())
    least = "at least " if found.unknown else ""
    yield f"computing on one core: {least}{hours(total)} ({parts})"
    if pairs:
        largest = sorted(pairs.items(), key=lambda pair: -pair[1])[:MOST_EXPENSIVE]
        most = (f"{what} on {data} {hours(seconds)}" for (what, data), seconds in largest)
        yield f"most expensive: {', '.join(most)}"
    if found.finished:
        yield f"corrected by the seconds of {found.finished} finished {'run' if found.finished == 1 else 'runs'}"
    for reason, number in found.unknown.items():
        yield f"not in it: {number} {'run' if number == 1 else 'runs'} of {reason}"
    if found.gpu:
        yield "not in it: the GPU of this machine, on which the runs would be trained"
    cores = "1 core" if found.cores == 1 else f"{found.cores} cores"
    yield f"on this machine: {least}{hours(total / found.cores)} with {cores}, if jobs do not slow each other"
