"""Virtual time: who trains when, and what the server merges.

A client's cycle is a download, local training and an upload; each takes time. When an upload arrives, the server merges
it at once (a buffer of one) or with the next ones (a larger buffer), and the client starts its next cycle from the
server's newest version. None of this depends on what training finds, so the whole course of events is known before
anything is trained: `plan` computes it, and `apfl.federation.asynchronous` carries it out. docs/asynchrony.md works one
timeline out by hand.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from apfl.clock.schedule import LATENCIES, Schedule
from apfl.errors import require
from apfl.streams import numpy_stream


@dataclass(frozen=True)
class Arrival:
    """An upload reaching the server: the ``cycle``-th (from 1) of ``client``, trained from version ``started``.

    ``version`` is the server's when it is merged (or discarded); ``fate`` is merged, lost (the client had dropped out),
    discarded (too stale) or waiting (in a buffer that the end found unfilled). Times are virtual.
    """

    client: int
    cycle: int
    start: float
    time: float
    started: int
    version: int
    fate: str

    @property
    def staleness(self) -> int:
        """How many versions the server has made since the client's download."""
        return self.version - self.started


@dataclass(frozen=True)
class Merge:
    """The server makes version ``version`` at ``time`` from these uploads, which are in the order of the clients.

    ``arrived`` counts the uploads, lost ones among them, since the beginning.
    """

    time: float
    version: int
    arrivals: tuple[Arrival, ...]
    arrived: int


@dataclass(frozen=True)
class Timeline:
    """The course of a federation: every upload in order of arrival, and every merge.

    Synchronous rounds follow one another, in each the uploads by arrival. A client that does not report is not waited
    for, so a lost upload may stand before earlier ones of the next round.
    """

    arrivals: tuple[Arrival, ...]
    merges: tuple[Merge, ...]


def speed_factor(schedule: Schedule, seed: int, client: int) -> float:
    """How much slower than average a client is: log-normal with mean one."""
    sigma = schedule.heterogeneity
    return float(numpy_stream(seed, "speed", client=client).lognormal(-(sigma**2) / 2, sigma)) if sigma else 1.0


def cycle_time(schedule: Schedule, seed: int, client: int, cycle: int) -> float:
    """Virtual time from the start of a download to the arrival of the upload."""
    training = LATENCIES[schedule.latency](schedule, numpy_stream(seed, "latency", round=cycle, client=client))
    return schedule.download + speed_factor(schedule, seed, client) * float(training) + schedule.upload


def reports(schedule: Schedule, seed: int, client: int, cycle: int, start: float, arrival: float) -> bool:
    """Whether an upload gets through: the client has not dropped out at random, and is not away at any time of the
    cycle."""
    if schedule.dropout and numpy_stream(seed, "availability", round=cycle, client=client).random() < schedule.dropout:
        return False
    return not any(
        who == client and leaves < arrival and (returns is None or start < returns)
        for who, leaves, returns in schedule.absences
    )


def plan(
    schedule: Schedule, clients: Sequence[int], rounds: int, seed: int,
    drawn: Callable[[int], Sequence[int]] | None = None,
) -> Timeline:  # fmt: skip
    """The whole course of events, until as many uploads have been made as in ``rounds`` synchronous rounds.

    ``drawn`` says who takes part in a synchronous round, by its number; by default all ``clients`` do. Raises
    `UserError` if schedule and clients do not fit each other.
    """
    schedule.check_clients(clients)
    if schedule.mode == "sync":
        return _synchronous(schedule, drawn or (lambda number: clients), rounds, seed)
    require(drawn is None, "training.clients_per_round: an async schedule has no rounds; give it a concurrency instead")
    return _asynchronous(schedule, tuple(sorted(clients)), rounds, seed)


def _synchronous(schedule: Schedule, drawn: Callable[[int], Sequence[int]], rounds: int, seed: int) -> Timeline:
    """All of a round start together; it lasts until the last client that reports, or, if none does, would have."""
    cycles = _trace_cycles(schedule)
    now, arrivals, merges = 0.0, [], []
    for number in range(1, rounds + 1):
        here = []
        for client in sorted(drawn(number)):
            if schedule.trace:
                if len(cycles.get(client, ())) < number:
                    continue
                start, end = cycles[client][number - 1]
                duration = end - start
            else:
                duration = cycle_time(schedule, seed, client, number)
            end = now + duration
            fate = "merged" if reports(schedule, seed, client, number, now, end) else "lost"
            here.append(Arrival(client, number, now, end, number - 1, number - 1, fate))
        reported = [arrival for arrival in here if arrival.fate == "merged"]
        arrivals += sorted(here, key=lambda arrival: (arrival.time, arrival.client))
        now = max((arrival.time for arrival in reported or here), default=now)
        merges.append(Merge(now, number, tuple(reported), len(arrivals)))
    return Timeline(tuple(arrivals), tuple(merges))


def _asynchronous(schedule: Schedule, clients: tuple[int, ...], rounds: int, seed: int) -> Timeline:
    """Uploads of one moment are taken in before anybody downloads again, in the order of the clients."""
    fleet, server, total = _Fleet(schedule, clients, seed), _Server(schedule, seed), rounds * len(clients)
    fleet.start(0.0)
    while server.taken < total and (now := fleet.next_event()) is not None:
        returned = []
        while server.taken < total and fleet.training and fleet.training[0].time == now:
            cycle = heapq.heappop(fleet.training)
            server.take(cycle)
            returned.append(cycle.client)
        fleet.welcome(now, returned)
        fleet.start(now)
    return server.timeline()


