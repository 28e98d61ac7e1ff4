"""FedAvg-FT: each client fine-tunes the global model once on its own data.

The paper's second baseline of the dropout setting (section 4.1): "one-off fine-tuning training for the global model
trained by the non-dropout client in the dropout client". One fine-tuning is the local epochs of one round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from apfl.federation import BaseModels, Derived, Models, Problem
from apfl.memorization.friends import localize


@dataclass(frozen=True)
class FedAvgFT(Derived):
    """No hyper-parameters beyond those of local training."""

    title: ClassVar[str] = "FedAvg-FT"
    model: ClassVar[str] = "localized"

    def personalize(self, problem: Problem, base: BaseModels, round: int, generator: Any = None) -> dict[str, Models]:
        return {"localized": localize(problem, problem.clients, base.global_model, round)}

    def effort(self, problem: Problem, base: BaseModels) -> dict[int, tuple[int, int]]:
        """By client, how many images it trains on, each as often as it is seen; none is synthetic."""
        return {client: (problem.training.local_epochs * problem.size(client), 0) for client in problem.clients}


METHOD = FedAvgFT
