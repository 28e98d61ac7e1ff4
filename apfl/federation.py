"""The method protocol, and the synchronous server.

A method is four pure functions over an explicit state, on a frozen dataclass of its hyper-parameters:

    init           the state before the first round
    client_work    which clients train what
    server_update  the state after a round, from what the clients sent
    client_models  the model that each client would use

A state is a nested dictionary with string keys and tensors as leaves, so that saving, resuming and moving it between
devices need no help from the method. `run` is the synchronous server; it yields after each round and does nothing
else: whoever drives it evaluates, saves and prints. Methods that start from another method's models, such as
fine-tuning and AP-FL, derive from `Derived` instead.
"""

from __future__ import annotations

import importlib
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from apfl.errors import UserError
from apfl.nets import Model, Params
from apfl.stacked import Job, train_stack
from apfl.training import (
    Engine,
    Gradient,
    Images,
    Loss,
    Objective,
    Phase,
    Result,
    Samples,
    TrainingConfig,
    Work,
    cross_entropy,
    train,
)

State = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Everything that is given to a method: data, partition, network, training settings and the seed.

    ``counts`` [K, classes] are training samples; ``train[k]``, ``validation[k]`` and ``test[k]`` index ``images``,
    where ``validation`` is empty if nothing was set aside: choices are made on it, never on ``test``. ``unseen``
    [classes] marks the classes that dropout clients alone hold. ``start`` is the initial model that all methods of a
    seed share. ``loss`` is f of the papers: what clients minimise.
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

    def size(self, client: int) -> int:
        """|D_k|, the number of training samples of a client."""
        return len(self.train[client])


def run_work(problem: Problem, work: Work, round: int) -> Result:
    """Carry out one piece of work on the client's own training data, or on the samples that the work brings along."""
    samples, indices = _samples(problem, work)
    return train(problem.model, work, samples, indices, problem.engine, problem.seed, round)


def run_all(problem: Problem, work: Iterable[tuple[Work, int]]) -> Iterable[Result]:
    """Carry out pieces of work, each with its round, that do not wait for each other: one after another, or as many at
    once as the engine stacks. The results are in their order, and are trained when they are asked for."""
    if problem.engine.stack < 2:
        return (run_work(problem, piece, round) for piece, round in work)
    return _run_stacks(problem, iter(work))


STACKS = 8
"""Stacks among which pieces of work are sorted by length, and whose results are there at a time."""


def _run_stacks(problem: Problem, work: Iterator[tuple[Work, int]]) -> Iterator[Result]:
    while some := jobs_of(problem, islice(work, STACKS * problem.engine.stack)):
        yield from train_stack(problem.model, some, problem.engine)


def jobs_of(problem: Problem, work: Iterable[tuple[Work, int]]) -> list[Job]:
    """Pieces of work, each with its round, with all that it takes to train them."""
    return [Job(piece, *_samples(problem, piece), problem.seed, round) for piece, round in work]


CarryOut = Callable[[Problem, Sequence[tuple[Work, int]]], Iterable[Result]]
"""What trains, as `run_all` does."""


def _samples(problem: Problem, work: Work) -> tuple[Samples, Tensor]:
    """What a piece of work trains on: its own samples, or else the client's training data."""
    return (problem.images, problem.train[work.client]) if work.samples is None else (work.samples, work.indices)


def streaming(server_update: Callable) -> Callable:
    """Mark a `Method.server_update` that goes over its results once and keeps none of them.

    It is given each result when it is trained, so that memory holds one model and not one of every client. A method
    that overrides `server_update` without this mark gets a sequence, whatever its base does.
    """
    server_update.streaming = True
    return server_update


class Method:
    """A federated method: derive a frozen dataclass whose fields are its hyper-parameters.

    The class variables are read without importing the file: ``title`` heads its column in the tables, ``model`` is
    the role of the model that the tables show, ``needs`` names further inputs (``semantics``, ``proxy``). ``additive``
    says whether the server update is a sum over clients, so that they may come one at a time; where that depends on
    hyper-parameters it holds the values with which it is one. Each client's own state is then under
    ``state["clients"]``; ``exact_sums`` names keys of the state that are added in full, whatever the discount of a
    stale update. ``server_only`` names keys that are never sent to clients. ``shares_global`` says whether there is a
    global model, from which derived methods start.
    """

    title: ClassVar[str]
    stage: ClassVar[str] = "federate"
    model: ClassVar[str] = "global"
    needs: ClassVar[tuple[str, ...]] = ()
    additive: ClassVar[bool | Mapping[str, Any]] = False
    shares_global: ClassVar[bool] = True
    exact_sums: ClassVar[tuple[str, ...]] = ()
    server_only: ClassVar[tuple[str, ...]] = ()

    def weight(self, problem: Problem, client: int) -> float:
        """How much a client counts in the server's mean: by default its number of samples (Eq. 2)."""
        return float(problem.size(client))

    def clients(self, problem: Problem) -> tuple[int, ...]:
        """The clients that take part."""
        return problem.participants

    def init(self, problem: Problem) -> State:
        """The state before the first round."""
        return {"global": problem.start}

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        """What each of ``clients`` trains in this round."""
        raise TypeError(f"{type(self).__name__} defines no client_work")

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        """The state after the round; ``results`` are in the order of the clients, and may be empty. With the mark
        `streaming` they can be gone over only once."""
        raise TypeError(f"{type(self).__name__} defines no server_update")

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        """By role, the model of every client, or of each; ``latest`` holds the last local model that each client
        sent."""
        return {"global": state["global"], "local": dict(latest)}


