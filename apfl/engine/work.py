"""What is to be trained: steps, objectives, phases, and a client's work with its data and its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from apfl.engine.images import Batch, Samples
from apfl.engine.networks import Model, Params
from apfl.engine.optimizers import Optimizer
from apfl.streams import torch_stream


@dataclass(frozen=True)
class Step:
    """What an objective sees at one step: the batches (one unless the phase asks for more), and its own random
    stream."""

    batches: tuple[Batch, ...]
    stream: torch.Generator
    index: int = 0

    @property
    def batch(self) -> Batch:
        return self.batches[0]


Loss = Callable[[Model, Params, Step], Tensor]
"""The loss of a step: a scalar whose gradient the step follows."""


Objective = Callable[[Model, Params, Params, Step], tuple[Tensor, Params]]
"""(model, all parameters, those to differentiate, step) to the loss and the direction that the optimiser follows."""


def cross_entropy(model: Model, params: Params, step: Step) -> Tensor:
    """The mean cross-entropy of the step's batch."""
    return F.cross_entropy(model(params, step.batch.images).float(), step.batch.labels)


cross_entropy.stackable = True  # type: ignore[attr-defined]  # apfl/engine/stack.py says what that takes


@dataclass(frozen=True)
class Gradient:
    """The objective of plain training: the gradient of a loss."""

    loss: Loss = cross_entropy

    def __call__(self, model: Model, params: Params, trainable: Params, step: Step) -> tuple[Tensor, Params]:
        loss = self.loss(model, params, step)
        gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True, materialize_grads=True)
        return loss.detach(), dict(zip(trainable, gradients, strict=True))


def everything(name: str) -> bool:
    """The default of `Phase.trainable`: every parameter."""
    return True


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    :param objective: what a step follows.
    :param optimizer: how it is followed.
    :param epochs: passes over the client's data; ``steps``, if given, bounds the number of steps instead.
    :param batch_size: images a step; 0 for the exact gradient over all of the client's data in each step.
    :param trainable: which parameters change, by name; the others are constants.
    :param batches: independent batches that one step gets (each from its own permutation).
    :param shuffle: whether epochs permute the data.
    :param drift: a constant direction that each step follows besides the optimiser's, at the same learning rate.
    """

    objective: Objective
    optimizer: Optimizer
    epochs: int = 1
    steps: int | None = None
    batch_size: int = 50
    trainable: Callable[[str], bool] = everything
    batches: int = 1
    shuffle: bool = True
    drift: Params | None = None


@dataclass(frozen=True)
class Work:
    """What one client trains in one round: phases one after another, from ``start``.

    ``role`` tells pieces of work of one client apart (Ditto trains two models); "local" is the model that clients send.
    """

    client: int
    start: Params
    phases: tuple[Phase, ...]
    role: str = "local"
    samples: Samples | None = None
    indices: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """A piece of work with what it is trained on, the ``samples`` at ``indices`` (int64 [n]), and seed and round of its
    random streams."""

    work: Work
    samples: Samples
    indices: Tensor
    seed: int
    round: int

    def batches(self, phase: int, slot: int = 0) -> Iterator[Tensor]:
        """Indices of one batch after another of a phase; their order depends on (seed, role, phase, slot, round,
        client) alone."""
        stream = self.stream(f"batches/{self.work.role}/{phase}/{slot}")
        return batches(self.work.phases[phase], self.indices, stream)

    def stream(self, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
        """The client's random stream for a purpose in this round."""
        return torch_stream(self.seed, purpose, round=self.round, client=self.work.client, device=device)


@dataclass(frozen=True)
class Result:
    """What came of a piece of work. ``steps`` counts optimiser steps, ``loss`` is the mean over those of the last
    phase."""

    work: Work
    params: Params
    steps: int
    samples: int
    loss: float

    @property
    def client(self) -> int:
        return self.work.client

    @property
    def role(self) -> str:
        return self.work.role


class Diverged(Exception):
    """A loss is not finite: the run cannot go on, and its cells say so. ``who`` is a client's model, or the
    generator."""

    REMEDY = "lower training.learning_rate or change the method's hyper-parameters"

    def __init__(self, round: int, who: str) -> None:
        super().__init__(f"round {round}: {who}: the loss is not finite")

    @classmethod
    def of_client(cls, round: int, client: int, role: str) -> Diverged:
        return cls(round, f"client {client} ({role} model)")


def batches(phase: Phase, indices: Tensor, stream: torch.Generator) -> Iterator[Tensor]:
    """Indices of one batch after another: epochs of permutations, until the epochs or the steps are over."""
    size = phase.batch_size or len(indices)
    per_epoch = math.ceil(len(indices) / size)
    total = phase.epochs * per_epoch if phase.steps is None else phase.steps
    for start in range(0, total, per_epoch):
        order = indices[torch.randperm(len(indices), generator=stream)] if phase.shuffle else indices
        for batch in range(min(per_epoch, total - start)):
            yield order[batch * size : (batch + 1) * size]
