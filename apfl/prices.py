"""What work costs on this machine, in seconds on one core, and how much work a method asks for.

Costs are asked of a method's own code, as no table could know the cost of a method that somebody adds. It works on a
`Trial`: as many clients and images as the study has, but images of one pixel, whole epochs as one batch, and a network
that computes next to nothing and counts instead. What is counted is charged at prices that are measured in a few steps
with the study's own network and generator on random images. No data are needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from apfl.data.partition import Partition
from apfl.errors import UserError
from apfl.evaluation import is_per_client
from apfl.federation import BaseModels, Derived, Method, Models, Problem, Round, one_round, run_all
from apfl.memorization import GeneratorConfig, Memory, build_memory, memorize
from apfl.nets import Model, Params, build_network, initial_parameters
from apfl.registry import ROOT
from apfl.training import Engine, Images, Objective, Phase, TrainingConfig, Work, train

FEW = 2
"""Images of a batch that are really computed."""
SAMPLES = 20
"""Synthetic images a class with which a method is tried; its hyper-parameter may ask for many more."""
PATIENCE = 20.0
"""Seconds that trying a method out may take."""
SEMANTIC_DIMENSION = 512
"""Of class embeddings, whose own dimension is known to their files alone; it hardly matters for the cost."""


@dataclass(frozen=True)
class Amounts:
    """Images trained on, classified and drawn by a generator; and seconds of whatever else there is to do."""

    trained: float = 0.0
    classified: float = 0.0
    drawn: float = 0.0
    seconds: float = 0.0

    def line(self, other: Amounts, place: float) -> Amounts:
        """The amounts at ``place`` on the line through these at 0 and the ``other`` ones at 1, none below zero."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Amounts(*(max(0.0, here + place * (there - here)) for here, there in pairs))


class Narrow(nn.Module):
    """A classifier of images [B, C, H, W] with as many features as another one, at hardly any cost."""

    def __init__(self, channels: int, features: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, features))
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


@dataclass(frozen=True)
class Counting(Model):
    """A classifier that counts images: those whose gradient reaches below the head as trained on."""

    counts: dict[str, int] = field(default_factory=Counter)
    deadline: float = float("inf")

    def __call__(self, params: Params, images: Tensor) -> Tensor:
        return self._few(super().__call__, params, images)

    def features(self, params: Params, images: Tensor) -> Tensor:
        return self._few(super().features, params, images)

    def _few(self, function: Callable[[Params, Tensor], Tensor], params: Params, images: Tensor) -> Tensor:
        if time.process_time() > self.deadline:
            raise UserError(f"takes more than {PATIENCE:.0f} s to try out")
        body = (value for name, value in params.items() if not name.startswith("head."))
        deep = torch.is_grad_enabled() and (images.requires_grad or any(value.requires_grad for value in body))
        self.counts["trained" if deep else "classified"] += len(images)
        answer = function(params, images[:FEW])
        return answer[torch.arange(len(images)) % max(1, len(answer))]


@dataclass(frozen=True)
class Trial(Problem):
    """A problem whose epochs are one batch each; phases of so many steps are as they are."""

    def phase(self, objective: Objective | None = None, **changes: Any) -> Phase:
        phase = super().phase(objective, **changes)
        whole = phase.steps is None and phase.batch_size > 0
        return replace(phase, batch_size=1 << 40) if whole else phase


@dataclass(frozen=True)
class CountingMemory(Memory):
    """A generator that counts the images that it is asked for."""

    counts: dict[str, int] = field(default_factory=Counter)

    def sample(self, labels: Tensor, stream: torch.Generator, engine: Engine) -> Tensor:
        self.counts["drawn"] += len(labels)
        return torch.randn(1, self.generator.image[-1].num_features, 1, 1).expand(len(labels), -1, -1, -1)


def trial(partition: Partition, channels: int, network: Mapping[str, Any], training: TrainingConfig) -> Trial:
    """The problem of a partition, with random images and a network that counts."""
    classes, count = partition.counts.shape[1], len(partition.client)
    clients = range(partition.clients)
    features = build_network(network, channels, classes).head.in_features
    narrow, counts = Narrow(channels, features, classes), {"trained": 0, "classified": 0, "drawn": 0}
    images = random_images(count, channels, classes, 1)
    return Trial(
        model=Counting(narrow, counts, time.process_time() + PATIENCE),
        images=images,
        train=tuple(torch.from_numpy(partition.train(client)) for client in clients),
        test=tuple(torch.from_numpy(partition.test(client)) for client in clients),
        validation=tuple(torch.from_numpy(partition.validation(client)) for client in clients),
        counts=torch.from_numpy(partition.counts),
        dropout=tuple(map(bool, partition.dropout)),
        unseen=torch.from_numpy(partition.unseen),
        training=training,
        seed=0,
        start={name: value.detach() for name, value in narrow.named_parameters()},
        semantics=torch.randn(classes, SEMANTIC_DIMENSION),
        proxy=images,
    )


