"""What personalisation costs, against what training is counted to do."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from apfl.engine.work import Work
from apfl.federation import problem as problem_module
from apfl.federation.method import BaseModels, load_method
from apfl.federation.problem import run_work
from apfl.memorization.generator import GeneratorConfig, build_memory, class_weights, memorize
from apfl.stages import cycles
from tests.helpers.problems import tiny_problem

CONFIG = GeneratorConfig(noise_dimension=4, samples_per_class=8, epochs=3, width=4, batch_size=8, group=4)
METHODS = [
    ("apfl", {"samples_per_class": 6}),
    ("apfl", {"samples_per_class": 6, "friend_epochs": 3, "friend_distribution": "uniform"}),
    ("apfl", {"samples_per_class": 6, "steps_as_with": 12}),
    ("fedavg_ft", {}),
]


@pytest.fixture
def problem():
    """Client 2 is a dropout client, client 3 has no data."""
    return tiny_problem(sizes=(23, 12, 30, 0), dropout=(2,), local_epochs=2)


@pytest.fixture
def base(problem):
    """The server has heard of client 0 alone."""
    return BaseModels(problem.start, {0: problem.start})


@pytest.fixture
def memory(problem):
    return build_memory(CONFIG, torch.eye(problem.classes), 1, 0)


def counted(function) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_the_operations_of_an_image_are_those_of_the_layers_by_hand(problem) -> None:
    # 16 inputs, 8 hidden units, 3 classes: two operations for each weight forward, two for the gradient of each weight,
    # two for that of each layer's input where it is asked for.
    first, second = 2 * 16 * 8, 2 * 8 * 3
    assert cycles.training_image(problem) == (first + second) + (first + second) + second
    assert cycles.teaching_image(problem) == 2 * (first + second)


def test_a_cycle_is_the_mean_of_what_the_participants_train_in_a_round(problem) -> None:
    work = [Work(client, problem.start, (problem.phase(),)) for client in problem.participants]
    each = [counted(lambda piece=piece: run_work(problem, piece, 1)) for piece in work]
    assert cycles.cycle(problem) == sum(each) / 3


def test_a_generator_costs_what_its_training_is_counted_to_do(problem, memory) -> None:
    weights = class_weights(problem.counts[[0, 1]])
    assert len({int(count) for count in (weights > 0).sum(0)}) > 1, "classes differ in how many teachers hold them"
    expected = cycles.generator_cycles(problem, memory, weights)
    done = counted(lambda: memorize(memory, problem.model, [problem.start] * 2, weights, problem.engine, 0))
    assert expected == pytest.approx(done / cycles.cycle(problem), abs=1e-4)


@pytest.mark.parametrize(("name", "parameters"), METHODS, ids=str)
def test_clients_cost_what_their_personalisation_is_counted_to_do(problem, base, memory, name, parameters) -> None:
    method = load_method(name, parameters)
    generator = memory if name == "apfl" else None
    expected = cycles.client_cycles(method, problem, base, generator)
    done = counted(lambda: method.personalize(problem, base, 1, generator))
    assert sum(expected.values()) == pytest.approx(done / cycles.cycle(problem), abs=1e-3)
    assert set(expected) == {"0", "1", "2", "3"}


@pytest.mark.parametrize(("name", "parameters"), METHODS, ids=str)
def test_the_images_that_a_method_says_it_trains_on_are_those_it_trains_on(
    monkeypatch, problem, base, memory, name, parameters
) -> None:
    seen: Counter[int] = Counter()
    train = problem_module.train

    def watched(*given):
        result = train(*given)
        seen[result.client] += result.samples
        return result

    monkeypatch.setattr(problem_module, "train", watched)
    method = load_method(name, parameters)
    method.personalize(problem, base, 1, memory)
    said = method.effort(problem, base)
    assert {client: images for client, (images, _) in said.items() if images} == +seen and sum(seen.values()) > 0


def test_counting_changes_nothing(problem, base, memory) -> None:
    before = {name: value.clone() for name, value in memory.generator.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    cycles.generator_cycles(problem, memory, class_weights(problem.counts))
    cycles.client_cycles(load_method("apfl"), problem, base, memory)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in memory.generator.state_dict().items())
    assert all(value.grad is None for value in (*memory.generator.parameters(), *problem.start.values()))


def test_a_method_that_says_nothing_of_its_effort_costs_none(problem, base) -> None:
    assert cycles.client_cycles(load_method("apfl_plus"), problem, base, None) == {}
