"""On a GPU.

*PFLlib's way* trains one client after another, each with its own DataLoader (`benchmarks/suites/pfllib_way.py`). This
suite trains the ten clients of three seeds as one stack of thirty models and, for comparison, one after another (*the
sequential engine*). The run at the paper's size has 54,000 images, five clients, 20 local epochs, batch size 50 and
Adam. One of its 50 rounds is measured, and the figure is 50 times that. The different ways to take a training step with
all models (`benchmarks/stack_ways.py`) are measured without the engine around them.

No GPU has been available so far. On a machine with a GPU, `make bench-gpu` measures all of this within ten minutes and
spends the rest of that time on runs at the paper's scale. Its logic is tested on a CPU
(`tests/benchmarks/test_gpu.py`).
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.autograd import DeviceType

from apfl.engine.device import Engine
from apfl.engine.stack import train_stack
from apfl.engine.work import Task
from apfl.federation.method import Method, State
from apfl.federation.problem import Problem
from apfl.federation.synchronous import run
from baselines.fedavg import FedAvg
from benchmarks.measuring import Record, in_turn, ratio
from benchmarks.stack_ways import Setting, tf32, ways
from benchmarks.suites import common, pfllib_way
from benchmarks.suites.ours import problem_of

SEEDS, ROUNDS = 3, 50
OPERATIONS = 8
"""How many rows of a profile are shown."""


@pytest.fixture
def device() -> str:
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    return "cuda"


def federations(path: Path, seeds: int) -> list[common.Federation]:
    """The federation of the file, and others with the same images shared out in other orders."""
    first = common.load(path)
    orders = [np.random.default_rng(seed).permutation(len(first)) for seed in range(1, seeds)]
    others = [dataclasses.replace(first, images=first.images[rows], labels=first.labels[rows]) for rows in orders]
    return [first, *others]


def problems(first: common.Federation, seeds: int, rounds: int, engine: Engine) -> list[Problem]:
    """One federation for each seed, sharing the images on the device."""
    problem = problem_of(first, engine, rounds)
    orders = [torch.arange(len(first))]
    orders += [torch.from_numpy(np.random.default_rng(seed).permutation(len(first))) for seed in range(1, seeds)]
    return [
        dataclasses.replace(problem, seed=seed, train=tuple(order.to(engine.device)[rows] for rows in problem.train))
        for seed, order in enumerate(orders)
    ]


def lockstep(method: Method, seeds: Sequence[Problem], rounds: int) -> list[State]:
    """The states after the rounds of one method on several seeds, whose clients are trained as one stack."""
    states = [method.init(problem) for problem in seeds]
    for round in range(1, rounds + 1):
        work = [
            method.client_work(state, problem, round, method.clients(problem))
            for state, problem in zip(states, seeds, strict=True)
        ]
        jobs = [
            Task(piece, problem.images, problem.train[piece.client], problem.seed, round)
            for problem, pieces in zip(seeds, work, strict=True)
            for piece in pieces
        ]
        done = iter(train_stack(seeds[0].model, jobs, seeds[0].engine))
        states = [
            method.server_update(state, problem, round, [next(done) for _ in pieces])
            for state, problem, pieces in zip(states, seeds, work, strict=True)
        ]
    return states


def seconds(function: Callable[[], Any], device: str) -> float:
    """How long the function takes, until the device has done all of it."""
    began = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def against_pfllib(
    benchmark: Any, record: Record, path: Path, device: str, engine: Engine, seeds: int = SEEDS, repeats: int = 3
) -> None:
    """One round of all seeds, PFLlib's way, ours, and ours without stacks, in turn."""
    given = federations(path, seeds)
    theirs = [pfllib_way.federate(one, 1 + repeats, device) for one in given]
    for each in theirs:
        next(each)  # before the first round
    own = problems(given[0], seeds, 1, engine)
    images = sum(len(one) for one in given)
    apart = [dataclasses.replace(one, engine=dataclasses.replace(engine, stack=1)) for one in own]
    ours, alone, loaded = in_turn(
        benchmark,
        repeats,
        lambda: images / seconds(lambda: lockstep(FedAvg(), own, 1), device),
        lambda: images / seconds(lambda: lockstep(FedAvg(), apart, 1), device),
        lambda: images / seconds(lambda: [next(each) for each in theirs], device),
    )
    for each in theirs:
        each.close()
    record("PFLlib's way, fp32", statistics.median(loaded), "samples/s")
    record(f"The sequential engine, {engine.precision}", statistics.median(alone), "samples/s")
    title = f"{len(own[0].train)} clients x {seeds} seeds in one stack, {engine.precision}"
    speed = statistics.median(ours)
    record(title, speed, "samples/s", ratio=ratio(ours, loaded), against="PFLlib's way", asked=">= 20")
    record(title, speed, "samples/s", ratio=ratio(ours, alone), against="the sequential engine")


def paper_scale(path: Path, engine: Engine, epochs: int) -> Problem:
    """FedAvg as the paper trains: Adam, its learning rate, all local epochs; a round to warm up and one to measure."""
    problem = problem_of(common.load(path), engine, rounds=2)
    changes = {"local_epochs": epochs, "optimizer": "adam", "learning_rate": 2e-4}
    return dataclasses.replace(problem, training=dataclasses.replace(problem.training, **changes))


