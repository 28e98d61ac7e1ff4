"""Clients that the server draws for a round: how often, whom, and what becomes of those who are not drawn."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan
from apfl.errors import UserError
from apfl.federation.asynchronous import run_clock
from apfl.federation.evaluation import evaluate
from apfl.federation.method import load_method
from apfl.federation.participation import draw, inclusion, last_rounds, number_drawn
from apfl.federation.synchronous import run
from apfl.stages.handover import ages, unheard
from apfl.streams import numpy_stream
from tests.helpers.every_method import every_method, flat, method_of, problem_of, same
from tests.helpers.problems import equal, quadratics, tiny_problem

SIZES = (4, 9, 2, 14, 7, 3, 0, 5)
DRAWS = 6000


def drawing(sizes=SIZES, **training):
    return tiny_problem(sizes=sizes, **{"clients_per_round": 3, "rounds": 4, "local_epochs": 1} | training)


def close(shares: np.ndarray, probabilities: np.ndarray) -> bool:
    """Do shares of `DRAWS` draws lie within four standard errors of what they should be?"""
    errors = np.sqrt(probabilities * (1 - probabilities) / DRAWS)
    return bool((np.abs(shares - probabilities) <= 4 * errors + 1e-12).all())


def shares(sizes: np.ndarray, number: int) -> np.ndarray:
    """How often each client is among those drawn, and that each draw has so many of them, each once."""
    found = np.zeros(len(sizes))
    for round in range(DRAWS):
        chosen = draw(sizes, number, numpy_stream(0, "test", round=round))
        assert len(set(chosen)) == len(chosen) == number and sorted(chosen) == list(chosen)
        found[chosen] += 1
    return found / DRAWS


@pytest.mark.parametrize("number", [1, 3, 6, 7])
def test_each_client_is_drawn_as_often_as_its_size_says_and_none_twice(number) -> None:
    sizes = np.array([4, 9, 2, 14, 7, 3, 5])
    assert close(shares(np.ones(7, np.int64), number), np.full(7, number / 7))
    probabilities = inclusion(sizes, number)
    assert probabilities.sum() == pytest.approx(number) and probabilities.max() <= 1
    proportional = probabilities[probabilities < 1] / sizes[probabilities < 1]
    assert np.allclose(proportional, proportional[:1]) and close(shares(sizes, number), probabilities)


def test_every_set_of_clients_is_drawn_alike() -> None:
    drawn = Counter(tuple(draw(np.ones(4, np.int64), 2, numpy_stream(1, "test", round=r))) for r in range(DRAWS))
    assert len(drawn) == 6 and close(np.array(list(drawn.values())) / DRAWS, np.full(6, 1 / 6))


@pytest.mark.parametrize("sampling", ["uniform", "size"])
def test_the_mean_over_those_drawn_is_in_expectation_that_of_all_clients(sampling) -> None:
    """FedAvg's aggregate of what each client holds: sum_k n_k / n x_k, for clients of one size, or drawn by size."""
    sizes = (8,) * 6 if sampling == "uniform" else (9, 8, 5, 7, 6, 4)
    problem = drawing(sizes, client_sampling=sampling)
    held = numpy_stream(0, "held").normal(size=len(sizes))
    means = []
    for round in range(1, DRAWS):
        chosen = problem.drawn(round)
        means.append(np.average(held[list(chosen)], weights=[problem.weight(client) for client in chosen]))
    error = np.std(means) / np.sqrt(DRAWS)
    assert abs(np.mean(means) - np.average(held, weights=sizes)) < 4 * error


def test_large_clients_that_are_always_there_count_more_than_those_drawn_now_and_then() -> None:
    """n_k / pi_k: with 100 of 110 images a client is always one of two, and counts its images; the others stand for all
    ten small ones together."""
    problem = drawing((100, *(1,) * 10), clients_per_round=2, client_sampling="size")
    assert all(0 in problem.drawn(round) for round in range(1, 50))
    assert problem.weight(0) == 100 and problem.weight(3) == pytest.approx(10)


