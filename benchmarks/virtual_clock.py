"""The asynchronous server: events per second, its overhead beside training, and memory against clients.

Each figure comes from a process of its own, so that the peak memory of one does not hide another's. Run it with
``make bench`` or ``python -m benchmarks.virtual_clock``.
"""

from __future__ import annotations

import multiprocessing
import resource
import time

import torch

from apfl.asynchronous import run_clock
from apfl.clock import Schedule, plan
from apfl.federation import Problem, load_method, run_work
from apfl.nets import CNN, Model, initial_parameters
from apfl.training import Engine, Images, Result, TrainingConfig, Work
from apfl.tuning import tune_process

SCHEDULE = {"latency": "exponential", "heterogeneity": 0.5, "merge": "delta", "staleness": "polynomial"}


def problem_of(clients: int, samples: int, rounds: int, epochs: int = 1) -> Problem:
    """Clients with ``samples`` random images of CIFAR-10's shape each, and the paper's CNN."""
    stream = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (clients * samples, 32, 32, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 10, (clients * samples,), generator=stream)
    parts = tuple(torch.arange(clients * samples).split(samples))
    return Problem(
        model=Model(CNN(3, 10)),
        images=Images(pixels, labels, torch.full((3,), 120.0), torch.full((3,), 65.0)),
        train=parts,
        test=parts,
        counts=torch.stack([labels[part].bincount(minlength=10) for part in parts]),
        dropout=(False,) * clients,
        unseen=torch.zeros(10, dtype=torch.bool),
        training=TrainingConfig(rounds=rounds, local_epochs=epochs, keep_local_models=False),
        seed=0,
        start=initial_parameters({"name": "cnn"}, 3, 10, seed=0),
        engine=Engine.choose("auto", "cpu"),
    )


def planning(clients: int) -> dict[str, float]:
    """Events per second of planning alone, twenty uploads a client."""
    began = time.perf_counter()
    timeline = plan(Schedule(**SCHEDULE), range(clients), rounds=20, seed=0)
    return {"events": len(timeline.arrivals), "seconds": time.perf_counter() - began}


def serving(clients: int, concurrency: int) -> dict[str, float]:
    """Events per second and peak memory (bytes) of the whole server with training left out: 2,000 uploads of the
    CNN."""

    def send_back(problem: Problem, work: Work, round: int) -> Result:
        return Result(work, {name: value.clone() for name, value in work.start.items()}, 1, 1, 0.0)

    problem = problem_of(clients, samples=1, rounds=max(1, 2000 // clients))
    schedule = Schedule(**SCHEDULE, concurrency=concurrency)
    timeline = plan(schedule, problem.participants, problem.training.rounds, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    for _ in run_clock(load_method("fedavg"), problem, schedule, timeline, worker=send_back):
        pass
    seconds = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"events": len(timeline.arrivals), "seconds": seconds, "memory": grown}


def overhead() -> dict[str, float]:
    """Seconds inside and outside training, ten clients of 1,000 images, two rounds' worth of uploads."""
    inside = 0.0

    def timed(problem: Problem, work: Work, round: int) -> Result:
        nonlocal inside
        began = time.perf_counter()
        result = run_work(problem, work, round)
        inside += time.perf_counter() - began
        return result

    problem = problem_of(clients=10, samples=1000, rounds=2)
    schedule = Schedule(**SCHEDULE)
    began = time.perf_counter()
    timeline = plan(schedule, problem.participants, 2, 0)
    for _ in run_clock(load_method("fedavg"), problem, schedule, timeline, worker=timed):
        pass
    return {"training": inside, "server": time.perf_counter() - began - inside}


def _call(job) -> dict[str, float]:
    function, arguments = job
    tune_process()
    return function(*arguments)


def main() -> None:
    jobs = [(planning, (1000,)), (serving, (100, 10)), (serving, (1000, 10)), (serving, (1000, 100)), (overhead, ())]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        planned, few, many, wide, shares = pool.map(_call, jobs, chunksize=1)
    print(f"asynchronous server: planning {planned['events'] / planned['seconds']:,.0f} events/s (1,000 clients)")
    for label, result in (("100 clients, 10", few), ("1,000 clients, 10", many), ("1,000 clients, 100", wide)):
        speed = result["events"] / result["seconds"]
        print(f"  {label} in flight, no training: {speed:,.0f} events/s, memory +{result['memory'] / 2**20:,.0f} MiB")
    share = shares["server"] / shares["training"]
    print(f"  10 clients x 1,000 images: the server takes {100 * share:.1f} % of the training time")


if __name__ == "__main__":
    main()
