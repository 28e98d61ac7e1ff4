"""Robust means of what clients send, of whom some may be Byzantine and send anything at all.

A rule maps the updates of n clients [n, d], float64, to one update [d]; ``byzantine`` is the number f of clients that
it has to withstand. Near a solution where all honest updates vanish, so does every one of these means.

    median, trimmed mean   Yin et al. (2018), "Byzantine-robust distributed learning: Towards optimal statistical rates"
    Krum                   Blanchard et al. (2017), "Machine learning with adversaries"
    centred clipping       Karimireddy et al. (2021), "Learning from history for Byzantine robust optimization"
    bucketing              Karimireddy et al. (2022), "Byzantine-robust learning on heterogeneous datasets via
                           bucketing"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from apfl.engine.networks import Params

if TYPE_CHECKING:
    import numpy as np


class Rule(Protocol):
    """A way to make one update [d] of the updates [n, d]; ``centre`` [d] is what it made in the round before, if it
    ``remembers`` that, or zero."""

    remembers: ClassVar[bool] = False

    def __call__(self, updates: Tensor, byzantine: int, centre: Tensor) -> Tensor: ...

    def most(self, clients: int) -> int:
        """The largest f that the rule is defined for among so many clients: by default, fewer than half of them."""
        return (clients - 1) // 2


@dataclass(frozen=True)
class Mean(Rule):
    """The mean, which a single client can move anywhere."""

    def __call__(self, updates: Tensor, byzantine: int, centre: Tensor) -> Tensor:
        return updates.mean(0)

    def most(self, clients: int) -> int:
        return clients


@dataclass(frozen=True)
class Median(Rule):
    """The median of each coordinate; of an even number of clients, the mean of the two in the middle."""

    def __call__(self, updates: Tensor, byzantine: int, centre: Tensor) -> Tensor:
        ordered, middle = updates.sort(0).values, len(updates) // 2
        return ordered[middle] if len(updates) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True)
class TrimmedMean(Rule):
    """The mean of each coordinate without its f largest and f smallest values."""

    def __call__(self, updates: Tensor, byzantine: int, centre: Tensor) -> Tensor:
        return updates.sort(0).values[byzantine : len(updates) - byzantine].mean(0)


@dataclass(frozen=True)
class Krum(Rule):
    """The one update whose squared distances to its n - f - 2 nearest ones have the smallest sum; the first of equals.

    One and two updates have no such neighbours: the first is taken.
    """

    def __call__(self, updates: Tensor, byzantine: int, centre: Tensor) -> Tensor:
        distances = torch.stack([(updates - update).square().sum(1) for update in updates])
        nearest = distances.sort(1).values[:, 1 : max(1, len(updates) - byzantine - 1)]
        return updates[nearest.sum(1).argmin()]

    def most(self, clients: int) -> int:
        return max(0, (clients - 3) // 2)


@dataclass(frozen=True)
class CentredClipping(Rule):
    """v + mean of (x_i - v) min(1, radius / ||x_i - v||), repeated; v starts at the update of the round before.

    :param radius: how far one client can move v in one iteration; 0 for the median of ||x_i - v||, which needs no
        tuning and shrinks as the clients come to agree.
    :param iterations: repetitions in each round.
    """

    radius: float = 0.0
    iterations: int = 1

    remembers: ClassVar[bool] = True

    def __call__(self, updates: Tensor, byzantine: int, centre: Tensor) -> Tensor:
        for _ in range(self.iterations):
            offsets = updates - centre
            lengths = offsets.norm(dim=1, keepdim=True)
            radius = self.radius or Median()(lengths, byzantine, centre)
            factors = torch.where(lengths > radius, radius / lengths, torch.ones_like(lengths))
            centre = centre + (factors * offsets).mean(0)
        return centre


def bucketed(updates: Tensor, size: int, order: Sequence[int] | np.ndarray) -> Tensor:
    """The means [ceil(n / size), d] of ``size`` updates [n, d] at a time, in this order; the last of what is left.

    A rule then sees rows that differ less, of which no more than before are Byzantine.
    """
    return torch.stack([part.mean(0) for part in updates[list(order)].split(size)])


def flatten(params: Params) -> Tensor:
    """All parameters as one vector [d], float64, in the order of their names."""
    return torch.cat([params[name].double().flatten() for name in sorted(params)])


def unflatten(vector: Tensor, like: Params) -> Params:
    """The inverse of `flatten`, with the shapes and types of ``like``."""
    parts = vector.split([like[name].numel() for name in sorted(like)])
    return {name: part.view(like[name].shape).to(like[name]) for name, part in zip(sorted(like), parts, strict=True)}


def difference(start: Params, end: Params) -> Params:
    """start - end: the update Delta that a client sends, a descent direction."""
    return {name: start[name] - end[name] for name in start}


def descend(params: Params, updates: Sequence[Params], step: float) -> Params:
    """w - step mean_i Delta_i, accumulated in float64 and rounded once; w itself if nobody sent an update."""
    moved = dict(params)
    for name, value in params.items() if updates else ():
        mean = torch.stack([update[name].double() for update in updates]).mean(0)
        moved[name] = (value.double() - step * mean).to(value.dtype)
    return moved


def weighted_mean(models: Sequence[Params], weights: Sequence[float]) -> Params:
    """sum_k w_k theta_k / sum_k w_k (Eq. 2), accumulated in float64 and rounded once.

    So the mean of equal models is that model, and the mean of one model is itself, bit for bit.
    """
    mean = RunningMean()
    for model, weight in zip(models, weights, strict=True):
        mean.add(model, weight)
    return mean.value()


class RunningMean:
    """A `weighted_mean` of models that come one at a time and need not be kept."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._sums: Params = {}
        self._types: dict[str, torch.dtype] = {}

    def add(self, model: Params, weight: float) -> None:
        if not self._sums:
            self._sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in model.items()}
            self._types = {name: value.dtype for name, value in model.items()}
        for name, total in self._sums.items():
            total.add_(model[name].to(torch.float64), alpha=weight)
        self.weight += weight

    def value(self) -> Params:
        """The mean; a ValueError if nothing has been added, or only with weight zero."""
        if self.weight <= 0:
            raise ValueError("a mean needs at least one model of positive weight")
        return {name: (total / self.weight).to(self._types[name]) for name, total in self._sums.items()}
