"""What the paper's partitions allow: bounds on the accuracy of a model that knows its own client alone.

The partitions are drawn as `apfl.data.partition` draws them, by their counts alone: no image is needed.
"""

from __future__ import annotations

import numpy as np

from apfl.data.catalogue import CATALOGUE
from apfl.data.partitioners.dirichlet import draw_counts, draw_until_enough
from apfl.data.setting import parse_setting
from apfl.streams import numpy_stream

SEEDS = 40


def counts(dataset: str, clients: int, alpha: str, seed: int) -> np.ndarray:
    """Images of each class that each client holds in this seed's partition, int64 [clients, classes]."""
    classes = CATALOGUE[dataset].classes
    sizes = np.full(classes, CATALOGUE[dataset].images // classes, dtype=np.int64)
    setting = parse_setting(f"dirichlet-alpha{alpha}-clients{clients}")
    stream = numpy_stream(seed, f"partition/{dataset}/{setting}")
    return draw_until_enough(setting, lambda: draw_counts(sizes, setting, stream))[0]


def bounds_of(held: np.ndarray) -> tuple[float, float]:
    """Floor and ceiling of one partition, means over clients by their numbers of images (Eq. 2), in per cent.

    held: int64 [clients, classes]. Floor: the share of its largest class among a client's own images, which is the
    accuracy on its own test of always answering that class. Ceiling: the share of the pooled test images in classes of
    which the client holds an image, which no model can pass that knows no other class.
    """
    weights = held.sum(axis=1) / held.sum()
    largest = held.max(axis=1) / np.maximum(held.sum(axis=1), 1)
    known = (held > 0) @ held.sum(axis=0) / held.sum()
    return 100 * float(weights @ largest), 100 * float(weights @ known)


def bounds(dataset: str, clients: int, alpha: str) -> np.ndarray:
    """Floors and ceilings of the partitions of `SEEDS` seeds, float64 [2, seeds]."""
    return np.array([bounds_of(counts(dataset, clients, alpha, seed)) for seed in range(SEEDS)]).T
