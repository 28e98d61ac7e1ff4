"""The federation in Flower (flwrlabs/flower, `flwr[simulation]`): its strategies FedAvg and FedProx (`--mu`) and its
simulation engine.

Each client has one core, so that as many train at a time as there are cores. The peak memory is that of the server's
process and of the workers; Ray's own processes come on top.
"""

from __future__ import annotations

import argparse
import functools
import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, FedProx
from flwr.simulation import run_simulation

from apfl.engine.process import peak_memory
from benchmarks.suites.common import Course, Federation, arguments, load

app = ClientApp()


@functools.cache
def data(path: str) -> Federation:
    """The federation, read once by each worker."""
    torch.set_num_threads(1)
    return load(Path(path))


@app.train()
def fit(message: Message, context: Context) -> Message:
    """One client's round."""
    federation = data(message.content["config"]["data"])
    images, labels = federation.client(int(context.node_config["partition-id"]))
    network = federation.network()
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=federation.learning_rate)
    size = federation.batch_size
    mu = float(message.content["config"].get("proximal-mu", 0.0))
    anchor = [value.detach().clone() for value in network.parameters()] if mu else []
    for batch, classes in zip(images.split(size), labels.split(size), strict=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(batch), classes)
        if mu:
            pairs = zip(network.parameters(), anchor, strict=True)
            loss = loss + mu / 2 * sum((own - value).square().sum() for own, value in pairs)
        loss.backward()
        optimizer.step()
    facts = {"num-examples": len(labels), "process": os.getpid(), "peak": peak_memory()}
    content = {"arrays": ArrayRecord(network.state_dict()), "metrics": MetricRecord(facts)}
    return Message(content=RecordDict(content), reply_to=message)


class Whole(FedAvg):
    """Flower averages whatever comes back; here a round without one of its clients is an error."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]):
        replies = list(replies)
        if failed := [reply for reply in replies if reply.has_error()]:
            raise RuntimeError(f"round {server_round}: {len(failed)} clients failed; the first: {failed[0].error}")
        metrics = [reply.content["metrics"] for reply in replies]
        self.peaks = {int(one["process"]): int(one["peak"]) for one in metrics}
        return super().aggregate_train(server_round, replies)


class WholeProx(Whole, FedProx):
    """Likewise FedProx, whose clients are told mu."""


def _proximal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mu", type=float, default=0.0, help="of FedProx; 0 is FedAvg")


def main() -> None:
    options = arguments("flower", _proximal)
    course = Course("flower", options)
    federation = load(options.data)
    clients = federation.clients
    everybody = {"fraction_train": 1.0, "min_train_nodes": clients, "min_available_nodes": clients}
    chosen = functools.partial(WholeProx, proximal_mu=options.mu) if options.mu else Whole
    strategy = chosen(fraction_evaluate=0.0, **everybody)
    final: dict[str, torch.Tensor] = {}
    server = ServerApp()

    def after_round(round: int, arrays: ArrayRecord) -> MetricRecord:
        course.mark()
        return MetricRecord({})

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        result = strategy.start(
            grid,
            ArrayRecord(federation.network().state_dict()),
            num_rounds=course.total,
            train_config=ConfigRecord({"data": str(options.data.resolve())}),
            evaluate_fn=after_round,
        )
        final.update(result.arrays.to_torch_state_dict())

    backend = {"init_args": {"num_cpus": options.threads}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, app, num_supernodes=clients, backend_config=backend)
    course.report(federation, final, ["flwr", "ray"], others=sum(strategy.peaks.values()))


if __name__ == "__main__":
    # Workers find this module by its name, not as the program that is running.
    from benchmarks.suites import flower

    os.environ["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    flower.main()
