"""Per-FedAvg, held to the closed form of its meta-gradient on least squares."""

from __future__ import annotations

import pytest
import torch

from apfl.engine.images import Batch
from apfl.engine.networks import CNN, Model, initial_parameters
from apfl.engine.work import Step
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from apfl.streams import torch_stream
from baselines.perfedavg import MetaGradient, adapted_model
from tests.helpers.least_squares import hessian_and_minimiser, least_squares, model_of, vector
from tests.helpers.problems import distance, equal, tiny_problem

ALPHA = 0.3


def quadratic_gradient(problem, client, w):
    hessian, minimiser = hessian_and_minimiser(problem, client)
    return hessian @ (w - minimiser)


def meta_gradient(problem, w, outer=0, inner=0, curvature=0, alpha=ALPHA):
    """(I - alpha H'') g(w - alpha g'(w)), each on the data of one client."""
    hessian, _ = hessian_and_minimiser(problem, curvature)
    there = quadratic_gradient(problem, outer, w - alpha * quadratic_gradient(problem, inner, w))
    return there - alpha * hessian @ there


def direction(problem, hessian, w, clients=(0, 1, 2), alpha=ALPHA):
    """What the objective gives on batches D, D' and D'', the data of three clients."""
    batches = tuple(problem.images.batch(problem.train[client]) for client in clients)
    params = {name: value.requires_grad_() for name, value in model_of(w).items()}
    objective = MetaGradient(problem.loss, alpha, hessian)
    return vector(objective(problem.model, params, params, Step(batches, torch.Generator()))[1])


@pytest.mark.parametrize("hessian", ["exact", "difference"])
def test_the_meta_gradient_has_its_closed_form_with_each_batch_in_its_place(hessian) -> None:
    problem, w = least_squares(clients=3), torch.linspace(-1, 2, 6, dtype=torch.float64)
    expected = meta_gradient(problem, w, outer=0, inner=1, curvature=2)
    assert torch.allclose(direction(problem, hessian, w), expected, atol=1e-5 if hessian == "exact" else 1e-3)
    for swapped in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
        assert not torch.allclose(direction(problem, hessian, w, swapped), expected, atol=1e-2)


def test_first_order_drops_the_hessian() -> None:
    problem, w = least_squares(clients=2), torch.linspace(-1, 2, 6, dtype=torch.float64)
    expected = quadratic_gradient(problem, 0, w - ALPHA * quadratic_gradient(problem, 1, w))
    assert torch.allclose(direction(problem, "none", w, (0, 1, 0)), expected, atol=1e-5)


@pytest.mark.parametrize("hessian", ["exact", "difference", "none"])
def test_without_an_inner_step_it_is_the_gradient(hessian) -> None:
    problem, w = least_squares(clients=3), torch.linspace(-1, 2, 6, dtype=torch.float64)
    assert torch.allclose(direction(problem, hessian, w, alpha=0.0), quadratic_gradient(problem, 0, w), atol=1e-5)


def precise_cross_entropy(model, params, step):
    return torch.nn.functional.cross_entropy(model(params, step.batch.images), step.batch.labels)


def test_the_exact_hessian_product_is_exact_on_the_papers_network() -> None:
    """In double precision, by differences too narrow to meet a kink of its ReLUs."""
    model = Model(CNN(1, 3))
    params = initial_parameters({"name": "cnn"}, 1, 3, seed=0)
    params = {name: value.double().requires_grad_() for name, value in params.items()}
    images = torch.randn(6, 1, 32, 32, generator=torch_stream(0, "images"), dtype=torch.float64)
    step = Step((Batch(images, torch.arange(6) % 3),) * 3, torch.Generator())
    exact, near, none = (
        MetaGradient(precise_cross_entropy, 0.5, hessian, 1e-6)(model, params, params, step)[1]
        for hessian in ("exact", "difference", "none")
    )
    assert distance(exact, near) < 1e-6 < 1e-3 < distance(exact, none)


@pytest.mark.parametrize("hessian", ["exact", "difference"])
def test_both_precisions_nearly_agree(hessian) -> None:
    problem = tiny_problem(sizes=(12,))
    params = {name: value.requires_grad_() for name, value in problem.start.items()}
    step = Step((problem.images.batch(problem.train[0]),) * 3, torch.Generator())
    found = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found.append(MetaGradient(problem.loss, 0.5, hessian)(problem.model, params, params, step)[1])
    assert 0 < distance(*found) < 0.02


def test_the_three_batches_of_a_step_are_drawn_independently() -> None:
    seen = []

    def loss(model, params, step):
        seen.append(step.batch.images[:, 0, 0, 0].tolist())
        return problem_loss(model, params, step)

    problem = tiny_problem(sizes=(23,), local_epochs=1)
    problem_loss = problem.loss
    object.__setattr__(problem, "loss", loss)
    (work,) = load_method("perfedavg", {"hessian": "exact"}).client_work({"global": problem.start}, problem, 1, [0])
    run_work(problem, work, 1)
    steps = [seen[start : start + 3] for start in range(0, len(seen), 3)]
    assert len(steps) == 5 and all(first != second != third != first for first, second, third in steps)
    assert [sum(len(step[place]) for step in steps) for place in range(3)] == [23, 23, 23]


def test_the_personal_model_is_an_exact_gradient_step_from_the_global_one() -> None:
    problem, w = least_squares(clients=2), torch.linspace(-1, 2, 6, dtype=torch.float64)
    for client in (0, 1):
        expected = w - ALPHA * quadratic_gradient(problem, client, w)
        assert torch.allclose(vector(adapted_model(problem, client, model_of(w), ALPHA)), expected, atol=1e-5)
    method = load_method("perfedavg", {"alpha": ALPHA})
    models = method.client_models({"global": model_of(w)}, problem, {})
    assert equal(models["global"], model_of(w))
    assert equal(models["personalized"][1], adapted_model(problem, 1, model_of(w), ALPHA))


def test_it_converges_to_the_minimiser_of_the_mean_of_the_meta_objectives() -> None:
    problem = least_squares(clients=3, rounds=300, local_epochs=1)
    *_, now = run(load_method("perfedavg", {"alpha": ALPHA, "hessian": "exact"}), problem)
    assert sum(meta_gradient(problem, vector(now.state["global"]), k, k, k) for k in range(3)).norm() < 1e-4
    assert sum(quadratic_gradient(problem, k, vector(now.state["global"])) for k in range(3)).norm() > 1e-2


def test_clients_without_samples_do_not_count_and_dropouts_adapt_without_being_heard() -> None:
    problem = tiny_problem(sizes=(9, 0, 12, 8), dropout=(3,), rounds=1)
    method = load_method("perfedavg")
    *_, now = run(method, problem)
    mean = {name: (now.latest[0][name] + now.latest[2][name]) / 2 for name in problem.start}
    assert distance(now.state["global"], mean) < 1e-6
    personal = method.client_models(now.state, problem, now.latest)["personalized"]
    assert equal(personal[1], now.state["global"]) and not equal(personal[3], now.state["global"])
    assert method.server_update(now.state, problem, 2, []) == now.state


@pytest.mark.parametrize("change", [{"alpha": 0.0}, {"hessian": "free"}, {"delta": -1.0}])
def test_hyper_parameters_out_of_range_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"perfedavg.{next(iter(change))}"):
        load_method("perfedavg", change)
