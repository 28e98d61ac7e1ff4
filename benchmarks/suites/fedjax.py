"""The federation in FedJAX 0.0.17 (google/fedjax), as its documentation writes FedAvg, on JAX before 0.6.

The network is written in Haiku for images [N, H, W, C], JAX's own layout: `moved` takes parameters there and back.
Clients train one after another in compiled steps, which is FedJAX's default (its other way, `pmap`, needs a device for
each client at a time). It fills a client's last batch up from the front, so batches are to divide the client's images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import fedjax
import haiku as hk
import jax
import numpy as np
import torch
from torch import Tensor

from benchmarks.suites.common import CLASSES, Course, Federation, arguments, load

LAYERS = {"body.0": "conv2_d", "body.3": "conv2_d_1", "body.7": "linear", "head": "linear_1"}
"""The names of the layers here and in Haiku, in the network's order."""


def forward(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Logits [N, classes]; pooling stands before ReLU, which is the same function for less work."""
    pool = hk.MaxPool((2, 2, 1), (2, 2, 1), "VALID")
    network = hk.Sequential([
        hk.Conv2D(32, 5, padding="VALID"), pool, jax.nn.relu,
        hk.Conv2D(64, 5, padding="VALID"), pool, jax.nn.relu,
        hk.Flatten(), hk.Linear(512), jax.nn.relu, hk.Linear(CLASSES),
    ])  # fmt: skip
    return network(batch["x"])


def moved(start: Mapping[str, Tensor]) -> dict[str, dict[str, np.ndarray]]:
    """PyTorch's parameters as Haiku's: kernels are [H, W, in, out], and images are flattened as [H, W, C]."""

    def weight(name: str) -> np.ndarray:
        value = start[f"{name}.weight"]
        if value.ndim == 4:
            return value.permute(2, 3, 1, 0).numpy()
        if name == "body.7":
            value = value.view(-1, 64, 5, 5).permute(0, 2, 3, 1).flatten(1)
        return value.T.numpy()

    return {theirs: {"w": weight(own), "b": start[f"{own}.bias"].numpy()} for own, theirs in LAYERS.items()}


def moved_back(params: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, Tensor]:
    """What `moved` has moved, as it was."""
    found = {}
    for own, theirs in LAYERS.items():
        weight, bias = (torch.from_numpy(np.array(params[theirs][name])) for name in "wb")
        weight = weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        if own == "body.7":
            weight = weight.reshape(-1, 5, 5, 64).permute(0, 3, 1, 2).flatten(1)
        found |= {f"{own}.weight": weight, f"{own}.bias": bias}
    return found


def clients_of(federation: Federation) -> list[tuple[bytes, fedjax.ClientDataset, jax.Array]]:
    """Clients as FedJAX's samplers give them: a name, the images, a key, which is not used here."""

    def dataset(client: int) -> fedjax.ClientDataset:
        images, labels = federation.client(client)
        return fedjax.ClientDataset({"x": images.permute(0, 2, 3, 1).contiguous().numpy(), "y": labels.numpy()})

    key = jax.random.PRNGKey(0)
    return [(b"%d" % client, dataset(client), key) for client in range(federation.clients)]


def main() -> None:
    options = arguments("fedjax")
    os.environ["NPROC"] = f"{options.threads}"  # the pool that XLA makes when it starts; beside it, the caller computes
    course = Course("fedjax", options)
    federation = load(options.data)
    clients = clients_of(federation)
    model = fedjax.create_model_from_haiku(
        hk.transform(forward),
        {name: value[:1] for name, value in clients[0][1].raw_examples.items()},
        lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], logits),
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(federation.learning_rate),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(federation.batch_size, skip_shuffle=True),
    )
    state = algorithm.init(moved(federation.start))
    course.mark()
    while not course.over:
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)
        course.mark()
    course.report(federation, moved_back(state.params), ["fedjax", "jax"])


if __name__ == "__main__":
    main()
