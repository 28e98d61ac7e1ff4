"""Small problems for tests: a few clients with a few images each, and the world's smallest network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import Model, Params
from apfl.engine.settings import TrainingConfig
from apfl.engine.work import Phase, Step
from apfl.federation.problem import Problem
from apfl.streams import torch_stream

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where what is made for a GPU is tested: on one, if there is one."""


class Tiny(nn.Module):
    """Average pooling to 4x4, a hidden layer of eight, a linear head."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16 * channels, 8), nn.Tanh())
        self.head = nn.Linear(8, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


def parameters(network: nn.Module, seed: int = 0) -> Params:
    """Small Gaussian parameters from a stream."""
    stream = torch_stream(seed, "test-parameters")
    return {name: 0.3 * torch.randn(value.shape, generator=stream) for name, value in network.named_parameters()}


def tiny_problem(
    sizes: Sequence[int] = (23, 12, 30),
    classes: int = 3,
    channels: int = 1,
    dropout: Sequence[int] = (),
    network: nn.Module | None = None,
    bf16: bool = False,
    seed: int = 0,
    **training: object,
) -> Problem:
    """A problem whose client k has ``sizes[k]`` training images and a third as many test images (at least one).

    Images of a class are bright in one quarter, with noise, so that there is something to learn. Each client lacks
    class ``k mod classes`` unless it has few images; classes that dropout clients alone hold are unseen.
    """
    stream = torch_stream(seed, "test-problem")
    labels, pixels, train, test, position = [], [], [], [], 0
    for client, size in enumerate(sizes):
        held = [label for label in range(classes) if label != client % classes or size < 3]
        tested = max(1, size // 3) if size else 0
        for count, part in ((size, train), (tested, test)):
            label = torch.tensor([held[i % len(held)] for i in range(count)], dtype=torch.long)
            image = torch.randint(0, 90, (count, 32, 32, channels), generator=stream)
            for i, one in enumerate(label.tolist()):
                image[i, 8 * (one % 4) : 8 * (one % 4) + 8, 8 * (one // 4) : 8 * (one // 4) + 8] += 120
            labels.append(label)
            pixels.append(image.to(torch.uint8))
            part.append(torch.arange(position, position + count))
            position += count
    all_labels = torch.cat(labels)
    counts = torch.stack([torch.bincount(all_labels[part], minlength=classes) for part in train])
    dropped = tuple(client in dropout for client in range(len(sizes)))
    heard = counts[[client for client in range(len(sizes)) if not dropped[client]]].sum(0)
    images = Images(torch.cat(pixels), all_labels, torch.full((channels,), 60.0), torch.full((channels,), 50.0))
    network = network or Tiny(channels, classes)
    settings = {"rounds": 2, "local_epochs": 2, "batch_size": 5, "learning_rate": 0.01} | training
    return Problem(
        model=Model(network),
        images=images,
        train=tuple(train),
        test=tuple(test),
        counts=counts,
        dropout=dropped,
        unseen=(heard == 0) & (counts.sum(0) > 0),
        training=TrainingConfig(**settings),
        seed=seed,
        start=parameters(network),
        engine=Engine(torch.device("cpu"), bf16),
    )


def moved(value: Any, device: torch.device = DEVICE) -> Any:
    """A problem, or tensors in whatever holds them, on a device, as `apfl.stages.problem` loads them there."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Problem | Images):
        held = {one.name: moved(getattr(value, one.name), device) for one in dataclasses.fields(value)}
        return dataclasses.replace(value, **held)
    if isinstance(value, Engine):
        return dataclasses.replace(value, device=device)
    if isinstance(value, dict):
        return {name: moved(one, device) for name, one in value.items()}
    return tuple(moved(one, device) for one in value) if isinstance(value, tuple) else value


def same_data(problem: Problem) -> Problem:
    """The problem in which every client has the data of client 0."""
    clients = len(problem.train)
    return dataclasses.replace(
        problem,
        train=(problem.train[0],) * clients,
        test=(problem.test[0],) * clients,
        counts=problem.counts[:1].repeat(clients, 1),
    )


def held_out(problem: Problem, every: int = 10) -> Problem:
    """The problem with every tenth training image of a client (or another) set aside for validation."""
    validation = tuple(part[every - 1 :: every] for part in problem.train)
    train = tuple(part[~torch.isin(part, held)] for part, held in zip(problem.train, validation, strict=True))
    labels, classes = problem.images.labels, problem.classes
    counts = torch.stack([torch.bincount(labels[part], minlength=classes) for part in train])
    return dataclasses.replace(problem, train=train, validation=validation, counts=counts)


def full_batch(problem: Problem, steps: int) -> Phase:
    """Deterministic gradient steps on all of a client's data."""
    return problem.training.phase(batch_size=0, steps=steps)


def equal(first: Params, second: Params) -> bool:
    """Bit equality of two models."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def distance(first: Params, second: Params) -> float:
    """The largest absolute difference between two models."""
    return max((first[name] - second[name]).abs().max().item() for name in first)


class Scalar(nn.Module):
    """One parameter, for problems with a closed form; its loss is given by an objective, not by images."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()
        self.head = nn.Linear(1, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images)


def quadratics(a: Sequence[float], b: Sequence[float], start: float = 0.0, **training: object) -> Problem:
    """Clients k = 0, 1, ... that minimise a_k/2 (w - b_k)^2 over one number w, with one step of SGD an epoch."""

    def loss(model: Model, params: Params, step: Step) -> torch.Tensor:
        client = step.batch.labels[0]
        return torch.tensor(a)[client] / 2 * (params["head.weight"] - torch.tensor(b)[client]).square().sum()

    clients = len(a)
    each = tuple(torch.tensor([client]) for client in range(clients))
    settings = {"rounds": 1, "local_epochs": 10, "learning_rate": 0.05, "optimizer": "sgd"} | training
    return Problem(
        model=Model(Scalar()),
        images=Images(torch.zeros(clients, 1, 1, 1), torch.arange(clients), torch.zeros(1), torch.ones(1)),
        train=each,
        test=each,
        counts=torch.eye(clients, dtype=torch.long),
        dropout=(False,) * clients,
        unseen=torch.zeros(clients, dtype=torch.bool),
        training=TrainingConfig(**settings),
        seed=0,
        start={"head.weight": torch.tensor([[start]])},
        loss=loss,
    )
