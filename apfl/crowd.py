"""How jobs fare beside each other: what starting one takes, and how much slower all become when every core has one.

Cores share caches, memory and, often, arithmetic units, so two jobs at once are less than twice as fast. Processes as
the workflow starts them train the paper's CNN, one alone and then all at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import mean

from apfl.errors import UserError
from apfl.registry import ROOT

MOST = 16
"""Processes at once: enough to tell how crowded cores are, few enough for the memory of a large machine."""
SECONDS = 1.5


@dataclass(frozen=True)
class Crowd:
    """``start``: seconds of computing until a job has begun; ``slower``: by which factor jobs take longer with one on
    every core."""

    start: float
    slower: float


def measure(cores: int) -> Crowd:
    """The costs of starting and of company on ``cores`` cores, in some seven seconds; a `UserError` if a process
    fails."""
    processes = min(cores, MOST)
    with ExitStack() as stack:
        first = stack.enter_context(_Trial())
        start = first.answer()
        others = [stack.enter_context(_Trial()) for _ in range(processes - 1)]
        for other in others:
            other.answer()
        first.ask()
        alone = first.answer()
        for trial in (first, *others):
            trial.ask()
        together = [trial.answer() for trial in (first, *others)]
    return Crowd(start, max(1.0, alone / mean(together)))


class _Trial:
    """A process of this module, ended with its context."""

    def __enter__(self) -> _Trial:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "apfl.crowd"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def ask(self) -> None:
        """Let it train."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def answer(self) -> float:
        """What it says next."""
        if said := self.process.stdout.readline():
            return float(said)
        last = (self.process.communicate()[1].strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"a trial process cannot train ({last}); use --no-estimate")


def main() -> None:
    """For each line that is read, print the steps of local training per second of computing, whatever else runs; first
    the seconds of computing until it began."""
    import torch

    from apfl.nets import CNN, Model, initial_parameters
    from apfl.registry import code_digest
    from apfl.stages import federate, memorize, personalize
    from apfl.training import Engine, Images, TrainingConfig, Work, train
    from apfl.tuning import tune_process

    tune_process()
    code_digest(*(module.__name__ for module in (federate, memorize, personalize)))
    pixels = torch.randint(0, 256, (500, 32, 32, 3), dtype=torch.uint8)
    images = Images(pixels, torch.arange(500) % 10, torch.full((3,), 127.0), torch.full((3,), 74.0))
    model, engine = Model(CNN(3, 10)), Engine.choose("auto", "cpu")
    work = Work(0, initial_parameters({}, 3, 10, 0), (TrainingConfig(1).phase(epochs=1),))
    print(time.process_time(), flush=True)
    for _ in sys.stdin:
        steps, until, began = 0, time.perf_counter() + SECONDS, time.process_time()
        while time.perf_counter() < until:
            steps += train(model, work, images, torch.arange(500), engine, 0, 1).steps
        print(steps / (time.process_time() - began), flush=True)


if __name__ == "__main__":
    main()
