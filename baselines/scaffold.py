"""SCAFFOLD: control variates correct the drift of local training.

    @inproceedings{karimireddy2020scaffold,
      title = {{SCAFFOLD}: Stochastic controlled averaging for federated learning},
      author = {Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank and Stich, Sebastian
                and Suresh, Ananda Theertha},
      booktitle = {ICML}, year = {2020}}

The server keeps a control variate c and every client one, c_i; all start at zero. Client i takes K steps of size eta
from the server's model x to y_i, each corrected by c - c_i, and renews its control variate by one of two options:

    I   c_i+ = the gradient of f_i at x over all of the client's data
    II  c_i+ = c_i - c + (x - y_i) / (K eta), the mean of the K directions that it would have followed uncorrected

The server moves x by ``server_learning_rate`` towards the mean of the y_i, and c to c + mean_i (c_i+ - c_i).

SCAFFOLD is defined for SGD. The paper trains all methods with Adam, and does not say what it corrects. Control variates
must be of the kind that they correct: those of option I are gradients, so Adam gets the corrected gradient, which is
that of f_i(w) + <c - c_i, w>; those of option II are Adam's directions, so the correction is added to Adam's step, as
Li et al. (2022), "Federated learning on non-IID data silos", do. For SGD without momentum the two are the same. Option
II is the default: f_i plus a linear function is unbounded below, and since Adam's steps do not shrink with the
gradient, they follow option I's correction away from any solution when clients are few and unlike.

Both means weigh clients by samples, so that SCAFFOLD has the objective of FedAvg (Eq. 2); its paper's clients are of
one size, ``weights`` "uniform" is its formula. Weighing only one mean would leave corrections that do not cancel.

Where the server draws the clients S of a round from all N, it moves c by |S| / N times the mean of the changes over S
(Algorithm 1), which keeps c the mean of all c_i; weighted by samples that is sum over S of n_i / n (c_i+ - c_i). A
client keeps its c_i until it is drawn again; that of one that was never drawn is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from apfl.federation import (
    Gradient,
    Loss,
    Method,
    Model,
    Optimizer,
    Params,
    Problem,
    Result,
    State,
    Step,
    Work,
    channels_last,
    check_fields,
    weighted_mean,
)


@dataclass(frozen=True)
class Corrected:
    """f(w) + <correction, w>, whose gradient is that of f plus the correction."""

    loss: Loss
    correction: Params

    @property
    def stackable(self) -> bool:
        return getattr(self.loss, "stackable", False)

    def __call__(self, model: Model, params: Params, step: Step) -> Tensor:
        linear = sum((self.correction[name] * value).sum() for name, value in params.items())
        return self.loss(model, params, step) + linear


@dataclass(frozen=True)
class GradientAt:
    """The gradient at fixed parameters, wherever training stands.

    One SGD step of length one from zero then ends at minus this gradient, free of the rounding of x - (x - g).
    """

    loss: Loss
    at: Params

    def __call__(self, model: Model, params: Params, trainable: Params, step: Step) -> tuple[Tensor, Params]:
        at = {name: value.requires_grad_() for name, value in channels_last(self.at).items()}
        return Gradient(self.loss)(model, at, at, step)


@dataclass(frozen=True)
class Scaffold(Method):
    """
    :param option: how clients renew their control variates: ``I`` or ``II`` (the one in SCAFFOLD's experiments).
    :param optimizer: the clients' optimiser: ``training`` (the study's, Adam in the paper) or ``sgd`` (as in SCAFFOLD's
        paper).
    :param sgd_learning_rate: learning rate of ``sgd``; 0.01 as tuned for SCAFFOLD by Li et al. (2022), "Federated
        learning on non-IID data silos".
    :param server_learning_rate: learning rate of the server's step; 1 in SCAFFOLD's experiments.
    :param weights: clients' weights in both means: ``samples`` (Eq. 2) or ``uniform`` (SCAFFOLD's paper).
    """

    option: str = "II"
    optimizer: str = "training"
    sgd_learning_rate: float = 0.01
    server_learning_rate: float = 1.0
    weights: str = "samples"

    title: ClassVar[str] = "SCAFFOLD"
    additive: ClassVar[bool] = True
    exact_sums: ClassVar[tuple[str, ...]] = ("control",)
    search: ClassVar[Mapping[str, Any]] = {
        "option": ["I", "II"],
        "server_learning_rate": {"low": 0.1, "high": 1.0, "scale": "log"},
    }

    def __post_init__(self) -> None:
        known = {"option": ("I", "II"), "optimizer": ("training", "sgd"), "weights": ("uniform", "samples")}
        check_fields(self, "scaffold", positive=("sgd_learning_rate", "server_learning_rate"), one_of=known)

    def init(self, problem: Problem) -> State:
        zero = {name: torch.zeros_like(value) for name, value in problem.start.items()}
        return {"global": problem.start, "control": zero, "clients": {str(k): zero for k in self.clients(problem)}}

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        work = []
        for client in clients:
            correction = _combine(state["control"], state["clients"][str(client)], -1)
            optimizer = self.local_optimizer(problem)
            if self.option == "I":
                phase = problem.phase(Gradient(Corrected(problem.loss, correction)), optimizer=optimizer)
                work.append(self.gradient_work(problem, state["global"], client))
            else:
                phase = problem.phase(optimizer=optimizer, drift=correction)
            work.append(Work(client, state["global"], (phase,)))
        return work

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        sent = {(result.client, result.role): result for result in results if problem.size(result.client)}
        models = {client: result for (client, role), result in sent.items() if role == "local"}
        if not models:
            return state
        total = sum(self.share(problem, client) for client in self.clients(problem))
        control, clients = state["control"], dict(state["clients"])
        for client, result in models.items():
            renewed = self.renewed_control(problem, result, sent.get((client, "control")))
            change = _combine(renewed, clients[str(client)], -1)
            control = _combine(control, change, self.share(problem, client) / total)
            clients[str(client)] = renewed
        weights = [self.weight(problem, client) for client in models]
        mean = weighted_mean([result.params for result in models.values()], weights)
        stay = 1 - self.server_learning_rate
        moved = {name: torch.lerp(value, state["global"][name], stay) for name, value in mean.items()}
        return {"global": moved, "control": control, "clients": clients}

    def local_optimizer(self, problem: Problem) -> Optimizer:
        return Optimizer("sgd", self.sgd_learning_rate) if self.optimizer == "sgd" else problem.training.local_optimizer

    def gradient_work(self, problem: Problem, at: Params, client: int) -> Work:
        """Minus the gradient of f_i at the server's model, as parameters."""
        zero = {name: torch.zeros_like(value) for name, value in at.items()}
        once = {"optimizer": Optimizer("sgd", 1.0), "steps": 1, "batch_size": 0, "shuffle": False}
        return Work(client, zero, (problem.phase(GradientAt(problem.loss, at), **once),), role="control")

    def renewed_control(self, problem: Problem, local: Result, gradient: Result | None) -> Params:
        """c_i+ by option I (``gradient`` is what `gradient_work` sent) or II."""
        if gradient is not None:
            return {name: -value for name, value in gradient.params.items()}
        scale = 1 / (local.steps * self.local_optimizer(problem).learning_rate)
        start, correction = local.work.start, local.work.phases[0].drift
        return {name: scale * (start[name] - value) - correction[name] for name, value in local.params.items()}  # type: ignore[index]

    def weight(self, problem: Problem, client: int) -> float:
        """A client's weight in the mean of the models; clients without samples have none."""
        return problem.weight(client) if self.weights == "samples" else float(problem.size(client) > 0)

    def share(self, problem: Problem, client: int) -> float:
        """A client's weight in c, the mean of the control variates of all clients, whoever takes part."""
        size = problem.size(client)
        return float(size if self.weights == "samples" else size > 0)


def _combine(first: Mapping[str, Tensor], second: Mapping[str, Tensor], factor: float) -> Params:
    """first + factor * second."""
    return {name: torch.add(value, second[name], alpha=factor) for name, value in first.items()}


METHOD = Scaffold
