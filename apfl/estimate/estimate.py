"""How long a study would take on this machine, within a factor of two: what its methods take for an image, measured on
random ones, times the images.

A round is measured in miniature: two clients with a few images each, and as small a part of whatever else the method
has many of, in seconds that this process computes on the CPU. A federated run is its rounds, with the share of the
clients that the server draws and a schedule does not lose; a generator is its samples and the teachers that see them;
models are evaluated on the test images. Seconds of a method's finished runs correct what is said of its others.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from math import log2
from pathlib import Path
from timeit import repeat

import numpy as np
import torch

from apfl.data.catalogue import channels_of, size_of
from apfl.data.dataset import Dataset
from apfl.data.partition import Partition, make_partition
from apfl.data.setting import parse_setting
from apfl.durations import hours
from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import Model, build_network, initial_parameters
from apfl.engine.process import cores
from apfl.engine.settings import TrainingConfig
from apfl.federation.evaluation import evaluate
from apfl.federation.method import BaseModels, Derived, load_method
from apfl.federation.participation import number_drawn
from apfl.federation.problem import Problem, run_all
from apfl.federation.synchronous import Round, one_round
from apfl.jobs.status import jobs
from apfl.memorization.generator import GeneratorConfig, build_memory
from apfl.study.cells import job_counts, runs
from apfl.study.runs import ROUND_LISTS, Run
from apfl.study.study import Study

FORWARD = 1 / 3
"""What classifying an image takes, as a part of training on it; and drawing one, as a part of learning to draw it."""
TAUGHT = 2 / 3
"""What a teacher takes for an image, forward and back to its pixels, as a part of training on it."""
START = 1.5
"""Seconds of computing until the process of a job has begun: torch is imported."""
CLIENTS, IMAGES = 2, 50
"""Clients of the miniature, and the most images that each has, synthetic ones among them."""
SAMPLES = "samples_per_class"
AMOUNTS = (SAMPLES, "steps_as_with", "steps", "generator_steps")
"""Hyper-parameters with which a round grows as it does with the images of a client."""
DIMENSION = 512
"""Of class embeddings, whose own dimension stands in their files alone; it hardly matters for the cost."""


@dataclass
class Pricing:
    """The seconds of a study's runs on one core of the CPU; what is measured once is kept."""

    study: Study
    kept: dict[str, float] = field(default_factory=dict)

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
        if run.stage == "personalize":
            return len(run.spec["rounds"]) * int(part.counts.sum()) * self._price(run, part)
        plain = replace(run, stage="federate", inputs={}, spec={**run.spec, "module": "fedavg", "parameters": {}})
        network = self._price(plain, part) / int(run.spec["training"]["local_epochs"])
        tested = part.clients * int((part.client >= 0).sum() - part.counts.sum()) * FORWARD * network
        if run.stage == "memorize":
            return len(run.spec["rounds"]) * (self._learning(run, part, network) + tested)
        training, heard = run.spec["training"], part.counts[~part.dropout]
        drawn = number_drawn(training.get("clients_per_round"), len(heard)) / max(1, len(heard))
        images = int(heard.sum()) * drawn * (1 - float(run.spec.get("schedule", {}).get("dropout", 0)))
        return int(training["rounds"]) * images * self._price(run, part) + len(training["evaluate_rounds"]) * tested

    def _learning(self, run: Run, part: Partition, network: float) -> float:
        """Seconds of training a generator, where training the network on an image once takes ``network``."""
        config, held = GeneratorConfig(**run.spec["parameters"]), (part.counts[~part.dropout] > 0).sum(0)
        teachers = float(held[held > 0].mean()) if config.teacher == "clients" else 1.0
        channels, images = channels_of(run.dataset), config.passes * config.samples_per_class * int((held > 0).sum())
        drawing = self._once(f"{channels} {config.width}", lambda: price_of_drawing(config, channels))
        return images * (drawing / FORWARD + teachers * TAUGHT * network)

    def _price(self, run: Run, part: Partition) -> float:
        """The price of a method where clients have as many classes as here on average, and images for these."""
        images, held = part.counts.sum() / part.clients, max(1, round((part.counts > 0).sum(1).mean()))
        generator, classes = self.generators.get(run.inputs.get("generator", "")), self.study.classes(run.dataset)
        given = run.spec["parameters"]
        many = ((given.get(name) or 0) * (held if name == SAMPLES else 1) / images for name in AMOUNTS)
        # A number that is not whole, such as a learning rate, changes no price, and nor does a little more of anything.
        others = {**given, **run.spec["training"], **dict.fromkeys((*ROUND_LISTS, *AMOUNTS))}.values()
        alike = [run.stage, run.spec["module"], *(value for value in others if not isinstance(value, float))]
        sizes = [channels_of(run.dataset), generator and generator.width, *(round(log2(1 + amount)) for amount in many)]
        return self._once(str(alike + sizes), lambda: price_of_training(run, generator, images, held, classes))

    def _once(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self.kept:
            self.kept[key] = measure()
        return self.kept[key]


def price_of_training(run: Run, generator: GeneratorConfig | None, images: float, held: int, classes: int) -> float:
    """Seconds of a client's round for each of its ``images``, of ``held`` of the ``classes``, with its share of the
    server's; of a derived method also of evaluating its models on as many test images of all clients."""
    given = run.spec["parameters"]
    few = max(1, int(min(images, IMAGES / (1 + held * given.get(SAMPLES, 0) / images))))
    small = {name: max(1, round(given[name] * few / images)) for name in AMOUNTS if given.get(name)}
    # Two clients are too few for a Byzantine one.
    method = load_method(run.spec["module"], {**given, **small, **({"byzantine": 0} if "byzantine" in given else {})})
    problem = small_problem(run, few, held, classes)
    if isinstance(method, Derived):
        base = BaseModels(problem.start, dict.fromkeys(problem.clients, problem.start))
        memory = generator and build_memory(generator, torch.randn(classes, DIMENSION), channels_of(run.dataset), 0)
        return spent(lambda: evaluate(problem, method.personalize(problem, base, 1, memory), 1)) / (CLIENTS * few)
    now, clients = Round(0, method.init(problem), {}), method.clients(problem)
    return spent(lambda: one_round(method, problem, now, 1, clients, run_all)) / (CLIENTS * few)


def price_of_drawing(config: GeneratorConfig, channels: int) -> float:
    """Seconds of drawing an image from a generator."""
    memory = build_memory(config, torch.randn(10, DIMENSION), channels, 0)
    labels, stream, engine = torch.arange(100) % 10, torch.Generator().manual_seed(0), Engine.choose("auto", "cpu")
    return spent(lambda: memory.sample(labels, stream, engine)) / len(labels)


def spent(work: Callable[[], object]) -> float:
    """The seconds that some work takes when torch is ready for it, as it is the second time."""
    return min(repeat(work, timer=time.process_time, repeat=2, number=1))


def small_problem(run: Run, images: int, held: int, classes: int) -> Problem:
    """Two clients with as many random ``images`` each, of ``held`` of the ``classes``, on the run's network."""
    training, channels = TrainingConfig(**run.spec["training"]), channels_of(run.dataset)
    pixels = torch.randint(0, 256, (CLIENTS * images, 32, 32, channels), dtype=torch.uint8)
    labels = torch.arange(CLIENTS * images) % held
    drawn = Images(pixels, labels, torch.full((channels,), 127.0), torch.full((channels,), 74.0))
    train = torch.arange(CLIENTS * images).split(images)
    return Problem(
        model=Model(build_network(run.spec["network"], channels, classes)),
        images=drawn,
        train=train,
        test=tuple(part[: (images + 1) // CLIENTS] for part in train),
        counts=torch.stack([torch.bincount(labels[part], minlength=classes) for part in train]),
        dropout=(False,) * CLIENTS,
        unseen=torch.zeros(classes, dtype=torch.bool),
        training=training,
        seed=0,
        start=initial_parameters(run.spec["network"], channels, classes, 0),
        engine=Engine.choose(training.precision, "cpu"),
        semantics=torch.randn(classes, DIMENSION),
        proxy=drawn,
    )


@cache
def even_partition(size: int, classes: int, setting: str, validation: bool) -> Partition:
    """A partition of ``size`` images, as many of each class; a data set's own clients are taken to be alike."""
    labels, nothing = np.arange(size, dtype=np.int64) % classes, np.broadcast_to(np.uint8(0), (size, 1, 32, 32))
    dataset = Dataset("random", nothing, labels, tuple(map(str, range(classes))), {})
    named = parse_setting(setting)
    return make_partition(dataset, replace(named, kind="iid") if named.kind == "natural" else named, 0, validation)


@dataclass(frozen=True)
class Estimate:
    """Seconds of one core by run, without the start of its process; why some have none; how many jobs start; of how
    many finished runs the seconds correct those of others; whether there is a GPU, which is left out."""

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
    said, true = defaultdict[str, float](float), defaultdict[str, float](float)
    for run, one in seconds:
        if run.path in took:
            said[run.spec.get("module", "")] += one  # generators have no module
            true[run.spec.get("module", "")] += took[run.path]
    ratios = {module: true[module] / said[module] for module in said if said[module]}
    return [(run, one * ratios.get(run.spec.get("module", ""), 1.0)) for run, one in seconds]


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
        yield f"most expensive: {_listed(sorted(pairs.items(), key=lambda pair: -pair[1])[:5])}"
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
