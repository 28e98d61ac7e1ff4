"""Virtual time: who trains when, and what the server merges.

A client's cycle is a download, local training and an upload; each takes time. When an upload arrives, the server merges
it at once (a buffer of one) or with the next ones (a larger buffer), and the client starts its next cycle from the
server's newest version. None of this depends on what training finds, so the whole course of events is known before
anything is trained: `plan` computes it, and `apfl.asynchronous` carries it out. docs/asynchrony.md works one timeline
out by hand.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from apfl.errors import UserError
from apfl.streams import numpy_stream

Latency = Callable[["Schedule", np.random.Generator], float]
"""The duration of local training in one cycle, with mean `Schedule.mean`."""

LATENCIES: Mapping[str, Latency] = {
    "constant": lambda schedule, stream: schedule.mean,
    "uniform": lambda schedule, stream: schedule.mean * stream.uniform(1 - schedule.spread, 1 + schedule.spread),
    "exponential": lambda schedule, stream: stream.exponential(schedule.mean),
    "lognormal": lambda schedule, stream: schedule.mean * stream.lognormal(-(schedule.spread**2) / 2, schedule.spread),
    "trace": lambda schedule, stream: math.nan,
}

Discount = Callable[["Schedule", int], float]
"""s(tau): how much an update counts that was computed tau versions ago; s(0) = 1."""

STALENESS: Mapping[str, Discount] = {
    "constant": lambda schedule, tau: 1.0,
    "polynomial": lambda schedule, tau: (1.0 + tau) ** -schedule.staleness_rate,
    "hinge": lambda schedule, tau: (
        1.0 if tau <= schedule.staleness_knee else 1 / (schedule.staleness_rate * (tau - schedule.staleness_knee) + 1)
    ),
}


ASYNC_ONLY: Mapping[str, object] = {
    "merge": "mix",
    "mixing": 1.0,
    "staleness": "constant",
    "buffer": 1,
    "max_staleness": None,
    "concurrency": None,
}
"""Fields without a meaning in synchronous rounds, with what such rounds have there."""


def _is_client(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: object) -> bool:
    """A finite number; none in place of a return."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))


