"""FedProx: federated averaging with a proximal term that keeps the clients close to the global model.

    @inproceedings{li2020federated,
      title = {Federated optimization in heterogeneous networks},
      author = {Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and Talwalkar, Ameet and
                Smith, Virginia},
      booktitle = {MLSys}, year = {2020}}

Client k minimises f_k(w) + mu/2 ||w - w_t||^2 from the global model w_t. With ``mu`` 0 it is FedAvg, bit for bit. The
gradient of the term is part of the gradient that Adam normalises, as in the paper's set-up of one optimiser for all
methods; FedProx's own experiments use plain SGD and let stragglers do less work, of which there are none here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from apfl.federation import Gradient, Loss, Model, Params, Problem, State, Step, Work, require
from baselines.fedavg import FedAvg


@dataclass(frozen=True)
class Proximal:
    """f(w) + mu/2 ||w - anchor||^2."""

    loss: Loss
    anchor: Params
    mu: float

    @property
    def stackable(self) -> bool:
        return getattr(self.loss, "stackable", False)

    def __call__(self, model: Model, params: Params, step: Step) -> Tensor:
        distance = sum((value - self.anchor[name]).square().sum() for name, value in params.items())
        return self.loss(model, params, step) + self.mu / 2 * distance


@dataclass(frozen=True)
class FedProx(FedAvg):
    """
    :param mu: weight of the proximal term; not published by the paper, 0.01 as in Flower's and FL-bench's benchmarks
        (Li et al. 2020 tune it over 0.001, 0.01, 0.1 and 1).
    """

    mu: float = 0.01

    title: ClassVar[str] = "FedProx"
    search: ClassVar[Mapping[str, Any]] = {
        "mu": {"low": 1e-4, "high": 1.0, "scale": "log"},
    }

    def __post_init__(self) -> None:
        require(self.mu >= 0, f"fedprox.mu {self.mu}: must not be negative; 0 is FedAvg")

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        phase = problem.phase(Gradient(Proximal(problem.loss, state["global"], self.mu)))
        return [Work(client, state["global"], (phase,)) for client in clients]


METHOD = FedProx
