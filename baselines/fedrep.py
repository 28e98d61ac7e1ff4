"""FedRep: clients share a representation, the body of the network, and each client keeps its own head.

    @inproceedings{collins2021exploiting,
      title = {Exploiting shared representations for personalized federated learning},
      author = {Collins, Liam and Hassani, Hamed and Mokhtari, Aryan and Shakkottai, Sanjay},
      booktitle = {ICML}, year = {2021}}

In a round a client first trains its head with the body fixed, then the body with the head fixed, and sends the body;
the server averages bodies. The average is weighted by samples (Eq. 2), as in the authors' code; their paper, where
clients hold equally many samples, has the plain mean. The personalized model of a client is the new body under its last
head; a dropout client trains a head of its own from the initial one. Where the server draws clients, a head waits until
its client is drawn again; a client that was never drawn is evaluated as a dropout client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from apfl.federation import (
    Method,
    Models,
    Params,
    Phase,
    Problem,
    Result,
    Split,
    State,
    Work,
    join,
    newcomers,
    require,
    weighted_mean,
)

HEAD = Split(("head.",))


@dataclass(frozen=True)
class FedRep(Method):
    """
    :param head_epochs: epochs that train the head, before the body; 10 in the authors' code.
    :param body_epochs: epochs that train the body, after the head; 0 for the local epochs of the study's other methods.
        The authors' code has 1, and trains for more than ten times as many rounds.
    """

    head_epochs: int = 10
    body_epochs: int = 0

    title: ClassVar[str] = "FedRep"
    model: ClassVar[str] = "personalized"
    additive: ClassVar[bool] = True
    shares_global: ClassVar[bool] = False
    search: ClassVar[Mapping[str, Any]] = {
        "head_epochs": [1, 2, 5, 10, 15, 20],
        "body_epochs": [0, 1, 2, 5],
    }

    def __post_init__(self) -> None:
        require(self.head_epochs > 0, f"fedrep.head_epochs {self.head_epochs}: must be at least 1")
        require(self.body_epochs >= 0, f"fedrep.body_epochs {self.body_epochs}: must not be negative")

    def init(self, problem: Problem) -> State:
        return HEAD.initial_state(problem, self.clients(problem))

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        epochs = self.body_epochs or problem.training.local_epochs
        body = problem.phase(epochs=epochs, trainable=HEAD.is_shared)
        return [Work(client, join(state, client), (self.head_phase(problem), body)) for client in clients]

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        trained = [result for result in results if problem.size(result.client)]
        if not trained:
            return state
        weights = [problem.weight(result.client) for result in trained]
        heads = {str(result.client): HEAD.private(result.params) for result in trained}
        body = weighted_mean([HEAD.shared(result.params) for result in trained], weights)
        return {"shared": body, "clients": state["clients"] | heads}

    def client_models(self, state: State, problem: Problem, latest: Mapping[int, Params]) -> dict[str, Models]:
        personal = {client: join(state, client) for client in self.clients(problem)}
        return {"personalized": personal | newcomers(problem, state, HEAD, self.head_phase(problem))}

    def head_phase(self, problem: Problem) -> Phase:
        return problem.phase(epochs=self.head_epochs, trainable=HEAD.is_private)


METHOD = FedRep