def test_whom_the_server_draws_depends_on_seed_and_round_alone_and_covers_all_that_hold_images() -> None:
    problem = drawing(clients_per_round=0.4)
    holding = [client for client in problem.participants if problem.size(client)]
    rounds = [problem.drawn(round) for round in range(1, 60)]
    assert {len(chosen) for chosen in rounds} == {3} == {number_drawn(0.4, len(holding))}
    assert {client for chosen in rounds for client in chosen} == set(holding)
    other = dataclasses.replace(problem, training=dataclasses.replace(problem.training, learning_rate=0.5, rounds=60))
    assert [other.drawn(round) for round in range(1, 60)] == rounds
    assert [dataclasses.replace(problem, seed=1).drawn(round) for round in range(1, 60)] != rounds


def test_dropout_clients_are_not_drawn() -> None:
    problem = tiny_problem(sizes=(5, 6, 7, 8), dropout=(2,), clients_per_round=2)
    assert {client for round in range(1, 30) for client in problem.drawn(round)} == {0, 1, 3}


@every_method
def test_drawing_all_clients_changes_no_bit(name, parameters) -> None:
    method = method_of(name, parameters)
    whole = list(run(method, problem_of(local_epochs=1)))
    drawn = list(run(method, problem_of(local_epochs=1, clients_per_round=3)))
    assert all(same(flat(one), flat(other)) for one, other in zip(whole, drawn, strict=True))


@every_method
@pytest.mark.parametrize("sampling", ["uniform", "size"])
def test_it_trains_those_drawn_and_has_a_model_for_all(name, parameters, sampling) -> None:
    """Each round trains the clients drawn for it and changes no other's state; whoever was never drawn is evaluated."""
    method = method_of(name, parameters)
    problem = problem_of(sizes=(9, 6, 8, 5, 7), rounds=2, local_epochs=1, clients_per_round=2, client_sampling=sampling)
    before = None
    for now in run(method, problem):
        if before is not None:
            there = method.clients_of_round(problem, now.round)
            assert {result.client for result in now.results} == set(there)
            assert len(there) == (5 if name == "local" else 2)
            for client, own in now.state.get("clients", {}).items():
                assert int(client) in there or equal(own, before.state["clients"][client])
        before = now
    here = dataclasses.replace(problem, unheard=unheard(now, method, problem))
    never = 5 - len(last_rounds(method, problem, 2))
    assert len(here.newcomers) == len(here.unheard) == never and (never == 0 or name != "local")
    models = method.client_models(now.state, here, now.latest)
    rows = evaluate(here, {method.model: models[method.model]}, now.round)
    assert {row["client"] for row in rows} == set(problem.clients)
    assert {row["client_role"] for row in rows} == {"non_dropout"}


def test_a_client_never_drawn_is_evaluated_as_a_dropout_client() -> None:
    """Ditto trains both from the last global model; what it keeps for a client that was never drawn is not shown."""
    problem, method = drawing(rounds=1), load_method("ditto")
    *_, now = run(method, problem)
    never = unheard(now, method, problem)
    assert len(never) == len(SIZES) - 3 and 6 in never  # the client without an image
    shown = method.client_models(now.state, dataclasses.replace(problem, unheard=never), {})["personalized"]
    dropped = dataclasses.replace(problem, dropout=tuple(client in never for client in problem.clients))
    as_dropout = method.client_models(now.state, dropped, {})["personalized"]
    client = min(never)
    assert equal(shown[client], as_dropout[client]) and not equal(shown[client], problem.start)
    drawn = min(problem.drawn(1))
    assert equal(shown[drawn], now.state["clients"][str(drawn)])


def test_a_client_whose_uploads_were_all_lost_is_evaluated_as_a_dropout_client() -> None:
    """Of what Ditto would train in such a client, the server's clock has nothing: it would be the initial model."""
    problem, method = tiny_problem(sizes=(9, 6, 8, 5), rounds=1, local_epochs=1), load_method("ditto")
    schedule, total = Schedule(mode="sync", dropout=0.6), len(problem.participants)
    *_, now = run_clock(method, problem, schedule, plan(schedule, range(total), 1, problem.seed))
    never = unheard(now, method, problem)
    assert 0 < len(never) < total and never == set(problem.clients) - set(now.sent_version)
    shown = method.client_models(now.state, dataclasses.replace(problem, unheard=never), {})["personalized"]
    assert not any(equal(shown[client], problem.start) for client in never)


