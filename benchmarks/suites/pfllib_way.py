"""The federation the way PFLlib (TsingZ0/PFLlib) goes about it, as a plain loop; none of its code is used.

Each client has a model of its own that stays in memory. In every round the clients train one after another: each
takes the global parameters over, reads its images from its own compressed file, makes a list of pairs of them and a
DataLoader over that list, and takes each batch to the device. Images are float32 [C, H, W], the network has ReLU
before pooling as it has there, and the server takes the mean weighted by the numbers of images. PFLlib's loader
shuffles and drops a short last batch; here it does neither, for the sake of comparison.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.suites.common import Course, Federation, arguments, load


def write_files(federation: Federation, folder: Path) -> None:
    """Each client's images in a file of its own, as PFLlib's generators of data sets leave them, once for all runs."""
    for client in range(federation.clients):
        images, labels = federation.client(client)
        np.savez_compressed(folder / f"{client}.npz", x=images.numpy(), y=labels.numpy())


class Client:
    """A client with its own model and its own file of those that `write_files` has written."""

    def __init__(self, federation: Federation, number: int, folder: Path, device: torch.device) -> None:
        self.file, self.device = folder / f"{number}.npz", device
        self.size = len(federation) // federation.clients
        self.batch_size = federation.batch_size
        self.model = federation.network(pool_first=False).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=federation.learning_rate)

    def loader(self) -> DataLoader:
        with np.load(self.file, allow_pickle=False) as archive:
            images, labels = torch.from_numpy(archive["x"]), torch.from_numpy(archive["y"])
        return DataLoader(list(zip(images, labels, strict=True)), self.batch_size)

    def adopt(self, server: nn.Module) -> None:
        """Take the global parameters over."""
        for own, value in zip(self.model.parameters(), server.parameters(), strict=True):
            own.data = value.data.clone()

    def correct(self, model: nn.Module) -> None:
        """What a method does to the gradient of a step."""

    def steps(self, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Train ``model`` on the client's images."""
        loader = self.loader()
        model.train()
        for _ in range(epochs):
            for images, labels in loader:
                images, labels = images.to(self.device), labels.to(self.device)
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                self.correct(model)
                optimizer.step()

    def train(self, server: nn.Module, epochs: int) -> None:
        """The client's round."""
        self.adopt(server)
        self.steps(self.model, self.optimizer, epochs)

    @classmethod
    def aggregate(cls, clients: Sequence[Any], server: nn.Module) -> None:
        """The server's part of a round: ``clients`` are of this class."""
        total = sum(client.size for client in clients)
        for value in server.parameters():
            value.data.zero_()
        for client in clients:
            for value, own in zip(server.parameters(), client.model.parameters(), strict=True):
                value.data += own.data.clone() * client.size / total


def federate(
    federation: Federation, rounds: int, device: torch.device | str = "cpu", epochs: int = 1
) -> Iterator[Mapping[str, Tensor]]:
    """The global parameters before the first round of FedAvg and after each."""
    device = torch.device(device)
    with tempfile.TemporaryDirectory() as folder:
        write_files(federation, Path(folder))
        clients = [Client(federation, number, Path(folder), device) for number in range(federation.clients)]
        for server in together(clients, rounds, epochs):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            yield server.state_dict()


def together(clients: Sequence[Client], rounds: int, epochs: int = 1) -> Iterator[nn.Module]:
    """The server's model before the first round and after each; the clients are changed."""
    server = copy.deepcopy(clients[0].model)
    yield server
    for _ in range(rounds):
        for client in clients:
            client.train(server, epochs)
        clients[0].aggregate(clients, server)
        yield server


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu")


def main() -> None:
    options = arguments("pfllib_way", _device)
    course = Course("pfllib_way", options)
    federation = load(options.data)
    last = None
    for params in federate(federation, course.total, options.device):
        course.mark()
        last = params
    course.report(federation, last)


if __name__ == "__main__":
    main()
