"""Virtual time: the order of events, versions and staleness, against timelines worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apfl.clock.schedule import Schedule
from apfl.clock.timeline import cycle_time, plan, speed_factor
from apfl.errors import UserError


def events(timeline) -> list[tuple]:
    return [
        (one.client, one.cycle, one.start, one.time, one.started, one.version, one.fate) for one in timeline.arrivals
    ]


THREE_CLIENTS = (
    (0, 0.0, 2.0), (0, 2.0, 4.0), (0, 4.0, 6.0), (0, 6.0, 8.0),
    (1, 0.0, 3.0), (1, 3.0, 6.0), (1, 6.0, 9.0), (1, 9.0, 12.0),
    (2, 0.0, 5.0), (2, 5.0, 10.0), (2, 10.0, 15.0), (2, 15.0, 20.0),
)  # fmt: skip


def test_twelve_events_of_a_trace_have_the_versions_and_staleness_worked_out_by_hand() -> None:
    schedule = Schedule(latency="trace", trace=THREE_CLIENTS)
    assert events(plan(schedule, [0, 1, 2], rounds=4, seed=0)) == [
        # client, cycle, start, arrival, version started from, version at arrival
        (0, 1, 0.0, 2.0, 0, 0, "merged"),
        (1, 1, 0.0, 3.0, 0, 1, "merged"),
        (0, 2, 2.0, 4.0, 1, 2, "merged"),
        (2, 1, 0.0, 5.0, 0, 3, "merged"),
        (0, 3, 4.0, 6.0, 3, 4, "merged"),
        (1, 2, 3.0, 6.0, 2, 5, "merged"),
        (0, 4, 6.0, 8.0, 6, 6, "merged"),
        (1, 3, 6.0, 9.0, 6, 7, "merged"),
        (2, 2, 5.0, 10.0, 4, 8, "merged"),
        (1, 4, 9.0, 12.0, 8, 9, "merged"),
        (2, 3, 10.0, 15.0, 9, 10, "merged"),
        (2, 4, 15.0, 20.0, 11, 11, "merged"),
    ]


def test_a_buffer_of_two_merges_every_second_upload_and_counts_staleness_at_the_merge() -> None:
    schedule = Schedule(latency="trace", trace=THREE_CLIENTS, buffer=2, merge="delta")
    timeline = plan(schedule, [0, 1, 2], rounds=4, seed=0)
    assert [(merge.time, merge.version, [one.client for one in merge.arrivals]) for merge in timeline.merges] == [
        (3.0, 1, [0, 1]),
        (5.0, 2, [0, 2]),
        (6.0, 3, [0, 1]),
        (9.0, 4, [0, 1]),
        (12.0, 5, [1, 2]),
        (20.0, 6, [2, 2]),
    ]
    assert [one.staleness for merge in timeline.merges for one in merge.arrivals] == [
        0,
        0,
        1,
        1,
        1,
        1,
        0,
        0,
        0,
        2,
        1,
        0,
    ]


def test_too_stale_uploads_are_discarded_and_make_no_version() -> None:
    schedule = Schedule(latency="trace", trace=THREE_CLIENTS, max_staleness=1)
    timeline = plan(schedule, [0, 1, 2], rounds=4, seed=0)
    fates = {(one.client, one.cycle): (one.staleness, one.fate) for one in timeline.arrivals}
    assert fates[2, 1] == (3, "discarded") and fates[1, 2] == (2, "discarded")
    assert len(timeline.merges) == sum(fate == "merged" for _, fate in fates.values())
    assert all(staleness <= 1 for staleness, fate in fates.values() if fate == "merged")


def test_synchronous_rounds_last_as_long_as_their_slowest_client() -> None:
    schedule = Schedule(mode="sync", latency="trace", trace=THREE_CLIENTS)
    assert [merge.time for merge in plan(schedule, [0, 1, 2], rounds=4, seed=0).merges] == [5.0, 10.0, 15.0, 20.0]


def test_equal_latencies_and_a_buffer_of_all_clients_are_synchronous_rounds() -> None:
    timeline = plan(Schedule(buffer=3, merge="delta", mean=0.1, download=0.3, upload=0.7), [4, 5, 6], rounds=5, seed=0)
    assert [[one.client for one in merge.arrivals] for merge in timeline.merges] == [[4, 5, 6]] * 5
    assert all(one.staleness == 0 for one in timeline.arrivals)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1, 1, 1, 1]),
        (Schedule(staleness="polynomial", staleness_rate=0.5), [1, 2**-0.5, 3**-0.5, 11**-0.5]),
        (Schedule(staleness="hinge", staleness_rate=2.0, staleness_knee=1), [1, 1, 1 / 3, 1 / 19]),
    ],
    ids=["constant", "polynomial", "hinge"],
)
def test_the_discount_is_a_function_of_staleness_alone_and_never_compounds(schedule, expected) -> None:
    for _ in range(3):
        assert [schedule.discount(tau) for tau in (0, 1, 2, 10)] == pytest.approx(expected)


def test_a_client_that_leaves_loses_its_upload_and_comes_back_to_the_newest_version() -> None:
    schedule = Schedule(mean=1.0, absences=((1, 1.5, 4.25),))
    timeline = plan(schedule, [0, 1], rounds=6, seed=0)
    second = [(one.start, one.time, one.fate) for one in timeline.arrivals if one.client == 1]
    assert second[:3] == [(0.0, 1.0, "merged"), (1.0, 2.0, "lost"), (4.25, 5.25, "merged")]
    back = next(one for one in timeline.arrivals if one.client == 1 and one.start == 4.25)
    assert back.started == sum(merge.time <= 4.25 for merge in timeline.merges) > 4


def test_an_absent_client_takes_nobodys_place() -> None:
    schedule = Schedule(concurrency=1, absences=((0, 0.0, 10.0), (1, 0.0, 10.0)))
    timeline = plan(schedule, [0, 1, 2], rounds=5, seed=0)
    assert [one.client for one in timeline.arrivals if one.time <= 10] == [2] * 10
    assert {one.client for one in timeline.arrivals if one.time > 10} == {0, 1, 2}


def test_a_client_that_leaves_for_good_is_heard_no_more() -> None:
    timeline = plan(Schedule(absences=((0, 0.5, None),)), [0, 1], rounds=3, seed=0)
    assert {one.client for one in timeline.arrivals if one.fate == "merged"} == {1}


def test_random_dropout_loses_about_that_share_and_an_empty_round_is_harmless() -> None:
    timeline = plan(Schedule(mode="sync", dropout=0.6), list(range(10)), rounds=100, seed=0)
    lost = sum(one.fate == "lost" for one in timeline.arrivals) / len(timeline.arrivals)
    assert 0.55 < lost < 0.65
    alone = plan(Schedule(mode="sync", dropout=0.9), [0], rounds=20, seed=0)
    assert len(alone.merges) == 20 and any(not merge.arrivals for merge in alone.merges)
    assert [merge.time for merge in alone.merges] == [float(number) for number in range(1, 21)]


def test_at_most_concurrency_clients_train_at_once_and_everybody_has_a_turn() -> None:
    timeline = plan(Schedule(latency="exponential", concurrency=3), list(range(8)), rounds=6, seed=0)
    for one in timeline.arrivals:
        assert sum(other.start <= one.start < other.time for other in timeline.arrivals) <= 3
    assert {one.client for one in timeline.arrivals} == set(range(8))


def test_heterogeneity_makes_slow_and_fast_clients_of_mean_one() -> None:
    schedule = Schedule(heterogeneity=1.0)
    factors = [speed_factor(schedule, 0, client) for client in range(4000)]
    assert 0.9 < sum(factors) / 4000 < 1.1 and max(factors) > 5 > 0.2 > min(factors)
    assert cycle_time(schedule, 0, 7, 1) == cycle_time(schedule, 0, 7, 2) == factors[7]


@pytest.mark.parametrize("latency", ["uniform", "exponential", "lognormal"])
def test_random_latencies_have_the_configured_mean(latency) -> None:
    schedule = Schedule(latency=latency, mean=2.0)
    assert sum(cycle_time(schedule, 0, 0, cycle) for cycle in range(3000)) / 3000 == pytest.approx(2.0, rel=0.06)


def test_a_given_rate_counts_and_synchronous_rounds_take_the_whole_mean() -> None:
    assert Schedule(mixing=0.6).rate(10) == 0.6
    assert Schedule(mode="sync").rate(10) == Schedule(mode="sync", mixing=1.0).rate(10) == 1.0
    assert Schedule(buffer=3, concurrency=2).rate(10) == 1.0
    assert [Schedule(buffer=clients).rate(clients) for clients in range(1, 50)] == [1.0] * 49


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 6), st.floats(0, 0.9),
    st.sampled_from(["constant", "exponential"]),
    st.one_of(st.none(), st.integers(1, 6)), st.one_of(st.none(), st.integers(0, 3)), st.integers(0, 99),
)  # fmt: skip
def test_events_are_consistent_whatever_the_schedule(
    clients, rounds, buffer, dropout, latency, concurrency, bound, seed
):
    schedule = Schedule(
        latency=latency, buffer=min(buffer, clients), dropout=dropout, concurrency=concurrency, max_staleness=bound,
        heterogeneity=0.5,
    )  # fmt: skip
    timeline = plan(schedule, list(range(clients)), rounds, seed)
    assert len(timeline.arrivals) == rounds * clients
    assert [merge.version for merge in timeline.merges] == list(range(1, len(timeline.merges) + 1))
    assert all(len(merge.arrivals) == schedule.buffer for merge in timeline.merges)
    times = [one.time for one in timeline.arrivals]
    assert times == sorted(times)
    by_client: dict[int, float] = {}
    for one in timeline.arrivals:
        assert one.start >= by_client.get(one.client, 0.0) and one.time >= one.start
        assert 0 <= one.started <= one.version
        assert one.started == sum(merge.time <= one.start for merge in timeline.merges)
        by_client[one.client] = one.time
    assert plan(schedule, list(range(clients)), rounds, seed) == timeline


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"mean": -1.0}, "mean"),
        ({"mean": 0.0}, "mean"),
        ({"upload": -0.1}, "upload"),
        ({"latency": "gamma"}, "latency"),
        ({"latency": "uniform", "spread": 1.5}, "spread"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"mixing": 0.0}, "mixing"),
        ({"staleness": "linear"}, "staleness"),
        ({"buffer": 0}, "buffer"),
        ({"max_staleness": -1}, "max_staleness"),
        ({"latency": "trace"}, "trace"),
        ({"mode": "sync", "buffer": 3}, "sync"),
        ({"mode": "sync", "merge": "delta"}, "sync"),
        ({"latency": "trace", "trace": ((0, 0.0, 1.0),), "concurrency": 2}, "concurrency"),
        ({"absences": ((0,),)}, "absences"),
        ({"mode": "later"}, "mode"),
    ],
    ids=str,
)
def test_bad_schedules_are_refused(settings, field) -> None:
    with pytest.raises(UserError, match=field):
        Schedule(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"buffer": 4}, "larger than the number of clients, 3"),
        ({"latency": "trace", "trace": ((7, 0.0, 1.0),)}, "client 7"),
        ({"latency": "trace", "trace": ((1, 0.0, 2.0), (1, 1.0, 3.0))}, "out of order"),
        ({"latency": "trace", "trace": ((1, 2.0, 1.0),)}, "out of order"),
        ({"absences": ((9, 0.0, None),)}, "client 9"),
        ({"absences": ((1, 3.0, 2.0),)}, "leaves at 3.0 and returns at 2.0"),
    ],
    ids=str,
)
def test_schedules_that_do_not_fit_the_clients_are_refused(settings, message) -> None:
    with pytest.raises(UserError, match=message):
        plan(Schedule(**settings), [0, 1, 2], rounds=2, seed=0)
