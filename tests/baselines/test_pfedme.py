"""pFedMe, held to the proximal points of least squares."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from apfl.engine.work import Step
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from baselines.pfedme import EnvelopeGradient, gradient_steps, last_theta, proximal_point
from tests.helpers.least_squares import hessian_and_minimiser, least_squares, model_of, vector
from tests.helpers.problems import distance, equal, tiny_problem

W = torch.linspace(-1, 2, 6, dtype=torch.float64)


def theta(problem, client, w, lam):
    """argmin f(theta) + lam / 2 ||theta - w||^2."""
    hessian, minimiser = hessian_and_minimiser(problem, client)
    identity = torch.eye(len(w), dtype=torch.float64)
    return torch.linalg.solve(hessian + lam * identity, hessian @ minimiser + lam * w)


def steps_of(learning_rate, steps):
    return partial(gradient_steps, learning_rate=learning_rate, steps=steps)


def envelope_gradient(problem, lam, learning_rate, steps):
    step = Step((problem.images.batch(problem.train[0]),), torch.Generator())
    params = {name: value.requires_grad_() for name, value in model_of(W).items()}
    objective = EnvelopeGradient(problem.loss, lam, steps_of(learning_rate, steps))
    return vector(objective(problem.model, params, params, step)[1])


@pytest.mark.parametrize("lam", [0.5, 3.0])
def test_the_inner_solution_is_the_proximal_point(lam) -> None:
    problem = least_squares(clients=1)
    direction = envelope_gradient(problem, lam, 0.2, 400)
    expected, (hessian, minimiser) = theta(problem, 0, W, lam), hessian_and_minimiser(problem, 0)
    assert torch.allclose(W - direction / lam, expected, atol=1e-5)
    assert torch.allclose(direction, hessian @ (expected - minimiser), atol=1e-4)  # the gradient of f at theta
    personal = proximal_point(problem, 0, model_of(W), lam, steps_of(0.2, 400))
    assert torch.allclose(vector(personal), expected, atol=1e-5)


def test_a_high_price_gives_the_gradient_and_a_low_one_the_clients_own_minimiser() -> None:
    problem = least_squares(clients=1)
    hessian, minimiser = hessian_and_minimiser(problem, 0)
    high, low = envelope_gradient(problem, 1e3, 1e-3, 50), envelope_gradient(problem, 1e-4, 0.3, 400)
    assert torch.allclose(high, hessian @ (W - minimiser), rtol=0.02, atol=0.02)
    assert torch.allclose(W - low / 1e-4, minimiser, atol=1e-2)


def test_k_inner_steps_are_k_gradient_steps() -> None:
    problem, lam, rate = least_squares(clients=1), 2.0, 0.1
    hessian, minimiser = hessian_and_minimiser(problem, 0)
    expected = W
    for _ in range(3):
        expected = expected - rate * (hessian @ (expected - minimiser) + lam * (expected - W))
    assert torch.allclose(envelope_gradient(problem, lam, rate, 3), lam * (W - expected), atol=1e-5)
    assert torch.allclose(vector(proximal_point(problem, 0, model_of(W), lam, steps_of(rate, 3))), expected, atol=1e-5)


@pytest.mark.parametrize(("weights", "shares"), [("samples", [23 / 65, 12 / 65, 30 / 65]), ("uniform", [1 / 3] * 3)])
def test_the_server_moves_by_beta_towards_the_mean_of_the_clients(weights, shares) -> None:
    problem = tiny_problem(sizes=(23, 12, 30), rounds=1)
    methods = [load_method("pfedme", {"beta": beta, "weights": weights}) for beta in (1.0, 0.5)]
    whole, half = ([*run(method, problem)][-1] for method in methods)
    mean = {name: sum(shares[k] * model[name] for k, model in whole.latest.items()) for name in problem.start}
    assert distance(whole.state["global"], mean) < 1e-6
    middle = {name: (mean[name] + problem.start[name]) / 2 for name in mean}
    assert distance(half.state["global"], middle) < 1e-6


def test_one_round_is_a_step_along_the_mean_envelope_gradient() -> None:
    problem, lam = least_squares(clients=2, rounds=1, local_epochs=1), 2.0
    solved = {"lam": lam, "inner_steps": 300, "inner_learning_rate": 0.2, "mu": 0.0}
    *_, now = run(load_method("pfedme", solved), problem)
    start = torch.zeros(6, dtype=torch.float64)
    mean = sum(lam * (start - theta(problem, client, start, lam)) for client in (0, 1)) / 2
    assert torch.allclose(vector(now.state["global"]), start - 0.3 * mean, atol=1e-5)


def written_out(problem, client, start, steps, *, lam, eta, rate, inner, mu, warm):
    """The client's w and theta after local steps on all of its data, in the words of the program: the gradient of least
    squares, weight by weight."""
    batch = problem.images.batch(problem.train[client])
    rows, targets = batch.images.double().tolist(), batch.labels.double().tolist()
    w = list(start)
    theta = list(start)
    for _ in range(steps):
        if not warm:
            theta = list(w)
        for _ in range(inner):
            gradient = [0.0] * len(w)
            for row, target in zip(rows, targets, strict=True):
                error = sum(t * x for t, x in zip(theta, row, strict=True)) - target
                gradient = [g + error * x / len(rows) for g, x in zip(gradient, row, strict=True)]
            for i, slope in enumerate(gradient):
                theta[i] -= rate * (slope + lam * (theta[i] - w[i]) + mu * theta[i])
        for i in range(len(w)):
            w[i] -= eta * lam * (w[i] - theta[i])
    return torch.tensor(w, dtype=torch.float64), torch.tensor(theta, dtype=torch.float64)


SETTINGS = {"lam": 1.5, "mu": 0.05}
OURS = SETTINGS | {"inner_steps": 3, "inner_learning_rate": 0.1}
OFFICIAL = SETTINGS | {"eta": 0.05, "rate": 0.1, "inner": 3}


@pytest.mark.parametrize("warm", [True, False])
def test_twenty_local_steps_are_the_programs_arithmetic_written_out(warm) -> None:
    problem = least_squares(clients=2, rounds=1, local_epochs=20, learning_rate=0.05)
    problem = dataclasses.replace(problem, start=model_of(W))
    method = load_method("pfedme", OURS | {"warm": warm})
    *_, now = run(method, problem)
    models = method.client_models(now.state, problem, now.latest)["personalized"]
    other = {}
    for client in (0, 1):
        w, theta = written_out(problem, client, W.tolist(), 20, **OFFICIAL, warm=warm)
        other[client], _ = written_out(problem, client, W.tolist(), 20, **OFFICIAL, warm=not warm)
        assert torch.allclose(vector(now.latest[client]), w, rtol=0, atol=1e-6)
        assert (vector(now.latest[client]) - other[client]).abs().max() > 0.01
        assert torch.allclose(vector(models[client]), theta, rtol=0, atol=1e-6) == warm
    assert all(equal(method.client_models(now.state, problem, now.latest)["local"][k], now.latest[k]) for k in (0, 1))
    mean = sum(vector(now.latest[client]) for client in (0, 1)) / 2
    assert torch.allclose(vector(now.state["global"]), mean, rtol=0, atol=1e-6)


def test_one_local_step_is_the_same_from_a_warm_theta_and_from_w() -> None:
    problem = tiny_problem(sizes=(5, 5), rounds=1, local_epochs=1)
    first, second = ([*run(load_method("pfedme", {"warm": warm}), problem)][-1] for warm in (True, False))
    assert equal(first.state["global"], second.state["global"])


def test_the_extra_term_draws_theta_towards_zero() -> None:
    problem = least_squares(clients=1)
    step = Step((problem.images.batch(problem.train[0]),), torch.Generator())
    params = {name: value.requires_grad_() for name, value in model_of(W).items()}
    with_term, without = (
        vector(EnvelopeGradient(problem.loss, 2.0, steps_of(0.1, 1), mu)(problem.model, params, params, step)[1])
        for mu in (0.5, 0.0)
    )
    assert torch.allclose(with_term - without, 2.0 * 0.1 * 0.5 * W, atol=1e-6)


def test_training_a_piece_of_work_again_begins_anew() -> None:
    problem = tiny_problem(rounds=1)
    method = load_method("pfedme")
    (work,) = method.client_work(method.init(problem), problem, 1, [0])
    first = run_work(problem, work, 1)
    theta = last_theta(first)
    second = run_work(problem, work, 1)
    assert equal(first.params, second.params) and equal(theta, last_theta(second))


@pytest.mark.parametrize("warm", [True, False])
def test_every_client_has_a_personal_model_and_one_without_samples_has_the_global_one(warm) -> None:
    problem = tiny_problem(sizes=(9, 0, 12, 8), dropout=(3,), rounds=1)
    method = load_method("pfedme", {"warm": warm})
    *_, now = run(method, problem)
    models = method.client_models(now.state, problem, now.latest)
    assert equal(models["personalized"][1], now.state["global"])
    assert models["personalized"].keys() == {0, 1, 2, 3} and 3 not in now.latest
    assert all(not equal(models["personalized"][client], now.state["global"]) for client in (0, 2, 3))
    assert method.server_update(now.state, problem, 2, []) == now.state


@pytest.mark.parametrize(
    "change",
    [{"lam": 0.0}, {"inner_steps": 0}, {"inner_learning_rate": -1.0}, {"beta": 0.0}, {"mu": -1.0}, {"weights": "x"}],
)
def test_hyper_parameters_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"pfedme.{next(iter(change))}"):
        load_method("pfedme", change)
