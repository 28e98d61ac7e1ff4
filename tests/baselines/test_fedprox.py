"""FedProx, held to its limit (FedAvg) and to the proximal point of a quadratic."""

from __future__ import annotations

import pytest
import torch

from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from tests.helpers.problems import distance, equal, quadratics, tiny_problem


def final(problem, method, **parameters):
    return [*run(load_method(method, parameters), problem)][-1]


@pytest.mark.parametrize("bf16", [False, True])
def test_without_the_proximal_term_it_is_fedavg_bit_for_bit(bf16) -> None:
    problem = tiny_problem(bf16=bf16)
    fedavg, fedprox = final(problem, "fedavg"), final(problem, "fedprox", mu=0.0)
    assert equal(fedavg.state["global"], fedprox.state["global"])
    assert not equal(fedavg.state["global"], final(problem, "fedprox", mu=0.1).state["global"])


def test_a_client_ends_at_the_proximal_point_of_its_quadratic() -> None:
    problem = quadratics((1.0, 10.0), (0.0, 1.0), start=0.3, local_epochs=400, learning_rate=0.05)
    method = load_method("fedprox", {"mu": 2.0})
    works = method.client_work({"global": problem.start}, problem, 1, (0, 1))
    reached = [run_work(problem, work, 1).params["head.weight"].item() for work in works]
    assert reached == pytest.approx([(a * b + 2.0 * 0.3) / (a + 2.0) for a, b in ((1, 0), (10, 1))], abs=1e-5)


def test_a_heavier_term_keeps_clients_nearer_to_the_global_model() -> None:
    problem = tiny_problem(rounds=1, optimizer="sgd", learning_rate=0.1)
    moved = [distance(final(problem, "fedprox", mu=mu).latest[0], problem.start) for mu in (0, 1, 5)]
    assert moved[0] > moved[1] > moved[2] > 0


@pytest.mark.parametrize("mu", [-0.1, float("nan")])
def test_a_negative_weight_is_refused(mu) -> None:
    with pytest.raises(UserError, match=r"fedprox\.mu"):
        load_method("fedprox", {"mu": mu})


def test_the_term_reads_no_gradient_into_its_anchor() -> None:
    problem = tiny_problem(rounds=1)
    final(problem, "fedprox", mu=1.0)
    assert not any(value.requires_grad or value.grad is not None for value in problem.start.values())
    assert all(torch.isfinite(value).all() for value in problem.start.values())
