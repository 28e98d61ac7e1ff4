"""The asynchronous server.

FedAvg with the paper's CNN in virtual time, with exponential latency and a polynomial discount of stale updates.
*Without training*, clients send back what they were given. What remains is the work of the server: planning, merging,
and keeping the versions that clients in flight started from. Each of these figures comes from its own process, so that
the peak memory of one does not hide that of another.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

import pytest
import torch

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan
from apfl.engine.process import peak_memory, tune_process
from apfl.federation.asynchronous import run_clock
from apfl.federation.method import load_method
from benchmarks.federations import Clocked, federation, send_back
from benchmarks.measuring import in_turn, ratio

SCHEDULE: dict[str, Any] = {
    "latency": "exponential", "heterogeneity": 0.5, "merge": "delta", "staleness": "polynomial",
}  # fmt: skip


def bench_planning(benchmark, record, quick) -> None:
    """Planning a timeline."""

    def events() -> float:
        began = time.perf_counter()
        timeline = plan(Schedule(**SCHEDULE), range(1000), rounds=2 if quick else 20, seed=0)
        return len(timeline.arrivals) / (time.perf_counter() - began)

    (speeds,) = in_turn(benchmark, 3, events)
    record("planning alone, 1,000 clients", statistics.median(speeds), "events/s")


def serve(clients: int, concurrency: int, events: int) -> dict[str, float]:
    """Events per second, and growth of the peak memory in bytes, of the whole server with training left out."""
    tune_process()
    torch.set_num_threads(1)
    problem = federation(clients, 1, rounds=max(1, events // clients))
    schedule = Schedule(**SCHEDULE, concurrency=concurrency)
    timeline = plan(schedule, problem.participants, problem.training.rounds, 0)
    before = peak_memory()
    began = time.perf_counter()
    for _ in run_clock(load_method("fedavg"), problem, schedule, timeline, carry_out=send_back):
        pass
    seconds = time.perf_counter() - began
    return {"speed": len(timeline.arrivals) / seconds, "memory": peak_memory() - before}


@pytest.mark.parametrize(("clients", "concurrency"), [(100, 10), (1000, 10), (1000, 100)])
def bench_events(benchmark, record, quick, clients: int, concurrency: int) -> None:
    """The asynchronous server without training."""
    arguments = (clients, concurrency, 300 if quick else 1000)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = benchmark.pedantic(lambda: pool.apply(serve, arguments), rounds=1)
    what = f"without training, {clients:,} clients, {concurrency} in flight"
    record(what, found["speed"], "events/s")
    record(f"{what}: peak memory grows by", found["memory"] / 2**20, "MiB")


def bench_share(benchmark, record, quick) -> None:
    """The asynchronous server's share of the time."""
    tune_process()
    torch.set_num_threads(1)
    problem = federation(10, 100 if quick else 1000)
    schedule = Schedule(**SCHEDULE)
    training: list[float] = []
    rest: list[float] = []

    def carry_out() -> None:
        clocked, began = Clocked(), time.perf_counter()
        timeline = plan(schedule, problem.participants, 1, 0)
        for _ in run_clock(load_method("fedavg"), problem, schedule, timeline, carry_out=clocked):
            pass
        training.append(clocked.seconds)
        rest.append(time.perf_counter() - began - clocked.seconds)

    benchmark.pedantic(carry_out, rounds=2 if quick else 3)
    whole = [inside + outside for inside, outside in zip(training, rest, strict=True)]
    record(
        "the server, for ten uploads of clients with 1,000 images", statistics.median(rest), "s",
        ratio=ratio(rest, whole), against="everything, training included", asked="< 0.03",
    )  # fmt: skip
