"""FedAvg run by Flower on a partition artefact: a foreign method, which knows the suite by its files alone.

It reads the data set, the partition and the initial parameters, trains with Flower's own FedAvg strategy and simulation
engine, and writes the metrics table that every method writes. Nothing of `apfl` is imported, and Flower is in an
environment of its own (flower.yml). docs/adding-a-method.md explains it line by line.

    @article{beutel2020flower,
      title = {Flower: A friendly federated learning research framework},
      author = {Beutel, Daniel J. and Topal, Taner and Mathur, Akhil and Qiu, Xinchi and others},
      journal = {arXiv preprint arXiv:2007.14390}, year = {2020}}
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

TITLE = "FedAvg (Flower)"
MODEL = "global"

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import flwr
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from safetensors.torch import load_file, save_file
from torch import nn


class CNN(nn.Module):
    """The paper's classifier; its parameters are named as in the file of initial parameters."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 5), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(), nn.Linear(1600, 512), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(512, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images))


class Data:
    """The images of a data set artefact, shared out as a partition artefact says, normalised as all methods do."""

    def __init__(self, data: Path, partition: Path) -> None:
        with np.load(data, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
        with np.load(partition, allow_pickle=False) as archive:
            client, is_train, is_validation = archive["client"], archive["is_train"], archive["is_validation"]
            self.dropout, self.unseen, counts = archive["dropout"], archive["unseen"], archive["counts"]
        self.clients, self.classes, self.channels = len(self.dropout), counts.shape[1], images.shape[1]
        self.train = [np.flatnonzero((client == k) & is_train) for k in range(self.clients)]
        self.test = [np.flatnonzero((client == k) & ~is_train & ~is_validation) for k in range(self.clients)]
        heard = np.concatenate([part for part, dropped in zip(self.train, self.dropout, strict=True) if not dropped])
        pixels = torch.from_numpy(images[heard]).double()
        mean = pixels.mean((0, 2, 3), keepdim=True)
        std = (pixels.square().mean((0, 2, 3), keepdim=True) - mean**2).sqrt().clamp_min(1.0)
        self.images = (torch.from_numpy(images).float() - mean.float()) / std.float()
        self.labels = torch.from_numpy(labels)


def train(network: nn.Module, data: Data, client: int, settings: dict, round: int) -> None:
    """The client's local epochs, in place."""
    kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    optimizer = kinds[settings["optimizer"]](network.parameters(), lr=settings["learning_rate"])
    rows = torch.from_numpy(data.train[client])
    stream = torch.Generator().manual_seed(1_000_003 * (1_000_003 * settings["seed"] + round) + client)
    for _ in range(settings["local_epochs"]):
        order = rows[torch.randperm(len(rows), generator=stream)] if settings["shuffle"] else rows
        for batch in order.split(settings["batch_size"]):
            optimizer.zero_grad()
            F.cross_entropy(network(data.images[batch]), data.labels[batch]).backward()
            optimizer.step()


app = ClientApp()


@cache
def load(data: str, partition: str) -> Data:
    """The artefacts, read once by each worker process."""
    torch.set_num_threads(1)
    return Data(Path(data), Path(partition))


@app.train()
def fit(message: Message, context: Context) -> Message:
    """One client's round, in Flower's sense."""
    config = message.content["config"]
    settings = json.loads(config["settings"])
    data = load(config["data"], config["partition"])
    client = settings["members"][int(context.node_config["partition-id"])]
    network = CNN(data.channels, data.classes)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    train(network, data, client, settings, int(config["server-round"]))
    content = {
        "arrays": ArrayRecord(network.state_dict()),
        "metrics": MetricRecord({"num-examples": len(data.train[client])}),
    }
    return Message(content=RecordDict(content), reply_to=message)


class StrictFedAvg(FedAvg):
    """Flower averages whatever comes back; here a round without one of its clients is an error."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]):
        replies = list(replies)
        if failed := [reply for reply in replies if reply.has_error()]:
            raise RuntimeError(f"round {server_round}: {len(failed)} clients failed; the first: {failed[0].error}")
        return super().aggregate_train(server_round, replies)


def evaluate(network: nn.Module, data: Data, round: int) -> list[dict]:
    """One row per client and test kind, as docs/adding-a-method.md describes the metrics table."""
    network.eval()
    rows = []
    with torch.inference_mode():
        logits = {k: network(data.images[data.test[k]]) for k in range(data.clients) if len(data.test[k])}
    correct = {k: (value.argmax(1) == data.labels[data.test[k]]).double() for k, value in logits.items()}
    losses = {k: F.cross_entropy(v, data.labels[data.test[k]], reduction="none").double() for k, v in logits.items()}
    for k in range(data.clients):
        tests = {"pooled": (torch.cat(list(correct.values())), torch.cat(list(losses.values())))}
        if k in correct:
            tests["own"] = (correct[k], losses[k])
            monopoly = torch.from_numpy(data.unseen[data.labels[data.test[k]].numpy()])
            if data.dropout[k] and monopoly.any():
                tests["monopoly"] = (correct[k][monopoly], losses[k][monopoly])
        for test, (right, loss) in tests.items():
            rows.append(
                {
                    "round": round,
                    "virtual_time": float(round),
                    "client": k,
                    "client_role": "dropout" if data.dropout[k] else "non_dropout",
                    "model": "global",
                    "test": test,
                    "accuracy": right.mean().item(),
                    "loss": loss.mean().item(),
                    "samples": len(right),
                    "train_samples": len(data.train[k]),
                }
            )
    return rows


def federate(spec: dict, paths: tuple[Path, Path], initial: Path, shuffle: bool) -> tuple[list[dict], dict]:
    """Train, and return the rows of the metrics table and the final parameters."""
    data = Data(*paths)
    # Workers find this module by its name, not as the script that is running.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    settings = spec["training"] | {"seed": spec["seed"], "shuffle": shuffle}
    start = load_file(initial)
    members = [k for k in range(data.clients) if not data.dropout[k] and len(data.train[k])]
    settings["members"] = members
    config = ConfigRecord({"settings": json.dumps(settings), "data": str(paths[0]), "partition": str(paths[1])})
    rows: list[dict] = []
    final: dict[str, torch.Tensor] = {}
    server = ServerApp()

    def after_round(round: int, arrays: ArrayRecord) -> MetricRecord:
        if round in settings["evaluate_rounds"]:
            network = CNN(data.channels, data.classes)
            network.load_state_dict(arrays.to_torch_state_dict())
            here = evaluate(network, data, round)
            rows.extend(here)
            print(f"round {round}: pooled accuracy {100 * here[0]['accuracy']:.2f} %", flush=True)
        return MetricRecord({})

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = StrictFedAvg(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=len(members), min_available_nodes=len(members)
        )
        network = CNN(data.channels, data.classes)
        network.load_state_dict(start)
        result = strategy.start(
            grid,
            ArrayRecord(network.state_dict()),
            num_rounds=settings["rounds"],
            train_config=config,
            evaluate_fn=after_round,
        )
        final.update(result.arrays.to_torch_state_dict())

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, app, num_supernodes=len(members), backend_config=resources)
    return rows, final


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", required=True, type=json.loads, help="the run's specification as JSON")
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--partition", required=True, type=Path)
    parser.add_argument("--initial", required=True, type=Path, help="initial parameters (safetensors)")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--no-shuffle", action="store_true", help="keep the order of the images: for cross-checks")
    given = parser.parse_args()
    began = time.perf_counter()
    paths = (given.data.resolve(), given.partition.resolve())
    rows, final = federate(given.spec, paths, given.initial, not given.no_shuffle)
    identity = {
        key: given.spec.get(key, "") for key in ("dataset", "setting", "method", "semantics", "reading", "seed")
    }
    given.out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([identity | row for row in rows]).to_parquet(given.out / "metrics.parquet", index=False)
    prefix = f"round{given.spec['training']['rounds']}/global/"
    state = {f"{prefix}{name}": value.contiguous() for name, value in final.items()}
    save_file(state, given.out / "state.safetensors")
    record = {
        "stage": "external",
        "specification": given.spec,
        "code": f"flwr {flwr.__version__}",
        "status": "finished",
        "seconds": round(time.perf_counter() - began, 3),
        "versions": {"flwr": flwr.__version__, "torch": torch.__version__},
    }
    (given.out / "run.json").write_text(json.dumps(record, sort_keys=True, indent=2) + "\n")


if __name__ == "__main__":
    import flower

    flower.main()
