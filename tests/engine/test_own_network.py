"""A network of one's own: the worked example trains, and whatever else a class does ends in one line."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from apfl.engine.networks import Model, build_network, initial_parameters
from apfl.engine.offline import Unreachable, offline
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.synchronous import run
from apfl.registry.trees import ROOT
from tests.helpers.problems import equal, tiny_problem

HEAD = "import socket, sys, urllib.request\nimport torch\nfrom torch import nn\nfrom apfl.engine.networks import CNN\n"
NET = "class Net(nn.Module):\n    def __init__(self, channels, classes):\n        super().__init__()\n"
WHOLE = (
    "        self.body, self.head = nn.Flatten(), nn.Linear(1024 * channels, classes)\n"
    "    def forward(self, images):\n        return self.head(self.body(images))\n"
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module of one's own, `mine`, and forgets it at the end."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text: str, name: str = "mine") -> None:
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    sys.modules.pop("mine", None)
    sys.modules.pop("my_networks", None)


@pytest.fixture
def resnet(module):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/networks.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "class ResNet18" in block]
    module(code, "my_networks")
    return {"name": "my_networks:ResNet18", "groups": 8}


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_s_resnet_with_group_normalisation_is_a_network(resnet, channels) -> None:
    network = build_network(resnet, channels, 7)
    kinds = [type(part).__name__ for part in network.modules()]
    assert kinds.count("GroupNorm") == 20 and "BatchNorm2d" not in kinds
    params = initial_parameters(resnet, channels, 7, seed=0)
    assert equal(params, initial_parameters(resnet, channels, 7, seed=0)), "all methods of a seed start alike"
    images, model = torch.rand(3, channels, 32, 32), Model(network)
    assert torch.allclose(model(params, images), model.classify(params, model.features(params, images)), atol=1e-5)
    assert model.features(params, images).shape == (3, 512)


def test_it_trains_under_federated_averaging(resnet) -> None:
    problem = tiny_problem(sizes=(3, 2), network=build_network(resnet, 1, 3), rounds=1, local_epochs=1)
    after = [*run(load_method("fedavg"), problem)][-1].state["global"]
    moved = [name for name, value in after.items() if not torch.equal(value, problem.start[name])]
    assert len(moved) == len(after) and all(torch.isfinite(value).all() for value in after.values())


WRONG = {
    "raises": (NET + "        {}['depth']\n", "KeyError: 'depth'"),
    "stops the program": (NET + "        sys.exit('no')\n", "SystemExit: no"),
    "asserts": (NET + "        assert False\n", "AssertionError"),
    "says much": (NET + "        raise RuntimeError('first\\nsecond')\n", "RuntimeError: first second"),
    "cannot be read": ("class Net(:\n", "SyntaxError"),
    "fails on import": ("1 / 0\n", "ZeroDivisionError"),
    "needs what is not there": ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
    "has no such class": ("", "unknown; choose one of cnn, lenet, resnet, or give package.module:Class"),
    "is a number": ("Net = 3\n", "unknown"),
    "makes a text": ("def Net(channels, classes):\n    return 'net'\n", "makes str, not torch.nn.Module"),
    "has no parts": (NET + "        self.layer = nn.Linear(2, 2)\n", "no 'body' and 'head' submodules"),
    "has parts that are none": (NET + "        self.body = self.head = None\n", "no 'body' and 'head' submodules"),
    "has no forward": (NET + WHOLE.split("    def")[0], "NotImplementedError"),
    "is for larger images": (NET + WHOLE.replace("1024", "50176"), "RuntimeError: .*mat1 and mat2"),
    "has other outputs": (NET + WHOLE.replace(", classes)", ", 1000)"), r"\(2, 1000\) for 2 images, not .* \(2, 3\)"),
    "gives a tuple": (NET + WHOLE.replace("return ", "return 1, "), "gives tuple for 2 images"),
    "does more than its parts": (NET + WHOLE.replace("return ", "return 1 + "), "another function than itself"),
    "keeps statistics": (NET + WHOLE.replace("nn.Flatten()", "nn.Sequential(nn.BatchNorm2d(channels), nn.Flatten())"),
                         "keeps statistics"),
    "connects": (NET + "        socket.create_connection(('127.0.0.1', 9))\n" + WHOLE, "Unreachable"),
    "downloads": (NET + "        urllib.request.urlopen('http://127.0.0.1:9/weights')\n" + WHOLE, "asks for a connec"),
    "downloads on import": ("urllib.request.urlopen('https://localhost/weights')\n" + NET + WHOLE, "a connection"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_whatever_a_class_does_ends_in_one_line(module, what) -> None:
    text, message = WRONG[what]
    module(HEAD + text)
    with pytest.raises(UserError, match=message) as caught:
        build_network({"name": "mine:Net"}, 1, 3)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("network.name 'mine:Net': ")


@pytest.mark.parametrize("name", [".mine:Net", ":Net", "mine", "mine.deeper:Net", "", "mine:"])
def test_a_name_that_is_none_is_unknown(module, name) -> None:
    module(HEAD + NET + WHOLE)
    with pytest.raises(UserError, match="unknown; choose one of cnn"):
        build_network({"name": name}, 1, 3)


def test_trying_a_network_changes_neither_its_mode_nor_random_numbers(module) -> None:
    module(
        HEAD
        + NET
        + "        torch.rand(1)\n"
        + WHOLE.replace("nn.Flatten()", "nn.Sequential(nn.Dropout(), nn.Flatten())")
    )
    torch.manual_seed(0)
    network = build_network({"name": "mine:Net"}, 1, 3)
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.rand(1)
    nn.Linear(1024, 3)
    assert torch.equal(after, torch.rand(1)) and all(part.training for part in network.modules())


def test_the_way_out_is_open_again_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with offline(), pytest.raises(Unreachable):
            socket.create_connection(server.getsockname())
        socket.create_connection(server.getsockname()).close()
