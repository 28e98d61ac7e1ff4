"""The asynchronous server: carries out a `apfl.clock.timeline.Timeline` with any method whose update is additive.

What clients share is everything in a method's state but ``state["clients"]``, which each client keeps for itself. An
upload that was computed from version v changes the shared state by U - S_v, where S_v is the state that the client
downloaded and U what `Method.server_update` makes of it; that change is discounted by staleness and added to the
newest state. FedAsync moves the global model towards the client's instead. An upload that is not stale and fully
weighted is the synchronous update itself, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import Arrival, Merge, Timeline, rounds_of
from apfl.engine.work import Result
from apfl.errors import UserError
from apfl.federation.method import Method, State
from apfl.federation.problem import CarryOut, Problem, run_all
from apfl.federation.synchronous import Round, last_sent, one_round

PRIVATE = "clients"


@dataclass(frozen=True)
class AsyncRound(Round):
    """A `Round` in virtual time: when it is, the versions that clients in flight started from, how stale each model
    is."""

    time: float = 0.0
    version: int = 0
    versions: dict[int, State] = field(default_factory=dict)
    sent_version: dict[int, int] = field(default_factory=dict)


def is_additive(method: Method) -> bool:
    """Is the method's server update a sum over clients, with the hyper-parameters that it has?"""
    wanted = method.additive
    return wanted if isinstance(wanted, bool) else all(getattr(method, name) == wanted[name] for name in wanted)


def check_schedule(method: Method, schedule: Schedule, state: State | None = None) -> None:
    """A `UserError` for a method that cannot run asynchronously, or has no global model (in ``state``) to mix."""
    if schedule.mode == "async" and not is_additive(method):
        raise UserError(
            f"method {method.title}: its server update is no sum over clients, so it cannot run with "
            "schedule.mode async; choose sync, or another method"
        )

    mixes = schedule.mode == "async" and schedule.merge == "mix"
    if state is not None and mixes and shared(state) and "global" not in state:
        raise UserError(f"schedule.merge mix: {method.title} has no global model to mix; choose delta")


def shared(state: State) -> State:
    """What the server sends to every client."""
    return {name: value for name, value in state.items() if name != PRIVATE}


def payload(method: Method, state: State) -> int:
    """Bytes of what the server shares with clients: what one download moves, and one upload."""
    return _bytes({name: value for name, value in shared(state).items() if name not in method.server_only})


def _bytes(tree: State) -> int:
    return sum(_bytes(value) if isinstance(value, dict) else value.nbytes for value in tree.values())


