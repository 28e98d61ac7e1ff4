"""Federated averaging: clients train the global model on their own data, the server averages by their numbers of
samples.

    @inproceedings{mcmahan2017communication,
      title = {Communication-efficient learning of deep networks from decentralized data},
      author = {McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and Aguera y Arcas, Blaise},
      booktitle = {AISTATS}, year = {2017}}

The paper prints no number of rounds. Every client takes part in every round, as in its full-participation setting,
and the optimiser's state is fresh in each round, since clients are stateless in federated averaging.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from apfl.federation import Method, Problem, State, weighted_mean
from apfl.training import Result, Work


@dataclass(frozen=True)
class FedAvg(Method):
    """No hyper-parameters beyond those of local training."""

    title: ClassVar[str] = "FedAvg"
    additive: ClassVar[bool] = True

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        return [Work(client, state["global"], (problem.phase(),)) for client in clients]

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        trained = [result for result in results if problem.size(result.client)]
        if not trained:
            return state
        weights = [problem.size(result.client) for result in trained]
        return state | {"global": weighted_mean([result.params for result in trained], weights)}


METHOD = FedAvg
