"""The asynchronous server: carries out a `apfl.clock.timeline.Timeline` with any method whose update is additive.

What clients share is everything in a method's state but ``state["clients"]``, which each client keeps for itself. An
upload that was computed from version v changes the shared state by U - S_v, where S_v is the state that the client
downloaded and U what `Method.server_update` makes of it; that change is discounted by staleness and added to the
newest state. FedAsync moves the global model towards the client's instead. An upload that is not stale and fully
weighted is the synchronous update itself, bit for bit.
"""

from __future__ import annotations

from collections import Counter
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
            f"method {method.title}: its server update is not a sum over clients, or its class does not say so "
            "(additive), so it cannot run with schedule.mode async; choose sync, or another method"
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


@dataclass(frozen=True)
class Upload:
    """What a client sends: when, the state that it started from, and what it trained."""

    arrival: Arrival
    start: State
    results: Sequence[Result]

    @property
    def own(self) -> State:
        """The client's own part of the state that it started from."""
        return _only(self.start[PRIVATE], self.arrival.client)


def merge_uploads(
    method: Method, problem: Problem, schedule: Schedule, state: State, merge: Merge, uploads: Sequence[Upload]
) -> State:
    """The newest shared state after a merge of uploads."""
    total = sum(method.weight(problem, arrival.client) for arrival in merge.arrivals)
    now = shared(state)
    newest, full = now, schedule.rate(len(method.clients(problem)))
    for members in _groups(uploads):
        arrival, start = members[0].arrival, _common_start(members)
        results = [result for one in members for result in one.results]
        updated = shared(method.server_update(start, problem, arrival.cycle, results))
        share = sum(method.weight(problem, one.arrival.client) for one in members) / total if total else 0.0
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


def _groups(uploads: Sequence[Upload]) -> list[list[Upload]]:
    """Uploads that started from one version, together. A client may be in one buffer twice; its uploads then change
    two different private states, and are in two groups."""
    groups: dict[tuple[int, int], list[Upload]] = {}
    occurrences: Counter[int] = Counter()
    for upload in uploads:
        client = upload.arrival.client
        groups.setdefault((upload.arrival.started, occurrences[client]), []).append(upload)
        occurrences[client] += 1
    return [groups[key] for key in sorted(groups)]


def _common_start(members: Sequence[Upload]) -> State:
    """The state that uploads of one version started from, each with its client's own part."""
    start = members[0].start
    if PRIVATE not in start:
        return start
    return start | {PRIVATE: start[PRIVATE] | {name: own for one in members for name, own in one.own.items()}}


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
    clients, rounds = method.clients_of_round(problem, 1), problem.training.rounds
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
    method: Method, problem: Problem, schedule: Schedule, now: AsyncRound, merge: Merge, carry_out: CarryOut
) -> AsyncRound:
    """Train what a merge takes in, and merge it."""
    if schedule.mode == "sync":
        return _synchronous_round(method, problem, now, merge, carry_out)
    train = _one_after_another if PRIVATE in now.state else _all_at_once
    uploads, private = train(method, problem, now, merge, carry_out)
    newest = merge_uploads(method, problem, schedule, now.state, merge, uploads)
    results = tuple(result for upload in uploads for result in upload.results)
    sent = now.sent_version | {arrival.client: arrival.started for arrival in merge.arrivals}
    return AsyncRound(
        now.round, newest | private, last_sent(problem, now.latest, results), results, merge.time, merge.version,
        now.versions | {merge.version: newest}, sent,
    )  # fmt: skip


def _all_at_once(
    method: Method, problem: Problem, now: AsyncRound, merge: Merge, carry_out: CarryOut
) -> tuple[list[Upload], State]:
    """The uploads of a merge, which without private states do not wait for each other; and no private states."""
    return _trained(method, problem, [(one, now.versions[one.started]) for one in merge.arrivals], carry_out), {}


def _one_after_another(
    method: Method, problem: Problem, now: AsyncRound, merge: Merge, carry_out: CarryOut
) -> tuple[list[Upload], State]:
    """The uploads of a merge, and the private states after them: a client that is there twice goes on from its own."""
    private = now.state[PRIVATE]
    uploads: list[Upload] = []
    for arrival in merge.arrivals:
        start = now.versions[arrival.started] | {PRIVATE: private}
        uploads += _trained(method, problem, [(arrival, start)], carry_out)
        after = method.server_update(start, problem, arrival.cycle, uploads[-1].results)[PRIVATE]
        private = private | _only(after, arrival.client)
    return uploads, {PRIVATE: private}


def _trained(
    method: Method, problem: Problem, starts: Sequence[tuple[Arrival, State]], carry_out: CarryOut
) -> list[Upload]:
    """What the clients make of the states that they start from."""
    work = [
        (place, piece, arrival.cycle)
        for place, (arrival, start) in enumerate(starts)
        for piece in method.client_work(start, problem, arrival.cycle, [arrival.client])
    ]
    made: list[list[Result]] = [[] for _ in starts]
    results = carry_out(problem, [(piece, cycle) for _, piece, cycle in work])
    for (place, _, _), result in zip(work, results, strict=True):
        made[place].append(result)
    return [Upload(*start, own) for start, own in zip(starts, made, strict=True)]


def _synchronous_round(
    method: Method, problem: Problem, now: AsyncRound, merge: Merge, carry_out: CarryOut
) -> AsyncRound:
    """A round of `apfl.federation.synchronous.run` with the clients that report; if nobody does, nothing changes."""
    reporting = [arrival.client for arrival in merge.arrivals]
    state, latest, results = now.state, now.latest, tuple[Result, ...]()
    if reporting:
        state, latest, results = one_round(method, problem, now, merge.version, reporting, carry_out)
    sent = now.sent_version | dict.fromkeys(reporting, merge.version - 1)
    return AsyncRound(now.round, state, latest, results, merge.time, merge.version, {}, sent)


def _only(states: State, client: int) -> State:
    name = str(client)
    return {name: states[name]} if name in states else {}


def staleness_of(now: AsyncRound) -> dict[int, int]:
    """By client: how many versions ago the model that it last sent was begun, not counting the version it made
    itself."""
    return {client: max(0, now.version - 1 - version) for client, version in now.sent_version.items()}
