"""Local training: each client trains the common initial model on its own data and never communicates.

The paper's first baseline (section 4.1): "we send the initial global model to dropout clients and train the local model
without federated learning". A client trains for as many epochs as a federated client does in all rounds together, and
starts each round's worth with a fresh optimiser, as a federated client does. Dropout clients train too: nobody waits
for them. Where a server draws the clients of a round, all clients train here in every round all the same: a client
alone waits for no server, so that Local is the same however many clients the other methods hear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from apfl.federation import Method, Models, Params, Problem, Result, State, Work


@dataclass(frozen=True)
class Local(Method):
    """No hyper-parameters beyond those of local training."""

    title: ClassVar[str] = "Local"
    model: ClassVar[str] = "local"
    additive: ClassVar[bool] = True
    shares_global: ClassVar[bool] = False

    def clients(self, problem: Problem) -> tuple[int, ...]:
        return tuple(problem.clients)

    def clients_of_round(self, problem: Problem, round: int) -> tuple[int, ...]:
        return self.clients(problem)

    def init(self, problem: Problem) -> State:
        return {"clients": {str(client): problem.start for client in problem.clients}}

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        return [Work(client, state["clients"][str(client)], (problem.phase(),)) for client in clients]

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        return {"clients": state["clients"] | {str(result.client): result.params for result in results}}

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        return {"local": {int(client): params for client, params in state["clients"].items()}}


METHOD = Local
