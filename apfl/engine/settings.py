"""The training section of a study, as the engine takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apfl.engine.optimizers import Optimizer
from apfl.engine.work import Gradient, Objective, Phase
from apfl.errors import UserError, check_fields, require


@dataclass(frozen=True)
class TrainingConfig:
    """The training section of a study.

    :param rounds: communication rounds (not published; design decision of each study).
    :param local_epochs: passes over a client's data in one round (20 in the paper).
    :param batch_size: 50 in the paper; a short last batch is kept.
    :param learning_rate: 2e-4 in the paper.
    :param optimizer: ``adam`` in the paper; its state is fresh in every round.
    :param momentum: of ``sgd`` (heavy ball), from 0 and below 1.
    :param precision: ``fp32``, ``bf16``, or ``auto``: bf16 only where the processor has it.
    :param evaluate_rounds: rounds after which models are evaluated; empty: the last one.
    :param save_rounds: rounds whose models are kept for later stages; empty: the last one.
    :param keep_local_models: keep each client's last local model, for evaluation and for AP-FL; memory then grows with
        the number of clients.
    :param checkpoint_every: rounds between checkpoints from which an interrupted run goes on.
    :param clients_per_round: how many clients, or which fraction of them, take part in a synchronous round; all if it
        is None.
    :param client_sampling: how they are drawn: ``uniform``, or ``size``, with probability in proportion to their
        training images.
    """

    rounds: int
    local_epochs: int = 20
    batch_size: int = 50
    learning_rate: float = 2e-4
    optimizer: str = "adam"
    precision: str = "auto"
    evaluate_rounds: tuple[int, ...] = ()
    save_rounds: tuple[int, ...] = ()
    keep_local_models: bool = True
    checkpoint_every: int = 5
    clients_per_round: float | None = None
    client_sampling: str = "uniform"
    momentum: float = 0.0

    def __post_init__(self) -> None:
        whole = ("rounds", "local_epochs", "batch_size", "checkpoint_every")
        known = {"client_sampling": ("uniform", "size")}
        check_fields(self, "training", at_least=dict.fromkeys(whole, 1), positive=("learning_rate",), one_of=known)
        if (some := self.clients_per_round) is not None and not (0 < some < 1 or (some >= 1 and type(some) is int)):
            raise UserError(
                f"training.clients_per_round {some}: must be a whole number from 1 or a fraction below 1; leave it out "
                "for all clients"
            )
        require(
            not self.momentum or self.optimizer == "sgd",
            f"training.momentum {self.momentum}: adam has moments of its own; leave it out, or choose sgd",
        )
        for name in ("evaluate_rounds", "save_rounds"):
            rounds = tuple(sorted(set(getattr(self, name)))) or (self.rounds,)
            if rounds[0] < 0 or rounds[-1] > self.rounds:
                raise UserError(f"training.{name} {list(rounds)}: must be from 0 to {self.rounds}, the last round")
            object.__setattr__(self, name, rounds)

    @property
    def local_optimizer(self) -> Optimizer:
        return Optimizer(self.optimizer, self.learning_rate, self.momentum)

    def phase(self, objective: Objective | None = None, **changes: Any) -> Phase:
        """A phase of ordinary local training, with the changes that a method makes."""
        settings: dict[str, Any] = {
            "optimizer": self.local_optimizer,
            "epochs": self.local_epochs,
            "batch_size": self.batch_size,
        }
        return Phase(objective or Gradient(), **(settings | changes))
