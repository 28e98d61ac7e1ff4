"""Every method on a small problem."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apfl.engine.images import Images
from apfl.federation.method import Method, load_method
from apfl.federation.problem import Problem
from apfl.federation.synchronous import Round
from apfl.registry.cards import methods
from apfl.storage.tensors import flatten
from tests.helpers.problems import tiny_problem

CARDS = methods()


FEDERATED = [name for name, card in CARDS.items() if card.stage == "federate"]


QUICK: dict[str, Any] = {
    "samples_per_class": 10,
    "width": 4,
    "noise_dimension": 5,
    "generator_steps": 4,
    "steps": 6,
    "evaluate_every": 2,
    "tuning_steps": 6,
}
"""Values that keep the hyper-parameters of these names small."""


VARIANTS = [(name, {}) for name in FEDERATED] + [
    ("scaffold", {"option": "I"}),
    ("scaffold", {"optimizer": "sgd", "sgd_learning_rate": 0.05}),
    ("scaffold", {"weights": "uniform", "server_learning_rate": 0.5}),
    ("feddf", {"weights": "uniform"}),
    ("feddf", {"keep_start": False, "ensemble": "probabilities"}),
    ("persafl", {"form": "me"}),
    ("pfedme", {"warm": False, "mu": 0.0, "weights": "uniform"}),
    ("ffgg", {"private_start": "initial", "aggregator": "median"}),
    ("ffgg", {"shared_update": "local", "gamma": 1.0, "private_start": "kept", "tuning_epochs": 2}),
]


every_method = pytest.mark.parametrize(
    ("name", "parameters"), VARIANTS, ids=["-".join([name, *map(str, given.values())]) for name, given in VARIANTS]
)


class Convolutional(nn.Module):
    """A small network with a convolution, whose arithmetic may depend on the memory layout of its parameters."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers = (nn.Conv2d(channels, 8, 5, stride=3), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(72, 8))
        self.body = nn.Sequential(*layers, nn.Tanh())
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def problem_of(**changes: Any) -> Problem:
    """A small problem with everything that a method may need."""
    problem = tiny_problem(**({"sizes": (13, 7, 11), "channels": 3, "network": Convolutional(3, 3)} | changes))
    stream = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 255, (20, 32, 32, 3), generator=stream).to(torch.uint8)
    proxy = Images(pixels, torch.zeros(20, dtype=torch.long), torch.full((3,), 127.0), torch.full((3,), 74.0))
    return dataclasses.replace(problem, proxy=proxy, semantics=torch.randn(3, 6, generator=stream))


def method_of(name: str, parameters: dict[str, Any]) -> Method:
    quick = {field: value for field, value in QUICK.items() if field in CARDS[name].fields}
    return load_method(name, quick | parameters)


def same(first: dict[str, Tensor], second: dict[str, Tensor], but: str = "\0") -> bool:
    """Bit equality of two flattened states, apart from keys that contain ``but``."""
    keys = [{key for key in one if but not in f"/{key}"} for one in (first, second)]
    return keys[0] == keys[1] and all(torch.equal(first[key], second[key]) for key in keys[0])


def flat(now: Round) -> dict[str, Tensor]:
    """A round as a checkpoint holds it."""
    latest = {str(client): params for client, params in now.latest.items()}
    return flatten({"state": now.state, "latest": latest})
