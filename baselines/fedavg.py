"""Federated averaging: clients train the global model on their own data, and the server averages their models by
numbers of samples.

    @inproceedings{mcmahan2017communication,
      title = {Communication-efficient learning of deep networks from decentralized data},
      author = {McMahan, Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and Aguera y Arcas, Blaise},
      booktitle = {AISTATS}, year = {2017}}

The paper prints no number of rounds. Every client takes part in every round, as in its full-participation setting,
unless a study has the server draw some (``clients_per_round``): their mean is then weighted by their samples, as in
McMahan et al., where it is not the mean of all in expectation unless clients are of one size, or drawn by size. The
optimiser's state is fresh in each round, since clients are stateless in federated averaging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from apfl.federation import Method, Problem, Result, RunningMean, State, Work, streaming


@dataclass(frozen=True)
class FedAvg(Method):
    """No hyper-parameters beyond those of local training."""

    title: ClassVar[str] = "FedAvg"
    additive: ClassVar[bool] = True

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        return [Work(client, state["global"], (problem.phase(),)) for client in clients]

    @streaming
    def server_update(self, state: State, problem: Problem, round: int, results: Iterable[Result]) -> State:
        mean = RunningMean()
        for result in results:
            if problem.size(result.client):
                mean.add(result.params, problem.weight(result.client))
        return state | {"global": mean.value()} if mean.weight else state


METHOD = FedAvg