def one_round(benchmark: Any, record: Record, problem: Problem, device: str) -> None:
    """Seconds of a whole run, from its second round."""
    rounds = run(FedAvg(), problem)
    next(rounds), next(rounds)
    took = benchmark.pedantic(lambda: seconds(lambda: next(rounds), device), rounds=1)
    name = (
        f"{len(problem.images.labels):,} images, {len(problem.train)} clients, {problem.training.local_epochs} epochs"
    )
    record(f"FedAvg, {name}: one round", took, "s")
    record(f"FedAvg, {name}: {ROUNDS} rounds, reckoned from one", ROUNDS * took, "s", asked="<= 60")


def profiled(function: Callable[[], Any], device: str) -> list[tuple[str, float]]:
    """The operations of the device that take most of its time, and their shares of it."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        seconds(function, device)
    # On a GPU the operations that start a kernel stand beside the kernel itself: time is counted where it is spent.
    kind, spent = (
        (DeviceType.CUDA, "self_device_time_total") if device == "cuda" else (DeviceType.CPU, "self_cpu_time_total")
    )
    times = {event.key: getattr(event, spent) for event in profile.key_averages() if event.device_type == kind}
    total = sum(times.values())
    return sorted(((name, time / total) for name, time in times.items()), key=lambda one: -one[1])[:OPERATIONS]


def where_time_goes(benchmark: Any, record: Record, own: Sequence[Problem], device: str) -> None:
    """The profile of one stacked round."""
    lockstep(FedAvg(), own, 1)
    took = benchmark.pedantic(lambda: seconds(lambda: lockstep(FedAvg(), own, 1), device), rounds=1)
    record("One round of the stack, not profiled", took, "s")
    for name, share in profiled(lambda: lockstep(FedAvg(), own, 1), device):
        record(f"Time on the device: {name[:60]}", 100 * share, "%")


def bench_stack(benchmark: Any, record: Record, device: str, tmp_path: Path, quick: bool) -> None:
    """Ten clients and three seeds in one stack against PFLlib's way."""
    common.write(tmp_path / "federation.npz", images=100 if quick else 1000)
    against_pfllib(benchmark, record, tmp_path / "federation.npz", device, Engine.choose("auto", device))


def bench_paper_scale(benchmark: Any, record: Record, device: str, tmp_path: Path, quick: bool) -> None:
    """FedAvg at the paper's size."""
    common.write(tmp_path / "federation.npz", clients=5, images=100 if quick else 10_800)
    problem = paper_scale(tmp_path / "federation.npz", Engine.choose("auto", device), epochs=1 if quick else 20)
    one_round(benchmark, record, problem, device)


def bench_profile(benchmark: Any, record: Record, device: str, tmp_path: Path, quick: bool) -> None:
    """Where the time of the stack goes."""
    common.write(tmp_path / "federation.npz", images=100 if quick else 1000)
    given = common.load(tmp_path / "federation.npz")
    where_time_goes(benchmark, record, problems(given, SEEDS, 1, Engine.choose("auto", device)), device)


def agreement(record: Record, own: Sequence[Problem]) -> float:
    """How far the stack is from the sequential engine after one round of fp32, as a share of what was learnt."""
    alone = [dataclasses.replace(problem, engine=dataclasses.replace(problem.engine, stack=1)) for problem in own]
    stacked, apart = (lockstep(FedAvg(), seeds, 1) for seeds in (own, alone))
    far = max(
        _distance(one["global"], other["global"]) / _distance(other["global"], problem.start)
        for one, other, problem in zip(stacked, apart, own, strict=True)
    )
    record(
        "The stack beside the sequential engine, fp32: largest difference of what is learnt", far, "", asked="<= 0.01"
    )
    return far


def _distance(one: Any, other: Any) -> float:
    return float(torch.cat([(one[name] - other[name]).float().flatten() for name in one]).norm())


def step_by_step(
    benchmark: Any, record: Record, leave_out: Callable[[str, str], None], setting: Setting, steps: int
) -> None:
    """Samples a second of each way to take a step with all models; one that fails leaves the others their turn."""
    benchmark.pedantic(lambda: None, rounds=1)  # first, so that what is recorded is kept if the time is over
    for precise in (False, True) if setting.device == "cuda" else (False,):
        for name, make in ways(setting).items():
            if precise and "fp32" not in name:
                continue
            title = f"{name.replace('fp32', 'TF32') if precise else name}, a step"
            try:
                with tf32(precise):
                    step = make()
                    for _ in range(3):
                        step()
                    took = seconds(lambda step=step: [step() for _ in range(steps)], setting.device)
            except Exception as error:
                leave_out(title, f"failed: {' '.join(str(error).split())[:200]}")
                continue
            record(title, steps * setting.models * setting.batch / took, "samples/s")


def bench_agreement(benchmark: Any, record: Record, device: str, tmp_path: Path) -> None:
    """Whether the stack learns what the sequential engine learns."""
    common.write(tmp_path / "federation.npz", images=100)
    own = problems(common.load(tmp_path / "federation.npz"), SEEDS, 1, Engine.choose("fp32", device))
    benchmark.pedantic(lambda: agreement(record, own), rounds=1)


def bench_ways(benchmark: Any, record: Record, leave_out: Callable[[str, str], None], device: str, quick: bool) -> None:
    """Grouped convolution, vmap, channels last, bf16 and TF32, CUDA graphs and torch.compile, without the engine."""
    step_by_step(benchmark, record, leave_out, Setting(10 * SEEDS, 50, device), 5 if quick else 100)
