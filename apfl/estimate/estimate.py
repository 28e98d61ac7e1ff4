"""How long a study would take on this machine, within a factor of two: what its methods take for an image, measured
(`apfl.estimate.prices`), times the images.

A federated run is its rounds, with the share of the clients that the server draws and a schedule does not lose; a
generator is its samples and the teachers that see them; models that are evaluated see the test images. Where runs of a
method are finished, their seconds correct what is said of its other runs.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from math import log2
from pathlib import Path

import numpy as np
import torch

from apfl.data.catalogue import channels_of, size_of
from apfl.data.dataset import Dataset
from apfl.data.partition import Partition, make_partition
from apfl.data.setting import parse_setting
from apfl.durations import hours
from apfl.engine.process import cores
from apfl.estimate.prices import AMOUNTS, SAMPLES, Price, measured, price_of_drawing
from apfl.federation.participation import number_drawn
from apfl.jobs.status import jobs
from apfl.memorization.generator import GeneratorConfig
from apfl.study.cells import job_counts, runs
from apfl.study.runs import Run
from apfl.study.study import Study

FORWARD = 1 / 3
"""What classifying an image takes, as a part of training on it; and drawing one, as a part of learning to draw it."""
TAUGHT = 2 / 3
"""What a teacher takes for an image, forward and back to its pixels, as a part of training on it."""
ROUNDS = ("rounds", "evaluate_rounds", "save_rounds")
"""What of its training a round does not depend on."""
START = 1.5
"""Seconds of computing until the process of a job has begun: torch is imported."""
MOST_EXPENSIVE = 5
"""How many of the methods that cost most are named."""


@dataclass
class Pricing:
    """The seconds of a study's runs on one core of the CPU; what is measured once is kept."""

    study: Study
    kept: dict[object, Price | Exception] = field(default_factory=dict)

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
        round, looks = int(heard.sum()) * price.image, self._evaluated(run, part, price.models)
        if run.stage == "personalize":
            return len(run.spec["rounds"]) * (round + looks)
        return int(training["rounds"]) * arriving(run, len(heard)) * round + len(training["evaluate_rounds"]) * looks

    def _memorize(self, run: Run, part: Partition) -> float:
        config, held = GeneratorConfig(**run.spec["parameters"]), (part.counts[~part.dropout] > 0).sum(0)
        teachers = float(held[held > 0].mean()) if config.teacher == "clients" else 1.0
        channels = channels_of(run.dataset)
        drawing = self._once((channels, config.width), lambda: price_of_drawing(config, channels))
        images = config.passes * config.samples_per_class * int((held > 0).sum())
        learnt = images * (drawing.image / FORWARD + teachers * TAUGHT * self._network(run, part))
        return len(run.spec["rounds"]) * (learnt + self._evaluated(run, part, 1.0))

    def _evaluated(self, run: Run, part: Partition, models: float) -> float:
        """Seconds of classifying the images that are set aside with so many models of each client."""
        count = int((part.client >= 0).sum() - part.counts.sum())
        return part.clients * models * count * FORWARD * self._network(run, part)

    def _network(self, run: Run, part: Partition) -> float:
        """Seconds of training the network on an image once."""
        plain = replace(run, stage="federate", inputs={}, spec={**run.spec, "module": "fedavg", "parameters": {}})
        return self._price(plain, part).image / int(run.spec["training"]["local_epochs"])

    def _price(self, run: Run, part: Partition) -> Price:
        """The price of a method where clients have as many classes as here on average, and images for these."""
        images, held = part.counts.sum() / part.clients, max(1, round((part.counts > 0).sum(1).mean()))
        generator, classes = self.generators.get(run.inputs.get("generator", "")), self.study.classes(run.dataset)
        given = run.spec["parameters"]
        many = {name: (given.get(name) or 0) * (held if name == SAMPLES else 1) / images for name in AMOUNTS}
        # A number that is not whole, such as a learning rate, changes no price, and nor does a little more of anything.
        others = {**given, **run.spec["training"], **dict.fromkeys(ROUNDS), **dict.fromkeys(AMOUNTS)}.values()
        alike = [run.stage, run.spec["module"], *(value for value in others if not isinstance(value, float))]
        sizes = [channels_of(run.dataset), generator and generator.width, *(round(log2(1 + x)) for x in many.values())]
        return self._once(str((alike, sizes)), lambda: measured(run, generator, images, held, classes))

    def _once(self, key: object, measure: Callable[[], Price]) -> Price:
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


def arriving(run: Run, clients: int) -> float:
    """The share of the clients' rounds that the server draws and that are not lost on the way."""
    drawn = number_drawn(run.spec["training"].get("clients_per_round"), clients) / max(1, clients)
    return drawn * (1 - float(run.spec.get("schedule", {}).get("dropout", 0)))


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
    said, true = defaultdict[object, float](float), defaultdict[object, float](float)
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
    stages, pairs = defaultdict[str, float](float), defaultdict[str, float](float)
    for run, seconds in found.seconds:
        stages[run.stage] += seconds
        pairs[f"{title(run)} on {run.dataset}"] += seconds
    stages["starting jobs"] = START * found.jobs
    total, least = sum(stages.values()), "at least " if found.unknown else ""
    yield f"computing on one core: {least}{hours(total)} ({_listed(stages.items())})"
    if pairs:
        yield f"most expensive: {_listed(sorted(pairs.items(), key=lambda pair: -pair[1])[:MOST_EXPENSIVE])}"
    if found.finished:
        yield f"corrected by the seconds of {_number(found.finished, 'finished run')}"
    for reason, number in found.unknown.items():
        yield f"not in it: {_number(number, 'run')} of {reason}"
    if found.gpu:
        yield "not in it: the GPU of this machine, on which the runs would be trained"
    cores = _number(found.cores, "core")
    yield f"on this machine: {least}{hours(total / found.cores)} with {cores}, if jobs do not slow each other"


def _listed(seconds: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{what} {hours(one)}" for what, one in seconds)


def _number(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
