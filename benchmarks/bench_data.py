"""Partitions and their pictures.

`apfl.data.partition.make_partition` distributes 200,000 images of ten classes among 10,000 clients, with the test parts
of all clients. The Dirichlet partition only requires one image per client, because the usual ten would be next to
impossible with so many clients and these images. The picture is the PNG that `apfl partition` writes beside the
partition; its time excludes the import of the plotting library.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest

from apfl.data.dataset import Dataset
from apfl.data.partition import make_partition
from apfl.data.plots import partition_picture
from benchmarks.measuring import in_turn

SETTINGS = {
    "IID": "iid-clients10000",
    "Dirichlet, alpha 1": "dirichlet-alpha1-clients10000-min1",
    "pathological, 2 classes a client": "pathological-classes2-clients10000",
}


def dataset(count: int) -> Dataset:
    """Labels that are not in order; all images are one, because no partition looks at them."""
    labels = np.random.default_rng(0).integers(0, 10, count)
    images = np.broadcast_to(np.zeros((1, 1, 32, 32), np.uint8), (count, 1, 32, 32))
    return Dataset("random", images, labels, tuple("abcdefghij"), {"kind": "random"})


@pytest.mark.parametrize("kind", SETTINGS)
def bench_partition(benchmark, record, quick, kind: str) -> None:
    """Sharing 200,000 images among 10,000 clients."""
    data = dataset(200_000)

    def share() -> float:
        began = time.perf_counter()
        made = make_partition(data, SETTINGS[kind], seed=0)
        assert made.clients == 10_000
        return time.perf_counter() - began

    (seconds,) = in_turn(benchmark, 1 if quick else 2, share)
    record(f"{kind} (`{SETTINGS[kind]}`)", statistics.median(seconds), "s")


@pytest.mark.parametrize("clients", [1600, 10_000])
def bench_picture(benchmark, record, quick, tmp_path, clients: int) -> None:
    """Drawing which client holds what."""
    data = dataset(20 * clients)
    made = make_partition(data, f"dirichlet-alpha1-clients{clients}-min1", seed=0)

    def draw() -> float:
        began = time.process_time()
        partition_picture(tmp_path / "partition.png", data, made)
        return time.process_time() - began

    (seconds,) = in_turn(benchmark, 1 if quick else 2, draw)
    record(f"picture of {clients:,} clients, processor time", statistics.median(seconds), "s", asked="<= 2")
