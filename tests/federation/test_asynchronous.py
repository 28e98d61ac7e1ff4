"""The asynchronous server against the synchronous one, and against merges written out."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
from pathlib import Path

import pytest
import torch

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import plan
from apfl.engine.work import Result
from apfl.errors import UserError
from apfl.federation.aggregation import weighted_mean
from apfl.federation.asynchronous import AsyncRound, payload, run_clock, staleness_of
from apfl.federation.method import Method, load_method
from apfl.federation.problem import run_all, run_work
from apfl.federation.synchronous import Round, one_round, run
from apfl.storage.tensors import flatten
from tests.helpers.problems import distance, equal, quadratics, same_data, tiny_problem

BASELINES = Path(importlib.import_module("baselines").__file__).parent
FEDERATED = {
    path.stem: importlib.import_module(f"baselines.{path.stem}").METHOD
    for path in sorted(BASELINES.glob("[a-z]*.py"))
    if issubclass(importlib.import_module(f"baselines.{path.stem}").METHOD, Method)
}
ADDITIVE = [name for name, kind in FEDERATED.items() if kind.additive]


def carry_out(method: str, problem, schedule: Schedule, parameters=None, **options) -> list[AsyncRound]:
    instance = load_method(method, parameters or {})
    timeline = plan(schedule, instance.clients(problem), problem.training.rounds, problem.seed)
    return [*run_clock(instance, problem, schedule, timeline, **options)]


def same_state(first, second) -> bool:
    return equal(flatten(first), flatten(second))


@pytest.mark.parametrize("method", ADDITIVE)
def test_equal_latencies_and_a_buffer_of_all_clients_are_the_synchronous_server_bit_for_bit(method) -> None:
    problem = tiny_problem(rounds=3)
    synchronous = [*run(load_method(method), problem)]
    rounds = carry_out(method, problem, Schedule(buffer=3, merge="delta"))
    assert [now.round for now in rounds] == [0, 1, 2, 3]
    for now, expected in zip(rounds, synchronous, strict=True):
        assert same_state(now.state, expected.state)
        assert all(equal(now.latest[client], expected.latest[client]) for client in expected.latest)


@pytest.mark.parametrize("method", ADDITIVE)
def test_a_buffer_of_all_clients_in_flight_is_the_synchronous_server_of_as_many_clients_bit_for_bit(method) -> None:
    problem = tiny_problem(sizes=(12, 9, 7, 14), rounds=2)
    timeline = plan(Schedule(concurrency=2, buffer=2, merge="delta"), range(4), 2, problem.seed)
    instance = load_method(method)
    expected = Round(0, instance.init(problem), {})
    for merge in timeline.merges:
        clients = [arrival.client for arrival in merge.arrivals]
        # What is drawn in a cycle is drawn for (client, its own cycle), so the rounds are numbered by the clients'.
        (cycle,) = {arrival.cycle for arrival in merge.arrivals}
        expected = Round(cycle, *one_round(instance, problem, expected, cycle, clients, run_all))
    assert len(timeline.merges) == 4
    last = carry_out(method, problem, Schedule(concurrency=2, buffer=2, merge="delta"))[-1]
    assert same_state(last.state, expected.state)


@pytest.mark.parametrize("merge", ["mix", "delta"])
@pytest.mark.parametrize(("buffer", "concurrency", "rate"), [(1, None, 1 / 6), (2, None, 1 / 3), (1, 2, 1 / 2)])
def test_by_default_a_merge_moves_the_server_by_its_share_of_the_clients_in_flight(
    merge, buffer, concurrency, rate
) -> None:
    """All clients send the model 1: ``mix`` goes from v towards it, ``delta`` adds 1 minus what they started from."""
    problem = tiny_problem(sizes=(5,) * 6, rounds=2)
    zero = {name: torch.zeros_like(value) for name, value in problem.start.items()}
    one = {name: value + 1 for name, value in zero.items()}

    def send_one(problem, work):
        return tuple(Result(piece, one, 1, 1, 0.0) for piece, round in work)

    problem = dataclasses.replace(problem, start=zero)
    schedule = Schedule(latency="exponential", buffer=buffer, concurrency=concurrency, merge=merge)
    last = carry_out("fedavg", problem, schedule, carry_out=send_one)[-1]
    versions = [0.0]
    for made in plan(schedule, range(6), 2, problem.seed).merges:
        started = {"mix": [versions[-1]], "delta": [versions[arrival.started] for arrival in made.arrivals]}[merge]
        versions.append(versions[-1] + rate * (1 - sum(started) / len(started)))
    expected = {name: versions[-1] * value for name, value in one.items()}
    assert last.version == 12 // buffer and distance(last.state["global"], expected) < 1e-5


@pytest.mark.parametrize("buffer", [1, 2, 3])
def test_at_the_default_rate_one_round_of_equally_fast_clients_is_one_mean_however_few_are_merged_at_a_time(
    buffer,
) -> None:
    problem = tiny_problem(sizes=(9,) * 6, rounds=1)
    expected = [*run(load_method("fedavg"), problem)][-1].state["global"]
    rounds = carry_out("fedavg", problem, Schedule(buffer=buffer, merge="delta"))
    assert rounds[-1].version == 6 // buffer
    assert distance(rounds[-1].state["global"], expected) < 1e-6


@pytest.mark.parametrize("method", ADDITIVE)
@pytest.mark.parametrize("merge", ["mix", "delta"])
def test_one_client_is_the_same_asynchronously_and_synchronously(method, merge) -> None:
    problem = tiny_problem(sizes=(14,), rounds=3)
    if merge == "mix" and "global" not in load_method(method).init(problem) and method != "local":
        merge = "delta"  # the methods that have no global model to mix
    synchronous = [*run(load_method(method), problem)][-1]
    rounds = carry_out(method, problem, Schedule(merge=merge, latency="exponential", staleness="polynomial"))
    assert same_state(rounds[-1].state, synchronous.state)


@pytest.mark.parametrize("method", ADDITIVE)
def test_every_additive_method_runs_with_stale_updates_in_a_small_buffer(method) -> None:
    problem = tiny_problem(sizes=(12, 9, 7), rounds=3)
    schedule = Schedule(latency="exponential", heterogeneity=0.8, buffer=2, merge="delta", staleness="polynomial")
    last = carry_out(method, problem, schedule)[-1]
    assert all(torch.isfinite(value).all() for value in flatten(last.state).values())
    assert not same_state(last.state, load_method(method).init(problem))


def test_fedasync_moves_the_global_model_towards_the_clients_by_the_discounted_rate() -> None:
    problem = tiny_problem(sizes=(10, 10), rounds=1)
    schedule = Schedule(
        latency="trace", trace=((0, 0.0, 1.0), (1, 0.0, 2.0)), mixing=0.5, staleness="polynomial", staleness_rate=1.0
    )
    last = carry_out("fedavg", problem, schedule)[-1]
    fedavg = load_method("fedavg")
    first, second = (
        run_work(problem, work, 1).params for work in fedavg.client_work({"global": problem.start}, problem, 1, [0, 1])
    )
    after_first = {name: torch.lerp(problem.start[name], first[name], 0.5) for name in first}
    expected = {name: torch.lerp(after_first[name], second[name], 0.5 / 2) for name in first}
    assert distance(last.state["global"], expected) < 1e-6


def test_fedprox_on_fedasync_is_fedasync_with_its_proximal_term() -> None:
    """Xie et al. 2019: min f(w) + rho/2 ||w - x||^2, x the version that the client started from; then x <- (1-a)x + aw.

    f is s/2 (w - c)^2, whose proximal point from x is (s c + rho x) / (s + rho).
    """
    rho, alpha, (s0, s1), (c0, c1) = 2.0, 0.5, (1.0, 10.0), (0.0, 1.0)
    problem = quadratics((s0, s1), (c0, c1), start=0.3, rounds=2, local_epochs=400, learning_rate=0.05)
    trace = ((0, 0.0, 1.0), (1, 0.0, 2.0), (1, 2.0, 3.0))
    schedule = Schedule(latency="trace", trace=trace, mixing=alpha)
    last = carry_out("fedprox", problem, schedule, parameters={"mu": rho})[-1]
    x = [0.3]
    for s, c, started in ((s0, c0, 0), (s1, c1, 0), (s1, c1, 2)):
        x.append((1 - alpha) * x[-1] + alpha * (s * c + rho * x[started]) / (s + rho))
    assert last.version == 3 and last.state["global"]["head.weight"].item() == pytest.approx(x[-1], abs=1e-4)


def test_fedasync_with_a_buffer_is_a_weighted_mean_of_all_that_is_in_it() -> None:
    problem = tiny_problem(sizes=(10, 10), rounds=2)
    one = {name: torch.ones_like(value) for name, value in problem.start.items()}
    problem = dataclasses.replace(problem, start={name: torch.zeros_like(value) for name, value in one.items()})

    def send_one(problem, work):
        return tuple(Result(piece, one, 1, 1, 0.0) for piece, round in work)

    trace = ((0, 0.0, 1.0), (0, 1.0, 2.0), (1, 0.0, 3.0), (0, 2.0, 4.0))
    schedule = Schedule(latency="trace", trace=trace, buffer=2)
    rounds = carry_out("fedavg", problem, schedule, carry_out=send_one)
    assert distance(rounds[-1].state["global"], one) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {"buffer": 2, "merge": "delta"},
        {"mixing": 0.6},
        {"merge": "delta", "staleness": "polynomial"},
        {"buffer": 2, "staleness": "hinge", "staleness_knee": 0},
    ],
    ids=str,
)
def test_scaffolds_control_variates_sum_to_the_servers_whatever_the_schedule(changes) -> None:
    problem = tiny_problem(rounds=4)
    schedule = Schedule(latency="exponential", heterogeneity=0.7, **changes)
    state = carry_out("scaffold", problem, schedule)[-1].state
    sizes = [problem.size(client) for client in problem.clients]
    mean = weighted_mean([state["clients"][str(client)] for client in problem.clients], sizes)
    assert distance(mean, state["control"]) < 1e-5
    assert max(value.abs().max() for value in state["control"].values()) > 1e-3


def test_uploads_of_clients_that_are_twice_in_a_buffer_are_changes_of_their_own_states() -> None:
    problem = tiny_problem(sizes=(10, 12, 8, 6), rounds=1)
    trace = ((0, 0.0, 1.0), (0, 1.0, 2.0), (1, 0.0, 1.0), (1, 1.0, 2.0), (2, 0.0, 9.0), (3, 0.0, 9.0))
    state = carry_out("scaffold", problem, Schedule(latency="trace", trace=trace, buffer=4, merge="delta"))[-1].state
    sizes = [problem.size(client) for client in problem.clients]
    mean = weighted_mean([state["clients"][str(client)] for client in problem.clients], sizes)
    assert distance(mean, state["control"]) < 1e-5
    assert distance(state["clients"]["1"], state["clients"]["2"]) > 1e-3


def test_a_method_without_a_global_model_cannot_be_mixed() -> None:
    with pytest.raises(UserError, match="FedRep has no global model to mix; choose delta"):
        carry_out("fedrep", tiny_problem(), Schedule())


def test_fedbuff_adds_the_change_against_the_version_that_the_client_started_from() -> None:
    problem = tiny_problem(sizes=(10, 10), rounds=1)
    schedule = Schedule(latency="trace", trace=((0, 0.0, 1.0), (1, 0.0, 2.0)), merge="delta", mixing=0.5)
    last = carry_out("fedavg", problem, schedule)[-1]
    fedavg = load_method("fedavg")
    first, second = (
        run_work(problem, work, 1).params for work in fedavg.client_work({"global": problem.start}, problem, 1, [0, 1])
    )
    for name, value in last.state["global"].items():
        start = problem.start[name]
        assert torch.allclose(value, start + 0.5 * (first[name] - start) + 0.5 * (second[name] - start), atol=1e-6)


def test_a_discarded_upload_changes_nothing() -> None:
    problem = tiny_problem(sizes=(10, 10), rounds=1)
    trace = ((0, 0.0, 1.0), (1, 0.0, 2.0))
    strict = carry_out("fedavg", problem, Schedule(latency="trace", trace=trace, max_staleness=0))[-1]
    alone = carry_out("fedavg", problem, Schedule(latency="trace", trace=trace, absences=((1, 0.0, None),)))[-1]
    assert same_state(strict.state, alone.state) and strict.latest.keys() == {0}


def test_the_synchronous_clock_without_dropout_is_the_synchronous_server() -> None:
    problem = tiny_problem(rounds=2)
    rounds = carry_out("fedavg", problem, Schedule(mode="sync", latency="exponential", heterogeneity=1.0))
    assert same_state(rounds[-1].state, [*run(load_method("fedavg"), problem)][-1].state)


def test_a_round_in_which_nobody_reports_changes_nothing() -> None:
    problem = tiny_problem(sizes=(8,), rounds=12)
    rounds = carry_out("fedavg", problem, Schedule(mode="sync", dropout=0.8))
    unchanged = [same_state(now.state, after.state) for now, after in itertools.pairwise(rounds)]
    assert any(unchanged) and not all(unchanged)


def test_if_nobody_ever_reports_the_initial_model_remains_and_every_round_is_told() -> None:
    problem = tiny_problem(sizes=(8, 8), rounds=3)
    schedule = Schedule(absences=((0, 0.0, None), (1, 0.5, None)))
    rounds = carry_out("fedavg", problem, schedule)
    assert [now.round for now in rounds] == [0, 1, 2, 3]
    assert equal(rounds[-1].state["global"], problem.start)


SCHEDULES = [
    Schedule(latency="exponential", heterogeneity=0.7, mixing=0.6, staleness="polynomial"),
    Schedule(latency="exponential", buffer=2, merge="delta", dropout=0.3),
    Schedule(mode="sync", dropout=0.4),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=["fedasync", "fedbuff", "sync"])
@pytest.mark.parametrize("method", ["fedavg", "scaffold"])
def test_resuming_in_the_middle_gives_the_same_bits(method, schedule) -> None:
    problem = tiny_problem(rounds=5)
    rounds = carry_out(method, problem, schedule)
    for middle in (1, 3):
        again = carry_out(method, problem, schedule, resume=rounds[middle])
        assert [now.round for now in again] == [*range(middle + 1, 6)]
        for now in again:
            expected = rounds[now.round]
            assert same_state(now.state, expected.state) and now.time == expected.time
            assert now.sent_version == expected.sent_version


def test_only_versions_in_flight_are_kept() -> None:
    problem = tiny_problem(sizes=(6,) * 6, rounds=8, local_epochs=1)
    schedule = Schedule(latency="exponential", heterogeneity=1.0)
    for now in carry_out("fedavg", problem, schedule):
        assert len(now.versions) <= 6


def test_local_models_are_not_kept_if_the_study_does_without() -> None:
    problem = tiny_problem(keep_local_models=False)
    assert all(not now.latest for now in carry_out("fedavg", problem, Schedule()))
    assert all(not now.latest for now in run(load_method("fedavg"), problem))


def test_staleness_of_the_models_that_clients_sent() -> None:
    problem = tiny_problem(sizes=(6, 6), rounds=2)
    trace = ((0, 0.0, 1.0), (0, 1.0, 2.0), (0, 2.0, 3.0), (1, 0.0, 2.5))
    last = carry_out("fedavg", problem, Schedule(latency="trace", trace=trace))[-1]
    assert last.sent_version == {0: 2, 1: 0} and last.version == 4
    assert staleness_of(last) == {0: 1, 1: 3}
    synchronous = carry_out("fedavg", problem, Schedule(mode="sync"))[-1]
    assert staleness_of(synchronous) == {0: 0, 1: 0}


def test_identical_clients_that_never_go_stale_train_the_model_one_after_another() -> None:
    problem = same_data(tiny_problem(sizes=(8, 8), rounds=1))
    trace = ((0, 0.0, 1.0), (1, 1.0, 2.0))
    last = carry_out("fedavg", problem, Schedule(latency="trace", trace=trace, mixing=1.0))[-1]
    fedavg, params = load_method("fedavg"), problem.start
    for client in (0, 1):
        (work,) = fedavg.client_work({"global": params}, problem, 1, [client])
        params = run_work(problem, work, 1).params
    assert equal(last.state["global"], params)


def test_the_payload_is_what_the_server_shares() -> None:
    problem = tiny_problem()
    one_model = sum(value.nbytes for value in problem.start.values())
    sent = {
        name: payload(load_method(name), load_method(name).init(problem)) for name in ("fedavg", "scaffold", "local")
    }
    assert sent == {"fedavg": one_model, "scaffold": 2 * one_model, "local": 0}
    assert payload(load_method("fdms"), load_method("fdms").init(problem)) == one_model


def test_a_method_whose_update_is_no_sum_is_refused() -> None:
    problem = dataclasses.replace(tiny_problem(), semantics=torch.eye(3))
    with pytest.raises(UserError, match="is not a sum over clients"):
        carry_out("apfl_feedback", problem, Schedule())
