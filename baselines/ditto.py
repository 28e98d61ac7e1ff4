"""Ditto: federated averaging, while each client also trains its own model, which is kept close to the global model.

    @inproceedings{li2021ditto,
      title = {Ditto: Fair and robust federated learning through personalization},
      author = {Li, Tian and Hu, Shengyuan and Beirami, Ahmad and Smith, Virginia},
      booktitle = {ICML}, year = {2021}}

The global model w is FedAvg's, bit for bit. Client k keeps a model v_k and continues it in each round on
f_k(v) + lam / 2 ||v - w||^2, with the w that it downloaded and for as many local epochs. It starts from the common
initial model. A dropout client trains its own from the last global model, for the local epochs of one round. Where the
server draws clients, v_k waits until client k is drawn again; one never drawn so far is evaluated as a dropout client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from apfl.federation import Gradient, Models, Params, Problem, Result, State, Work, require, run_work
from baselines.fedavg import FedAvg
from baselines.fedprox import Proximal


@dataclass(frozen=True)
class Ditto(FedAvg):
    """
    :param lam: weight of staying close to the global model; 1 in the scripts of the authors, who tune it over 0.1, 1
        and 2.
    """

    lam: float = 1.0

    title: ClassVar[str] = "Ditto"
    additive: ClassVar[bool] = True
    model: ClassVar[str] = "personalized"
    search: ClassVar[Mapping[str, Any]] = {
        "lam": {"low": 1e-2, "high": 10.0, "scale": "log"},
    }

    def __post_init__(self) -> None:
        require(self.lam >= 0, f"ditto.lam {self.lam}: must not be negative; 0 is local training")

    def init(self, problem: Problem) -> State:
        personal = {str(client): problem.start for client in self.clients(problem)}
        return {"global": problem.start, "clients": personal}

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        own = [self.personal_work(state, problem, client, state["clients"][str(client)]) for client in clients]
        return super().client_work(state, problem, round, clients) + own

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        sent = [result for result in results if result.role == "local"]
        kept = {str(result.client): result.params for result in results if result.role == "personalized"}
        return super().server_update(state, problem, round, sent) | {"clients": state["clients"] | kept}

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        personal = {int(client): params for client, params in state["clients"].items()}
        for client in problem.newcomers:
            work = self.personal_work(state, problem, client, state["global"])
            personal[client] = run_work(problem, work, round=0).params
        return {"global": state["global"], "personalized": personal}

    def personal_work(self, state: State, problem: Problem, client: int, start: Params) -> Work:
        """The client's own model, a round further."""
        phase = problem.phase(Gradient(Proximal(problem.loss, state["global"], self.lam)))
        return Work(client, start, (phase,), role="personalized")


METHOD = Ditto
