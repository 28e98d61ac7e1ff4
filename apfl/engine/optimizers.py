"""Adam and SGD as torch computes them, by the same fused kernels, without what surrounds them.

``torch.optim`` imports torch's compiler at the first step, which costs each short job more than a second, and looks
through groups and hooks in every step. A client's training needs neither. Both classes give torch's results bit for
bit; the tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from apfl.errors import UserError


class Stepper(Protocol):
    """An optimiser over a fixed list of tensors: one step along a gradient for each of them, in place."""

    learning_rate: float

    def step(self, gradients: Sequence[Tensor]) -> None: ...


def _laid_out(gradients: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each gradient in the memory layout of its tensor: the kernels go through memory and do not look at strides."""
    return [
        gradient if gradient.stride() == tensor.stride() else torch.empty_like(tensor).copy_(gradient)
        for gradient, tensor in zip(gradients, tensors, strict=True)
    ]


class Adam:
    """Kingma and Ba (2015), with torch's defaults.

    :param tensors: what is changed in place.
    :param state: for each tensor ``step``, ``exp_avg`` and ``exp_avg_sq``, to go on from; fresh if left out.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(
        self,
        tensors: Sequence[Tensor],
        learning_rate: float,
        weight_decay: float = 0.0,
        state: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.tensors, self.learning_rate, self.weight_decay = list(tensors), learning_rate, weight_decay
        if state is None:
            state = [
                {
                    "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
                    "exp_avg": torch.zeros_like(tensor, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(tensor, memory_format=torch.preserve_format),
                }
                for tensor in self.tensors
            ]
        self.state = [{name: value.detach() for name, value in one.items()} for one in state]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        if not self.tensors:
            return
        steps, means, squares = ([one[name] for one in self.state] for name in ("step", "exp_avg", "exp_avg_sq"))
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            self.tensors,
            _laid_out(gradients, self.tensors),
            means,
            squares,
            [],
            steps,
            lr=self.learning_rate,
            beta1=self.BETAS[0],
            beta2=self.BETAS[1],
            weight_decay=self.weight_decay,
            eps=self.EPSILON,
            amsgrad=False,
            maximize=False,
        )


class SGD:
    """Gradient descent, with (heavy-ball) momentum if asked for."""

    def __init__(self, tensors: Sequence[Tensor], learning_rate: float, momentum: float = 0.0) -> None:
        self.tensors, self.learning_rate, self.momentum = list(tensors), learning_rate, momentum
        self.buffers = [torch.zeros_like(tensor) for tensor in self.tensors] if momentum else []
        self.first = True

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        if not self.tensors:
            return
        torch._fused_sgd_(
            self.tensors,
            _laid_out(gradients, self.tensors),
            self.buffers,
            weight_decay=0.0,
            momentum=self.momentum,
            lr=self.learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=self.first,
        )
        self.first = False


@dataclass(frozen=True)
class Optimizer:
    """``adam`` or ``sgd`` with a learning rate (and momentum, for SGD); its state is fresh in every phase."""

    name: str = "adam"
    learning_rate: float = 2e-4
    momentum: float = 0.0

    def build(self, tensors: Sequence[Tensor]) -> Stepper:
        if self.name == "adam":
            return Adam(tensors, self.learning_rate)
        if self.name == "sgd":
            return SGD(tensors, self.learning_rate, self.momentum)
        raise UserError(f"training.optimizer {self.name!r}: unknown; choose adam or sgd")
