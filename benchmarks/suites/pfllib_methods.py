"""Further methods the way PFLlib goes about them, a program for each run: `--method scaffold`.

What methods have in common is `benchmarks.suites.pfllib_way`; here are the gradients that they change, the models that
clients keep, and what the server takes the mean of. None of PFLlib's code is used.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.suites.common import Course, arguments, load
from benchmarks.suites.pfllib_way import Client, together


class Local(Client):
    """Each client goes on with its own model."""

    def adopt(self, server: nn.Module) -> None:
        pass

    @classmethod
    def aggregate(cls, clients: Sequence[Client], server: nn.Module) -> None:
        pass


class Anchored(Client):
    """A client that remembers the global parameters w that it was given."""

    anchor: Sequence[Tensor]

    def adopt(self, server: nn.Module) -> None:
        super().adopt(server)
        self.anchor = [value.data.clone() for value in server.parameters()]

    def pull(self, model: nn.Module, weight: float) -> None:
        """The gradient of weight/2 ||v - w||^2 at the parameters v of ``model``."""
        for own, value in zip(model.parameters(), self.anchor, strict=True):
            own.grad += weight * (own.data - value)


class FedProx(Anchored):
    mu: ClassVar[float] = 0.01

    def correct(self, model: nn.Module) -> None:
        self.pull(model, self.mu)


class Ditto(Anchored):
    """Beside its part of FedAvg a client has a model of its own that is held near the global one."""

    lam: ClassVar[float] = 1.0

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.personal = copy.deepcopy(self.model)
        self.personal_optimizer = torch.optim.SGD(self.personal.parameters(), lr=self.optimizer.defaults["lr"])

    def correct(self, model: nn.Module) -> None:
        if model is self.personal:
            self.pull(model, self.lam)

    def train(self, server: nn.Module, epochs: int) -> None:
        super().train(server, epochs)
        self.steps(self.personal, self.personal_optimizer, epochs)


class Scaffold(Anchored):
    """Steps along g + c - c_i; c_i <- c_i - c + (w - v) / (K eta) after K steps to v; c moves by the mean change."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.control = [torch.zeros_like(value) for value in self.model.parameters()]
        self.shared, self.taken = self.control, 0

    def correct(self, model: nn.Module) -> None:
        self.taken += 1
        for value, shared, own in zip(model.parameters(), self.shared, self.control, strict=True):
            value.grad += shared - own

    def train(self, server: nn.Module, epochs: int) -> None:
        self.taken = 0
        super().train(server, epochs)
        scale = 1 / (self.taken * self.optimizer.defaults["lr"])
        moved = [scale * (w - v.data) for w, v in zip(self.anchor, self.model.parameters(), strict=True)]
        self.change = [step - shared for step, shared in zip(moved, self.shared, strict=True)]
        self.control = [own + change for own, change in zip(self.control, self.change, strict=True)]

    @classmethod
    def aggregate(cls, clients: Sequence[Any], server: nn.Module) -> None:
        super().aggregate(clients, server)
        total = sum(client.size for client in clients)
        shared = [value.clone() for value in clients[0].shared]
        for client in clients:
            for value, change in zip(shared, client.change, strict=True):
                value += change * client.size / total
        for client in clients:
            client.shared = shared


METHODS: dict[str, type[Client]] = {
    "local": Local,
    "fedavg": Client,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "ditto": Ditto,
}


def _method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", required=True, choices=METHODS)
    parser.add_argument("--files", required=True, type=Path, help="the clients' files (`pfllib_way.write_files`)")


def main() -> None:
    options = arguments("pfllib_methods", _method)
    course = Course("pfllib_methods", options)
    federation = load(options.data)
    kind, device = METHODS[options.method], torch.device("cpu")
    clients = [kind(federation, number, options.files, device) for number in range(federation.clients)]
    last = None
    for server in together(clients, course.total):
        course.mark()
        last = server.state_dict()
    course.report(federation, last)


if __name__ == "__main__":
    main()
