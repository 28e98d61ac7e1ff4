"""What personalisation costs in virtual time, in cycles: one is what a client of average size trains in one round.

Counted are the multiplications and additions of convolutions and matrix products, of one image and then times the
images. So the figure is the same on every machine, and says nothing of how well a machine does the one or the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from apfl.engine.networks import Params
from apfl.federation.method import BaseModels, Derived
from apfl.federation.problem import Problem
from apfl.memorization.generator import Memory

FEW = 2
"""Images by which the operations of one are counted."""


class _Counter(TorchDispatchMode):
    """Counts operations by torch's own formulas; its `FlopCounterMode`, which tells modules apart, imports torch's
    compiler, and that takes longer than many a job."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it is what imports the compiler

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def operations(function: Callable[[], Any]) -> float:
    """Multiplications and additions of what ``function`` does with `FEW` images, for one."""
    with _Counter() as counter, torch.enable_grad():
        function()
    return counter.total / FEW  # type: ignore[no-any-return]


def training_image(problem: Problem) -> float:
    """Operations of one image in local training: the model forward and backward."""
    params = {name: value.detach().clone().requires_grad_() for name, value in problem.start.items()}
    return operations(lambda: _gradient(problem, params, _images(problem), list(params.values())))


def teaching_image(problem: Problem) -> float:
    """Operations of one synthetic image at one teacher: the model forward, and backward to the image alone."""
    images = _images(problem).requires_grad_()
    return operations(lambda: _gradient(problem, problem.start, images, [images]))


def drawing_image(memory: Memory) -> float:
    """Operations of one image that the generator makes."""
    return operations(lambda: _drawn(memory))


def learning_image(memory: Memory) -> float:
    """Operations of one image from which the generator learns: forward and backward."""
    return operations(lambda: torch.autograd.grad(_drawn(memory).sum(), list(memory.generator.parameters())))


def _images(problem: Problem) -> Tensor:
    return torch.zeros(FEW, problem.images.pixels.shape[-1], 32, 32, device=problem.engine.device)


def _gradient(problem: Problem, params: Params, images: Tensor, of: list[Tensor]) -> tuple[Tensor, ...]:
    # The counter's hooks on modules take no leaf of the graph for an input, hence the copy.
    return torch.autograd.grad(problem.model(params, images.clone()).sum(), of, allow_unused=True)


def _drawn(memory: Memory) -> Tensor:
    noise = torch.zeros(FEW, memory.config.noise_dimension, device=memory.embeddings.device)
    return memory.generator.eval()(noise, memory.embeddings[:1].expand(FEW, -1))  # type: ignore[no-any-return]


def cycle(problem: Problem) -> float:
    """Operations of one round's local training of a client of average size."""
    sizes = [problem.size(client) for client in problem.participants]
    return problem.training.local_epochs * sum(sizes) / max(len(sizes), 1) * training_image(problem)


def generator_cycles(problem: Problem, memory: Memory, weights: Tensor) -> float:
    """Cycles of `apfl.memorization.generator.memorize` with Eq. 7's weights [teachers, classes]: each image passes
    through the generator, and through those teachers that have weight in its class; an epoch more sets the batch
    statistics."""
    config, seen = memory.config, weights.sum(0) > 0
    images = int(seen.sum()) * config.group * max(1, round(config.samples_per_class / config.group))
    teachers = (weights[:, seen] > 0).sum(0).float().mean().item() if images else 0.0
    step = learning_image(memory) + teachers * teaching_image(problem)
    return _in_cycles(problem, images * (config.passes * step + drawing_image(memory)))


def client_cycles(method: Derived, problem: Problem, base: BaseModels, memory: Memory | None) -> dict[str, float]:
    """By client, the cycles that it takes to personalise; empty for a method that does not say (``effort``)."""
    effort: Mapping[int, tuple[int, int]] = getattr(method, "effort", lambda problem, base: {})(problem, base)
    trained, drawn = training_image(problem), 0.0 if memory is None else drawing_image(memory)
    return {
        str(client): _in_cycles(problem, trained * images + drawn * synthetic)
        for client, (images, synthetic) in effort.items()
    }


def _in_cycles(problem: Problem, count: float) -> float:
    one = cycle(problem)
    return round(count / one, 4) if one else 0.0


def generator_bytes(memory: Memory) -> int:
    """What a client downloads to draw from the generator: its tensors and the classes' embeddings."""
    return sum(value.nbytes for value in (*memory.generator.state_dict().values(), memory.embeddings))
