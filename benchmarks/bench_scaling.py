"""Cost and memory along clients, samples and classes.

One round of FedAvg with the paper's CNN: one epoch in the default precision, in a process of one thread. *Clients*: the
same 20,000 images, distributed among more and more clients; each point has its own process, and so its own peak memory.
*Samples per client*: ten clients. *Classes*: ten clients with 200 images each. Local models are not kept. A step with
two images costs nearly as much as one with fifty, so a sample costs more where clients have few.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import torch

from apfl.engine.process import peak_memory, tune_process
from apfl.federation.method import load_method
from apfl.federation.problem import Problem
from apfl.federation.synchronous import run
from benchmarks.federations import Clocked, federation
from benchmarks.measuring import Record

UNIT = "µs a sample"


def one_round(clients: int, samples: int, classes: int) -> dict[str, float]:
    """Seconds of training and of the server in one round, and the peak memory of the process in bytes."""
    tune_process()
    torch.set_num_threads(1)
    carry_out(federation(10, 50, classes=classes), Clocked())  # to warm up
    problem, clocked = federation(clients, samples, classes=classes), Clocked()
    whole = carry_out(problem, clocked)
    return {"training": clocked.seconds, "server": whole - clocked.seconds, "memory": peak_memory()}


def carry_out(problem: Problem, clocked: Clocked) -> float:
    """Seconds of the whole federation."""
    began = time.perf_counter()
    for _ in run(load_method("fedavg"), problem, carry_out=clocked):
        pass
    return time.perf_counter() - began


def measured(jobs: list[tuple[int, int, int]], alone: bool = False) -> list[dict[str, float]]:
    """`one_round` of each job, one after another in one process, or ``alone`` in a process each."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1 if alone else None) as pool:
        return pool.starmap(one_round, jobs, chunksize=1)


def curves(record: Record, plot: str, x: list[int], samples: list[int], found: list[dict[str, float]]) -> None:
    for part in ("training", "server"):
        costs = [1e6 * one[part] / count for one, count in zip(found, samples, strict=True)]
        record.series(plot, part, x, costs, UNIT)


def bench_clients(benchmark: Any, record: Record, quick: bool) -> None:
    """A round of 10 to 10,000 clients with the same images, and its memory."""
    images, clients = (2000, [10, 100, 1000]) if quick else (20_000, [10, 100, 1000, 10_000])
    found = benchmark.pedantic(lambda: measured([(one, images // one, 10) for one in clients], alone=True), rounds=1)
    curves(record, "clients", clients, [images] * len(clients), found)
    first, last = found[0]["memory"], found[-1]["memory"]
    record(f"peak memory, {clients[0]} clients, {images:,} images", first / 2**20, "MiB")
    record(
        f"peak memory, {clients[-1]:,} clients, the same images", last / 2**20, "MiB",
        ratio=last / first, against=f"{clients[0]} clients", asked="<= 1.3",
    )  # fmt: skip


def bench_samples(benchmark: Any, record: Record, quick: bool) -> None:
    """A round of ten clients with more and more images."""
    samples = [10, 100] if quick else [10, 30, 100, 300, 1000]
    found = benchmark.pedantic(lambda: measured([(10, one, 10) for one in samples]), rounds=1)
    curves(record, "samples per client", samples, [10 * one for one in samples], found)


def bench_classes(benchmark: Any, record: Record, quick: bool) -> None:
    """A round of ten clients with more and more classes."""
    classes = [10, 100] if quick else [10, 30, 100, 300, 1000]
    found = benchmark.pedantic(lambda: measured([(10, 200, one) for one in classes]), rounds=1)
    curves(record, "classes", classes, [2000] * len(classes), found)
