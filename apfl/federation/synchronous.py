"""The synchronous server: rounds in which all clients of a method take part, or those that it draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from apfl.engine.networks import Params
from apfl.engine.work import Result
from apfl.federation.method import Method, State
from apfl.federation.problem import CarryOut, Problem, run_all


@dataclass(frozen=True)
class Round:
    """The federation after a round: the method's state, the last local model of each client, and the round's results,
    without their parameters if those were streamed and are not to be kept."""

    round: int
    state: State
    latest: dict[int, Params]
    results: tuple[Result, ...] = ()


def run(
    method: Method, problem: Problem, resume: Round | None = None, carry_out: CarryOut = run_all
) -> Iterator[Round]:
    """The synchronous server: yields the federation before the first round and after each one.

    All clients of the method take part in each round, or those that are drawn (`Problem.drawn`). They are independent
    given the state, so the order in which they are trained changes nothing; what they send is merged in the order of
    the clients.

    >>> from apfl.federation.method import load_method, run
    >>> for now in run(load_method("fedavg"), problem):  # doctest: +SKIP
    ...     print(now.round, accuracy(now.state["global"]))
    """
    now = resume or Round(0, method.init(problem), {})
    if resume is None:
        yield now
    for number in range(now.round + 1, problem.training.rounds + 1):
        clients = method.clients_of_round(problem, number)
        now = Round(number, *one_round(method, problem, now, number, clients, carry_out))
        yield now


def one_round(
    method: Method, problem: Problem, now: Round, number: int, clients: Sequence[int], carry_out: CarryOut
) -> tuple[State, dict[int, Params], tuple[Result, ...]]:
    """State, last local models and results of round ``number`` after ``now``, with these clients."""
    work = method.client_work(now.state, problem, number, clients)
    results = carry_out(problem, [(piece, number) for piece in work])
    if not getattr(method.server_update, "streaming", False):
        results = tuple(results)
        state = method.server_update(now.state, problem, number, results)
        return state, last_sent(problem, now.latest, results), results
    heard: list[Result] = []

    def stream() -> Iterator[Result]:
        for result in results:
            heard.append(result if problem.training.keep_local_models else replace(result, params={}))
            yield result

    sent = stream()
    state = method.server_update(now.state, problem, number, sent)  # type: ignore[arg-type]
    deque(sent, maxlen=0)  # what the method did not ask for is trained all the same
    return state, last_sent(problem, now.latest, heard), tuple(heard)


def last_sent(problem: Problem, latest: Mapping[int, Params], results: Sequence[Result]) -> dict[int, Params]:
    """The last local model of each client, after these results; none if the study does not keep them."""
    if not problem.training.keep_local_models:
        return {}
    return {**latest, **{result.client: result.params for result in results if result.role == "local"}}
