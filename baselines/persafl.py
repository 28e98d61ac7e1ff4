"""PersA-FL: personalized federated learning in which the server applies the clients' updates one at a time, as they
arrive.

    @article{toghani2022persafl,
      title = {{PersA-FL}: Personalized asynchronous federated learning},
      author = {Toghani, Mohammad Taha and Lee, Soomin and Uribe, César A.},
      journal = {arXiv preprint arXiv:2210.01176}, year = {2022}}

The server moves its model by each update that arrives, w - beta Delta_i, without any discount for its age; Delta_i is
what the client's local steps took away from the model that it had downloaded, by then perhaps an older one. Here, where
clients are synchronous, w moves by the mean of the Delta_i; a server that passes on one result at a time gives the
asynchronous method. Clients descend on one of two personalised losses:

    maml  f(w - alpha grad f(w)), by (I - alpha H(w; D'')) g(w - alpha g(w; D'); D) on independent batches D, D', D''
    me    min over theta of f(theta) + lam / 2 ||theta - w||^2, by lam (w - theta), where gradient steps seek theta on
          one batch D until ||grad f(theta; D) + lam (theta - w)|| <= nu

The paper leaves the inner steps' length open. Steps of one length that suits lam diverge where the CNN is more curved
than that; here they have the length of Barzilai and Borwein (1988), "Two-point step size gradient methods", which
follows the curvature as it is met.

A client's personalized model is a gradient step (or more) from w, or theta(w), by exact gradients on all of its
training data; dropout clients make theirs in the same way. Clients take as many local steps as in FedAvg, by the
study's optimiser (SGD in the paper). The paper's settings of its experiments could not be looked up: the defaults are
those of the two methods' synchronous relatives, Per-FedAvg and pFedMe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from apfl.federation import (
    Method,
    Models,
    Params,
    Phase,
    Problem,
    Result,
    State,
    Work,
    check_fields,
    descend,
    difference,
    require,
)
from baselines.perfedavg import MetaGradient, adapted_model, shifted
from baselines.pfedme import EnvelopeGradient, GradientOf, proximal_point


def steps_to_tolerance(
    gradient_of: GradientOf, start: Params, first: float, steps: int, tolerance: float
) -> tuple[Tensor, Params]:
    """Gradient steps until the norm of the gradient is at most ``tolerance``, but no more than ``steps``.

    The first has length ``first``, the others <s, y> / <y, y> with s the last step and y the change of the gradient
    over it; ``first`` again where the curvature <s, y> is not positive.
    """
    theta, length, last = start, first, None
    for _ in range(steps):
        loss, gradient = gradient_of(theta)
        if product(gradient, gradient) <= tolerance**2:
            break
        if last is not None:
            step, change = difference(theta, last[0]), difference(gradient, last[1])
            curvature = product(step, change)
            length = curvature / product(change, change) if curvature > 0 else first
        last = theta, gradient
        theta = shifted(theta, gradient, -length)
    return loss, theta


def product(first: Params, second: Params) -> float:
    """The inner product over all parameters, accumulated in float64."""
    parts = [(value.double() * second[name].double()).sum() for name, value in first.items()]
    return torch.stack(parts).sum().item()


@dataclass(frozen=True)
class PersAFL(Method):
    """
    :param form: the personalised loss: ``maml`` or ``me`` (Moreau envelope).
    :param beta: the server's step size.
    :param alpha: for ``maml``, the step size of the personal model and of the gradient within the objective; as in
        Per-FedAvg.
    :param order: for ``maml``, 2 with the exact Hessian or 1 without it.
    :param personal_steps: for ``maml``, gradient steps from the global model to a personal one.
    :param lam: for ``me``, the price of differing from the global model; as in pFedMe.
    :param nu: for ``me``, the tolerance of the inner problem, a norm of its gradient.
    :param inner_learning_rate: for ``me``, the step size of the first inner gradient step; as in pFedMe.
    :param inner_steps: for ``me``, the maximum number of these steps.
    """

    form: str = "maml"
    beta: float = 1.0
    alpha: float = 0.01
    order: int = 2
    personal_steps: int = 1
    lam: float = 15.0
    nu: float = 0.1
    inner_learning_rate: float = 0.01
    inner_steps: int = 10

    title: ClassVar[str] = "PersA-FL"
    search: ClassVar[Mapping[str, Any]] = {
        "alpha": {"low": 1e-4, "high": 1e-1, "scale": "log"},
        "beta": {"low": 0.1, "high": 1.0, "scale": "log"},
    }
    model: ClassVar[str] = "personalized"
    additive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.order in (1, 2), f"persafl.order {self.order}: must be 1 or 2")
        least = {"nu": 0, "personal_steps": 1, "inner_steps": 1}
        positive = ("beta", "alpha", "lam", "inner_learning_rate")
        check_fields(self, "persafl", at_least=least, positive=positive, one_of={"form": ("maml", "me")})

    def weight(self, problem: Problem, client: int) -> float:
        """The server's mean is plain: clients with samples count alike."""
        return float(problem.size(client) > 0)

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        return [Work(client, state["global"], (self.phase(problem),)) for client in clients]

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        updates = [difference(one.work.start, one.params) for one in results if problem.size(one.client)]
        return state | {"global": descend(state["global"], updates, self.beta)}

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        personal = {client: self.personal_model(problem, client, state["global"]) for client in problem.clients}
        return {"global": state["global"], "personalized": personal}

    def phase(self, problem: Problem) -> Phase:
        """A client's local steps."""
        if self.form == "maml":
            hessian = "exact" if self.order == 2 else "none"
            return problem.phase(MetaGradient(problem.loss, self.alpha, hessian), batches=3)
        return problem.phase(EnvelopeGradient(problem.loss, self.lam, self.solve))

    def personal_model(self, problem: Problem, client: int, shared: Params) -> Params:
        """The client's model made of the global one."""
        if self.form == "maml":
            return adapted_model(problem, client, shared, self.alpha, self.personal_steps)
        return proximal_point(problem, client, shared, self.lam, self.solve)

    def solve(self, gradient_of: GradientOf, start: Params) -> tuple[Tensor, Params]:
        return steps_to_tolerance(gradient_of, start, self.inner_learning_rate, self.inner_steps, self.nu)


METHOD = PersAFL
