"""Everything that is given to a method, and how its work is carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor

from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import Model, Params
from apfl.engine.settings import TrainingConfig
from apfl.engine.stack import train_stack
from apfl.engine.training import train
from apfl.engine.work import Gradient, Loss, Objective, Phase, Result, Task, Work, cross_entropy
from apfl.federation.participation import draw, inclusion, number_drawn
from apfl.streams import numpy_stream


@dataclass(frozen=True)
class Problem:
    """Everything that is given to a method: data, partition, network, training settings and the seed.

    ``counts`` [K, classes] are training samples; ``train[k]``, ``validation[k]`` and ``test[k]`` index ``images``,
    where ``validation`` is empty if nothing was set aside: choices are made on it, never on ``test``. ``unseen``
    [classes] marks the classes that dropout clients alone hold. ``start`` is the initial model that all methods of a
    seed share. ``loss`` is f of the papers: what clients minimise. ``unheard`` are participants that have taken part in
    no round so far; it is filled in where models are evaluated.
    """

    model: Model
    images: Images
    train: tuple[Tensor, ...]
    test: tuple[Tensor, ...]
    counts: Tensor
    dropout: tuple[bool, ...]
    unseen: Tensor
    training: TrainingConfig
    seed: int
    start: Params
    engine: Engine = field(default_factory=Engine)
    semantics: Tensor | None = None
    proxy: Images | None = None
    loss: Loss = cross_entropy
    validation: tuple[Tensor, ...] = ()
    unheard: frozenset[int] = frozenset()

    def phase(self, objective: Objective | None = None, **changes: Any) -> Phase:
        """A phase of ordinary local training on this problem's loss, with the changes that a method makes."""
        return self.training.phase(objective or Gradient(self.loss), **changes)

    @property
    def clients(self) -> range:
        return range(len(self.train))

    @property
    def classes(self) -> int:
        return self.counts.shape[1]

    @property
    def participants(self) -> tuple[int, ...]:
        """The clients that the server ever sees: those that do not drop out."""
        return tuple(client for client in self.clients if not self.dropout[client])

    @property
    def dropouts(self) -> tuple[int, ...]:
        return tuple(client for client in self.clients if self.dropout[client])

    @property
    def newcomers(self) -> tuple[int, ...]:
        """The clients that have taken no part in training: dropout clients, and those that were never drawn."""
        return tuple(client for client in self.clients if self.dropout[client] or client in self.unheard)

    def size(self, client: int) -> int:
        """|D_k|, the number of training samples of a client."""
        return len(self.train[client])

    @property
    def draws(self) -> bool:
        """Does the server draw the clients of each round?"""
        return self.training.clients_per_round is not None

    def drawn(self, round: int) -> tuple[int, ...]:
        """The participants that take part in a round: those that the server draws among all that have samples, or else
        all. Every method of a seed has the same."""
        if not self.draws:
            return self.participants
        chosen = draw(*self._lots, numpy_stream(self.seed, "clients", round=round))
        return tuple(self._sampled[place] for place in chosen)

    def weight(self, client: int) -> float:
        """How much a client counts in a mean over those who take part in a round so that, in expectation, the mean is
        that by samples (Eq. 2): |D_k|, or |D_k| / pi_k where clients are drawn by size."""
        if not self.draws or self.training.client_sampling == "uniform" or client not in self._sampled:
            return float(self.size(client))
        sizes, number = self._lots
        return self.size(client) / float(inclusion(sizes, number)[self._sampled.index(client)])

    @property
    def _sampled(self) -> tuple[int, ...]:
        return tuple(client for client in self.participants if self.size(client))

    @property
    def _lots(self) -> tuple[np.ndarray, int]:
        """What the clients among whom is drawn are drawn by, int64, and how many of them are."""
        clients, by_size = self._sampled, self.training.client_sampling == "size"
        sizes = np.array([self.size(client) if by_size else 1 for client in clients], np.int64)
        return sizes, number_drawn(self.training.clients_per_round, len(clients))


def run_work(problem: Problem, work: Work, round: int) -> Result:
    """Carry out one piece of work on the client's own training data, or on the samples that the work brings along."""
    return train(problem.model, task_of(problem, work, round), problem.engine)


def task_of(problem: Problem, work: Work, round: int) -> Task:
    """A piece of work with what it is trained on: the samples that it brings along, or else the client's own training
    data."""
    own = (problem.images, problem.train[work.client])
    return Task(work, *(own if work.samples is None else (work.samples, work.indices)), problem.seed, round)  # type: ignore[arg-type]


def run_all(problem: Problem, work: Iterable[tuple[Work, int]]) -> Iterable[Result]:
    """Carry out pieces of work, each with its round, that do not wait for each other: one after another, or as many at
    once as the engine stacks. The results are in their order, and are trained when they are asked for."""
    if problem.engine.stack < 2:
        return (run_work(problem, piece, round) for piece, round in work)
    return _run_stacks(problem, iter(work))


STACKS = 8
"""Stacks among which pieces of work are sorted by length, and whose results are there at a time."""


def _run_stacks(problem: Problem, work: Iterator[tuple[Work, int]]) -> Iterator[Result]:
    while some := [task_of(problem, *piece) for piece in islice(work, STACKS * problem.engine.stack)]:
        yield from train_stack(problem.model, some, problem.engine)


CarryOut = Callable[[Problem, Sequence[tuple[Work, int]]], Iterable[Result]]
"""What trains, as `run_all` does."""