def test_local_models_are_as_old_as_the_last_round_of_their_client() -> None:
    problem, method = drawing(rounds=6), load_method("fedavg")
    *_, now = run(method, problem)
    last = {client: max(r for r in range(1, 7) if client in problem.drawn(r)) for client in now.latest}
    assert ages(now, method, problem) == {client: 6 - round for client, round in last.items()}
    assert set(now.latest) == set(problem.clients) - unheard(now, method, problem)


def test_scaffold_moves_its_control_variate_by_the_share_of_clients_that_are_there() -> None:
    """Algorithm 1 of Karimireddy et al. (2020): c <- c + |S| / N times the mean over S of c_i+ - c_i: c stays the mean
    of all c_i."""
    problem = quadratics((1.0, 2.0, 3.0, 4.0, 5.0), (1.0, -2.0, 0.5, 3.0, -1.0), rounds=6, clients_per_round=2)
    method, before = load_method("scaffold", {"weights": "uniform"}), None
    for now in run(method, problem):
        own = {client: control["head.weight"] for client, control in now.state["clients"].items()}
        if before is not None:
            drawn = [str(client) for client in problem.drawn(now.round)]
            changes = [own[client] - before[1][client] for client in drawn]
            moved = before[0] + len(drawn) / 5 * torch.stack(changes).mean(0)
            assert torch.allclose(now.state["control"]["head.weight"], moved, atol=1e-6)
        assert torch.allclose(now.state["control"]["head.weight"], torch.stack(list(own.values())).mean(0), atol=1e-6)
        before = now.state["control"]["head.weight"], own
    assert sum(bool(control.any()) for control in own.values()) == len(last_rounds(method, problem, 6))


@pytest.mark.parametrize("sampling", ["uniform", "size"])
def test_scaffolds_control_variate_stays_the_mean_by_samples_however_clients_are_drawn(sampling) -> None:
    problem = drawing(client_sampling=sampling)
    *_, now = run(load_method("scaffold"), problem)
    total = sum(SIZES)
    for name, value in now.state["control"].items():
        mean = sum(SIZES[int(client)] / total * own[name] for client, own in now.state["clients"].items())
        assert torch.allclose(value, mean, atol=1e-4)


def test_synchronous_rounds_in_virtual_time_wait_for_those_drawn() -> None:
    problem, method = drawing(), load_method("fedavg")
    schedule = Schedule(mode="sync", latency="exponential")
    timeline = plan(schedule, method.clients(problem), 4, problem.seed, problem.drawn)
    assert [tuple(one.client for one in merge.arrivals) for merge in timeline.merges] == [
        problem.drawn(round) for round in range(1, 5)
    ]
    *_, timed = run_clock(method, problem, schedule, timeline)
    *_, plain = run(method, problem)
    assert timed.round == 4 and equal(timed.state["global"], plain.state["global"])
    assert ages(timed, method, problem) == ages(plain, method, problem)


def test_an_asynchronous_schedule_has_no_rounds_to_draw_for() -> None:
    problem = drawing()
    with pytest.raises(UserError, match="concurrency"):
        plan(Schedule(), problem.participants, 4, 0, problem.drawn)


@pytest.mark.parametrize("wanted", [0, -1, 1.0, 2.5])
def test_a_number_of_clients_that_is_none_is_refused(wanted) -> None:
    with pytest.raises(UserError, match="clients_per_round"):
        drawing(clients_per_round=wanted)


def test_byzantine_clients_must_be_withstood_among_those_drawn() -> None:
    problem = tiny_problem(sizes=(5,) * 10, clients_per_round=4)
    given = {"aggregator": "median", "bucket_size": 1, "byzantine": 2, "tuning_steps": 1}
    with pytest.raises(UserError, match="at most 1 among 4"):
        load_method("ffgg", given).init(problem)
    load_method("ffgg", given | {"byzantine": 1}).init(problem)
