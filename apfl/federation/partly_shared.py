"""Partly personal models: some parameters are shared by all clients, the others are private to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apfl.engine.networks import Params
from apfl.engine.work import Phase, Work
from apfl.errors import require
from apfl.federation.method import State
from apfl.federation.problem import Problem, run_work


@dataclass(frozen=True)
class Split:
    """The parameters whose names begin with one of ``prefixes`` are private.

    >>> Split(("head.",)).is_private("head.bias"), Split(("head.",)).is_private("body.0.bias")
    (True, False)
    """

    prefixes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Split:
        """The split that a comma-separated list of prefixes means."""
        return cls(tuple(part.strip() for part in text.split(",") if part.strip()))

    def check(self, params: Params, where: str) -> None:
        """A `UserError` unless each prefix names some parameters, and some are left to share."""
        for prefix in self.prefixes:
            known = ", ".join(params)
            found = any(name.startswith(prefix) for name in params)
            require(found, f"{where} {prefix!r}: names none of the network's parameters; they are {known}")
        private = sum(map(self.is_private, params))
        require(
            0 < private < len(params),
            f"{where} {','.join(self.prefixes)!r}: must make some parameters private, not all",
        )

    def is_private(self, name: str) -> bool:
        return name.startswith(self.prefixes)

    def is_shared(self, name: str) -> bool:
        return not self.is_private(name)

    def private(self, params: Params) -> Params:
        return {name: value for name, value in params.items() if self.is_private(name)}

    def shared(self, params: Params) -> Params:
        return {name: value for name, value in params.items() if self.is_shared(name)}

    def initial_state(self, problem: Problem, clients: Sequence[int]) -> State:
        """One shared part, and a private one for each of ``clients``."""
        private = self.private(problem.start)
        return {"shared": self.shared(problem.start), "clients": {str(client): private for client in clients}}


def join(state: State, client: int) -> Params:
    """The client's model: the shared part with its private one."""
    return state["shared"] | state["clients"][str(client)]  # type: ignore[no-any-return]


def newcomers(problem: Problem, state: State, split: Split, tuning: Phase) -> dict[int, Params]:
    """The models of the clients that took no part: the shared part, with a private part tuned on their data from the
    initial one."""
    start = state["shared"] | split.private(problem.start)
    work = [Work(client, start, (tuning,), role="personalized") for client in problem.newcomers]
    return {piece.client: run_work(problem, piece, round=0).params for piece in work}