def combine(first: State, second: State, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> State:
    """Two trees of tensors, leaf by leaf; leaves that are not floating-point are taken from the second."""
    result: State = {}
    for name, value in second.items():
        if isinstance(value, dict):
            result[name] = combine(first.get(name, {}), value, function)
        elif name in first and value.is_floating_point():
            result[name] = function(first[name], value)
        else:
            result[name] = value
    return result


def merge_uploads(
    method: Method,
    problem: Problem,
    schedule: Schedule,
    state: State,
    merge: Merge,
    groups: Sequence[tuple[State, Sequence[tuple[Arrival, list[Result]]]]],
) -> State:
    """The newest shared state after a merge; ``groups`` holds, for each version that clients started from, that state
    and its uploads."""
    total = sum(method.weight(problem, arrival.client) for arrival in merge.arrivals)
    now = shared(state)
    newest, full = now, schedule.rate(len(method.clients(problem)))
    for start, members in groups:
        arrival = members[0][0]
        results = [result for _, results in members for result in results]
        updated = shared(method.server_update(start, problem, arrival.cycle, results))
        share = sum(method.weight(problem, one.client) for one, _ in members) / total if total else 0.0
        rate = full * schedule.discount(arrival.staleness) * share
        if rate == 1 and arrival.started == merge.version - 1:
            return updated
        changed = combine(shared(start), updated, _difference)
        if schedule.merge == "mix" and "global" in updated:
            changed["global"] = combine(now["global"], updated["global"], _difference)
        for name, change in changed.items():
            added = 1.0 if name in method.exact_sums else rate
            newest = newest | combine(newest, {name: change}, partial(_add, added))
    return newest


def _difference(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return after - before


def _add(rate: float, now: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    return now + rate * change


def run_clock(
    method: Method,
    problem: Problem,
    schedule: Schedule,
    timeline: Timeline,
    resume: AsyncRound | None = None,
    carry_out: CarryOut = run_all,
) -> Iterator[AsyncRound]:
    """Carry out a timeline; yields before it and whenever another round's worth of uploads has arrived and been merged.

    Memory holds the versions that clients in flight started from, and the last model of each client.
    """
    state = method.init(problem)
    check_schedule(method, schedule, state)
    if resume is None:
        now = AsyncRound(0, state, {}, versions={0: shared(state)})
        yield now
    else:
        now = resume
    clients, rounds = method.clients(problem), problem.training.rounds
    last_use = {arrival.started: merge.version for merge in timeline.merges for arrival in merge.arrivals}
    for number, merge in rounds_of(timeline, len(clients), rounds):
        if merge.version > now.version:
            now = _carry_out(method, problem, schedule, now, merge, carry_out)
            kept = {
                version: state for version, state in now.versions.items() if last_use.get(version, 0) > merge.version
            }
            now = replace(now, versions=kept)
        while merge.version == now.version and now.round < number:
            now = replace(now, round=now.round + 1)
            yield now
    while now.round < rounds:  # nothing was ever merged
        now = replace(now, round=now.round + 1, time=timeline.arrivals[-1].time if timeline.arrivals else 0.0)
        yield now


def _carry_out(
    method: Method,
    problem: Problem,
    schedule: Schedule,
    now: AsyncRound,
    merge: Merge,
    carry_out: CarryOut,
) -> AsyncRound:
    """Train what a merge takes in, and merge it."""
    if schedule.mode == "sync":
        return _synchronous_round(method, problem, now, merge, carry_out)
    state, latest, sent_version = now.state, dict(now.latest), dict(now.sent_version)
    starts: dict[tuple[int, int], State] = {}
    members: dict[tuple[int, int], list[tuple[Arrival, list[Result]]]] = {}
    occurrences: dict[int, int] = {}
    trained: list[Result] = []
    ready: dict[int, list[Result]] = {}
    for place, arrival in enumerate(merge.arrivals):
        client = str(arrival.client)
        # A client may be in one buffer twice; its uploads are then changes of two different private states.
        occurrence = occurrences.get(arrival.client, 0)
        occurrences[arrival.client] = occurrence + 1
        key = (arrival.started, occurrence)
        start = now.versions[arrival.started]
        if PRIVATE in state:
            start = start | {PRIVATE: state[PRIVATE]}
        if place not in ready:
            # Without private states the uploads of a merge do not wait for each other.
            waiting = [(place, arrival)] if PRIVATE in state else list(enumerate(merge.arrivals))
            ready = _trained(method, problem, now, state, waiting, carry_out)
        results = ready[place]
        if PRIVATE in state:
            group = starts.get(key, start)
            starts[key] = group | {PRIVATE: group[PRIVATE] | _only(state[PRIVATE], client)}
            own = method.server_update(start, problem, arrival.cycle, results)[PRIVATE]
            state = state | {PRIVATE: state[PRIVATE] | _only(own, client)}
        else:
            starts.setdefault(key, start)
        members.setdefault(key, []).append((arrival, results))
        trained += results
        latest = last_sent(problem, latest, results)
        sent_version[arrival.client] = arrival.started
    groups = [(starts[key], members[key]) for key in sorted(members)]
    newest = merge_uploads(method, problem, schedule, state, merge, groups)
    private = {PRIVATE: state[PRIVATE]} if PRIVATE in state else {}
    return AsyncRound(
        now.round,
        newest | private,
        latest,
        tuple(trained),
        merge.time,
        merge.version,
        now.versions | {merge.version: newest},
        sent_version,
    )


def _trained(
    method: Method,
    problem: Problem,
    now: AsyncRound,
    state: State,
    arrivals: Sequence[tuple[int, Arrival]],
    carry_out: CarryOut,
) -> dict[int, list[Result]]:
    """By place in the merge, what the clients made of the versions that they started from."""
    private = {PRIVATE: state[PRIVATE]} if PRIVATE in state else {}
    work = [
        (place, piece, arrival.cycle)
        for place, arrival in arrivals
        for piece in method.client_work(
            now.versions[arrival.started] | private, problem, arrival.cycle, [arrival.client]
        )
    ]
    results = carry_out(problem, [(piece, cycle) for _, piece, cycle in work])
    made: dict[int, list[Result]] = {place: [] for place, _ in arrivals}
    for (place, _, _), result in zip(work, results, strict=True):
        made[place].append(result)
    return made


def _synchronous_round(
    method: Method, problem: Problem, now: AsyncRound, merge: Merge, carry_out: CarryOut
) -> AsyncRound:
    """A round of `apfl.federation.synchronous.run` with the clients that report; if nobody does, nothing changes."""
    reporting = [arrival.client for arrival in merge.arrivals]
    state, latest, results = now.state, now.latest, ()
    if reporting:
        state, latest, results = one_round(method, problem, now, merge.version, reporting, carry_out)
    sent = now.sent_version | dict.fromkeys(reporting, merge.version - 1)
    return AsyncRound(now.round, state, latest, results, merge.time, merge.version, {}, sent)


def _only(states: State, client: str) -> State:
    return {client: states[client]} if client in states else {}


def staleness_of(now: AsyncRound) -> dict[int, int]:
    """By client: how many versions ago the model that it last sent was begun, not counting the version it made
    itself."""
    return {client: max(0, now.version - 1 - version) for client, version in now.sent_version.items()}
