"""Quantity skew: clients differ in how many images they hold, not in which classes.

Li, Diao, Chen and He, "Federated learning on non-IID data silos: an experimental study", 2021. Sizes are
proportions from a Dirichlet distribution, drawn again until every client holds ``min_samples`` images.
"""

from __future__ import annotations

import numpy as np

from apfl.data.partitioners import Assignment
from apfl.data.partitioners.dirichlet import cut, draw_until_enough, shares
from apfl.data.setting import Setting


def assign(labels: np.ndarray, classes: int, setting: Setting, stream: np.random.Generator) -> Assignment:
    """Share the images; labels: int64 [N]. `UserError` if no draw gives every client ``setting.min_samples`` images."""
    everyone = np.ones(setting.clients, bool)
    counts, draws = draw_until_enough(setting, lambda: cut(len(labels), shares(float(setting.alpha), everyone, stream)))  # type: ignore[arg-type]
    client = stream.permutation(np.repeat(np.arange(setting.clients), counts))
    return Assignment(client, np.zeros(setting.clients, bool), draws)
