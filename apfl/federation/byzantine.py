"""Simulated Byzantine clients: what they train on, and what they send in place of their update.

sign flip   -strength times the true update
Gaussian    noise of standard deviation ``strength`` in each coordinate (Blanchard et al. 2017)
label flip  honest training on wrong labels: class y becomes C - 1 - y
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apfl.engine.images import Batch, Samples
from apfl.streams import numpy_stream


@dataclass(frozen=True)
class FlippedLabels:
    """The samples with class y called C - 1 - y; soft labels [B, C] are turned round likewise."""

    samples: Samples
    classes: int

    def batch(self, indices: Tensor) -> Batch:
        batch = self.samples.batch(indices)
        soft = batch.labels.ndim > 1
        return Batch(batch.images, batch.labels.flip(1) if soft else self.classes - 1 - batch.labels)


def sign_flip(update: Tensor, strength: float, stream: torch.Generator) -> Tensor:
    """-strength times the true update [d]."""
    return -strength * update


def gaussian(update: Tensor, strength: float, stream: torch.Generator) -> Tensor:
    """Noise N(0, strength^2) of the update's shape, drawn on the CPU."""
    noise = torch.randn(update.shape, generator=stream, dtype=update.dtype)
    return strength * noise.to(update.device)


@dataclass(frozen=True)
class Attack:
    """What a Byzantine client trains on, and what it makes of its update; each as an honest one if it is not said."""

    samples: Callable[[Samples, int], Samples] = lambda samples, classes: samples
    update: Callable[[Tensor, float, torch.Generator], Tensor] = lambda update, strength, stream: update


ATTACKS: Mapping[str, Attack] = {
    "sign_flip": Attack(update=sign_flip),
    "gaussian": Attack(update=gaussian),
    "label_flip": Attack(samples=FlippedLabels),
}


def attackers(seed: int, clients: Sequence[int], count: int) -> frozenset[int]:
    """Which ``count`` of the clients are Byzantine: the same throughout a study's seed."""
    chosen = numpy_stream(seed, "byzantine").choice(sorted(clients), size=count, replace=False)
    return frozenset(int(client) for client in chosen)
