"""The federation in pfl-research (apple/pfl-research, `pfl[pytorch]`), as its documentation writes FedAvg.

Its data set is a dictionary of tensors, normalised beforehand, from which it takes slices; nothing is evaluated but
the first round, which is not counted, and what it logs is off.
"""

from __future__ import annotations

import argparse
import logging

import torch
import torch.nn.functional as F
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel

from benchmarks.suites.common import CNN, Course, arguments, load


class Network(CNN):
    """The network with the two functions that pfl asks of a model."""

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self(images), labels)

    @torch.no_grad()
    def metrics(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Weighted]:
        return {"loss": Weighted(self.loss(images, labels).item() * len(labels), len(labels))}


class AfterRound(TrainingProcessCallback):
    def __init__(self, course: Course) -> None:
        self.course = course

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.course.mark()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        self.course.mark()
        return False, Metrics()


def _precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bf16", action="store_true", help="its option amp_dtype, which is off by default")
    parser.add_argument("--relu-first", action="store_true", help="ReLU before pooling, as networks are often written")


def main() -> None:
    options = arguments("pfl", _precision)
    course = Course("pfl", options)
    logging.disable(logging.WARNING)
    federation = load(options.data)
    users = {client: list(federation.client(client)) for client in range(federation.clients)}
    dataset = FederatedDataset.from_slices(users, get_user_sampler("minimize_reuse", list(users)))
    network = Network(pool_first=not options.relu_first)
    network.load_state_dict(federation.start)
    model = PyTorchModel(
        network,
        torch.optim.SGD,
        torch.optim.SGD(network.parameters(), lr=1.0),
        amp_dtype=torch.bfloat16 if options.bf16 else None,
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=course.total,
            evaluation_frequency=course.total,
            train_cohort_size=federation.clients,
            val_cohort_size=0,
        ),
        SimulatedBackend(dataset, dataset, [WeightByDatapoints()]),
        model,
        NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=federation.learning_rate,
            local_batch_size=federation.batch_size,
        ),
        NNEvalHyperParams(local_batch_size=500),
        callbacks=[AfterRound(course)],
        send_metrics_to_platform=False,
    )
    course.report(federation, network.state_dict(), ["pfl"])


if __name__ == "__main__":
    main()
