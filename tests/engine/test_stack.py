"""Stacked training against training one after another: the same mathematics, within floating point."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from apfl.engine import stack as stacked
from apfl.engine.device import Engine
from apfl.engine.networks import CNN
from apfl.engine.optimizers import Optimizer
from apfl.engine.stack import train_stack
from apfl.engine.work import Diverged, Task, Work
from apfl.federation import problem as problem_module
from apfl.federation.method import load_method
from apfl.federation.problem import run_all
from apfl.federation.synchronous import run
from tests.helpers.problems import DEVICE, equal, moved, parameters, tiny_problem

TOLERANCE = 1e-4
ALONE, TOGETHER = Engine(DEVICE), Engine(DEVICE, stack=8)


@pytest.fixture(autouse=True)
def fp32_is_fp32(monkeypatch):
    """On a GPU, too, where convolutions would be rounded to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def tiny(**given):
    """A small problem on the GPU, where there is one."""
    return moved(tiny_problem(**given))


def close(first, second) -> bool:
    """Equal within a relative tolerance of the size of each tensor."""
    return all((first[name] - second[name]).norm() <= TOLERANCE * second[name].norm() for name in second)


def both_ways(method, problem):
    """The last rounds of a federation, trained alone and stacked."""
    return [
        [*run(method, dataclasses.replace(problem, engine=engine))][-1] for engine in (ALONE, TOGETHER)
    ]  # fmt: skip


METHODS = [
    ("fedavg", {}),
    ("local", {}),
    ("fedprox", {"mu": 0.5}),
    ("scaffold", {}),
    ("scaffold", {"option": "I"}),
    ("scaffold", {"optimizer": "sgd", "sgd_learning_rate": 0.05}),
]


@pytest.mark.parametrize(("module", "parameters"), METHODS)
@pytest.mark.parametrize("sizes", [(23, 12, 30, 1, 0), (7, 7, 7)])
def test_a_federation_is_the_same_stacked(module, parameters, sizes) -> None:
    problem = tiny(sizes=sizes, rounds=2, local_epochs=2, batch_size=5)
    alone, together = both_ways(load_method(module, parameters), problem)
    if "global" in alone.state:
        assert close(together.state["global"], alone.state["global"])
    for client, params in alone.latest.items():
        assert close(together.latest[client], params), client
    assert [(one.steps, one.samples) for one in together.results] == [(one.steps, one.samples) for one in alone.results]
    for one, other in zip(together.results, alone.results, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4, nan_ok=True)


def test_the_papers_network_agrees_after_an_epoch() -> None:
    network = CNN(1, 3)
    problem = tiny(sizes=(23, 12, 30), network=network, rounds=1, local_epochs=1, learning_rate=2e-4)
    alone, together = both_ways(load_method("fedavg"), problem)
    for client in alone.latest:
        assert close(together.latest[client], alone.latest[client])
        assert not equal(together.latest[client], problem.start)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_seeds_and_starts_of_their_own_stand_in_one_stack(momentum) -> None:
    problem = tiny(sizes=(11, 26))
    phase = dataclasses.replace(problem.training.phase(), optimizer=Optimizer("sgd", 0.1, momentum))
    jobs = []
    for seed in (0, 1, 2):
        for client in (0, 1):
            start = moved(parameters(problem.model.network, seed))
            work = Work(client, start, (phase, dataclasses.replace(phase, epochs=1)))
            jobs.append(Task(work, problem.images, problem.train[client], seed, round=1 + seed))
    one = train_stack(problem.model, jobs, ALONE)
    six = train_stack(problem.model, jobs, TOGETHER)
    assert all(close(other.params, result.params) for result, other in zip(one, six, strict=True))
    assert [result.work for result in six] == [job.work for job in jobs]


def test_what_cannot_be_stacked_is_trained_alone_bit_for_bit() -> None:
    problem = tiny(sizes=(11, 26, 9), rounds=1)
    for module in ("perfedavg", "persafl"):
        problem = dataclasses.replace(problem, start=moved(parameters(problem.model.network)))
        alone, together = both_ways(load_method(module), problem)
        assert equal(together.state["global"], alone.state["global"]), module


def test_a_stack_is_really_one(monkeypatch) -> None:
    sizes = []
    original = stacked.together

    def counted(model, jobs, engine):
        sizes.append(len(jobs))
        return original(model, jobs, engine)

    monkeypatch.setattr(stacked, "together", counted)
    problem = dataclasses.replace(tiny(sizes=(9, 8, 7, 6, 5), rounds=1), engine=Engine(DEVICE, stack=3))
    [*_] = run(load_method("fedavg"), problem)
    assert sizes == [3, 2]


def test_a_stack_that_is_too_large_for_the_device_is_split(monkeypatch, capsys) -> None:
    original = stacked.together

    def small_device(model, jobs, engine):
        if len(jobs) > 2:
            raise torch.cuda.OutOfMemoryError
        return original(model, jobs, engine)

    problem = tiny(sizes=(9, 8, 7, 6, 5), rounds=1)
    whole = [*run(load_method("fedavg"), dataclasses.replace(problem, engine=TOGETHER))][-1]
    monkeypatch.setattr(stacked, "together", small_device)
    split = [*run(load_method("fedavg"), dataclasses.replace(problem, engine=TOGETHER))][-1]
    assert close(split.state["global"], whole.state["global"])
    assert "5 models at once are too many for the device's memory; going on with 2" in capsys.readouterr().out


@pytest.mark.parametrize("length", [{"epochs": 0}, {"steps": 0}])
def test_a_phase_without_steps_changes_nothing(length) -> None:
    problem = dataclasses.replace(tiny(sizes=(9, 8)), engine=TOGETHER)
    work = [Work(client, problem.start, (problem.phase(**length),)) for client in problem.clients]
    for result in run_all(problem, [(piece, 1) for piece in work]):
        assert equal(result.params, problem.start) and (result.steps, result.samples) == (0, 0)


def test_a_client_that_diverges_is_named() -> None:
    problem = tiny(sizes=(9, 8), rounds=1, optimizer="sgd", learning_rate=1e38)
    with pytest.raises(Diverged, match=r"round 1: client [01] \(local model\)"):
        [*run(load_method("fedavg"), dataclasses.replace(problem, engine=TOGETHER))]


def test_results_come_in_the_order_of_the_work() -> None:
    problem = dataclasses.replace(tiny(sizes=(5, 30, 12)), engine=TOGETHER)
    work = load_method("fedavg").client_work({"global": problem.start}, problem, 1, [0, 1, 2])
    assert [result.client for result in run_all(problem, [(piece, 1) for piece in work])] == [0, 1, 2]


def test_many_clients_are_trained_some_stacks_at_a_time_as_their_results_are_asked_for(monkeypatch) -> None:
    problem = dataclasses.replace(tiny(sizes=(6,) * 7), engine=Engine(DEVICE, stack=2))
    monkeypatch.setattr(problem_module, "STACKS", 2)
    sizes: list[int] = []
    together = stacked.together
    monkeypatch.setattr(stacked, "together", lambda *given: sizes.append(len(given[1])) or together(*given))
    work = load_method("fedavg").client_work({"global": problem.start}, problem, 1, problem.clients)
    results = run_all(problem, ((piece, 1) for piece in work))
    assert not sizes
    assert [next(iter(results)).client for _ in range(5)] == [0, 1, 2, 3, 4]
    assert sizes == [2, 2, 2], "the first two stacks, and the third as it is reached"
    assert [result.client for result in results] == [5, 6]
