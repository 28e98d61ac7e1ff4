"""How time passes and how the server merges, as a study says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apfl.errors import UserError, check_fields

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
    :param heterogeneity: sigma of the log-normal factor by which a client is slower or faster than another, throughout.
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
                raise UserError(f"schedule.{name} {list(wrong[0])}: is not a client and two times; correct the row")
            object.__setattr__(self, name, tuple(tuple(row) for row in rows))
        known = {"mode": ("sync", "async"), "merge": ("mix", "delta"), "latency": LATENCIES, "staleness": STALENESS}
        check_fields(self, "schedule", at_least={"buffer": 1}, one_of=known)
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
        without = [name for name in ASYNC_ONLY if getattr(self, name) != ASYNC_ONLY[name]]
        if self.mode == "sync" and without:
            raise UserError(f"schedule.mode sync: has no {without[0]}; leave it out or choose async")
        if self.trace and self.concurrency is not None:
            raise UserError("schedule.concurrency: a trace says itself who trains when; leave it out")
        limits = {"concurrency": 1, "max_staleness": 0}
        given = {name: least for name, least in limits.items() if getattr(self, name) is not None}
        check_fields(self, "schedule", at_least=given)
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
