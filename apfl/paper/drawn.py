"""What the paper's partitions allow: bounds on the accuracy of a model that knows its own client alone.

The partitions are drawn as `apfl.data.partition` draws them, by their counts alone: no image is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from apfl.data.dataset import CLASSES
from apfl.data.partitioners.dirichlet import draw_counts, draw_until_enough
from apfl.data.setting import parse_setting
from apfl.streams import numpy_stream

IMAGES: Mapping[str, int] = {"cifar10": 60_000, "cifar100": 60_000, "emnist": 145_600, "fashion_mnist": 70_000}
"""Training and test images together, the same number in each class; EMNIST's letters."""
SEEDS = 40


@dataclass(frozen=True)
class Bounds:
    """Means over clients by their numbers of images (Eq. 2), in per cent, float64 [seeds].

    ``floor``: the share of its largest class among a client's own images, which is the accuracy on its own test of
    always answering that class. ``ceiling``: the share of the pooled test images in classes of which the client holds
    an image, which no model can pass that knows no other class.
    """

    floor: np.ndarray
    ceiling: np.ndarray


def sizes(dataset: str) -> np.ndarray:
    """Images of each class, int64 [classes]."""
    return np.full(CLASSES[dataset], IMAGES[dataset] // CLASSES[dataset], dtype=np.int64)


def counts(dataset: str, clients: int, alpha: str, seed: int) -> np.ndarray:
    """Images of each class that each client holds in this seed's partition, int64 [clients, classes]."""
    setting = parse_setting(f"dirichlet-alpha{alpha}-clients{clients}")
    stream = numpy_stream(seed, f"partition/{dataset}/{setting}")
    return draw_until_enough(setting, lambda: draw_counts(sizes(dataset), setting, stream))[0]


def bounds_of(held: np.ndarray) -> tuple[float, float]:
    """Floor and ceiling of one partition; held: int64 [clients, classes]."""
    weights = held.sum(axis=1) / held.sum()
    largest = held.max(axis=1) / np.maximum(held.sum(axis=1), 1)
    known = (held > 0) @ held.sum(axis=0) / held.sum()
    return 100 * float(weights @ largest), 100 * float(weights @ known)


@cache
def bounds(dataset: str, clients: int, alpha: str, seeds: int = SEEDS) -> Bounds:
    """The bounds in as many partitions as ``seeds``."""
    found = [bounds_of(counts(dataset, clients, alpha, seed)) for seed in range(seeds)]
    floor, ceiling = np.array(found).T
    return Bounds(floor, ceiling)
