"""The suite's optimisers against torch's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from apfl.engine.optimizers import SGD, Adam


def tensors(seed: int) -> list[torch.Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return [
        torch.randn(4, 3, 5, 5, generator=stream).to(memory_format=torch.channels_last),
        torch.randn(7, generator=stream),
        torch.randn(3, 33, generator=stream),
    ]


KINDS = {
    "adam": (lambda given: Adam(given, 0.01), lambda given: torch.optim.Adam(given, lr=0.01, fused=True)),
    "adam, decayed": (
        lambda given: Adam(given, 0.01, weight_decay=0.1),
        lambda given: torch.optim.Adam(given, lr=0.01, weight_decay=0.1, fused=True),
    ),
    "sgd": (lambda given: SGD(given, 0.1), lambda given: torch.optim.SGD(given, lr=0.1, fused=True)),
    "sgd, momentum": (
        lambda given: SGD(given, 0.1, 0.9),
        lambda given: torch.optim.SGD(given, lr=0.1, momentum=0.9, fused=True),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_torchs_bit_for_bit(kind) -> None:
    ours, theirs = tensors(0), [value.requires_grad_() for value in tensors(0)]
    optimizer, reference = KINDS[kind][0](ours), KINDS[kind][1](theirs)
    for step in range(5):
        gradients = tensors(step + 1)
        optimizer.step(gradients)
        for value, gradient in zip(theirs, gradients, strict=True):
            value.grad = gradient.clone()
        reference.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True)), step


def test_adam_goes_on_from_its_state() -> None:
    through, halves = tensors(0), tensors(0)
    whole, first = Adam(through, 0.01), Adam(halves, 0.01)
    for step in range(4):
        whole.step(tensors(step + 1))
    for step in range(2):
        first.step(tensors(step + 1))
    second = Adam(halves, 0.01, state=[{name: value.clone() for name, value in one.items()} for one in first.state])
    for step in range(2, 4):
        second.step(tensors(step + 1))
    assert all(torch.equal(one, other) for one, other in zip(through, halves, strict=True))


@pytest.mark.parametrize("kind", [Adam, SGD])
def test_the_layout_of_a_gradient_in_memory_does_not_matter(kind) -> None:
    gradient = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        value = torch.zeros(4, 3, 5, 5)
        kind([value], 0.1).step([gradient.to(memory_format=layout)])
        results.append(value)
    assert torch.equal(*results)


def test_nothing_to_train_is_no_error() -> None:
    for kind in (Adam, SGD):
        nothing = kind([], 0.1)
        nothing.step([])
        assert nothing.tensors == []


def test_training_does_not_import_torchs_compiler() -> None:
    code = (
        "import sys; from apfl.federation import load_method, run; from tests.helpers.problems import tiny_problem;"
        "[*_] = run(load_method('fedavg'), tiny_problem(rounds=1, local_epochs=1));"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
