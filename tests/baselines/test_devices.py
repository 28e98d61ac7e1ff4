"""Methods keep to the device of their problem, which a pretended one shows where there is no GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from apfl.engine.device import Engine
from apfl.federation.evaluation import evaluate
from apfl.federation.method import BaseModels, load_method
from apfl.federation.synchronous import run
from apfl.memorization.generator import GeneratorConfig, build_memory, memorize, teachers_of
from tests.helpers.elsewhere import Elsewhere, pretended
from tests.helpers.every_method import CARDS, FEDERATED, flat, method_of, problem_of
from tests.helpers.problems import moved

GENERATOR = GeneratorConfig(samples_per_class=10, width=4, noise_dimension=5, epochs=1)
DERIVED = [name for name, card in CARDS.items() if card.stage == "personalize"]


def there(device: torch.device, stack: int):
    """A small problem on the device, of which one client drops out."""
    return dataclasses.replace(
        moved(problem_of(rounds=1, local_epochs=1, dropout=(2,)), device), engine=Engine(device, stack=stack)
    )


def test_on_the_pretended_device_nothing_meets_what_is_elsewhere() -> None:
    with pretended() as device:
        numbers = torch.arange(6, device=device)
        assert isinstance(numbers, Elsewhere) and numbers.device == device
        assert numbers[torch.tensor([1, 2])].tolist() == [1, 2] and (numbers * 2).cpu().sum() == 30
        for meet in (lambda: numbers + torch.ones(6), lambda: torch.arange(9)[numbers]):
            with pytest.raises(RuntimeError, match="same device"):
                meet()


@pytest.mark.parametrize("stack", [1, 64])
@pytest.mark.parametrize("name", FEDERATED)
def test_a_federated_method_keeps_to_its_device(name: str, stack: int) -> None:
    method = method_of(name, {})
    with pretended() as device:
        problem = there(device, stack)
        *_, now = run(method, problem)
        rows = evaluate(problem, method.client_models(now.state, problem, now.latest), 1)
        assert all(value.device == device for value in flat(now).values() if value.ndim)
    assert rows


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_method_and_the_generator_keep_to_their_device(name: str) -> None:
    method = method_of(name, {})
    with pretended() as device:
        problem = there(device, 64)
        *_, now = run(load_method("fedavg"), problem)
        base = BaseModels(now.state["global"], now.latest)
        memory = build_memory(GENERATOR, problem.semantics, 3, seed=0)
        teachers, weights = teachers_of(problem, base, GENERATOR)
        memorize(memory, problem.model, teachers, weights, problem.engine, seed=0)
        rows = evaluate(problem, method.personalize(problem, base, 1, memory), 1)
    assert rows
