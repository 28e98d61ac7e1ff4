"""Ways to train a stack of the paper's networks on one device, step by step, without the engine around them.

A way takes one step of SGD with M models at once: parameters with a leading axis [M, ...], images [M, B, C, H, W],
labels [M, B]. All compute the same numbers but for the order of sums. What measures best on a GPU is what
`apfl.engine.stack` should do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from apfl.engine.networks import Model, Params, build_network, initial_parameters

Losses = Callable[[Params, Tensor, Tensor], Tensor]
"""The loss of each model, [M]."""
Step = Callable[[], Tensor]
"""Takes one step, in place on the parameters, and returns the losses before it."""


@dataclass(frozen=True)
class Setting:
    """What is trained: M models, batches of B images of 32x32 pixels, on one device."""

    models: int
    batch: int
    device: str
    channels: int = 3
    classes: int = 10
    network: tuple[tuple[str, object], ...] = (("name", "cnn"),)

    @property
    def model(self) -> Model:
        return Model(build_network(dict(self.network), self.channels, self.classes).to(self.device))

    def params(self) -> Params:
        """Models of different seeds."""
        each = [
            initial_parameters(dict(self.network), self.channels, self.classes, seed, self.device)
            for seed in range(self.models)
        ]
        return {name: torch.stack([own[name] for own in each]) for name in each[0]}

    def data(self) -> tuple[Tensor, Tensor]:
        stream = torch.Generator().manual_seed(0)
        images = torch.randn(self.models, self.batch, self.channels, 32, 32, generator=stream)
        labels = torch.randint(0, self.classes, (self.models, self.batch), generator=stream)
        return images.to(self.device), labels.to(self.device)


def vmapped(model: Model) -> Losses:
    """`torch.func.vmap` over models, as the engine does."""
    return torch.func.vmap(lambda own, images, labels: F.cross_entropy(model(own, images), labels))


def grouped(params: Params, images: Tensor, labels: Tensor) -> Tensor:
    """Convolutions with a group for each model, and batched matrix products, written out for `cnn`."""
    models, batch = labels.shape
    x = images.transpose(0, 1).flatten(1, 2)  # [B, M C, H, W]
    for layer in ("body.0", "body.3"):
        x = F.conv2d(x, params[f"{layer}.weight"].flatten(0, 1), params[f"{layer}.bias"].flatten(), groups=models)
        x = F.relu(F.max_pool2d(x, 2))
    x = x.unflatten(1, (models, -1)).transpose(0, 1).flatten(2)  # [M, B, features]
    x = F.relu(torch.baddbmm(params["body.7.bias"][:, None], x, params["body.7.weight"].mT))
    logits = torch.baddbmm(params["head.bias"][:, None], x, params["head.weight"].mT)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(models, batch).mean(1)


def stepping(losses: Losses, params: Params, images: Tensor, labels: Tensor, bf16: bool, rate: float = 0.01) -> Step:
    """One step of all models; the sum of their losses gives each its own gradient."""
    leaves = [value.requires_grad_() for value in params.values()]

    def step() -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            found = losses(params, images, labels)
        gradients = torch.autograd.grad(found.float().sum(), leaves)
        with torch.no_grad():
            torch._foreach_add_(leaves, gradients, alpha=-rate)
        return found.detach()

    return step


def one_by_one(model: Model, params: Params, images: Tensor, labels: Tensor, bf16: bool) -> Step:
    """Each model's own step, as the sequential engine takes it."""

    def alone(own: Params, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(own, images), labels)[None]

    steps = [
        stepping(alone, {name: value[place] for name, value in params.items()}, images[place], labels[place], bf16)
        for place in range(len(labels))
    ]
    return lambda: torch.cat([step() for step in steps])


def graphed(step: Step) -> Step:
    """The same step recorded once as a CUDA graph and played again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()

    def play() -> Tensor:
        graph.replay()
        return found

    return play


def ways(setting: Setting) -> dict[str, Callable[[], Step]]:
    """By name, what makes each way ready, with parameters of its own; those of a GPU alone only there."""
    model, (images, labels) = setting.model, setting.data()
    tuned = images.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, labels.shape)

    def way(losses: Losses, bf16: bool = False, given: Tensor = images) -> Step:
        return stepping(losses, setting.params(), given, labels, bf16)

    found: dict[str, Callable[[], Step]] = {
        "one after another, fp32": lambda: one_by_one(model, setting.params(), images, labels, False),
        "one after another, bf16": lambda: one_by_one(model, setting.params(), images, labels, True),
        "vmap, fp32": lambda: way(vmapped(model)),
        "vmap, bf16": lambda: way(vmapped(model), True),
        "vmap, channels last, bf16": lambda: way(vmapped(model), True, tuned),
        "grouped convolution, fp32": lambda: way(grouped),
        "grouped convolution, bf16": lambda: way(grouped, True),
    }
    if setting.device == "cuda":
        found |= {
            "vmap, bf16, CUDA graph": lambda: graphed(way(vmapped(model), True)),
            "grouped convolution, bf16, CUDA graph": lambda: graphed(way(grouped, True)),
            "vmap, bf16, torch.compile": lambda: way(torch.compile(vmapped(model)), True),
            "grouped convolution, bf16, torch.compile": lambda: way(torch.compile(grouped), True),
        }
    return found


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Products of fp32 in TF32, or not."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
