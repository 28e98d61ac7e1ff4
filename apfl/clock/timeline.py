"""Virtual time: who trains when, and what the server merges.

A client's cycle is a download, local training and an upload; each takes time. When an upload arrives, the server merges
it at once (a buffer of one) or with the next ones (a larger buffer), and the client starts its next cycle from the
server's newest version. None of this depends on what training finds, so the whole course of events is known before
anything is trained: `plan` computes it, and `apfl.federation.asynchronous` carries it out. docs/asynchrony.md works one
timeline out by hand.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from apfl.clock.schedule import LATENCIES, Schedule
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
