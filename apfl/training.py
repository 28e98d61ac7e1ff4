"""Local training: what one client does between a download and an upload.

A piece of `Work` is data: the parameters to start from and a sequence of phases. A `Phase` says what each step
differentiates (its objective), which parameters it changes, with which optimiser, and for how long. `train` carries the
work out. Whatever a method adds to plain gradient descent is in its objective: FedProx is another loss, SCAFFOLD a
linear term, MAML and the Moreau envelope other gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from apfl.errors import UserError
from apfl.nets import Model, Params
from apfl.optimizers import SGD, Adam, Stepper
from apfl.streams import torch_stream


@dataclass(frozen=True)
class Batch:
    """Normalised images [B, C, H, W] and their labels: classes int64 [B], or probabilities float [B, classes]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class Samples(Protocol):
    """Labelled images that hand out batches by index."""

    def batch(self, indices: Tensor) -> Batch: ...


def laid_out(images: Tensor) -> Tensor:
    """Images [B, C, H, W] in memory as real ones are, a pixel's colours side by side; anything else as it is.

    In another layout convolution and pooling may take twice as long. With one channel only strides tell the two apart.
    """
    if images.ndim != 4 or images.stride(1) == 1:
        return images
    return images.clone(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Images:
    """Real images: uint8 [N, H, W, C] as stored, normalised per channel as they are handed out."""

    pixels: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def batch(self, indices: Tensor) -> Batch:
        mean, std = self._planes
        chosen = self.pixels[indices].to(torch.float32).sub_(mean).div_(std)
        return Batch(chosen.permute(0, 3, 1, 2), self.labels[indices])

    @cached_property
    def _planes(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation spread over an image: broadcasting over the first axis alone is several times faster."""
        shape = self.pixels.shape[1:]
        return self.mean.expand(shape).contiguous(), self.std.expand(shape).contiguous()


@dataclass(frozen=True)
class SyntheticImages:
    """Images that a generator made: float [N, C, H, W], already normalised, with hard or soft labels."""

    images: Tensor
    labels: Tensor

    def batch(self, indices: Tensor) -> Batch:
        return Batch(laid_out(self.images[indices]), self.labels[indices])


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


cross_entropy.stackable = True  # apfl/stacked.py says what that takes


@dataclass(frozen=True)
class Gradient:
    """The objective of plain training: the gradient of a loss."""

    loss: Loss = cross_entropy

    def __call__(self, model: Model, params: Params, trainable: Params, step: Step) -> tuple[Tensor, Params]:
        loss = self.loss(model, params, step)
        gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True, materialize_grads=True)
        return loss.detach(), dict(zip(trainable, gradients, strict=True))


@dataclass(frozen=True)
class Optimizer:
    """``adam`` or ``sgd`` with a learning rate (and momentum, for SGD); its state is fresh in every phase."""

    name: str = "adam"
    learning_rate: float = 2e-4
    momentum: float = 0.0

    def build(self, tensors: Sequence[Tensor]) -> Stepper:
        if self.name == "adam":
            return Adam(tensors, self.learning_rate)
        if self.name == "sgd":
            return SGD(tensors, self.learning_rate, self.momentum)
        raise UserError(f"training.optimizer {self.name!r}: unknown; choose adam or sgd")


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

    def __init__(self, round: int, who: str) -> None:
        super().__init__(f"round {round}: {who}: the loss is not finite")

    @classmethod
    def of_client(cls, round: int, client: int, role: str) -> Diverged:
        return cls(round, f"client {client} ({role} model)")


@dataclass(frozen=True)
class TrainingConfig:
    """The training section of a study.

    :param rounds: communication rounds (not published; design decision of each study).
    :param local_epochs: passes over a client's data in one round (20 in the paper).
    :param batch_size: 50 in the paper; a short last batch is kept.
    :param learning_rate: 2e-4 in the paper.
    :param optimizer: ``adam`` in the paper; its state is fresh in every round.
    :param precision: ``fp32``, ``bf16``, or ``auto``: bf16 only where the processor has it.
    :param evaluate_rounds: rounds after which models are evaluated; empty: the last one.
    :param save_rounds: rounds whose models are kept for later stages; empty: the last one.
    :param keep_local_models: keep each client's last local model, for evaluation and for AP-FL; memory then grows with
        the number of clients.
    :param checkpoint_every: rounds between checkpoints from which an interrupted run goes on.
    """

    rounds: int
    local_epochs: int = 20
    batch_size: int = 50
    learning_rate: float = 2e-4
    optimizer: str = "adam"
    precision: str = "auto"
    evaluate_rounds: tuple[int, ...] = ()
    save_rounds: tuple[int, ...] = ()
    keep_local_models: bool = True
    checkpoint_every: int = 5

    def __post_init__(self) -> None:
        for name in ("rounds", "local_epochs", "batch_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise UserError(f"training.{name} {getattr(self, name)}: must be at least 1")
        if not self.learning_rate > 0:
            raise UserError(f"training.learning_rate {self.learning_rate}: must be positive")
        for name in ("evaluate_rounds", "save_rounds"):
            rounds = tuple(sorted(set(getattr(self, name)))) or (self.rounds,)
            if rounds[0] < 0 or rounds[-1] > self.rounds:
                raise UserError(f"training.{name} {list(rounds)}: must be from 0 to {self.rounds}, the last round")
            object.__setattr__(self, name, rounds)

    @property
    def local_optimizer(self) -> Optimizer:
        return Optimizer(self.optimizer, self.learning_rate)

    def phase(self, objective: Objective | None = None, **changes: Any) -> Phase:
        """A phase of ordinary local training, with the changes that a method makes."""
        settings = {"optimizer": self.local_optimizer, "epochs": self.local_epochs, "batch_size": self.batch_size}
        return Phase(objective or Gradient(), **(settings | changes))


MOST_STACKED = 64
"""Models that a GPU trains at once, unless its memory is too small for them."""


@dataclass(frozen=True)
class Engine:
    """Where and how precisely to compute, and how many models at once (`apfl.stacked`)."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bf16: bool = False
    stack: int = 1

    @classmethod
    def choose(cls, precision: str = "auto", device: str = "auto") -> Engine:
        """The engine for a precision (``auto``, ``fp32``, ``bf16``) and a device (``auto``, ``cpu``, ``cuda``)."""
        if precision not in ("auto", "fp32", "bf16"):
            raise UserError(f"training.precision {precision!r}: unknown; choose auto, fp32 or bf16")
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
            raise UserError(f"device {device!r}: not to be had here; choose auto or cpu, or cuda where there is a GPU")
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        has_bf16 = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.cpu._is_avx512_bf16_supported()
        bf16 = precision == "bf16" or (precision == "auto" and has_bf16)
        return cls(torch.device(kind), bf16, MOST_STACKED if kind == "cuda" else 1)

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def channels_last(params: Mapping[str, Tensor]) -> Params:
    """Copies of the parameters in the memory layout in which convolutions are fastest."""
    form = {4: torch.channels_last}
    return {
        name: value.detach().clone(memory_format=form.get(value.ndim, torch.contiguous_format))
        for name, value in params.items()
    }


def batches(phase: Phase, indices: Tensor, stream: torch.Generator) -> Iterator[Tensor]:
    """Indices of one batch after another: epochs of permutations, until the epochs or the steps are over."""
    size = phase.batch_size or len(indices)
    per_epoch = math.ceil(len(indices) / size)
    total = phase.epochs * per_epoch if phase.steps is None else phase.steps
    for start in range(0, total, per_epoch):
        order = indices[torch.randperm(len(indices), generator=stream)] if phase.shuffle else indices
        for batch in range(min(per_epoch, total - start)):
            yield order[batch * size : (batch + 1) * size]


FULL_GRADIENT_CHUNK = 500


def _exact(objective: Objective, model: Model, params: Params, trainable: Params, step: Step) -> tuple[Tensor, Params]:
    """The objective over a batch of any size, as the weighted mean over chunks that fit in memory."""
    (batch,) = step.batches
    loss, total = torch.zeros(()), {name: torch.zeros_like(value) for name, value in trainable.items()}
    for start in range(0, len(batch), FULL_GRADIENT_CHUNK):
        rows = slice(start, start + FULL_GRADIENT_CHUNK)
        part = Batch(batch.images[rows], batch.labels[rows])
        value, gradient = objective(model, params, trainable, Step((part,), step.stream, step.index))
        weight = len(part) / len(batch)
        loss = loss + weight * value.cpu()
        for name in total:
            total[name] += weight * gradient[name]
    return loss, total


def train(model: Model, work: Work, samples: Samples, indices: Tensor, engine: Engine, seed: int, round: int) -> Result:
    """Carry out one piece of work on the samples at ``indices``; a client without samples returns what it started from.

    The order of the data depends on (seed, role, phase, round, client) alone.
    """
    params = channels_last(work.start)
    steps, count, mean_loss = 0, 0, math.nan
    for number, phase in enumerate(work.phases if len(indices) else ()):
        losses, done, seen = _run_phase(model, params, phase, work, number, samples, indices, engine, seed, round)
        steps, count, mean_loss = steps + done, count + seen, losses
        if done and not math.isfinite(mean_loss):
            raise Diverged.of_client(round, work.client, work.role)
    return Result(work, {name: value.detach() for name, value in params.items()}, steps, count, mean_loss)


def _run_phase(
    model: Model,
    params: Params,
    phase: Phase,
    work: Work,
    number: int,
    samples: Samples,
    indices: Tensor,
    engine: Engine,
    seed: int,
    round: int,
) -> tuple[float, int, int]:
    """One phase, in place on ``params``; returns the mean loss, the steps and the images seen."""
    trainable = {name: value for name, value in params.items() if phase.trainable(name)}
    for name, value in params.items():
        value.requires_grad_(name in trainable)
    optimizer = phase.optimizer.build(list(trainable.values()))
    stream = torch_stream(
        seed, f"objective/{work.role}/{number}", round=round, client=work.client, device=engine.device
    )
    orders = [
        batches(
            phase, indices, torch_stream(seed, f"batches/{work.role}/{number}/{slot}", round=round, client=work.client)
        )
        for slot in range(phase.batches)
    ]
    objective = phase.objective
    total, steps, seen = torch.zeros((), device=engine.device), 0, 0
    for steps, rows in enumerate(zip(*orders, strict=True), start=1):
        step = Step(tuple(samples.batch(row) for row in rows), stream, steps - 1)
        with engine.autocast():
            if phase.batch_size == 0 and phase.batches == 1:
                loss, direction = _exact(objective, model, params, trainable, step)
            else:
                loss, direction = objective(model, params, trainable, step)
        optimizer.step([direction[name] for name in trainable])
        if phase.drift is not None:
            with torch.no_grad():
                for name, value in trainable.items():
                    value.sub_(phase.drift[name], alpha=phase.optimizer.learning_rate)
        total += loss
        seen += sum(len(row) for row in rows)
    for value in params.values():
        value.requires_grad_(False)
    return (total / max(steps, 1)).item(), steps, seen