class _Cycle(NamedTuple):
    """A client's cycle under way: when its upload will arrive, whose it is, when it began, and its number from 1."""

    time: float
    client: int
    start: float
    number: int


class _Fleet:
    """The clients of an asynchronous federation: who trains, who waits for a place, and who is away."""

    def __init__(self, schedule: Schedule, clients: tuple[int, ...], seed: int) -> None:
        self.schedule, self.seed = schedule, seed
        self.trace = {client: iter(rows) for client, rows in _trace_cycles(schedule).items()}
        places = numpy_stream(seed, "order").permutation(len(clients)) if schedule.concurrency else range(len(clients))
        self.waiting = deque(clients[place] for place in places)
        self.count = dict.fromkeys(clients, 0)
        self.training: list[_Cycle] = []
        """A heap: the next arrival comes first."""
        self.away: list[tuple[float, int]] = []
        """A heap of returns."""

    def next_event(self) -> float | None:
        """When the next upload arrives or the next client is back; None if nobody is under way."""
        return min((queue[0][0] for queue in (self.training, self.away) if queue), default=None)

    def welcome(self, now: float, returned: Sequence[int]) -> None:
        """Let clients wait for a place again: those that are back at ``now``, and those that have uploaded."""
        while self.away and self.away[0][0] == now:
            self.waiting.append(heapq.heappop(self.away)[1])
        self.waiting.extend(returned)

    def start(self, now: float) -> None:
        """Begin a cycle of each waiting client for which there is a place; one that is away takes none until it is
        back."""
        places = self.schedule.concurrency or math.inf
        while self.waiting and len(self.training) < places:
            client = self.waiting.popleft()
            number = self.count[client] + 1
            times = self._times(client, number, now)
            if times is None:
                continue
            start, end = times
            if start > now and not self.schedule.trace:
                heapq.heappush(self.away, (start, client))
                continue
            self.count[client] = number
            heapq.heappush(self.training, _Cycle(end, client, start, number))

    def _times(self, client: int, number: int, now: float) -> tuple[float, float] | None:
        """Start and end of a client's next cycle; None if there is none."""
        if self.schedule.trace:
            return next(self.trace.get(client, iter(())), None)
        start = _back_at(self.schedule, client, now)
        return None if start is None else (start, start + cycle_time(self.schedule, self.seed, client, number))


class _Server:
    """The asynchronous server, as far as it can be known before anything is trained: what it takes in, and merges."""

    def __init__(self, schedule: Schedule, seed: int) -> None:
        self.schedule, self.seed, self.taken = schedule, seed, 0
        self.arrivals: list[Arrival] = []
        self.merges: list[Merge] = []
        self.buffer: list[Arrival] = []

    def take(self, cycle: _Cycle) -> None:
        """Take in an upload; merge the buffer if it is full."""
        self.taken += 1
        time, client, start, number = cycle
        started, version = bisect_right(self.merges, start, key=lambda merge: merge.time), len(self.merges)
        most = self.schedule.max_staleness
        fate = "merged"
        if not reports(self.schedule, self.seed, client, number, start, time):
            fate = "lost"
        elif most is not None and version - started > most:
            fate = "discarded"
        kept = self.buffer if fate == "merged" else self.arrivals
        kept.append(Arrival(client, number, start, time, started, version, fate))
        if len(self.buffer) == self.schedule.buffer:
            merged = [replace(one, version=version) for one in self.buffer]
            self.arrivals += merged
            members = tuple(sorted(merged, key=lambda one: (one.client, one.cycle)))
            self.merges.append(Merge(time, version + 1, members, self.taken))
            self.buffer = []

    def timeline(self) -> Timeline:
        """All that has happened, with what is left in the buffer."""
        left = [replace(one, fate="waiting", version=len(self.merges)) for one in self.buffer]
        ordered = sorted(self.arrivals + left, key=lambda one: (one.time, one.client))
        return Timeline(tuple(ordered), tuple(self.merges))


def _trace_cycles(schedule: Schedule) -> dict[int, list[tuple[float, float]]]:
    cycles: dict[int, list[tuple[float, float]]] = {}
    for client, start, end in schedule.trace:
        cycles.setdefault(client, []).append((start, end))
    return cycles


def _back_at(schedule: Schedule, client: int, now: float) -> float | None:
    """When a client that is free at ``now`` can start: at once, or when it returns; None if it never does."""
    for who, leaves, returns in sorted(schedule.absences, key=lambda row: row[1]):
        if who == client and leaves <= now and (returns is None or now < returns):
            if returns is None:
                return None
            now = returns
    return now


def rounds_of(timeline: Timeline, clients: int, rounds: int) -> Iterator[tuple[int, Merge]]:
    """After each merge, the number of whole rounds' worth of uploads that have arrived: pairs (round, merge).

    The last merge closes the last round, since no later one will come.
    """
    last = timeline.merges[-1] if timeline.merges else None
    for merge in timeline.merges:
        yield (rounds if merge is last else min(rounds, merge.arrived // clients)), merge
