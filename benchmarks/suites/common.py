"""What all suites have in common: the file with the federation, the network, the clock, and the line that they print.

The programs beside this file run in environments of their own, so this module needs no more than NumPy and PyTorch.
All train the same network from the same parameters on the same batches in the same order, in which nothing is drawn,
so that their results can be compared number by number.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apfl.engine.process import peak_memory
from benchmarks.suites import BEGAN

CLASSES = 10


class CNN(nn.Module):
    """The paper's classifier for images of 32x32 pixels; its parameters are named as `apfl.engine.networks.CNN` names
    them.

    ``pool_first`` pools before ReLU, which is the same function for less work.
    """

    def __init__(self, channels: int = 3, classes: int = CLASSES, pool_first: bool = True) -> None:
        super().__init__()
        first, second = ((nn.MaxPool2d(2), nn.ReLU()) if pool_first else (nn.ReLU(), nn.MaxPool2d(2)) for _ in "12")
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 5), *first, nn.Conv2d(32, 64, 5), *second,
            nn.Flatten(), nn.Linear(1600, 512), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


@dataclass(frozen=True)
class Federation:
    """Images uint8 [N, 3, 32, 32] and labels [N] in the order of the clients, who hold equally many, mean and deviation
    of each channel, and how to train: by SGD without momentum, one epoch a round, in the order of the file."""

    images: np.ndarray
    labels: np.ndarray
    clients: int
    batch_size: int
    learning_rate: float
    mean: np.ndarray
    std: np.ndarray
    start: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, client: int) -> slice:
        """Where the client's images stand."""
        size = len(self) // self.clients
        return slice(client * size, (client + 1) * size)

    @cached_property
    def inputs(self) -> Tensor:
        """All images as float32 [N, 3, 32, 32], normalised per channel."""
        mean, std = (torch.from_numpy(value).float().view(3, 1, 1) for value in (self.mean, self.std))
        return (torch.from_numpy(self.images).float() - mean) / std

    @cached_property
    def targets(self) -> Tensor:
        return torch.from_numpy(self.labels)

    def client(self, client: int) -> tuple[Tensor, Tensor]:
        """The client's normalised images and labels."""
        return self.inputs[self.rows(client)], self.targets[self.rows(client)]

    def network(self, pool_first: bool = True) -> CNN:
        """A network with the initial parameters."""
        network = CNN(pool_first=pool_first)
        network.load_state_dict(self.start)
        return network

    def loss(self, params: Mapping[str, Tensor]) -> float:
        """The mean loss of a model over all images, in float32."""
        network = CNN()
        network.load_state_dict({name: value.detach().cpu().float() for name, value in params.items()})
        with torch.inference_mode():
            logits = torch.cat([network(part) for part in self.inputs.split(500)])
        return F.cross_entropy(logits, self.targets).item()


def write(path: Path, clients: int = 10, images: int = 1000, batch_size: int = 50, learning_rate: float = 0.01) -> None:
    """Write a federation of ``images`` a client: noise on a coarse pattern of the class, so that there is something to
    learn."""
    stream = np.random.default_rng(0)
    labels = stream.integers(0, CLASSES, clients * images)
    patterns = stream.integers(0, 128, (CLASSES, 3, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    noise = stream.integers(0, 128, (len(labels), 3, 32, 32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = {f"start/{name}": value.numpy() for name, value in CNN().state_dict().items()}
    pixels = (patterns[labels] + noise).astype(np.uint8)
    facts = {"clients": clients, "batch_size": batch_size, "learning_rate": learning_rate}
    # Here and not in the programs, whose peak memory is measured: this takes eight bytes a pixel.
    facts |= {"mean": pixels.mean((0, 2, 3)), "std": pixels.std((0, 2, 3))}
    np.savez(path, images=pixels, labels=labels, **facts, **start)


def load(path: Path) -> Federation:
    """The federation of a file that `write` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        start = {name[6:]: torch.from_numpy(archive[name]) for name in archive.files if name.startswith("start/")}
        facts = (int(archive["clients"]), int(archive["batch_size"]), float(archive["learning_rate"]))
        return Federation(archive["images"], archive["labels"], *facts, archive["mean"], archive["std"], start)


def arguments(suite: str, add: Any = None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of every suite's program."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.suites.{suite}")
    parser.add_argument("--data", required=True, type=Path, help="the federation")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds, after one that is not counted")
    parser.add_argument(
        "--threads", type=int, default=2, help="threads, or clients at a time where those are processes"
    )
    parser.add_argument("--in-turn", action="store_true", help="wait for a line of input before each round")
    parser.add_argument("--out", type=Path, help="write the final parameters there (.npz)")
    if add is not None:
        add(parser)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    return options


class Course:
    """The rounds of a program: `mark` stands before the first one and after each.

    What a suite prints goes to the standard error, so that the standard output has only what is said here: with
    ``--in-turn`` "ready" before each round and the seconds of each after it, and last of all one line of JSON.
    """

    def __init__(self, suite: str, options: argparse.Namespace) -> None:
        self.suite, self.options = suite, options
        self.seconds: list[float] = []
        self.startup: float | None = None
        self.peak = 0
        self.began: float | None = None
        self.output = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    @property
    def total(self) -> int:
        """Rounds with the one that is not counted."""
        return 1 + self.options.rounds

    @property
    def over(self) -> bool:
        return len(self.seconds) == self.total

    def mark(self) -> None:
        now = time.perf_counter()
        if self.began is None:
            self.startup = now - BEGAN
        else:
            self.seconds.append(now - self.began)
            if self.options.in_turn:
                self._say(f"{self.seconds[-1]!r}")
        if self.over:
            self.peak = peak_memory()  # before anything is evaluated
            return
        if self.options.in_turn:
            self._say("ready")
            if not sys.stdin.readline():
                raise SystemExit("nobody waits for the next round")
        self.began = time.perf_counter()

    def report(
        self,
        federation: Federation,
        params: Mapping[str, Tensor],
        packages: Sequence[str] = (),
        others: int = 0,
    ) -> None:
        """The line of JSON, and the final parameters if they are asked for; ``others`` is the peak memory of the
        suite's other processes."""
        params = {name: value.detach().cpu().float() for name, value in params.items()}
        if self.options.out is not None:
            np.savez(self.options.out, **{name: value.numpy() for name, value in params.items()})
        line = {
            "suite": self.suite,
            "threads": self.options.threads,
            "images": len(federation),
            "startup_seconds": self.startup,
            "warm_up_seconds": self.seconds[0],
            "round_seconds": self.seconds[1:],
            "samples_per_second": len(federation) * self.options.rounds / sum(self.seconds[1:]),
            "peak_rss_bytes": self.peak + others,
            "loss": federation.loss(params),
            "start_loss": federation.loss(federation.start),
            "versions": {name: version(name) for name in ("torch", *packages)},
        }
        self._say(json.dumps(line))

    def _say(self, line: str) -> None:
        print(line, file=self.output, flush=True)
