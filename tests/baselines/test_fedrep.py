"""FedRep: heads stay at home, bodies are averaged, and heads are trained first."""

from __future__ import annotations

import pytest
import torch

from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from tests.helpers.least_squares import SHARED, client_loss, hessian_and_minimiser, least_squares, vector
from tests.helpers.problems import distance, equal, tiny_problem


def final(problem, **parameters):
    method = load_method("fedrep", parameters)
    *_, now = run(method, problem)
    return method, now, method.client_models(now.state, problem, now.latest)["personalized"]


def test_a_round_trains_the_head_under_the_old_body_and_then_the_body_under_the_new_head() -> None:
    problem, rate = least_squares(clients=2, rounds=1), 0.3
    _, _, models = final(problem, head_epochs=3, body_epochs=2)
    bodies = []
    for client in (0, 1):
        hessian, minimiser = hessian_and_minimiser(problem, client)
        w = torch.zeros(6, dtype=torch.float64)
        for epochs, part in ((3, slice(SHARED, None)), (2, slice(SHARED))):
            for _ in range(epochs):
                w[part] -= rate * (hessian @ (w - minimiser))[part]
        assert torch.allclose(vector(models[client])[SHARED:], w[SHARED:], atol=1e-5)
        bodies.append(w[:SHARED])
    assert torch.allclose(vector(models[0])[:SHARED], sum(bodies) / 2, atol=1e-5)


def test_clients_that_differ_in_their_heads_reach_zero_loss() -> None:
    problem = least_squares(clients=5, rounds=50)
    _, _, models = final(problem)
    assert max(client_loss(problem, client, params) for client, params in models.items()) < 1e-9


def test_the_mean_of_bodies_is_weighted_by_samples_and_heads_never_reach_it() -> None:
    problem = tiny_problem(sizes=(9, 0, 27), rounds=1)
    _, now, models = final(problem)
    for name, value in now.state["shared"].items():
        assert torch.allclose(value, 0.25 * now.latest[0][name] + 0.75 * now.latest[2][name], atol=1e-7)
    assert set(now.state["shared"]) == {"body.2.weight", "body.2.bias"}
    assert torch.equal(models[0]["head.bias"], now.latest[0]["head.bias"])
    assert torch.equal(models[1]["head.bias"], problem.start["head.bias"])


def test_the_body_trains_for_the_local_epochs_unless_told_otherwise() -> None:
    problem = tiny_problem(rounds=1)
    default, same, other = (final(problem, body_epochs=epochs)[1].state for epochs in (0, 2, 1))
    assert equal(default["shared"], same["shared"]) and not equal(default["shared"], other["shared"])


def test_dropouts_and_absentees_are_served() -> None:
    problem = tiny_problem(sizes=(9, 0, 12, 8), dropout=(3,), rounds=1)
    method, now, models = final(problem)
    assert models.keys() == {0, 1, 2, 3} and "3" not in now.state["clients"]
    assert distance({"b": models[3]["body.2.bias"]}, {"b": now.state["shared"]["body.2.bias"]}) == 0
    assert not torch.equal(models[3]["head.bias"], problem.start["head.bias"])
    (work,) = method.client_work(now.state, problem, 2, [2])
    state = method.server_update(now.state, problem, 2, [run_work(problem, work, 2)])
    assert equal(state["clients"]["0"], now.state["clients"]["0"])
    assert not equal(state["clients"]["2"], now.state["clients"]["2"])
    assert method.server_update(state, problem, 3, []) == state


@pytest.mark.parametrize("change", [{"head_epochs": 0}, {"body_epochs": -1}])
def test_hyper_parameters_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"fedrep.{next(iter(change))}"):
        load_method("fedrep", change)
