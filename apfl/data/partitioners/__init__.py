"""Ways of sharing images among clients, one a file: ``assign(labels, classes, setting, stream) -> Assignment``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Assignment:
    """client: int64 [N], the client of each image (-1: unused); dropout: bool [K], clients that never reach the server;
    draws: how many draws it took until the result could be accepted; split: int64 [N], what each image is for (0: to
    train on, 1: to validate, 2: to test on), or None where that is left to be drawn; said: what else is known."""

    client: np.ndarray
    dropout: np.ndarray
    draws: int = 1
    split: np.ndarray | None = None
    said: Mapping[str, Any] = field(default_factory=dict)


def shuffled_classes(labels: np.ndarray, classes: int, stream: np.random.Generator) -> Iterator[np.ndarray]:
    """For each class in turn the positions of its images, shuffled."""
    for label in range(classes):
        yield stream.permutation(np.flatnonzero(labels == label))
