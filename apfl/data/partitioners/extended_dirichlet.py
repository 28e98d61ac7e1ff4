"""Label skew in two steps: each client is dealt a few classes, and a class is shared by a Dirichlet distribution among
the clients that hold it.

Li and Lyu, "Convergence analysis of sequential federated learning on heterogeneous data", 2023. Classes are dealt so
that no class is held by two clients more than another; proportions are drawn again until every client holds
``min_samples`` images.
"""

from __future__ import annotations

import numpy as np

from apfl.data.partitioners import Assignment, shuffled_classes
from apfl.data.partitioners.dirichlet import cut, draw_until_enough
from apfl.data.partitioners.pathological import held_classes
from apfl.data.setting import Setting


def assign(labels: np.ndarray, classes: int, setting: Setting, stream: np.random.Generator) -> Assignment:
    """Share the images; labels: int64 [N]. `UserError` if the clients cannot hold all classes, or no draw gives each of
    them ``setting.min_samples`` images."""
    sizes = np.bincount(labels, minlength=classes)
    nobody = np.zeros(setting.clients, bool)
    held = np.zeros((setting.clients, classes), bool)
    for client, own in enumerate(held_classes(classes, np.arange(0), nobody, setting, stream)):
        held[client, list(own)] = True

    def draw() -> np.ndarray:
        counts = np.zeros(held.shape, np.int64)
        for label, size in enumerate(sizes):
            holders = np.flatnonzero(held[:, label])
            drawn = stream.dirichlet(np.full(len(holders), float(setting.alpha)))  # type: ignore[arg-type]
            even = np.full(len(holders), 1 / len(holders))  # for an alpha so small that the draw is 0/0
            counts[holders, label] = cut(size, drawn if np.isfinite(drawn).all() else even)
        return counts

    counts, draws = draw_until_enough(setting, draw)
    client = np.empty(len(labels), np.int64)
    for positions, share in zip(shuffled_classes(labels, classes, stream), counts.T, strict=True):
        client[positions] = np.repeat(np.arange(setting.clients), share)
    return Assignment(client, nobody, draws)
