"""FL-FDMS: FedAvg while all report, and friends in place of those who do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from apfl.federation.aggregation import weighted_mean
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.federation.synchronous import run
from baselines.fdms import friend, likeness
from tests.helpers.problems import Tiny, distance, equal, parameters, tiny_problem


def round_with(method, problem, state, number, clients):
    results = [run_work(problem, work, number) for work in method.client_work(state, problem, number, clients)]
    return method.server_update(state, problem, number, results), {one.client: one.params for one in results}


def twins(problem):
    """The problem in which client 1 has the data of client 0."""
    parts = [(parts[0], parts[0], *parts[2:]) for parts in (problem.train, problem.test)]
    counts = problem.counts[[0, 0, *range(2, len(problem.clients))]]
    return dataclasses.replace(problem, train=parts[0], test=parts[1], counts=counts)


def test_with_everybody_there_it_is_fedavg_bit_for_bit() -> None:
    problem = tiny_problem(sizes=(23, 12, 0, 30), rounds=3)
    first, second = ([*run(load_method(name), problem)][-1] for name in ("fedavg", "fdms"))
    assert equal(first.state["global"], second.state["global"])
    assert torch.equal(second.state["together"], 3 * torch.tensor([1.0, 1, 0, 1]).outer(torch.tensor([1.0, 1, 0, 1])))


def test_a_client_whose_friend_has_its_data_is_not_missed() -> None:
    problem = twins(tiny_problem(sizes=(20, 20, 12, 30), batch_size=50))
    method = load_method("fdms")
    state, _ = round_with(method, problem, method.init(problem), 1, (0, 1, 2, 3))
    assert friend(state, 1, [0, 2, 3]) == 0 and friend(state, 0, [1, 2, 3]) == 1
    whole, _ = round_with(method, problem, state, 2, (0, 1, 2, 3))
    for reporting in ((0, 2, 3), (1, 2, 3)):
        without, _ = round_with(method, problem, state, 2, reporting)
        assert distance(without["global"], whole["global"]) < 1e-6
        fedavg, _ = round_with(load_method("fedavg"), problem, {"global": state["global"]}, 2, reporting)
        assert distance(fedavg["global"], whole["global"]) > 1e-4


def test_the_friend_counts_with_the_missing_clients_weight() -> None:
    problem = twins(tiny_problem(sizes=(10, 10, 5, 20), batch_size=50))
    method = load_method("fdms")
    state, _ = round_with(method, problem, method.init(problem), 1, (0, 1, 2, 3))
    nearest = friend(state, 2, [0, 3])
    after, sent = round_with(method, problem, state, 2, (0, 3))
    expected = weighted_mean([sent[0], sent[0], sent[nearest], sent[3]], [10, 10, 5, 20])
    assert equal(after["global"], expected)


def test_likeness_is_half_of_one_plus_the_cosine() -> None:
    first, second = parameters(Tiny(1, 3), 1), parameters(Tiny(1, 3), 2)
    opposite, still = ({name: factor * value for name, value in first.items()} for factor in (-3.0, 0.0))
    a, b = (np.concatenate([one[name].double().numpy().ravel() for name in one]) for one in (first, second))
    cosine = a @ b / np.sqrt((a @ a) * (b @ b))
    found = likeness([first, second, opposite, still])
    assert np.isclose(found[0, 1], (1 + cosine) / 2) and np.isclose(found[1, 0], found[0, 1])
    assert np.allclose(found.diagonal()[:3], 1) and np.isclose(found[0, 2], 0) and found[3].eq(0.5).all()


def test_similarity_is_a_mean_over_the_rounds_in_which_both_reported() -> None:
    problem = tiny_problem(sizes=(9, 9, 9))
    method = load_method("fdms")
    state, expected = method.init(problem), torch.zeros(3, 3, dtype=torch.float64)
    for number, clients in enumerate([(0, 1, 2), (0, 1), (), (2,), (1, 2)], start=1):
        start = state["global"]
        state, sent = round_with(method, problem, state, number, clients)
        updates = [{name: start[name] - sent[client][name] for name in start} for client in clients]
        for i, first in enumerate(clients):
            for j, second in enumerate(clients):
                expected[first, second] += likeness([updates[i], updates[j]])[0, 1]
    assert torch.allclose(state["similarity"], expected)
    assert state["together"].tolist() == [[2, 2, 1], [2, 3, 2], [1, 2, 3]]


def test_the_friend_is_the_most_similar_on_average_among_those_that_report() -> None:
    similarity = torch.tensor([[0.0, 1.8, 0.7, 0.9], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    together = torch.tensor([[0.0, 3, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    state = {"similarity": similarity, "together": together}
    assert friend(state, 0, [1, 2, 3]) == 2  # 0.7 against 0.6 over three rounds; 3 has never been met
    assert friend(state, 0, [1, 3]) == 1
    assert friend(state, 0, [3]) is None and friend(state, 1, [0, 2]) is None
    level = {"similarity": torch.ones(2, 3), "together": torch.ones(2, 3)}
    assert friend(level, 0, [1, 2]) == 1


def test_strangers_and_dropouts_are_left_out_as_in_fedavg() -> None:
    problem = tiny_problem(sizes=(9, 12, 7, 8), dropout=(3,))
    method, fedavg = load_method("fdms"), load_method("fedavg")
    start = method.init(problem)
    state, _ = round_with(method, problem, start, 1, (0, 2))
    plain, _ = round_with(fedavg, problem, {"global": problem.start}, 1, (0, 2))
    assert equal(state["global"], plain["global"])
    assert method.server_update(state, problem, 2, []) == state