def base_of(problem: Problem) -> BaseModels:
    """What a federation leaves in which every client has the initial model."""
    present = [client for client in problem.participants if problem.size(client)]
    return BaseModels(problem.start, dict.fromkeys(present, problem.start))


def round_amounts(method: Method, problem: Trial) -> tuple[Amounts, Amounts]:
    """What one round of a federated method takes, and its models after that with their evaluation."""
    now, clients = Round(0, method.init(problem), {}), method.clients(problem)
    took, (state, latest, _) = _counted(problem, lambda: one_round(method, problem, now, 1, clients, run_all))
    return took, _evaluated(problem, lambda: method.client_models(state, problem, latest))


def personal_amounts(method: Derived, problem: Trial, generator: GeneratorConfig | None) -> tuple[Amounts]:
    """What a derived method takes after one round, with the evaluation of its models."""
    memory = None
    if generator:
        made = build_memory(replace(generator, width=1), problem.semantics, problem.images.pixels.shape[-1], 0)
        memory = CountingMemory(generator, made.generator, made.embeddings, problem.model.counts)
    return (_evaluated(problem, lambda: method.personalize(problem, base_of(problem), 1, memory)),)


def at_full_size(
    parameters: Mapping[str, Any], attempt: Callable[[Mapping[str, Any]], tuple[Amounts, ...]]
) -> tuple[Amounts, ...]:
    """What an attempt with these hyper-parameters takes, by a line through two with few samples if they are many."""
    if parameters.get("samples_per_class", 0) <= 2 * SAMPLES:
        return attempt(parameters)
    small, larger = (attempt({**parameters, "samples_per_class": times * SAMPLES}) for times in (1, 2))
    place = parameters["samples_per_class"] / SAMPLES - 1
    return tuple(one.line(other, place) for one, other in zip(small, larger, strict=True))


def _counted(problem: Trial, work: Callable[[], Any]) -> tuple[Amounts, Any]:
    problem.model.counts.update(trained=0, classified=0, drawn=0)
    began = time.process_time()
    value = work()
    return Amounts(**problem.model.counts, seconds=time.process_time() - began), value


def _evaluated(problem: Trial, work: Callable[[], Mapping[str, Models]]) -> Amounts:
    """What making models takes, and classifying all images that are set aside with each of them."""
    took, models = _counted(problem, work)
    count = sum(len(given) if is_per_client(given) else 1 for given in models.values())
    images = sum(map(len, (*problem.test, *problem.validation)))
    return replace(took, classified=took.classified + count * images)


def network_prices(network: Mapping[str, Any], channels: int, classes: int, training: TrainingConfig, batch: int):
    """Seconds of training on one image in batches of that size, and of classifying one: two floats."""
    model, engine = Model(build_network(network, channels, classes)), Engine.choose(training.precision, "cpu")
    start, images = initial_parameters(network, channels, classes, 0), random_images(500, channels, classes)
    everything = torch.arange(len(images.labels))
    work = Work(0, start, (training.phase(steps=4, batch_size=batch),))

    def classify() -> None:
        with torch.inference_mode(), engine.autocast():
            model(start, images.batch(everything).images)

    trained = _shortest(lambda: train(model, work, images, everything, engine, 0, 1))
    return trained / (4 * min(batch, len(everything))), _shortest(classify) / len(everything)


def generator_prices(config: GeneratorConfig, channels: int, classes: int, precision: str) -> tuple[float, float]:
    """Seconds of one step of the generator without its teachers, and of drawing one image."""
    groups = config.batch_size // config.group
    seen, engine = min(classes, groups), Engine.choose(precision, "cpu")
    small = replace(config, epochs=4, steps_as_with=0, samples_per_class=config.group * (groups // seen))
    memory = build_memory(small, torch.randn(classes, SEMANTIC_DIMENSION), channels, 0)
    narrow, ends = Narrow(channels, 1, classes), [time.process_time()]
    teacher = {name: value.detach() for name, value in narrow.named_parameters()}
    memorize(memory, Counting(narrow), [teacher], (torch.arange(classes) < seen).float()[None], engine, 0,
             on_epoch=lambda entry: ends.append(time.process_time()))  # fmt: skip
    labels, stream = torch.arange(100) % classes, torch.Generator().manual_seed(0)
    return min(map(float.__sub__, ends[1:], ends)), _shortest(lambda: memory.sample(labels, stream, engine)) / 100


def start_seconds() -> float:
    """Seconds of computing until the process of a job has begun."""
    code = (
        "import time, apfl.stages.federate, apfl.stages.memorize, apfl.stages.personalize; print(time.process_time())"
    )
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE)
    return float(done.stdout or 0)


def random_images(count: int, channels: int, classes: int, side: int = 32) -> Images:
    """Images of noise whose labels are evenly distributed."""
    pixels = torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % classes, torch.full((channels,), 127.0), torch.full((channels,), 74.0))


def _shortest(work: Callable[[], Any], times: int = 3) -> float:
    """Seconds of computing that the quickest of a few attempts takes; the first may warm up."""
    spent = []
    for _ in range(times):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)
