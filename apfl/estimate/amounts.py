"""How much work a method asks for, counted by its own code: no table could know it of a method that somebody adds.

It works on a `Trial`: as many clients and images as the study has, but images of one pixel, whole epochs as one batch,
and a network that computes next to nothing and counts instead. No data are needed.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apfl.data.dataset import Dataset
from apfl.data.partition import Partition, make_partition
from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import Model, Params, build_network
from apfl.engine.settings import TrainingConfig
from apfl.engine.work import Objective, Phase
from apfl.errors import UserError
from apfl.federation.evaluation import is_per_client
from apfl.federation.method import BaseModels, Derived, Method, Models
from apfl.federation.problem import Problem, run_all
from apfl.federation.synchronous import Round, one_round
from apfl.memorization.generator import GeneratorConfig, Memory, build_memory

FEW = 2
"""Images of a batch that are really computed."""
SAMPLES = 10
"""Synthetic images a class with which a method is tried; its hyper-parameter may ask for many more."""
PATIENCE = 30.0
"""Seconds that trying a method out may take."""
SEMANTIC_DIMENSION = 512
"""Of class embeddings, whose own dimension is known to their files alone; it hardly matters for the cost."""


@dataclass(frozen=True)
class Amounts:
    """Images through the network, forward and backward, and drawn by a generator; and seconds of whatever else."""

    forward: float = 0.0
    backward: float = 0.0
    drawn: float = 0.0
    seconds: float = 0.0

    def line(self, other: Amounts, place: float) -> Amounts:
        """The amounts at ``place`` on the line through these at 0 and the ``other`` ones at 1, none below zero."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Amounts(*(max(0.0, here + place * (there - here)) for here, there in pairs))


def narrow(channels: int, features: int, classes: int) -> nn.Module:
    """A classifier of images [B, C, H, W] with as many features as another one, at hardly any cost."""
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, features))
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(features, classes))).requires_grad_(False)


@dataclass(frozen=True)
class Counting(Model):
    """A classifier that counts images, and how often a gradient of them reaches below the head, until time is up."""

    counts: Counter[str] = field(default_factory=Counter)

    def __call__(self, params: Params, images: Tensor) -> Tensor:
        return self._few(super().__call__, params, images)

    def features(self, params: Params, images: Tensor) -> Tensor:
        return self._few(super().features, params, images)

    def _few(self, function: Callable[[Params, Tensor], Tensor], params: Params, images: Tensor) -> Tensor:
        if time.perf_counter() > self.counts.get("until", float("inf")):
            raise UserError(f"takes more than {PATIENCE:.0f} s to try out")
        body = (value for name, value in params.items() if not name.startswith("head."))
        deep = torch.is_grad_enabled() and (images.requires_grad or any(value.requires_grad for value in body))
        self.counts["forward"] += len(images)
        answer = function(params, images[:FEW])
        if deep and answer.requires_grad:
            answer.register_hook(lambda gradient: self.counts.update(backward=len(images)))
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

    counts: Counter[str] = field(default_factory=Counter)

    def sample(self, labels: Tensor, stream: torch.Generator, engine: Engine) -> Tensor:
        self.counts["drawn"] += len(labels)
        return torch.randn(1, self.generator.image[-1].num_features, 1, 1).expand(len(labels), -1, -1, -1)


def trial(partition: Partition, channels: int, network: Mapping[str, Any], training: TrainingConfig) -> Trial:
    """The problem of a partition, with random images and a network that counts."""
    classes, count = partition.counts.shape[1], len(partition.client)
    clients = range(partition.clients)
    small = narrow(channels, build_network(network, channels, classes).head.in_features, classes)
    images = random_images(count, channels, classes, 1)
    return Trial(
        model=Counting(small),
        images=images,
        train=tuple(torch.from_numpy(partition.train(client)) for client in clients),
        test=tuple(torch.from_numpy(partition.test(client)) for client in clients),
        validation=tuple(torch.from_numpy(partition.validation(client)) for client in clients),
        counts=torch.from_numpy(partition.counts),
        dropout=tuple(map(bool, partition.dropout)),
        unseen=torch.from_numpy(partition.unseen),
        training=training,
        seed=0,
        start=dict(small.named_parameters()),
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


def at_size(size: int, small: int, attempt: Callable[[int], tuple[Amounts, ...]]) -> tuple[Amounts, ...]:
    """What an attempt of that size takes; if it is large, by a line through one of a ``small`` size and its double."""
    if size <= 2 * small:
        return attempt(size)
    return tuple(one.line(two, size / small - 1) for one, two in zip(attempt(small), attempt(2 * small), strict=True))


def _counted(problem: Trial, work: Callable[[], Any]) -> tuple[Amounts, Any]:
    counts, began = problem.model.counts, time.process_time()
    counts.clear()
    counts["until"] = time.perf_counter() + PATIENCE
    value = work()
    return Amounts(*(counts[name] for name in ("forward", "backward", "drawn")), time.process_time() - began), value


def _evaluated(problem: Trial, work: Callable[[], Mapping[str, Models]]) -> Amounts:
    """What making models takes, and classifying all images that are set aside with each of them."""
    took, models = _counted(problem, work)
    count = sum(len(given) if is_per_client(given) else 1 for given in models.values())
    images = sum(map(len, (*problem.test, *problem.validation)))
    return replace(took, forward=took.forward + count * images)


def even_partition(size: int, classes: int, setting: str, seed: int, validation: bool) -> Partition:
    """A partition of ``size`` images whose labels are evenly distributed."""
    labels, nothing = np.arange(size, dtype=np.int64) % classes, np.broadcast_to(np.uint8(0), (size, 1, 32, 32))
    dataset = Dataset("random", nothing, labels, tuple(map(str, range(classes))), {})
    return make_partition(dataset, setting, seed, validation)


def random_images(count: int, channels: int, classes: int, side: int = 32) -> Images:
    """Images of noise whose labels are evenly distributed."""
    pixels = torch.randint(0, 256, (count, side, side, channels), dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % classes, torch.full((channels,), 127.0), torch.full((channels,), 74.0))