Models = Params | dict[int, Params]
"""One model for all clients, or one each."""


class Derived:
    """A method on top of another one's finished rounds, such as fine-tuning; its base is any federated method.

    ``base`` names the default one; ``needs`` may name the ``generator``.
    """

    title: ClassVar[str]
    stage: ClassVar[str] = "personalize"
    model: ClassVar[str] = "personalized"
    base: ClassVar[str] = "fedavg"
    needs: ClassVar[tuple[str, ...]] = ()

    def personalize(self, problem: Problem, base: BaseModels, round: int, generator: Any = None) -> dict[str, Models]:
        """By role, the models that the clients make of the base method's state after ``round``."""
        raise TypeError(f"{type(self).__name__} defines no personalize")


@dataclass(frozen=True)
class BaseModels:
    """What a base method leaves after a round: its global model, the last local model of each client that ever sent
    one, and how many versions old each of those is (0 where nothing is said)."""

    global_model: Params
    local_models: dict[int, Params]
    staleness: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """The federation after a round: the method's state, the last local model of each client, and the round's results,
    without their parameters if those were streamed and are not to be kept."""

    round: int
    state: State
    latest: dict[int, Params]
    results: tuple[Result, ...] = ()


def run(
    method: Method,
    problem: Problem,
    resume: Round | None = None,
    carry_out: CarryOut = run_all,
) -> Iterator[Round]:
    """The synchronous server: yields the federation before the first round and after each one.

    All clients of the method take part in each round. Clients are independent given the state, so the order in which
    they are trained changes nothing; what they send is merged in the order of the clients.

    >>> from apfl.federation import load_method, run
    >>> for now in run(load_method("fedavg"), problem):  # doctest: +SKIP
    ...     print(now.round, accuracy(now.state["global"]))
    """
    now = resume or Round(0, method.init(problem), {})
    if resume is None:
        yield now
    clients = method.clients(problem)
    for number in range(now.round + 1, problem.training.rounds + 1):
        now = Round(number, *one_round(method, problem, now, number, clients, carry_out))
        yield now


def one_round(
    method: Method, problem: Problem, now: Round, number: int, clients: Sequence[int], carry_out: CarryOut
) -> tuple[State, dict[int, Params], tuple[Result, ...]]:
    """State, last local models and results of round ``number`` after ``now``, with these clients."""
    work = method.client_work(now.state, problem, number, clients)
    results = carry_out(problem, [(piece, number) for piece in work])
    if not getattr(method.server_update, "streaming", False):
        results = tuple(results)
        state = method.server_update(now.state, problem, number, results)
        return state, last_sent(problem, now.latest, results), results
    heard: list[Result] = []

    def stream() -> Iterator[Result]:
        for result in results:
            heard.append(result if problem.training.keep_local_models else replace(result, params={}))
            yield result

    sent = stream()
    state = method.server_update(now.state, problem, number, sent)
    deque(sent, maxlen=0)  # what the method did not ask for is trained all the same
    return state, last_sent(problem, now.latest, heard), tuple(heard)


def last_sent(problem: Problem, latest: Mapping[int, Params], results: Sequence[Result]) -> dict[int, Params]:
    """The last local model of each client, after these results; none if the study does not keep them."""
    if not problem.training.keep_local_models:
        return {}
    return {**latest, **{result.client: result.params for result in results if result.role == "local"}}


def weighted_mean(models: Sequence[Params], weights: Sequence[float]) -> Params:
    """sum_k w_k theta_k / sum_k w_k (Eq. 2), accumulated in float64 and rounded once.

    So the mean of equal models is that model, and the mean of one model is itself, bit for bit.
    """
    mean = RunningMean()
    for model, weight in zip(models, weights, strict=True):
        mean.add(model, weight)
    return mean.value()


class RunningMean:
    """A `weighted_mean` of models that come one at a time and need not be kept."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._sums: Params = {}
        self._types: dict[str, torch.dtype] = {}

    def add(self, model: Params, weight: float) -> None:
        if not self._sums:
            self._sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in model.items()}
            self._types = {name: value.dtype for name, value in model.items()}
        for name, total in self._sums.items():
            total.add_(model[name].to(torch.float64), alpha=weight)
        self.weight += weight

    def value(self) -> Params:
        """The mean; a ValueError if nothing has been added, or only with weight zero."""
        if self.weight <= 0:
            raise ValueError("a mean needs at least one model of positive weight")
        return {name: (total / self.weight).to(self._types[name]) for name, total in self._sums.items()}


def load_method(module: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """The method of ``baselines/{module}.py`` with these hyper-parameters."""
    try:
        kind = importlib.import_module(f"baselines.{module}").METHOD
    except ModuleNotFoundError as error:
        if error.name == f"baselines.{module}":
            raise UserError(
                f"method {module!r}: there is no baselines/{module}.py; `apfl methods` lists those there are"
            ) from None
        raise UserError(f"baselines/{module}.py: needs {error.name}, which is not installed; install it") from None
    except Exception as error:  # whatever the code of a method does when it is imported
        line = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(line.filename).name}, line {line.lineno}"
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"baselines/{module}.py: cannot be imported ({place}: {problem}); correct the file") from None
    if not (isinstance(kind, type) and issubclass(kind, Method | Derived)):
        raise UserError(f"baselines/{module}.py: METHOD {kind!r} is no class derived from Method or Derived; name one")
    try:
        return kind(**(parameters or {}))
    except TypeError as error:
        raise UserError(f"method {module!r}: {error}; `apfl methods` lists its hyper-parameters") from None
