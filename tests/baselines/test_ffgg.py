"""FFGG on least squares that every client can fit exactly, but not with one model; honest and under attack."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from apfl.streams import numpy_stream, torch_stream
from baselines.ffgg import drawn_like
from tests.helpers.least_squares import (
    PRIVATE,
    SHARED,
    client_loss,
    hessian_and_minimiser,
    least_squares,
    model_of,
    vector,
)
from tests.helpers.problems import distance, equal, tiny_problem

ROBUST = ["median", "trimmed_mean", "krum", "centred_clipping"]
LOCAL = {"shared_update": "local", "gamma": 1.0, "private_start": "kept", "tuning_epochs": 5}
GRADIENT = {"gamma": 0.6, "tuning_steps": 30}
ATTACKS = [(LOCAL, "sign_flip", 10.0), (LOCAL, "gaussian", 1.0), (GRADIENT, "sign_flip", 10.0)]


def final(problem, **parameters):
    method = load_method("ffgg", parameters)
    *_, now = run(method, problem)
    return method, now, method.client_models(now.state, problem, now.latest)["personalized"]


def worst_loss(problem, models) -> float:
    return max(client_loss(problem, client, params) for client, params in models.items())


@pytest.mark.parametrize("parameters", [LOCAL, GRADIENT], ids=["local steps", "gradient"])
def test_every_client_reaches_zero_loss_where_fedavg_does_not(parameters) -> None:
    problem = least_squares(rounds=18)
    _, _, models = final(problem, **parameters)
    assert models.keys() == set(range(10)) and worst_loss(problem, models) < 1e-6
    *_, fedavg = run(load_method("fedavg"), problem)
    assert worst_loss(problem, dict.fromkeys(range(10), fedavg.state["global"])) > 0.5


@pytest.mark.parametrize(("parameters", "attack", "strength"), ATTACKS)
@pytest.mark.parametrize("aggregator", ROBUST)
def test_robust_rules_reach_zero_loss_with_three_of_ten_byzantine(aggregator, parameters, attack, strength) -> None:
    hostile = {"byzantine": 3, "attack": attack, "attack_strength": strength, "bucket_size": 1}
    problem = least_squares(rounds=18)
    _, _, models = final(problem, aggregator=aggregator, **hostile, **parameters)
    assert len(models) == 7 and worst_loss(problem, models) < 1e-6


@pytest.mark.parametrize(("parameters", "attack", "strength"), ATTACKS)
def test_the_mean_does_not_survive_three_of_ten_byzantine(parameters, attack, strength) -> None:
    problem = least_squares(rounds=18)
    try:
        _, _, models = final(problem, byzantine=3, attack=attack, attack_strength=strength, **parameters)
    except Diverged:
        return
    assert worst_loss(problem, models) > 1e-3


def test_a_round_tunes_the_private_part_and_then_sends_the_gradient_of_the_shared_one() -> None:
    problem, rate, gamma = least_squares(clients=2, rounds=1), 0.3, 0.7
    start = torch.linspace(-1, 2, 6, dtype=torch.float64)
    problem = dataclasses.replace(problem, start=model_of(start))
    _, _, models = final(problem, gamma=gamma, tuning_steps=4, private_start="initial")
    gradients = []
    for client in (0, 1):
        hessian, minimiser = hessian_and_minimiser(problem, client)
        tuned = start.clone()
        for _ in range(4):
            tuned[SHARED:] -= rate * (hessian @ (tuned - minimiser))[SHARED:]
        gradients.append((hessian @ (tuned - minimiser))[:SHARED])
        assert torch.allclose(vector(models[client])[SHARED:], tuned[SHARED:], atol=1e-5)
    shared = vector(models[0])[:SHARED]
    assert torch.allclose(shared, start[:SHARED] - gamma * sum(gradients) / 2, atol=1e-5)
    assert torch.allclose(vector(models[1])[:SHARED], shared) and len(start) == SHARED + PRIVATE


def by_hand(problem, rounds, gamma, rate, steps, *, start="drawn", aggregator="mean", size=2, hostile=(), strength=0.0):
    """The notebooks' loop over rounds and clients in NumPy, on half the mean squared error: tune the private part by
    gradient steps, take the gradient in the shared part, put it into a bucket, step."""
    data = [problem.images.batch(part) for part in problem.train]
    rows = [batch.images.numpy().astype(float) for batch in data]
    targets = [batch.labels.numpy().astype(float) for batch in data]
    initial = vector(problem.start).numpy()
    shared, private = initial[:SHARED].copy(), {}
    for number in range(1, rounds + 1):
        sent = []
        for client, (x, y) in enumerate(zip(rows, targets, strict=True)):
            theta = initial[SHARED:].copy()
            if start == "drawn":
                stream = torch_stream(problem.seed, "ffgg-private", round=number, client=client)
                size_of_initial = np.sqrt(np.mean(theta**2))
                theta = size_of_initial * torch.randn(1, PRIVATE, generator=stream).numpy().astype(float)[0]
            for _ in range(steps):
                error = x[:, :SHARED] @ shared + x[:, SHARED:] @ theta - y
                theta = theta - rate * (x[:, SHARED:].T @ error) / len(y)
            error = x[:, :SHARED] @ shared + x[:, SHARED:] @ theta - y
            gradient = (x[:, :SHARED].T @ error) / len(y)
            sent.append(-strength * gradient if client in hostile else gradient)
            private[client] = theta
        if aggregator == "mean":
            step = np.mean(sent, axis=0)
        else:
            order = numpy_stream(problem.seed, "buckets", round=number).permutation(len(sent))
            dealt = [sent[place] for place in order]
            means = [np.mean(dealt[first : first + size], axis=0) for first in range(0, len(dealt), size)]
            step = np.median(means, axis=0)
        shared = shared - gamma * step
    return shared, private


AT = torch.linspace(-1, 2, 6, dtype=torch.float64)


@pytest.mark.parametrize("start", ["drawn", "initial"])
def test_three_rounds_are_the_notebooks_arithmetic_written_out(start) -> None:
    problem = dataclasses.replace(least_squares(clients=4, rounds=3), start=model_of(AT))
    _, _, models = final(problem, gamma=0.4, tuning_steps=7, private_start=start)
    shared, private = by_hand(problem, 3, 0.4, 0.3, 7, start=start)
    other, _ = by_hand(problem, 3, 0.4, 0.3, 7, start="initial" if start == "drawn" else "drawn")
    for client, params in models.items():
        assert np.allclose(vector(params)[:SHARED], shared, atol=1e-5)
        assert np.allclose(vector(params)[SHARED:], private[client], atol=1e-5)
    assert np.abs(vector(models[0])[:SHARED].numpy() - other).max() > 1e-3


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_robust_rule_sees_the_means_of_buckets_dealt_at_random(size) -> None:
    problem = dataclasses.replace(least_squares(clients=7, rounds=3), start=model_of(AT))
    given = {"gamma": 0.4, "tuning_steps": 7, "aggregator": "median", "byzantine": 1, "attack_strength": 1.0}
    method, now, _ = final(problem, **given, bucket_size=size)
    expected, other = (
        by_hand(
            problem, 3, 0.4, 0.3, 7,
            aggregator="median", size=s, hostile=method.attackers(problem), strength=1.0,
        )[0]
        for s in (size, size + 1)
    )  # fmt: skip
    found = now.state["shared"]["body.weight"].double().numpy()[0]
    assert np.allclose(found, expected, atol=1e-5) and np.abs(found - other).max() > 1e-4


def test_buckets_leave_the_mean_of_the_clients_as_it_is() -> None:
    problem = least_squares(clients=5, rounds=2)
    states = [final(problem, bucket_size=size)[1].state["shared"] for size in (1, 2, 3)]
    assert equal(states[0], states[1]) and equal(states[0], states[2])


def test_a_drawn_private_part_is_new_for_each_round_and_client_and_of_the_size_of_the_initial_one() -> None:
    problem = tiny_problem(rounds=1)
    method = load_method("ffgg")
    state = method.init(problem)
    starts = [
        method.client_work(state, problem, number, [client])[0].start for number, client in ((1, 0), (2, 0), (1, 1))
    ]
    again = method.client_work(state, problem, 1, [0])[0].start
    weights = [start["head.weight"] for start in starts]
    assert torch.equal(again["head.weight"], weights[0])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations([*weights, problem.start["head.weight"]], 2))
    assert all(torch.equal(start["body.2.weight"], problem.start["body.2.weight"]) for start in starts)
    drawn = torch.stack([drawn_like(torch.full((50, 50), -3.0), torch.Generator().manual_seed(s)) for s in range(4)])
    assert abs(drawn.mean()) < 0.1 and abs(drawn.std() - 3) < 0.1


def test_tuning_goes_on_from_where_it_was_if_the_private_part_is_kept() -> None:
    problem = least_squares(clients=1, rounds=2)
    method = load_method("ffgg", LOCAL)
    rounds = [*run(method, problem)]
    (work,) = method.client_work(rounds[1].state, problem, 2, [0])
    assert equal(work.start, rounds[1].state["shared"] | rounds[1].state["clients"]["0"])
    assert not equal(rounds[1].state["clients"]["0"], rounds[0].state["clients"]["0"])


@pytest.mark.parametrize(("parameters", "steps"), [({}, 100), ({"tuning_steps": 3}, 3), ({"tuning_epochs": 2}, 10)])
def test_tuning_takes_steps_or_passes(parameters, steps) -> None:
    problem = tiny_problem(sizes=(23,), rounds=1)
    method = load_method("ffgg", parameters)
    (work,) = method.client_work(method.init(problem), problem, 1, [0])
    assert run_work(problem, dataclasses.replace(work, phases=work.phases[:1]), 1).steps == steps


def test_private_parts_stay_private() -> None:
    problem = tiny_problem(rounds=1)
    method = load_method("ffgg")
    state = method.init(problem)
    results = [run_work(problem, work, 1) for work in method.client_work(state, problem, 1, (0, 1, 2))]
    secret = [
        dataclasses.replace(one, params=one.params | {"head.bias": one.params["head.bias"] + 9}) for one in results
    ]
    first, second = (method.server_update(state, problem, 1, sent) for sent in (results, secret))
    assert equal(first["shared"], second["shared"]) and "head.bias" not in first["shared"]
    assert not equal(first["clients"]["0"], second["clients"]["0"])


@pytest.mark.parametrize(("private", "names"), [("head.", {"head.weight", "head.bias"}), ("body.2., head.b", None)])
def test_which_layers_are_private_is_a_parameter(private, names) -> None:
    problem = tiny_problem(rounds=1)
    _, now, _ = final(problem, private=private)
    assert set(now.state["clients"]["0"]) == (names or {"body.2.weight", "body.2.bias", "head.bias"})
    assert now.state["shared"].keys() | now.state["clients"]["0"].keys() == problem.start.keys()


def test_label_flippers_train_on_wrong_labels_and_are_not_evaluated() -> None:
    problem = tiny_problem(sizes=(12, 12, 12, 12, 12, 0), rounds=1)
    method, now, models = final(problem, byzantine=1, attack="label_flip", aggregator="median")
    (hostile,) = method.attackers(problem)
    assert hostile != 5 and models.keys() == {0, 1, 2, 3, 4, 5} - {hostile}
    work = {one.client: one for one in method.client_work(now.state, problem, 2, problem.participants)}
    rows = work[hostile].indices
    assert torch.equal(work[hostile].samples.batch(rows).labels, 2 - problem.images.labels[rows])
    assert all(one.samples is None for client, one in work.items() if client != hostile)


def test_dropouts_tune_a_private_part_of_their_own_under_the_shared_one() -> None:
    problem = tiny_problem(sizes=(9, 0, 12, 8), dropout=(3,), rounds=1)
    method, now, models = final(problem)
    assert models.keys() == {0, 1, 2, 3} and "3" not in now.state["clients"]
    assert all(torch.equal(models[3][name], value) for name, value in now.state["shared"].items())
    assert not torch.equal(models[3]["head.weight"], problem.start["head.weight"])
    assert torch.equal(models[1]["head.weight"], problem.start["head.weight"])
    again = method.client_models(now.state, problem, {})["personalized"]
    assert all(equal(models[client], again[client]) for client in models)


@pytest.mark.parametrize("aggregator", ["mean", *ROBUST])
def test_it_runs_with_whoever_reports(aggregator) -> None:
    problem = least_squares(clients=9)
    given = {"aggregator": aggregator, "byzantine": 3, "attack_strength": 1.0, "bucket_size": 1}
    method = load_method("ffgg", given)
    state = method.init(problem)
    for round, clients in enumerate([(), (4,), (2, 8), (0, 1, 2, 3, 4, 5, 6)], start=1):
        before = state
        results = [run_work(problem, work, round) for work in method.client_work(state, problem, round, clients)]
        state = method.server_update(state, problem, round, results)
        assert (distance(before["shared"], state["shared"]) > 0) == bool(clients)
        assert all(equal(before["clients"][str(k)], state["clients"][str(k)]) for k in range(9) if k not in clients)


def test_centred_clipping_starts_from_the_update_of_the_round_before() -> None:
    problem = least_squares(rounds=1)
    given = {"gamma": 1.0, "bucket_size": 1, "private_start": "initial"}
    method, now, _ = final(problem, aggregator="centred_clipping", clipping_radius=1e-3, **given)
    step = now.state["shared"]["body.weight"] - problem.start["body.weight"]
    assert torch.allclose(step, -now.state["update"]["body.weight"]) and 0 < step.norm() <= 1.001e-3
    results = [run_work(problem, work, 2) for work in method.client_work(now.state, problem, 2, problem.participants)]
    assert 1e-3 < method.server_update(now.state, problem, 2, results)["update"]["body.weight"].norm() <= 2.001e-3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"aggregator": "average"}, "aggregator.*median"),
        ({"attack": "lie"}, "attack.*gaussian"),
        ({"shared_update": "both"}, "shared_update"),
        ({"gamma": 0.0}, "gamma"),
        ({"byzantine": -1}, "byzantine"),
        ({"tuning_epochs": -1}, "tuning_epochs"),
        ({"tuning_steps": 0}, "tuning_steps"),
        ({"bucket_size": 0}, "bucket_size"),
        ({"private_start": "warm"}, "private_start.*kept"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(parameters, message) -> None:
    with pytest.raises(UserError, match=f"ffgg.{message}"):
        load_method("ffgg", parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"aggregator": "krum", "byzantine": 2, "bucket_size": 1}, "krum is defined for at most 1 among 5"),
        ({"aggregator": "median", "byzantine": 3, "bucket_size": 1}, "at most 2"),
        (
            {"aggregator": "median", "byzantine": 2},
            "at most 1 among 5 clients with data in buckets of 2; .*bucket_size",
        ),
        ({"private": "tail."}, "names none"),
        ({"private": ""}, "some parameters private"),
        ({"private": "head.,body."}, "not all"),
    ],
)
def test_what_does_not_fit_the_problem_is_refused(parameters, message) -> None:
    with pytest.raises(UserError, match=message):
        load_method("ffgg", parameters).init(tiny_problem(sizes=(5, 5, 0, 5, 5, 5)))
