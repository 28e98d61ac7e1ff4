"""The federation in this suite: `apfl.federation.synchronous.run`, as the workflow's jobs train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from apfl.engine.device import Engine
from apfl.engine.images import Images
from apfl.engine.networks import CNN, Model
from apfl.engine.process import tune_process
from apfl.engine.settings import TrainingConfig
from apfl.engine.work import Work
from apfl.federation.method import State
from apfl.federation.problem import Problem
from apfl.federation.synchronous import run
from baselines.fedavg import FedAvg
from benchmarks.suites.common import Course, Federation, arguments, load


class Ordered:
    """For a method in front of it: clients take their images in the order of the file, as the other suites do here."""

    def client_work(self, state: State, problem: Problem, round: int, clients: Sequence[int]) -> list[Work]:
        work = super().client_work(state, problem, round, clients)
        return [replace(one, phases=tuple(replace(phase, shuffle=False) for phase in one.phases)) for one in work]


@dataclass(frozen=True)
class InOrder(Ordered, FedAvg):
    """FedAvg in that order."""


def problem_of(federation: Federation, engine: Engine, rounds: int, seed: int = 0) -> Problem:
    """The federation as a problem, on the engine's device."""
    device = engine.device
    pixels = torch.from_numpy(federation.images).permute(0, 2, 3, 1).contiguous().to(device)
    scale = [torch.from_numpy(value).float().to(device) for value in (federation.mean, federation.std)]
    labels = federation.targets
    rows = tuple(torch.arange(len(federation))[federation.rows(client)] for client in range(federation.clients))
    counts = torch.stack([labels[row].bincount(minlength=10) for row in rows])
    return Problem(
        model=Model(CNN(3, 10)),
        images=Images(pixels, labels.to(device), *scale),
        train=tuple(row.to(device) for row in rows),
        test=tuple(row[:0].to(device) for row in rows),
        counts=counts.to(device),
        dropout=(False,) * federation.clients,
        unseen=torch.zeros(10, dtype=torch.bool, device=device),
        training=TrainingConfig(
            rounds=rounds,
            local_epochs=1,
            batch_size=federation.batch_size,
            learning_rate=federation.learning_rate,
            optimizer="sgd",
            keep_local_models=False,
        ),
        seed=seed,
        start={name: value.to(device) for name, value in federation.start.items()},
        engine=engine,
    )


def _precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")


def main() -> None:
    options = arguments("ours", _precision)
    tune_process()
    torch.set_num_threads(options.threads)
    course = Course("ours", options)
    federation = load(options.data)
    problem = problem_of(federation, Engine.choose(options.precision, "cpu"), course.total)
    last = None
    for now in run(InOrder(), problem):
        course.mark()
        last = now.state["global"]
    course.report(federation, last)


if __name__ == "__main__":
    main()
