"""SCAFFOLD, held to the invariants of its control variates and to two quadratics on which FedAvg drifts."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from apfl.engine.work import Gradient, Step, cross_entropy
from apfl.errors import UserError
from apfl.federation.aggregation import weighted_mean
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from baselines.scaffold import Corrected
from tests.helpers.problems import distance, equal, quadratics, same_data, tiny_problem

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
    "parameters",
    [{"option": "I"}, {"option": "II"}, {"weights": "uniform"}, {"optimizer": "sgd", "sgd_learning_rate": 0.1}],
)
def test_the_clients_control_variates_average_to_the_servers(parameters) -> None:
    problem = tiny_problem(sizes=(23, 12, 0, 30), rounds=3)
    state = final(problem, **parameters).state
    weighted = parameters.get("weights") != "uniform"
    weights = [problem.size(client) if weighted else 1 for client in (0, 1, 3)]
    mean = weighted_mean([state["clients"][str(client)] for client in (0, 1, 3)], weights)
    assert distance(mean, state["control"]) < 1e-6
    assert max(value.abs().max().item() for value in state["control"].values()) > 1e-3
    assert not any(value.any() for value in state["clients"]["2"].values())


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_identical_clients_give_fedavg(optimizer, option) -> None:
    problem = same_data(tiny_problem(rounds=3, batch_size=50, optimizer=optimizer))
    fedavg = final(problem, "fedavg").state["global"]
    # Adam divides by the size of the gradient, so rounding is blown up where gradients vanish.
    assert distance(fedavg, final(problem, option=option).state["global"]) < (1e-3 if optimizer == "adam" else 1e-5)


@pytest.mark.parametrize("option", ["I", "II"])
def test_the_first_round_is_fedavg_since_control_variates_start_at_zero(option) -> None:
    problem = tiny_problem(rounds=1)
    state = final(problem, option=option).state
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
    state = final(problem, option="I").state
    method = load_method("scaffold", {"option": "I"})
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


def test_option_two_adds_the_correction_to_the_step_of_adam() -> None:
    problem = tiny_problem(rounds=2)
    state = final(problem).state
    (corrected,) = load_method("scaffold").client_work(state, problem, 3, (0,))
    (plain,) = load_method("fedavg").client_work(state, problem, 3, (0,))
    (phase,) = corrected.phases
    assert equal(phase.drift, _difference(state["control"], state["clients"]["0"]))
    one_step = [
        run_work(problem, dataclasses.replace(work, phases=(dataclasses.replace(work.phases[0], steps=1),)), 3).params
        for work in (plain, corrected)
    ]
    assert distance(_difference(*one_step), {name: 0.01 * value for name, value in phase.drift.items()}) < 1e-6


def test_the_control_variate_of_option_two_is_the_mean_uncorrected_direction_of_adam() -> None:
    problem = tiny_problem(rounds=1)
    state = final(problem).state
    method = load_method("scaffold")
    work = method.client_work(state, problem, 2, (0, 1, 2))
    results = [run_work(problem, piece, 2) for piece in work]
    after = method.server_update(state, problem, 2, results)
    for result in results:
        drift = result.work.phases[0].drift
        moved = _difference(state["global"], result.params)
        uncorrected = {name: moved[name] - 0.01 * result.steps * drift[name] for name in drift}
        mean = {name: value / (0.01 * result.steps) for name, value in uncorrected.items()}
        assert distance(after["clients"][str(result.client)], mean) < 1e-4


def _difference(first, second):
    return {name: first[name] - second[name] for name in first}


@pytest.mark.parametrize(
    "change", [{"option": "III"}, {"optimizer": "adam"}, {"weights": "all"}, {"server_learning_rate": 0.0}]
)
def test_unknown_settings_are_refused(change) -> None:
    with pytest.raises(UserError, match=f"scaffold.{next(iter(change))}"):
        load_method("scaffold", change)
