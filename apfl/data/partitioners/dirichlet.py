"""Label skew: every class is shared among the clients by proportions drawn from a Dirichlet distribution.

Hsu, Qi and Brown, "Measuring the effects of non-identical data distribution for federated visual classification",
2019, here per class over the clients. Everything is drawn again until every client holds ``min_samples`` images.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apfl.data.partitioners import Assignment, shuffled_classes
from apfl.data.setting import Setting
from apfl.errors import UserError

DRAWS = 1000


def assign(labels: np.ndarray, classes: int, setting: Setting, stream: np.random.Generator) -> Assignment:
    """Share the images; labels: int64 [N]. `UserError` if no draw gives every client ``setting.min_samples`` images."""
    sizes = np.bincount(labels, minlength=classes)
    counts, draws = draw_until_enough(setting, lambda: draw_counts(sizes, setting, stream))
    client = np.empty(len(labels), np.int64)
    for positions, share in zip(shuffled_classes(labels, classes, stream), counts.T, strict=True):
        client[positions] = np.repeat(np.arange(setting.clients), share)
    return Assignment(client, np.zeros(setting.clients, bool), draws)


def draw_counts(sizes: np.ndarray, setting: Setting, stream: np.random.Generator) -> np.ndarray:
    """One draw: how many images of each class each client gets, int64 [K, classes]; columns add up to ``sizes``."""
    counts = np.zeros((setting.clients, len(sizes)), np.int64)
    fair = sizes.sum() / setting.clients
    for label, size in enumerate(sizes):
        open_clients = counts.sum(axis=1) < fair if setting.balanced else np.ones(setting.clients, bool)
        counts[:, label] = cut(size, shares(float(setting.alpha), open_clients, stream))  # type: ignore[arg-type]
    return counts


def shares(alpha: float, open_clients: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Proportions [K] that add up to 1 and are zero for closed clients.

    With a small alpha all of the mass can fall on closed clients. Where dividing by it would be 0/0, the open clients
    (or all of them, if every one is closed) share evenly.
    """
    drawn = stream.dirichlet(np.full(len(open_clients), alpha)) * open_clients
    if np.isfinite(drawn).all() and drawn.sum() > 0:
        return drawn / drawn.sum()  # type: ignore[no-any-return]
    even = open_clients if open_clients.any() else np.ones(len(open_clients))
    return even / even.sum()  # type: ignore[no-any-return]


def cut(size: int, proportions: np.ndarray) -> np.ndarray:
    """Whole numbers [K] near ``size`` times ``proportions`` that add up to ``size``.

    >>> cut(10, np.array([0.25, 0.25, 0.5])).tolist()
    [2, 3, 5]
    """
    ends = (np.cumsum(proportions) * size).astype(np.int64)
    ends[-1] = size
    return np.diff(np.minimum(ends, size), prepend=0)


def draw_until_enough(setting: Setting, draw: Callable[[], np.ndarray]) -> tuple[np.ndarray, int]:
    """Counts [K, ...] of the first draw that gives every client enough images, and how many draws that took."""
    for draws in range(1, DRAWS + 1):
        counts = draw()
        if counts.reshape(setting.clients, -1).sum(axis=1).min() >= setting.min_samples:
            return counts, draws
    raise UserError(
        f"setting {setting}: in {DRAWS} draws some client always held fewer than {setting.min_samples} images;"
        " use a larger alpha, fewer clients, more images or a smaller minimum (such as -min1)"
    )
