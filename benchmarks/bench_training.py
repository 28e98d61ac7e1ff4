"""Local training.

One epoch of the paper's CNN on random images of CIFAR-10's shape, batch size 50, trained by
`apfl.engine.training.train`. The *bare loop* is the same epoch as one would write it with torch alone: images
normalised beforehand, fused optimiser, channels last. The *matrix product* is the yardstick for the processor: two
square matrices of 2,048 rows, multiplied in the same precision with the same threads. torch counts the floating-point
operations of a training step. A single epoch and its bare loop differ by several per cent, so each ratio is the median
of twenty pairs. The workflow gives one thread to every job; the last rows show how it uses two cores that way.

The faster a processor multiplies in bf16, the smaller the share of the matrix product that a training step reaches:
pooling, activations, copies and Adam are bound by memory and do not become faster, in the bare loop either (see *Where
a step's time goes* below).
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apfl.engine.device import Engine
from apfl.engine.networks import CNN, Model, initial_parameters
from apfl.engine.optimizers import Optimizer
from apfl.engine.process import tune_process
from apfl.engine.training import train
from apfl.engine.work import Gradient, Phase, Task, Work
from benchmarks.federations import images
from benchmarks.measuring import cores, in_turn, ratio

BATCH, SQUARE, PRODUCTS, PAIRS = 50, 2048, 3, 20
TITLES = {"adam": "Adam", "sgd": "SGD", 1: "one thread", 2: "two threads"}


def library(count: int, bf16: bool, optimizer: str) -> float:
    """Samples per second of `apfl.engine.training.train`, one epoch."""
    start = initial_parameters({"name": "cnn"}, 3, 10, seed=0)
    work = Work(0, start, (Phase(Gradient(), Optimizer(optimizer, 2e-4), epochs=1, batch_size=BATCH),))
    data = _images(count)
    began = time.perf_counter()
    train(Model(CNN(3, 10)), Task(work, data, torch.arange(count), seed=0, round=1), Engine(bf16=bf16))
    return count / (time.perf_counter() - began)


def bare_loop(count: int, bf16: bool, optimizer: str) -> float:
    """Samples per second of the same epoch written with torch alone."""
    network = nn.Sequential(
        nn.Conv2d(3, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(1600, 512), nn.ReLU(), nn.Linear(512, 10),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    stepper = kind(network.parameters(), lr=2e-4, fused=True)
    data = _images(count)
    inputs = ((data.pixels.float() - data.mean) / data.std).permute(0, 3, 1, 2)
    began = time.perf_counter()
    for rows in torch.randperm(count).split(BATCH):
        stepper.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(network(inputs[rows]), data.labels[rows])
        loss.backward()
        stepper.step()
    return count / (time.perf_counter() - began)


def matrix_product(bf16: bool, clock: Callable[[], float] = time.perf_counter) -> float:
    """Floating-point operations per second of a large matrix product."""
    left, right = (torch.ones(SQUARE, SQUARE, dtype=torch.bfloat16 if bf16 else torch.float32) for _ in range(2))
    left @ right  # memory for the result, once
    began = clock()
    for _ in range(PRODUCTS):
        left @ right
    return PRODUCTS * 2 * SQUARE**3 / (clock() - began)


_images = cache(images)


@cache
def operations() -> float:
    """Floating-point operations of one sample in one training step."""
    network = CNN(3, 10)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(BATCH, 3, 32, 32)).sum().backward()
    return counter.get_total_flops() / BATCH


@pytest.fixture
def threads(request: pytest.FixtureRequest):
    if request.param > cores():
        pytest.skip(f"the benchmarks have {cores()} core only")
    before = torch.get_num_threads()
    tune_process()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def bench_local_training(benchmark, record, quick, precision: str, threads: int, optimizer: str) -> None:
    """Local training against the bare loop and the matrix product."""
    bf16, count, rounds = _bf16(precision), *((500, 2) if quick else (1500, PAIRS))
    ours, bare, peak = in_turn(
        benchmark,
        rounds,
        lambda: library(count, bf16, optimizer),
        lambda: bare_loop(count, bf16, optimizer),
        lambda: matrix_product(bf16),
    )
    what = f"{precision}, {TITLES[threads]}, {TITLES[optimizer]}"
    _record(record, what, ours, ratio(ours, bare), "the bare loop", ">= 0.95")
    _record_share(record, what, ours, peak, bf16)


def _bf16(precision: str) -> bool:
    if precision == "bf16" and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("the processor has no bf16")
    return precision == "bf16"


def _record(record, what: str, speeds: list[float], share: float, against: str, asked: str | None = None) -> None:
    record(what, statistics.median(speeds), "samples/s", ratio=share, against=against, asked=asked)


def _record_share(record, what: str, speeds: list[float], peak: list[float], bf16: bool) -> None:
    speed, limit = statistics.median(speeds) * operations() / 1e9, statistics.median(peak) / 1e9
    share = ratio([speed * operations() for speed in speeds], peak)
    against = f"the matrix product, {limit:,.0f} GFLOP/s"
    record(f"{what}: arithmetic", speed, "GFLOP/s", ratio=share, against=against, asked=">= 0.55" if bf16 else None)


def _child(start, done, bf16: bool, count: int) -> None:
    """A process of one thread that trains, and multiplies, whenever the others do; ``start`` says which."""
    torch.set_num_threads(1)
    tune_process()
    torch.set_num_threads(1)
    jobs = {"train": lambda: library(count, bf16, "adam"), "multiply": lambda: matrix_product(bf16)}
    for job in iter(start.recv, None):
        done.send(jobs[job]())


@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def bench_two_processes(benchmark, record, quick, precision: str, threads: int) -> None:
    """Two processes of one thread, as the workflow uses two cores."""
    bf16, count, rounds = _bf16(precision), *((500, 2) if quick else (1500, PAIRS))
    context = multiprocessing.get_context("spawn")
    pipes = [(context.Pipe(), context.Pipe()) for _ in range(2)]
    children = [
        context.Process(target=_child, args=(start[1], done[1], bf16, count), daemon=True) for start, done in pipes
    ]
    for child in children:
        child.start()

    def both(job: str) -> float:
        for start, _ in pipes:
            start[0].send(job)
        return sum(done[0].recv() for _, done in pipes)

    ours, one, peak = in_turn(
        benchmark, rounds, lambda: both("train"), lambda: library(count, bf16, "adam"), lambda: both("multiply")
    )
    for start, _ in pipes:
        start[0].send(None)
    for child in children:
        child.join()
    what = f"{precision}, two processes of one thread, Adam"
    _record(record, what, ours, ratio(ours, one), "one process of two threads")
    _record_share(record, what, ours, peak, bf16)