@dataclass(frozen=True)
class Schedule:
    """How time passes and how the server merges.

    :param mode: ``async``, or ``sync``: a round ends when the last reporting client has uploaded.
    :param latency: training time of a cycle: ``constant``, ``uniform``, ``exponential``, ``lognormal`` or ``trace``.
    :param mean: its mean, in units of virtual time, for a client of speed one.
    :param spread: half-width of ``uniform`` relative to the mean; sigma of ``lognormal``.
    :param heterogeneity: sigma of the log-normal factor by which a client is slower or faster than another, for good.
    :param download: time of a download; ``upload``: of an upload.
    :param merge: ``mix`` (FedAsync, Xie et al. 2019: the global model moves towards the client's) or ``delta``
        (FedBuff, Nguyen et al. 2022: the change against the version that the client started from is added).
    :param mixing: mixing rate of ``mix``, server learning rate of ``delta``; `rate` by default.
    :param staleness: discount of stale updates: ``constant``, ``polynomial`` or ``hinge`` (Xie et al. 2019).
    :param staleness_rate: a of the polynomial (1 + tau)^-a, or of the hinge 1 / (a (tau - b) + 1).
    :param staleness_knee: b of the hinge.
    :param buffer: uploads that are merged together.
    :param max_staleness: an upload staler than this is discarded and counted; none by default.
    :param concurrency: clients that train at the same time; all by default.
    :param dropout: probability that a client does not report in a round, or that an upload is lost.
    :param absences: (client, leaves at, returns at or none) for clients that go away.
    :param trace: (client, start, arrival) of every cycle, for latency ``trace``.
    """

    mode: str = "async"
    latency: str = "constant"
    mean: float = 1.0
    spread: float = 0.5
    heterogeneity: float = 0.0
    download: float = 0.0
    upload: float = 0.0
    merge: str = "mix"
    mixing: float | None = None
    staleness: str = "constant"
    staleness_rate: float = 0.5
    staleness_knee: int = 4
    buffer: int = 1
    max_staleness: int | None = None
    concurrency: int | None = None
    dropout: float = 0.0
    absences: tuple[tuple[int, float, float | None], ...] = ()
    trace: tuple[tuple[int, float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.mode == "sync" and self.mixing is None:
            object.__setattr__(self, "mixing", 1.0)
        for name in ("absences", "trace"):
            rows = getattr(self, name)
            if any(not isinstance(row, list | tuple) or len(row) != 3 for row in rows):
                raise UserError(f"schedule.{name}: each row must have three entries: a client and two times")
            if wrong := [row for row in rows if not (_is_client(row[0]) and all(map(_is_time, row[1:])))]:
                raise UserError(f"schedule.{name} {list(wrong[0])}: is no client with two times; correct the row")
            object.__setattr__(self, name, tuple(tuple(row) for row in rows))
        for name, choices in (
            ("mode", ("sync", "async")),
            ("latency", tuple(LATENCIES)),
            ("merge", ("mix", "delta")),
            ("staleness", tuple(STALENESS)),
        ):
            if getattr(self, name) not in choices:
                raise UserError(f"schedule.{name} {getattr(self, name)!r}: unknown; choose one of {', '.join(choices)}")
        for name in ("mean", "download", "upload", "spread", "heterogeneity", "staleness_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "mean" and value == 0):
                raise UserError(f"schedule.{name} {value}: time cannot be negative; give a number from 0 up")
        if self.latency == "uniform" and self.spread > 1:
            raise UserError(f"schedule.spread {self.spread}: latencies would be negative; at most 1 for uniform")
        if not 0 <= self.dropout < 1:
            raise UserError(f"schedule.dropout {self.dropout}: must be a probability from 0 to below 1")
        if self.mixing is not None and not 0 < self.mixing <= 1:
            raise UserError(f"schedule.mixing {self.mixing}: must be above 0 and at most 1")
        if self.mode == "sync" and (given := [name for name in ASYNC_ONLY if getattr(self, name) != ASYNC_ONLY[name]]):
            raise UserError(f"schedule.mode sync: has no {given[0]}; leave it out or choose async")
        if self.trace and self.concurrency is not None:
            raise UserError("schedule.concurrency: a trace says itself who trains when; leave it out")
        if self.buffer < 1 or (self.concurrency is not None and self.concurrency < 1):
            raise UserError(f"schedule.buffer {self.buffer}, concurrency {self.concurrency}: must be at least 1")
        if self.max_staleness is not None and self.max_staleness < 0:
            raise UserError(f"schedule.max_staleness {self.max_staleness}: must be from 0 up")
        if (self.latency == "trace") != bool(self.trace):
            raise UserError("schedule.trace: give it together with latency trace, and only then")

    def discount(self, tau: int) -> float:
        """s(tau), from the configured rate each time: it never compounds."""
        return STALENESS[self.staleness](self, tau)

    def rate(self, clients: int) -> float:
        """How far a merge moves the server if nothing is stale: ``mixing``, or by default buffer / clients in flight.

        So all who train at one time move it together as far as one synchronous round of theirs, however few are merged
        at a time.
        """
        if self.mixing is not None:
            return self.mixing
        return min(1.0, self.buffer / min(clients, self.concurrency or clients))

    def check_clients(self, clients: Sequence[int]) -> None:
        """A `UserError` if the schedule speaks of clients that do not take part, or of more than there are."""
        if self.buffer > len(clients):
            raise UserError(f"schedule.buffer {self.buffer}: larger than the number of clients, {len(clients)}")
        known = set(clients)
        for name, rows in (("absences", self.absences), ("trace", self.trace)):
            if unknown := [row[0] for row in rows if row[0] not in known]:
                raise UserError(f"schedule.{name}: client {unknown[0]} is not one of {sorted(known)}; correct the row")
        for client, leaves, returns in self.absences:
            if leaves < 0 or (returns is not None and returns <= leaves):
                raise UserError(
                    f"schedule.absences: client {client} leaves at {leaves} and returns at {returns}; order them"
                )
        last: dict[int, float] = {}
        for client, start, arrival in self.trace:
            if not last.get(client, 0.0) <= start < arrival:
                raise UserError(
                    f"schedule.trace: client {client} from {start} to {arrival} is out of order; each cycle must start "
                    "after the one before it ended and end after it started"
                )
            last[client] = arrival


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


def plan(schedule: Schedule, clients: Sequence[int], rounds: int, seed: int) -> Timeline:
    """The whole course of events, until as many uploads have been made as in ``rounds`` synchronous rounds.

    Raises `UserError` if schedule and clients do not fit each other.
    """
    schedule.check_clients(clients)
    make = _synchronous if schedule.mode == "sync" else _asynchronous
    return make(schedule, tuple(sorted(clients)), rounds, seed)


def _synchronous(schedule: Schedule, clients: tuple[int, ...], rounds: int, seed: int) -> Timeline:
    """Everybody starts together; the round lasts until the last client that reports, or, if none does, would have."""
    cycles = _trace_cycles(schedule)
    now, arrivals, merges = 0.0, [], []
    for number in range(1, rounds + 1):
        here = []
        for client in clients:
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
    total = rounds * len(clients)
    cycles = {client: iter(rows) for client, rows in _trace_cycles(schedule).items()}
    order = numpy_stream(seed, "order").permutation(len(clients)) if schedule.concurrency else range(len(clients))
    waiting = deque(clients[index] for index in order)
    count = dict.fromkeys(clients, 0)
    heap: list[tuple[float, int, float]] = []
    away: list[tuple[float, int]] = []
    merge_times: list[float] = []
    arrivals: list[Arrival] = []
    merges: list[Merge] = []
    buffer: list[Arrival] = []
    version, now, taken = 0, 0.0, 0

    def launch() -> None:
        while waiting and (schedule.concurrency is None or len(heap) < schedule.concurrency):
            client = waiting.popleft()
            if schedule.trace:
                row = next(cycles.get(client, iter(())), None)
                if row is None:
                    continue
                start, end = row
            else:
                start = _back_at(schedule, client, now)
                if start is None:
                    continue
                if start > now:  # away: it takes nobody's place until it is back
                    heapq.heappush(away, (start, client))
                    continue
                end = start + cycle_time(schedule, seed, client, count[client] + 1)
            count[client] += 1
            heapq.heappush(heap, (end, client, start))

    launch()
    while (heap or away) and taken < total:
        now = min(queue[0][0] for queue in (heap, away) if queue)
        returned = []
        while heap and heap[0][0] == now and taken < total:
            time, client, start = heapq.heappop(heap)
            taken += 1
            started = bisect_right(merge_times, start)
            cycle = count[client]
            arrival = Arrival(client, cycle, start, time, started, version, "merged")
            if not reports(schedule, seed, client, cycle, start, time):
                arrival = _with_fate(arrival, "lost", version)
            elif schedule.max_staleness is not None and arrival.staleness > schedule.max_staleness:
                arrival = _with_fate(arrival, "discarded", version)
            if arrival.fate == "merged":
                buffer.append(arrival)
            else:
                arrivals.append(arrival)
            if len(buffer) == schedule.buffer:
                merged = [_with_fate(one, "merged", version) for one in buffer]
                version += 1
                arrivals += merged
                members = tuple(sorted(merged, key=lambda one: (one.client, one.cycle)))
                merges.append(Merge(now, version, members, taken))
                merge_times.append(now)
                buffer = []
            returned.append(client)
        while away and away[0][0] == now:
            waiting.append(heapq.heappop(away)[1])
        waiting.extend(returned)
        launch()
    arrivals += [_with_fate(one, "waiting", version) for one in buffer]
    return Timeline(tuple(sorted(arrivals, key=lambda one: (one.time, one.client))), tuple(merges))


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


def _with_fate(arrival: Arrival, fate: str, version: int) -> Arrival:
    return replace(arrival, fate=fate, version=version)


def rounds_of(timeline: Timeline, clients: int, rounds: int) -> Iterator[tuple[int, Merge]]:
    """After each merge, the number of whole rounds' worth of uploads that have arrived: pairs (round, merge).

    The last merge closes the last round, since no later one will come.
    """
    last = timeline.merges[-1] if timeline.merges else None
    for merge in timeline.merges:
        yield (rounds if merge is last else min(rounds, merge.arrived // clients)), merge
