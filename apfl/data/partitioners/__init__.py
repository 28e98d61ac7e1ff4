"""Ways of sharing images among clients, one a file: ``assign(labels, classes, setting, stream) -> Assignment``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Assignment:
    """client: int64 [N], the client of each image (-1: unused); dropout: bool [K], clients that never reach the server;
    draws: how many draws it took until the result could be accepted."""

    client: np.ndarray
    dropout: np.ndarray
    draws: int = 1


def shuffled_classes(labels: np.ndarray, classes: int, stream: np.random.Generator) -> Iterator[np.ndarray]:
    """For each class in turn the positions of its images, shuffled."""
    for label in range(classes):
        yield stream.permutation(np.flatnonzero(labels == label))
