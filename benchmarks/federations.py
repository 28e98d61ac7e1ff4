"""Federations of random images, for benchmarks: speed does not depend on what the images show."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import CNN, Model, initial_parameters
from apfl.engine.settings import TrainingConfig
from apfl.engine.work import Result, Work
from apfl.federation.problem import Problem, run_all


def images(count: int, classes: int = 10) -> Images:
    """Random images of CIFAR-10's shape."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, classes, (count,), generator=stream)
    return Images(pixels, labels, torch.full((3,), 120.0), torch.full((3,), 65.0))


def federation(
    clients: int,
    samples: int,
    *,
    rounds: int = 1,
    classes: int = 10,
    tests: int = 0,
    keep: bool = False,
    precision: str = "auto",
) -> Problem:
    """The paper's CNN, and clients with ``samples`` images each; ``tests`` of them are their test images, too.

    ``keep``: are the last local models kept, as they are for personalization?
    """
    data = images(clients * samples, classes)
    parts = tuple(torch.arange(clients * samples).split(samples))
    return Problem(
        model=Model(CNN(3, classes)),
        images=data,
        train=parts,
        test=tuple(part[:tests] for part in parts),
        counts=torch.stack([data.labels[part].bincount(minlength=classes) for part in parts]),
        dropout=(False,) * clients,
        unseen=torch.zeros(classes, dtype=torch.bool),
        training=TrainingConfig(rounds=rounds, local_epochs=1, keep_local_models=keep),
        seed=0,
        start=initial_parameters({"name": "cnn"}, 3, classes, seed=0),
        engine=Engine.choose(precision, "cpu"),
    )


class Clocked:
    """A `CarryOut` that adds up the seconds that training takes."""

    def __init__(self, carry_out: Callable[..., Iterable[Result]] = run_all) -> None:
        self.carry_out = carry_out
        self.seconds = 0.0

    def __call__(self, problem: Problem, work: Sequence[tuple[Work, int]]) -> Iterator[Result]:
        began = time.perf_counter()
        for result in self.carry_out(problem, work):
            self.seconds += time.perf_counter() - began
            yield result
            began = time.perf_counter()
        self.seconds += time.perf_counter() - began


def send_back(problem: Problem, work: Sequence[tuple[Work, int]]) -> Iterator[Result]:
    """A `CarryOut` that leaves training out: every client sends a copy of what it was given."""
    for piece, _ in work:
        yield Result(piece, {name: value.clone() for name, value in piece.start.items()}, 1, 1, 0.0)
