"""pFedMe: personal models that may differ from the global one at a price, the Moreau envelope of each client's loss.

    @inproceedings{tdinh2020personalized,
      title = {Personalized federated learning with {Moreau} envelopes},
      author = {T Dinh, Canh and Tran, Nguyen H. and Nguyen, Tuan Dung},
      booktitle = {NeurIPS}, year = {2020}}

Client k descends on F_k(w) = min over theta of f_k(theta) + lam / 2 ||theta - w||^2, whose gradient is
lam (w - theta(w)): at each local step it seeks theta on one batch by K gradient steps from w. The server moves w by
``beta`` towards the plain mean of the clients' w. Clients take as many local steps as in FedAvg, and follow the
gradient by the study's optimiser (SGD in the paper). A client's personalized model is theta(w) of the last global w, by
K exact gradient steps on all of its training data; dropout clients make theirs in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apfl.aggregation import descend, difference
from apfl.errors import require
from apfl.federation import Method, Models, Problem, State, run_work
from apfl.nets import Model, Params
from apfl.training import Gradient, Loss, Optimizer, Phase, Result, Step, Work
from baselines.fedprox import Proximal
from baselines.perfedavg import shifted

GradientOf = Callable[[Params], tuple[Tensor, Params]]
"""theta to the loss f(theta) and the gradient of h(theta) = f(theta) + lam / 2 ||theta - w||^2."""

Solver = Callable[[GradientOf, Params], tuple[Tensor, Params]]
"""(gradient of h, w) to f where it was last looked at, and theta, which minimises h as nearly as the solver goes."""


def gradient_steps(gradient_of: GradientOf, start: Params, learning_rate: float, steps: int) -> tuple[Tensor, Params]:
    """``steps`` gradient steps from ``start``."""
    theta = start
    for _ in range(steps):
        loss, gradient = gradient_of(theta)
        theta = shifted(theta, gradient, -learning_rate)
    return loss, theta


@dataclass(frozen=True)
class EnvelopeGradient:
    """The gradient lam (w - theta) of the Moreau envelope of f on the batch of a step.

    The loss that it reports is f at the last theta but one.
    """

    loss: Loss
    lam: float
    solve: Solver

    def __call__(self, model: Model, params: Params, trainable: Params, step: Step) -> tuple[Tensor, Params]:
        centre = {name: value.detach() for name, value in trainable.items()}

        def gradient_of(theta: Params) -> tuple[Tensor, Params]:
            theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
            loss, gradient = Gradient(self.loss)(model, params | theta, theta, step)
            return loss, shifted(gradient, difference(theta, centre), self.lam)

        loss, theta = self.solve(gradient_of, centre)
        return loss, {name: self.lam * gap for name, gap in difference(centre, theta).items()}


def proximal_point(problem: Problem, client: int, model: Params, lam: float, solve: Solver) -> Params:
    """theta(w) for w = ``model`` and f the loss over all of the client's training data."""
    objective = Gradient(Proximal(problem.loss, model, lam))
    phase = Phase(objective, Optimizer("sgd", 1.0), steps=1, batch_size=0, shuffle=False)

    def gradient_of(theta: Params) -> tuple[Tensor, Params]:
        result = run_work(problem, Work(client, theta, (phase,), role="personalized"), round=0)
        return torch.tensor(result.loss), difference(theta, result.params)

    return solve(gradient_of, model)[1]


@dataclass(frozen=True)
class PFedMe(Method):
    """
    :param lam: the price of differing from the global model; 15 in the authors' commands for MNIST.
    :param inner_steps: K, gradient steps towards theta; 5 in the paper.
    :param inner_learning_rate: of those steps; 0.01 as in PFLlib. The authors' 0.1, for a linear model, diverges on
        the CNN, whose curvature adds to lam.
    :param beta: the server's step; 1 in the authors' commands for MNIST.
    """

    lam: float = 15.0
    inner_steps: int = 5
    inner_learning_rate: float = 0.01
    beta: float = 1.0

    title: ClassVar[str] = "pFedMe"
    model: ClassVar[str] = "personalized"
    additive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("lam", "inner_learning_rate", "beta"):
            require(getattr(self, name) > 0, f"pfedme.{name} {getattr(self, name)}: must be positive")
        require(self.inner_steps > 0, f"pfedme.inner_steps {self.inner_steps}: must be at least 1")

    def weight(self, problem: Problem, client: int) -> float:
        """The server's mean is plain: clients with samples count alike."""
        return float(problem.size(client) > 0)

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        phase = problem.phase(EnvelopeGradient(problem.loss, self.lam, self.solve))
        return [Work(client, state["global"], (phase,)) for client in clients]

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        updates = [difference(one.work.start, one.params) for one in results if problem.size(one.client)]
        return state | {"global": descend(state["global"], updates, self.beta)}

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        shared = state["global"]
        personal = {client: proximal_point(problem, client, shared, self.lam, self.solve) for client in problem.clients}
        return {"global": shared, "personalized": personal}

    def solve(self, gradient_of: GradientOf, start: Params) -> tuple[Tensor, Params]:
        return gradient_steps(gradient_of, start, self.inner_learning_rate, self.inner_steps)


METHOD = PFedMe
