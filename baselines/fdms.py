"""FL-FDMS (friend discovery and model substitution): a client that does not report is replaced by its friend, the most
similar client.

    @article{wang2022friends,
      title = {Friends to help: Saving federated learning from client dropout},
      author = {Wang, Heqiang and Xu, Jie},
      journal = {arXiv preprint arXiv:2205.13222}, year = {2022}}

Reference 28 of the AP-FL paper. Two clients that report in the same round are as similar as (1 + cos) / 2 of the angle
between their updates; the server keeps the mean over all rounds in which both did. In place of a client that does not
report, it counts the model of the most similar client that does, with the missing client's weight. Otherwise it is
FedAvg, bit for bit while everybody reports.

The paper's clients have equal weights, and all report in its first round; here weights are Eq. 2's, and a client that
has not yet reported together with anybody who does now is left out, as FedAvg leaves it out. The clients that
drop out for good, as in AP-FL's setting, never report at all: the server knows nothing of them and cannot substitute
them. Clients that the server does not draw for a round count as clients that do not report. Its complexity reduction,
which compares fewer and fewer pairs, changes no result worth its code for ten clients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from apfl.federation import Params, Problem, Result, State, difference, flatten, weighted_mean
from baselines.fedavg import FedAvg


@dataclass(frozen=True)
class FDMS(FedAvg):
    """No hyper-parameters beyond those of local training."""

    title: ClassVar[str] = "FL-FDMS"
    additive: ClassVar[bool] = False
    server_only: ClassVar[tuple[str, ...]] = ("similarity", "together")

    def init(self, problem: Problem) -> State:
        """``similarity`` [K, K] is summed over the rounds in which both clients reported, ``together`` [K, K] counts
        these."""
        pairs = (len(problem.clients), len(problem.clients))
        similarity = torch.zeros(pairs, dtype=torch.float64, device=problem.engine.device)
        return {"global": problem.start, "similarity": similarity, "together": torch.zeros_like(similarity)}

    def server_update(self, state: State, problem: Problem, round: int, results: Sequence[Result]) -> State:
        sent = {result.client: result.params for result in results if problem.size(result.client)}
        if not sent:
            return state
        counted = {}
        for client in self.clients(problem):
            stand_in = client if client in sent else friend(state, client, sorted(sent))
            if problem.size(client) and stand_in is not None:
                counted[client] = sent[stand_in]
        weights = [problem.size(client) for client in counted]
        seen = self.compare(state, [result for result in results if result.client in sent])
        return state | seen | {"global": weighted_mean(list(counted.values()), weights)}

    @staticmethod
    def compare(state: State, results: Sequence[Result]) -> State:
        """The similarities and counts with those of this round's pairs."""
        similarity, together = state["similarity"].clone(), state["together"].clone()
        clients = torch.tensor([result.client for result in results], device=similarity.device)
        pairs = (clients[:, None], clients[None, :])
        similarity[pairs] += likeness([difference(result.work.start, result.params) for result in results])
        together[pairs] += 1
        return {"similarity": similarity, "together": together}


def likeness(updates: Sequence[Params]) -> Tensor:
    """(1 + cos) / 2 for each pair of updates, float64 [n, n]; an update of zero is at right angles to all."""
    vectors = torch.stack([flatten(update) for update in updates])
    lengths = vectors.norm(dim=1, keepdim=True)
    unit = vectors / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return (1 + unit @ unit.T) / 2


def friend(state: Mapping[str, Tensor], client: int, reporting: Sequence[int]) -> int | None:
    """The reporting client most similar to this one so far (the first of equals); None if it has met none of them."""
    met = [other for other in reporting if state["together"][client, other] > 0]
    means = {other: (state["similarity"][client, other] / state["together"][client, other]).item() for other in met}
    return max(met, key=means.__getitem__, default=None)


METHOD = FDMS
