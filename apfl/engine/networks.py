"""Networks as pure functions of their parameters: the paper's CNN, LeNet, a small residual network, and the semantic
generator.

A classifier is any `torch.nn.Module` without batch statistics that has two submodules: ``body`` (images to features)
and ``head`` (a linear layer, features to logits). `Model` calls it with explicit parameters, so that the parameters
of a client are plain data and never live inside a module.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from apfl.engine.offline import offline
from apfl.errors import UserError, require
from apfl.streams import stream_key

if TYPE_CHECKING:
    T = TypeVar("T")

Params = dict[str, Tensor]
IMAGE = (32, 32)
"""Height and width of the images of a data set."""


class CNN(nn.Module):
    """The paper's classifier (section 4.1) for images of 32x32 pixels.

    conv5x5(C, 32) - ReLU - maxpool2 - conv5x5(32, 64) - ReLU - maxpool2 - flatten 1600 - linear 512 - ReLU - linear
    classes; 878,538 parameters for three channels and ten classes. Another ``width`` than 32 changes all inner sizes in
    proportion. Pooling stands before ReLU, which is the same function at a quarter of the cost: both are monotone.
    """

    def __init__(self, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(50 * width, 16 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(16 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))  # type: ignore[no-any-return]


class LeNet(nn.Module):
    """The small network of many federated studies (LeCun et al. 1998; Li et al. 2022, section V), for 32x32 pixels.

    conv5x5(C, 6) - ReLU - maxpool2 - conv5x5(6, 16) - ReLU - maxpool2 - flatten 400 - linear 120 - ReLU - linear 84 -
    ReLU - linear classes; 62,006 parameters for three channels and ten classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(6, 16, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation and a shortcut (He et al. 2016; Wu and He 2018)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.GroupNorm(8, width),
        )
        same = stride == 1 and channels == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.path(images) + self.shortcut(images))


class ResNet(nn.Module):
    """A small residual network with group normalisation: the example of another network under AP-FL."""

    def __init__(self, channels: int, classes: int, width: int = 16, blocks: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU()]
        previous = width
        for stage in range(3):
            for block in range(blocks):
                layers.append(ResidualBlock(previous, width << stage, 2 if stage and not block else 1))
                previous = width << stage
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(previous, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))  # type: ignore[no-any-return]


NETWORKS = {"cnn": CNN, "lenet": LeNet, "resnet": ResNet}


def build_network(specification: Mapping[str, Any], channels: int, classes: int) -> nn.Module:
    """The classifier that a study names: ``{"name": "cnn"}``, or any class as ``{"name": "package.module:Class",
    ...}``.

    The other keys go to the constructor after ``channels`` and ``classes``. Your own class needs ``body`` and
    ``head`` submodules and must not keep batch statistics, which averaging of parameters would leave behind. It is made
    and tried on two black images without the network (`apfl.engine.offline`), so that it downloads no weights; a
    `UserError` whatever it does instead.
    """
    options = dict(specification)
    name = options.pop("name", "cnn")
    require(isinstance(name, str), f"network.name {name!r:.80}: is not a text; name a network")
    try:
        with offline():
            network = (NETWORKS.get(name) or _imported(name))(channels, classes, **options)
            fault = _fault(network, channels, classes)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the code of a class does
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"network.name {name!r}: {problem:.300}; see the class for its options") from None
    if fault:
        raise UserError(f"network.name {name!r}: {fault}")
    return network


def _imported(name: str) -> Callable[..., nn.Module]:
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute, None)
    except (ModuleNotFoundError, TypeError, ValueError) as error:
        # What a module that is there needs itself is another mistake than a module that is not.
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise
        kind = None
    if not callable(kind):
        known = ", ".join(NETWORKS)
        raise UserError(f"network.name {name!r}: unknown; choose one of {known}, or give package.module:Class")
    return kind  # type: ignore[no-any-return]


def _fault(network: object, channels: int, classes: int) -> str:
    """Why a network cannot be used, and what to do; empty if it can."""
    if not isinstance(network, nn.Module):
        return f"makes {type(network).__name__}, not torch.nn.Module; name a class that derives from it"
    if buffers := [key for key, _ in network.named_buffers()]:
        return f"keeps statistics ({buffers[0]}); use group or layer normalisation instead"
    body, head = getattr(network, "body", None), getattr(network, "head", None)
    if not (isinstance(body, nn.Module) and isinstance(head, nn.Module)):
        return "has no 'body' and 'head' submodules; name them so, as apfl/engine/networks.py does"
    training = {module: module.training for module in network.modules()}
    images = torch.zeros(2, channels, *IMAGE)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        network.eval()
        logits = network(images)
        again = head(body(images))
    for module, mode in training.items():
        module.training = mode
    if not isinstance(logits, Tensor) or logits.shape != (2, classes):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        return f"gives {given} for 2 images, not logits of shape (2, {classes}); end it with a layer of as many outputs"
    if again.shape != logits.shape or not torch.allclose(again, logits, rtol=1e-3, atol=1e-4):
        return "its 'head' after its 'body' is another function than itself; have forward call one after the other"
    return ""


@dataclass(frozen=True)
class Model:
    """A classifier as a function of its parameters: ``model(params, images)`` gives logits [B, classes]."""

    network: nn.Module

    def __call__(self, params: Params, images: Tensor) -> Tensor:
        return functional_call(self.network, params, (images,))  # type: ignore[no-any-return]

    def features(self, params: Params, images: Tensor) -> Tensor:
        """What the head reads: [B, features]."""
        body = {name[5:]: value for name, value in params.items() if name.startswith("body.")}
        return functional_call(self.network.body, body, (images,))  # type: ignore[arg-type, no-any-return]

    def classify(self, params: Params, features: Tensor) -> Tensor:
        """Logits of features: [B, classes]."""
        head = {name[5:]: value for name, value in params.items() if name.startswith("head.")}
        return functional_call(self.network.head, head, (features,))  # type: ignore[arg-type, no-any-return]


def initial_parameters(
    specification: Mapping[str, Any], channels: int, classes: int, seed: int, device: str | torch.device = "cpu"
) -> Params:
    """The parameters that every method of one seed starts from, drawn by torch's default initialisers."""
    network = seeded(lambda: build_network(specification, channels, classes), seed, "initial-parameters")
    return {name: value.detach().to(device) for name, value in network.named_parameters()}


def seeded(make: Callable[[], T], seed: int, purpose: str) -> T:
    """``make()`` with torch's own generator at the start of the named stream, and put back afterwards.

    Module constructors draw from that generator and take no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_key(seed, purpose))
        return make()
