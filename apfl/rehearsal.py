"""A rehearsal: the code of a method at its true scale, of which only a sample is really computed.

Costs are asked of a method's own code, as no table could know the cost of a method that somebody adds. On a `Stage`
every loop of local training says how many steps it wants, but the first loops of a kind take only a few, and later ones
one; the images of a generator and classifications without a gradient are treated alike. What is left out is charged
at the price of what was done (`Meter`). What is not metered is really done, which is right but takes its time:
`OutOfTime` ends it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from apfl.federation import Problem
from apfl.memorization import Memory
from apfl.nets import Model, Params
from apfl.training import Engine, Objective, Phase, Step

SAMPLE = 4
"""Steps that are really taken of a loop whose price is not yet known."""
LOOPS = 2
"""Loops of a kind after which its price is known."""
IMAGES = 100
"""Images that are really made or classified to know a price."""
FEWEST = 20
"""Images that are cheaper to classify than to price."""


class OutOfTime(Exception):
    """A rehearsal takes longer than it may."""


@dataclass
class Spent:
    """What a piece of code takes, in seconds: really, and with what was left out (once it has ended)."""

    real: float = 0.0
    seconds: float = 0.0


@dataclass
class Meter:
    """Prices by kind of work, in seconds a unit, and how many units were left out."""

    prices: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))
    loops: dict[Hashable, int] = field(default_factory=lambda: defaultdict(int))
    known: set[Hashable] = field(default_factory=set)
    owed: dict[Hashable, float] = field(default_factory=lambda: defaultdict(float))
    answers: dict[Hashable, Tensor] = field(default_factory=dict)
    deadline: float = float("inf")
    inside: bool = False

    def price(self, kind: Hashable) -> float:
        """Seconds of a unit of work of this kind, the median of what was measured."""
        return median(self.prices[kind])

    def check(self) -> None:
        """`OutOfTime` after the deadline."""
        if time.process_time() > self.deadline:
            raise OutOfTime

    @contextmanager
    def timing(self, limit: float = float("inf")) -> Iterator[Spent]:
        """Time what is within; `OutOfTime` after ``limit`` real seconds, at the next call of a model."""
        self.owed.clear()
        self.inside, spent, began = False, Spent(), time.process_time()
        self.deadline = began + limit
        try:
            yield spent
        finally:
            self.deadline = float("inf")
        spent.real = time.process_time() - began
        owed = {kind: units for kind, units in self.owed.items() if units}
        if unpriced := [kind for kind in owed if not self.prices[kind]]:
            raise ValueError(f"of {unpriced[0]} nothing was done, so its price is not known")
        spent.seconds = spent.real + sum(units * self.price(kind) for kind, units in owed.items())


class Epochs(int):
    """A number of epochs: times the steps of an epoch it is the steps that are really taken; the others are owed.

    A loop asks once for each of the batches that its steps get, and is told the same.
    """

    def __new__(cls, epochs: int, allowed: Callable[[int], int], batches: int) -> Epochs:
        made = super().__new__(cls, epochs)
        made.allowed, made.batches, made.asked, made.taken = allowed, batches, 0, 0
        return made

    def __mul__(self, per_epoch: int) -> int:
        if self.asked % self.batches == 0:
            self.taken = self.allowed(int(self) * int(per_epoch))
        self.asked += 1
        return self.taken

    __rmul__ = __mul__


def _allowed(meter: Meter, kind: Hashable, wanted: int) -> int:
    """How many of the steps that a loop wants are taken: one at least, as a method may divide by their number."""
    if meter.loops[kind] >= LOOPS:
        meter.known.add(kind)
    taken = min(wanted, 1 if kind in meter.known else SAMPLE)
    meter.loops[kind] += taken > 1
    meter.owed[kind] += wanted - taken
    return taken


@dataclass
class Timed:
    """An objective that notes when it is called: from one call to the next, a step has been taken.

    Where its price is known, it is charged and not computed: the direction is zero.
    """

    objective: Objective
    meter: Meter
    kind: Hashable
    last: float = 0.0

    def __call__(self, model: Model, params: Params, trainable: Params, step: Step) -> tuple[Tensor, Params]:
        if self.kind in self.meter.known:
            self.meter.owed[self.kind] += 1
            return torch.zeros(()), {name: torch.zeros_like(value) for name, value in trainable.items()}
        now = time.process_time()
        if step.index:  # the first step of a loop ends no other
            self.meter.prices[self.kind].append(now - self.last)
        self.last = now
        self.meter.inside = True
        try:
            return self.objective(model, params, trainable, step)
        finally:
            self.meter.inside = False


@dataclass(frozen=True)
class Stage(Problem):
    """A problem whose ordinary phases are metered."""

    meter: Meter = field(default_factory=Meter)

    def phase(self, objective: Objective | None = None, **changes: Any) -> Phase:
        """A phase of which only a sample is carried out; exact gradients on all data are carried out in full."""
        phase = super().phase(objective, **changes)
        if phase.batch_size == 0:
            return phase
        changed = tuple(name for name in self.start if phase.trainable(name))
        given = phase.steps is not None
        kind = ("step", given, _name(phase.objective), changed, phase.batch_size, phase.batches, phase.optimizer.name)
        timed = replace(phase, objective=Timed(phase.objective, self.meter, kind))
        if not given:
            return replace(timed, epochs=Epochs(phase.epochs, partial(_allowed, self.meter, kind), phase.batches))
        # A method may draw batches by a phase and train in a way of its own, which then never gets a price.
        if len(self.meter.prices[kind]) < SAMPLE:
            return timed
        self.meter.known.add(kind)
        return replace(timed, steps=_allowed(self.meter, kind, phase.steps))


@dataclass(frozen=True)
class MeteredModel(Model):
    """A classifier that, where no gradient is wanted, classifies a sample; it ends what is `OutOfTime`."""

    meter: Meter = field(default_factory=Meter)

    def __call__(self, params: Params, images: Tensor) -> Tensor:
        self.meter.check()
        return self._sampled("classify", super().__call__, params, images)

    def features(self, params: Params, images: Tensor) -> Tensor:
        self.meter.check()
        return self._sampled("features", super().features, params, images)

    def _sampled(self, kind: str, function: Any, params: Params, images: Tensor) -> Tensor:
        meter = self.meter
        if torch.is_grad_enabled() or meter.inside or len(images) < FEWEST:
            return function(params, images)
        taken = len(images)
        if len(meter.prices[kind]) < SAMPLE:
            meter.answers[kind], seconds = _timed(lambda: function(params, images[:IMAGES]).clone())
            meter.prices[kind].append(seconds / len(meter.answers[kind]))
            taken -= len(meter.answers[kind])
        meter.owed[kind] += taken
        return meter.answers[kind][torch.arange(len(images)) % len(meter.answers[kind])]


@dataclass(frozen=True)
class MeteredMemory(Memory):
    """A generator that makes a sample of the images that it is asked for."""

    meter: Meter = field(default_factory=Meter)

    def sample(self, labels: Tensor, stream: torch.Generator, engine: Engine) -> Tensor:
        kind = ("sample", self.config.width, self.config.noise_dimension)
        while len(self.meter.prices[kind]) < 2:
            few = labels[torch.arange(IMAGES) % len(labels)] if len(labels) else torch.zeros(IMAGES, dtype=torch.long)
            _, seconds = _timed(lambda few=few: super(MeteredMemory, self).sample(few, stream, engine))
            self.meter.prices[kind].append(seconds / IMAGES)
        self.meter.owed[kind] += len(labels)
        channels = self.generator.image[-1].num_features
        return torch.randn(1, channels, 32, 32).expand(len(labels), -1, -1, -1)


def _name(objective: Objective) -> str:
    """The kind of an objective: its class and that of its loss, with what counts something in them, such as inner
    steps."""
    parts = [objective, *(getattr(objective, "__dict__", {}).get(name) for name in ("loss", "objective"))]
    return "/".join(_kind(part) for part in parts if part is not None)


def _kind(part: Any) -> str:
    counts = {name: value for name, value in getattr(part, "__dict__", {}).items() if isinstance(value, int | str)}
    return f"{getattr(part, '__qualname__', type(part).__qualname__)} {counts}"


def _timed(function: Any) -> tuple[Any, float]:
    began = time.process_time()
    value = function()
    return value, time.process_time() - began
