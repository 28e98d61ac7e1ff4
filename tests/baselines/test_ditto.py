"""Ditto: FedAvg's global model, and personal models between it and local training."""

from __future__ import annotations

import pytest
import torch

from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from tests.helpers.least_squares import hessian_and_minimiser, least_squares, vector
from tests.helpers.problems import distance, equal, quadratics, tiny_problem


def final(problem, **parameters):
    method = load_method("ditto", parameters)
    *_, now = run(method, problem)
    return method, now, method.client_models(now.state, problem, now.latest)["personalized"]


@pytest.mark.parametrize("bf16", [False, True])
def test_the_global_model_is_fedavgs_bit_for_bit(bf16) -> None:
    problem = tiny_problem(bf16=bf16)
    *_, fedavg = run(load_method("fedavg"), problem)
    _, ditto, _ = final(problem)
    assert equal(ditto.state["global"], fedavg.state["global"])
    assert all(equal(ditto.latest[client], fedavg.latest[client]) for client in problem.clients)


def test_a_personal_model_ends_at_the_proximal_point_of_the_global_one() -> None:
    problem, lam = least_squares(clients=3, rounds=60, local_epochs=20, learning_rate=0.1), 0.7
    _, now, models = final(problem, lam=lam)
    shared, identity = vector(now.state["global"]), torch.eye(6, dtype=torch.float64)
    for client in problem.clients:
        hessian, minimiser = hessian_and_minimiser(problem, client)
        expected = torch.linalg.solve(hessian + lam * identity, hessian @ minimiser + lam * shared)
        assert torch.allclose(vector(models[client]), expected, atol=1e-4)


def test_a_personal_model_is_pulled_towards_the_model_that_was_downloaded() -> None:
    problem, lam, rate = quadratics((1.0, 3.0), (0.0, 2.0), start=0.5, rounds=2, local_epochs=1), 2.0, 0.05
    _, now, models = final(problem, lam=lam)
    shared, personal = 0.5, [0.5, 0.5]
    for _ in range(2):
        personal = [
            v - rate * (a * (v - b) + lam * (v - shared)) for v, a, b in zip(personal, (1, 3), (0, 2), strict=True)
        ]
        shared = sum(shared - rate * a * (shared - b) for a, b in ((1, 0), (3, 2))) / 2
    assert [models[client].popitem()[1].item() for client in (0, 1)] == pytest.approx(personal)
    assert now.state["global"]["head.weight"].item() == pytest.approx(shared)


def test_without_a_price_it_is_local_training() -> None:
    problem = tiny_problem(batch_size=50, optimizer="sgd", learning_rate=0.1)
    *_, local = run(load_method("local"), problem)
    _, _, models = final(problem, lam=0.0)
    assert all(distance(models[client], local.state["clients"][str(client)]) < 1e-6 for client in problem.clients)


def test_a_higher_price_keeps_personal_models_nearer_to_the_global_one() -> None:
    problem = tiny_problem(optimizer="sgd", learning_rate=0.1)
    away = []
    for lam in (0.0, 1.0, 8.0):
        _, now, models = final(problem, lam=lam)
        away.append(max(distance(params, now.state["global"]) for params in models.values()))
    assert away[0] > away[1] > away[2]


def test_dropouts_start_from_the_global_model_and_absentees_keep_theirs() -> None:
    problem = tiny_problem(sizes=(9, 0, 12, 8), dropout=(3,), rounds=1)
    method, now, models = final(problem)
    assert models.keys() == {0, 1, 2, 3} and "3" not in now.state["clients"]
    assert equal(models[1], problem.start) and not equal(models[3], now.state["global"])
    results = [run_work(problem, work, 2) for work in method.client_work(now.state, problem, 2, [2])]
    assert [one.role for one in results] == ["local", "personalized"]
    state = method.server_update(now.state, problem, 2, results)
    assert equal(state["clients"]["0"], models[0]) and not equal(state["clients"]["2"], models[2])
    assert equal(state["global"], results[0].params)
    assert method.server_update(state, problem, 3, []) == state


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(UserError, match=r"ditto\.lam"):
        load_method("ditto", {"lam": -0.1})
