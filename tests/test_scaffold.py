"""SCAFFOLD, held to the invariants of its control variates and to two quadratics on which FedAvg drifts."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from problems import distance, equal, quadratics, same_data, tiny_problem

from apfl.errors import UserError
from apfl.federation import load_method, run, weighted_mean
from apfl.training import Gradient, Step, cross_entropy
from baselines.scaffold import Corrected

OPTIMUM = 10 / 11


def final(problem, method="scaffold", **parameters):
    return [*run(load_method(method, parameters), problem)][-1]


def reached(problem, method="scaffold", **parameters) -> float:
    return final(problem, method, **parameters).state["global"]["head.weight"].item()


@pytest.mark.parametrize("option", ["I", "II"])
def test_two_quadratics_end_at_their_joint_optimum_where_fedavg_stalls(option) -> None:
    problem = quadratics((1.0, 10.0), (0.0, 1.0), rounds=60)
    assert reached(problem, "fedavg") == pytest.approx(0.713, abs=1e-3)
    assert reached(problem, option=option) == pytest.approx(OPTIMUM, abs=1e-3)


def test_weighing_by_samples_ends_at_the_optimum_of_the_weighted_objective() -> None:
    problem = quadratics((1.0, 10.0), (0.0, 1.0), rounds=120)
    problem = dataclasses.replace(problem, train=(problem.train[0].repeat(3), problem.train[1]))
    problem = dataclasses.replace(problem, training=dataclasses.replace(problem.training, batch_size=3))
    assert reached(problem, option="II", weights="samples") == pytest.approx(10 / 13, abs=1e-3)
    assert reached(problem, option="II", weights="uniform") == pytest.approx(OPTIMUM, abs=1e-3)


@pytest.mark.parametrize(
    "parameters", [{"option": "I"}, {"option": "I", "weights": "samples"}, {"option": "II", "optimizer": "sgd"}]
)
def test_the_clients_control_variates_average_to_the_servers(parameters) -> None:
    problem = tiny_problem(sizes=(23, 12, 0, 30), rounds=3)
    state = final(problem, **parameters).state
    weighted = parameters.get("weights") == "samples"
    weights = [problem.size(client) if weighted else 1 for client in (0, 1, 3)]
    mean = weighted_mean([state["clients"][str(client)] for client in (0, 1, 3)], weights)
    assert distance(mean, state["control"]) < 1e-6
    assert max(value.abs().max().item() for value in state["control"].values()) > 1e-3
    assert not any(value.any() for value in state["clients"]["2"].values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_identical_clients_give_fedavg(optimizer) -> None:
    problem = same_data(tiny_problem(rounds=3, batch_size=50, optimizer=optimizer))
    options = [{"option": "I"}] + [{"option": "II"}] * (optimizer == "sgd")
    fedavg = final(problem, "fedavg").state["global"]
    for parameters in options:
        # Adam divides by the size of the gradient, so rounding is blown up where gradients vanish.
        assert distance(fedavg, final(problem, **parameters).state["global"]) < (1e-3 if optimizer == "adam" else 1e-5)


def test_the_first_round_is_fedavg_since_control_variates_start_at_zero() -> None:
    problem = tiny_problem(rounds=1)
    state = final(problem, weights="samples").state
    assert equal(state["global"], final(problem, "fedavg").state["global"])


def test_option_one_sends_the_gradient_at_the_servers_model_over_all_data() -> None:
    problem = tiny_problem(rounds=1)
    state = final(problem, option="I").state
    for client in problem.clients:
        params = {name: value.clone().requires_grad_() for name, value in problem.start.items()}
        whole = Step((problem.images.batch(problem.train[client]),), torch.Generator())
        _, gradient = Gradient()(problem.model, params, params, whole)
        assert distance(state["clients"][str(client)], gradient) < 1e-7


def test_options_agree_after_one_full_batch_step() -> None:
    problem = tiny_problem(rounds=1, batch_size=50, local_epochs=1, optimizer="sgd", learning_rate=0.1)
    first, second = (final(problem, option=option).state["control"] for option in ("I", "II"))
    assert 0 < distance(first, second) < 1e-5


def test_the_correction_adds_itself_to_the_gradient() -> None:
    problem = tiny_problem()
    params = {name: value.clone().requires_grad_() for name, value in problem.start.items()}
    correction = {name: torch.full_like(value, 0.5) for name, value in params.items()}
    step = Step((problem.images.batch(problem.train[0]),), torch.Generator())
    _, plain = Gradient()(problem.model, params, params, step)
    _, corrected = Gradient(Corrected(cross_entropy, correction))(problem.model, params, params, step)
    assert distance({name: corrected[name] - plain[name] for name in plain}, correction) < 1e-6


def test_a_clients_correction_is_the_servers_control_variate_minus_its_own() -> None:
    problem = tiny_problem(rounds=2)
    state = final(problem).state
    method = load_method("scaffold")
    work = {(piece.client, piece.role): piece for piece in method.client_work(state, problem, 3, (0, 1, 2))}
    for client in (0, 1, 2):
        correction = work[client, "local"].phases[0].objective.loss.correction
        expected = {name: state["control"][name] - state["clients"][str(client)][name] for name in correction}
        assert equal(correction, expected)
        assert not any(value.any() for value in work[client, "control"].start.values())


def test_the_server_step_goes_that_far_towards_the_mean() -> None:
    problem = tiny_problem(rounds=1)
    whole, half = final(problem).state["global"], final(problem, server_learning_rate=0.5).state["global"]
    middle = {name: (whole[name] + problem.start[name]) / 2 for name in whole}
    assert distance(half, middle) < 1e-6


def test_option_two_is_refused_under_adam() -> None:
    with pytest.raises(UserError, match="option I or optimizer sgd"):
        final(tiny_problem(), option="II")


@pytest.mark.parametrize(
    "change", [{"option": "III"}, {"optimizer": "adam"}, {"weights": "all"}, {"server_learning_rate": 0.0}]
)
def test_unknown_settings_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"scaffold.{next(iter(change))}"):
        load_method("scaffold", change)
