"""Quantity skew by a power law: the k-th largest client has a share of the images in proportion to k ^ -alpha.

Sizes as in Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated optimization in heterogeneous networks", 2020;
here classes are in the same proportions everywhere but for chance, and which client is how large is drawn. Every client
has ``min_samples`` images before the others are shared.
"""

from __future__ import annotations

import numpy as np

from apfl.data.partitioners import Assignment
from apfl.data.partitioners.dirichlet import cut
from apfl.data.setting import Setting


def assign(labels: np.ndarray, classes: int, setting: Setting, stream: np.random.Generator) -> Assignment:
    """Share the images; labels: int64 [N], at least ``setting.min_samples`` a client."""
    weights = np.arange(1, setting.clients + 1) ** -float(setting.alpha)  # type: ignore[arg-type]
    rest = len(labels) - setting.clients * setting.min_samples
    sizes = stream.permutation(setting.min_samples + cut(rest, weights / weights.sum()))
    client = stream.permutation(np.repeat(np.arange(setting.clients), sizes))
    return Assignment(client, np.zeros(setting.clients, bool))
