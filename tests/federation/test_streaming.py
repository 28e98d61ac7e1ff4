"""Rounds of many clients: what a method lets pass by is not kept, and keeping it changes no bit."""

from __future__ import annotations

import dataclasses
import weakref
from typing import Any

import pytest

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan
from apfl.federation.aggregation import RunningMean, weighted_mean
from apfl.federation.asynchronous import run_clock
from apfl.federation.method import load_method, streaming
from apfl.federation.problem import run_all
from apfl.federation.synchronous import run
from baselines.fedavg import FedAvg
from tests.helpers.every_method import every_method, flat, method_of, problem_of, same
from tests.helpers.problems import equal, parameters, tiny_problem


def at_once(problem, work) -> tuple:
    """All results, kept."""
    return tuple(run_all(problem, work))


@every_method
def test_a_method_makes_the_same_of_results_that_come_one_at_a_time(name, parameters) -> None:
    method, problem = method_of(name, parameters), problem_of()
    for one, other in zip(run(method, problem), run(method, problem, carry_out=at_once), strict=True):
        assert same(flat(one), flat(other))
        assert [(had.client, had.role, had.steps, had.samples) for had in one.results] == [
            (had.client, had.role, had.steps, had.samples) for had in other.results
        ]


class Census:
    """Trains as `run_all` does and counts how many of its models are alive."""

    def __init__(self) -> None:
        self.alive: list[Any] = []
        self.most = 0

    def __call__(self, problem, work):
        for result in run_all(problem, work):
            self.alive = [reference for reference in self.alive if reference() is not None]
            self.alive.append(weakref.ref(result.params["head.weight"]))
            self.most = max(self.most, len(self.alive))
            yield result


SYNC = Schedule(mode="sync")


@pytest.mark.parametrize("clock", [False, True], ids=["rounds", "virtual-time"])
@pytest.mark.parametrize("module", ["fedavg", "fedprox"])
def test_the_server_holds_one_clients_model_at_a_time(module, clock) -> None:
    problem, census = tiny_problem(sizes=(3,) * 20, rounds=2, keep_local_models=False), Census()
    method = load_method(module)
    timeline = plan(SYNC, method.clients(problem), 2, 0)
    rounds = (
        run_clock(method, problem, SYNC, timeline, carry_out=census)
        if clock
        else run(method, problem, carry_out=census)
    )
    *_, now = rounds
    assert census.most <= 3
    assert len(now.results) == 20 and not any(result.params for result in now.results)
    assert sum(result.samples for result in now.results) == 20 * 3 * problem.training.local_epochs


def test_local_models_that_are_to_be_kept_are() -> None:
    problem, census = tiny_problem(sizes=(3,) * 5, rounds=1), Census()
    *_, now = run(load_method("fedavg"), problem, carry_out=census)
    assert census.most == 5 and now.latest.keys() == set(range(5)) == {result.client for result in now.results}
    assert all(equal(result.params, now.latest[result.client]) for result in now.results)


@dataclasses.dataclass(frozen=True)
class Twice(FedAvg):
    """Goes over the results twice, on top of a base that goes over them once."""

    def server_update(self, state, problem, round, results):
        sizes = [problem.size(result.client) for result in results]
        return super().server_update(state, problem, round, results) | {"sizes": sizes}


@dataclasses.dataclass(frozen=True)
class Deaf(FedAvg):
    """Asks for the first result only."""

    @streaming
    def server_update(self, state, problem, round, results):
        return state | {"global": next(iter(results)).params}


def test_an_override_without_the_mark_gets_all_results() -> None:
    problem = tiny_problem(rounds=1)
    *_, plain = run(FedAvg(), problem)
    *_, now = run(Twice(), problem)
    assert now.state["sizes"] == [23, 12, 30] and equal(now.state["global"], plain.state["global"])


def test_clients_are_trained_whether_or_not_the_server_listens() -> None:
    problem = tiny_problem(rounds=1)
    *_, plain = run(FedAvg(), problem)
    *_, now = run(Deaf(), problem)
    assert all(equal(now.latest[client], plain.latest[client]) for client in problem.clients)
    assert len(now.results) == 3


def test_a_mean_in_passing_is_the_weighted_mean() -> None:
    problem = tiny_problem()
    models = [parameters(problem.model.network, seed) for seed in range(7)]
    weights = [3, 0, 11, 5, 7, 2, 10**6]
    mean = RunningMean()
    for model, weight in zip(models, weights, strict=True):
        mean.add(model, weight)
    assert equal(mean.value(), weighted_mean(models, weights)) and mean.weight == sum(weights)
    for name, value in mean.value().items():
        exact = sum(weight * model[name].double() for model, weight in zip(models, weights, strict=True)) / sum(weights)
        assert (value - exact).abs().max() <= 6e-8 * value.abs().max()


def test_a_mean_of_nothing_is_an_error() -> None:
    mean = RunningMean()
    with pytest.raises(ValueError, match="positive weight"):
        mean.value()
    mean.add(tiny_problem().start, 0)
    with pytest.raises(ValueError, match="positive weight"):
        mean.value()
