"""PersA-FL in both forms, held to closed forms and to its limits."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan
from apfl.errors import UserError
from apfl.federation.asynchronous import run_clock
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from baselines.persafl import steps_to_tolerance
from baselines.pfedme import gradient_steps, proximal_point
from tests.helpers.least_squares import hessian_and_minimiser, least_squares, model_of, vector
from tests.helpers.problems import distance, equal, tiny_problem

ALPHA, LAM, STEP = 0.3, 2.0, 0.3
W = torch.linspace(-1, 2, 6, dtype=torch.float64)
SOLVED = {"form": "me", "lam": LAM, "nu": 1e-5, "inner_steps": 100}


def final(problem, **parameters):
    return [*run(load_method("persafl", parameters), problem)][-1]


def at(problem, w):
    return dataclasses.replace(problem, start=model_of(w))


def test_a_step_of_maml_has_its_closed_form_in_both_orders() -> None:
    problem = at(least_squares(clients=1, rounds=1, local_epochs=1), W)
    hessian, minimiser = hessian_and_minimiser(problem, 0)
    inside = hessian @ (W - ALPHA * hessian @ (W - minimiser) - minimiser)
    exact = W - STEP * (inside - ALPHA * hessian @ inside)
    assert torch.allclose(vector(final(problem, alpha=ALPHA).state["global"]), exact, atol=1e-5)
    first_order = vector(final(problem, alpha=ALPHA, order=1).state["global"])
    assert torch.allclose(first_order, W - STEP * inside, atol=1e-5) and not torch.allclose(
        first_order, exact, atol=1e-2
    )


def test_a_step_of_the_moreau_envelope_leads_from_the_proximal_point() -> None:
    problem = at(least_squares(clients=1, rounds=1, local_epochs=1), W)
    hessian, minimiser = hessian_and_minimiser(problem, 0)
    identity = torch.eye(6, dtype=torch.float64)
    theta = torch.linalg.solve(hessian + LAM * identity, hessian @ minimiser + LAM * W)
    now = final(problem, **SOLVED)
    assert torch.allclose(vector(now.state["global"]), W - STEP * LAM * (W - theta), atol=1e-5)
    personal = load_method("persafl", SOLVED).client_models({"global": problem.start}, problem, {})["personalized"]
    assert torch.allclose(vector(personal[0]), theta, atol=1e-5)


def test_maml_with_a_vanishing_inner_step_is_fedavg() -> None:
    problem = tiny_problem(sizes=(12, 12, 12), optimizer="sgd", learning_rate=0.1)
    fedavg = [*run(load_method("fedavg"), problem)][-1].state["global"]
    assert distance(final(problem, alpha=1e-9).state["global"], fedavg) < 1e-6
    assert distance(final(problem, alpha=0.5).state["global"], fedavg) > 1e-3


@pytest.mark.parametrize(("order", "hessian"), [(1, "none"), (2, "exact")])
def test_synchronous_maml_is_per_fedavg(order, hessian) -> None:
    problem = tiny_problem(rounds=2)
    perfedavg = [*run(load_method("perfedavg", {"alpha": 0.05, "hessian": hessian}), problem)][-1]
    assert equal(final(problem, alpha=0.05, order=order).state["global"], perfedavg.state["global"])


def test_the_envelope_with_a_high_price_is_fedavg_and_with_a_low_one_every_client_for_itself() -> None:
    problem = at(least_squares(clients=3, rounds=1, local_epochs=3), W)
    fedavg = [*run(load_method("fedavg"), problem)][-1].state["global"]
    high = final(problem, form="me", lam=1e3, nu=1e-3, inner_steps=60)
    assert distance(high.state["global"], fedavg) < 0.02
    low = {"form": "me", "lam": 1e-5, "nu": 1e-5, "inner_steps": 100}
    assert distance(final(problem, **low).state["global"], problem.start) < 1e-4
    personal = load_method("persafl", low).client_models({"global": problem.start}, problem, {})["personalized"]
    for client, params in personal.items():
        assert torch.allclose(vector(params), hessian_and_minimiser(problem, client)[1], atol=1e-3)


@pytest.mark.parametrize("nu", [0.5, 0.05, 1e-3])
def test_the_inner_problem_is_solved_to_its_tolerance_and_no_further(nu) -> None:
    problem = at(least_squares(clients=1, rounds=1, local_epochs=1), W)
    hessian, minimiser = hessian_and_minimiser(problem, 0)

    def gradient_norm(theta):
        return (hessian @ (theta - minimiser) + LAM * (theta - W)).norm()

    method = load_method("persafl", SOLVED | {"nu": nu})
    *_, now = run(method, problem)
    by_batch = W - (W - vector(now.state["global"])) / (STEP * LAM)
    personal = vector(method.client_models({"global": problem.start}, problem, {})["personalized"][0])
    for theta in (by_batch, personal):
        assert gradient_norm(theta) <= 1.01 * nu + 1e-5
    fewer = load_method("persafl", SOLVED | {"nu": 2.0 * gradient_norm(personal).item()})
    earlier = vector(fewer.client_models({"global": problem.start}, problem, {})["personalized"][0])
    assert gradient_norm(earlier) >= gradient_norm(personal) and gradient_norm(W) > 1


def test_the_inner_problem_takes_no_more_steps_than_allowed() -> None:
    problem, rate = at(least_squares(clients=1), W), 0.1
    hessian, minimiser = hessian_and_minimiser(problem, 0)
    first = W - rate * hessian @ (W - minimiser)
    change = (hessian + LAM * torch.eye(6)) @ (first - W)
    length = (first - W) @ change / (change @ change)
    second = first - length * (hessian @ (first - minimiser) + LAM * (first - W))
    for steps, expected in ((1, first), (2, second)):
        method = load_method("persafl", SOLVED | {"inner_steps": steps, "inner_learning_rate": rate})
        personal = method.client_models({"global": problem.start}, problem, {})["personalized"]
        assert torch.allclose(vector(personal[0]), expected, atol=1e-4)


def test_inner_steps_turn_back_from_directions_of_negative_curvature() -> None:
    seen = []

    def gradient_of(theta):
        seen.append(theta["w"].item())
        return torch.zeros(()), {"w": -theta["w"]}  # of -w^2 / 2, which has no minimiser

    _, theta = steps_to_tolerance(gradient_of, {"w": torch.ones(1)}, first=0.5, steps=3, tolerance=0.0)
    assert seen == [1.0, 1.5, 2.25] and theta["w"].item() == 3.375


def test_the_inner_problem_is_solved_where_it_is_too_curved_for_steps_of_one_length() -> None:
    problem, curved = at(least_squares(clients=1), W), 40
    hessian, minimiser = hessian_and_minimiser(problem, 0)
    steep = dataclasses.replace(problem, loss=lambda *given: curved * problem.loss(*given))
    solvers = (
        partial(steps_to_tolerance, first=0.05, steps=40, tolerance=1e-3),
        partial(gradient_steps, learning_rate=0.05, steps=40),
    )
    found = [vector(proximal_point(steep, 0, problem.start, 1.0, solve)) for solve in solvers]
    adaptive, fixed = ((curved * hessian @ (theta - minimiser) + theta - W).norm() for theta in found)
    assert adaptive < 1e-2 and fixed > 1e6


def test_a_personal_model_of_maml_takes_as_many_steps_as_asked() -> None:
    problem = at(least_squares(clients=1), W)
    hessian, minimiser = hessian_and_minimiser(problem, 0)
    for steps in (1, 3):
        expected = minimiser + torch.linalg.matrix_power(torch.eye(6) - ALPHA * hessian, steps) @ (W - minimiser)
        method = load_method("persafl", {"alpha": ALPHA, "personal_steps": steps})
        personal = method.client_models({"global": problem.start}, problem, {})["personalized"]
        assert torch.allclose(vector(personal[0]), expected, atol=1e-5)


@pytest.mark.parametrize("form", ["maml", "me"])
def test_the_server_moves_by_beta_times_the_mean_update(form) -> None:
    problem = tiny_problem(rounds=1, sizes=(9, 0, 12))
    whole, half = final(problem, form=form), final(problem, form=form, beta=0.5)
    mean = {name: (whole.latest[0][name] + whole.latest[2][name]) / 2 for name in problem.start}
    assert distance(whole.state["global"], mean) < 1e-6
    middle = {name: (mean[name] + problem.start[name]) / 2 for name in mean}
    assert distance(half.state["global"], middle) < 1e-6


def test_a_stale_update_counts_from_the_model_that_the_client_had_downloaded() -> None:
    problem = tiny_problem(rounds=1)
    method = load_method("persafl", {"beta": 0.5})
    (work,) = method.client_work({"global": problem.start}, problem, 1, [2])
    late = run_work(problem, work, 1)
    newer = {name: value + 1 for name, value in problem.start.items()}
    state = method.server_update({"global": newer}, problem, 5, [late])
    expected = {name: newer[name] - 0.5 * (problem.start[name] - late.params[name]) for name in newer}
    assert distance(state["global"], expected) < 1e-6
    assert method.server_update(state, problem, 6, []) == state


@pytest.mark.parametrize("form", ["maml", "me"])
def test_personal_models_are_pure_and_exist_for_dropouts_too(form) -> None:
    problem = tiny_problem(sizes=(9, 0, 12, 8), dropout=(3,), rounds=1)
    method = load_method("persafl", {"form": form})
    *_, now = run(method, problem)
    first, second = (method.client_models(now.state, problem, latest) for latest in (now.latest, {}))
    assert first["personalized"].keys() == {0, 1, 2, 3}
    assert all(equal(first["personalized"][client], second["personalized"][client]) for client in range(4))
    assert equal(first["personalized"][1], now.state["global"])
    assert not any(equal(first["personalized"][client], now.state["global"]) for client in (0, 2, 3))


def test_it_fits_clients_better_than_the_global_model_that_it_starts_from() -> None:
    problem = least_squares(clients=3, rounds=40, local_epochs=2)
    for parameters in ({"alpha": ALPHA}, {"form": "me", "lam": 0.3, "nu": 1e-3}):
        method = load_method("persafl", parameters)
        *_, now = run(method, problem)
        models = method.client_models(now.state, problem, {})
        for client in problem.clients:
            hessian, minimiser = hessian_and_minimiser(problem, client)
            gaps = [vector(params) - minimiser for params in (models["personalized"][client], models["global"])]
            assert gaps[0] @ hessian @ gaps[0] < 0.6 * gaps[1] @ hessian @ gaps[1]


@pytest.mark.parametrize("change", [{"form": "mm"}, {"order": 3}, {"alpha": 0.0}, {"nu": -1.0}, {"inner_steps": 0}])
def test_hyper_parameters_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"persafl.{next(iter(change))}"):
        load_method("persafl", change)


def test_asynchronously_each_update_is_added_when_it_arrives_undiscounted() -> None:
    problem, beta = tiny_problem(sizes=(10, 10), rounds=1), 0.5
    trace = ((0, 0.0, 1.0), (1, 0.0, 2.0))
    schedule = Schedule(latency="trace", trace=trace, merge="delta", mixing=1.0)
    method = load_method("persafl", {"beta": beta})
    *_, now = run_clock(method, problem, schedule, plan(schedule, (0, 1), 1, 0))
    expected = problem.start
    for work in method.client_work({"global": problem.start}, problem, 1, [0, 1]):
        sent = run_work(problem, work, 1).params  # both started from the first version
        expected = {name: expected[name] - beta * (problem.start[name] - sent[name]) for name in sent}
    assert distance(now.state["global"], expected) < 1e-6
