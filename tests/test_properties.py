"""What holds for every partition, every mean, every course of events and every metrics table, whatever goes in."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from apfl.clock.schedule import LATENCIES, STALENESS, Schedule
from apfl.clock.timeline import Timeline, plan
from apfl.data.dataset import Dataset
from apfl.data.partition import check_match, make_partition
from apfl.data.setting import Setting, parse_setting
from apfl.errors import UserError
from apfl.federation.aggregation import CentredClipping, Krum, Mean, Median, TrimmedMean, weighted_mean
from apfl.federation.evaluation import headline
from apfl.paper.numbers.metrics import averages
from apfl.storage.metrics_table import COLUMNS, metrics_frame

# The same examples in every run and on every machine, however slow it is.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=60,
                          suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])  # fmt: skip
repeatable = settings.get_profile("repeatable")
seeds = st.integers(0, 2**31)
few = settings(repeatable, max_examples=20)


# Partitions.


@cache
def blank(samples: int, classes: int, skew: int) -> Dataset:
    """Blank images; the larger ``skew``, the rarer the later classes."""
    weights = np.linspace(1 + skew, 1, classes)
    labels = np.searchsorted(np.cumsum(weights) / weights.sum(), np.linspace(0, 1, samples, endpoint=False), "right")
    names = tuple(f"class {label}" for label in range(classes))
    return Dataset("blank", np.zeros((samples, 1, 32, 32), np.uint8), labels.astype(np.int64), names, {})


datasets = st.builds(blank, st.integers(40, 400), st.integers(2, 12), st.integers(0, 3))
alphas = st.sampled_from(["0.01", "0.1", "0.5", "1", "10", "1000"])
clients = st.integers(1, 12)
least = st.integers(1, 12)
partitions = st.one_of(
    st.builds(Setting, st.just("dirichlet"), clients, alphas, balanced=st.booleans(), min_samples=least),
    st.builds(Setting, st.just("quantity"), clients, alphas, min_samples=least),
    st.builds(Setting, st.just("iid"), clients),
    st.builds(Setting, st.just("pathological"), clients, classes=st.integers(1, 6),
              missing=st.none() | st.integers(5, 60)),
)  # fmt: skip


@repeatable
@given(datasets, partitions, seeds)
def test_a_partition_gives_no_image_twice_and_counts_what_it_gives(
    dataset: Dataset, setting: Setting, seed: int
) -> None:
    try:
        made = make_partition(dataset, setting, seed)
    except UserError as error:
        assert str(setting) in str(error) and "\n" not in str(error)
        assume(False)
    parts = [part(client) for client in range(made.clients) for part in (made.train, made.test)]
    given_out = np.concatenate(parts)
    assert len(np.unique(given_out)) == len(given_out) == (made.client >= 0).sum()
    for client in range(made.clients):
        own, tests = dataset.labels[made.train(client)], made.test(client)
        assert np.array_equal(np.bincount(own, minlength=dataset.classes), made.counts[client])
        assert len(tests) == (len(own) + len(tests) + 5) // 10
        if setting.kind in ("dirichlet", "quantity"):
            assert len(own) + len(tests) >= setting.min_samples
    assert not made.is_train[made.client < 0].any()
    assert np.array_equal(made.unseen, made.counts[~made.dropout].sum(axis=0) == 0)
    assert (setting.kind == "pathological" and setting.missing) or not made.dropout.any()
    check_match(dataset, made)


@repeatable
@given(datasets, partitions, seeds)
def test_a_partition_is_a_function_of_data_setting_and_seed(dataset: Dataset, setting: Setting, seed: int) -> None:
    try:
        made = make_partition(dataset, setting, seed)
    except UserError as error:
        with pytest.raises(UserError) as again:
            make_partition(dataset, setting, seed)
        assert str(again.value) == str(error)
        return
    again = make_partition(dataset, str(parse_setting(str(setting))), seed)
    for name in ("client", "is_train", "counts", "dropout", "unseen"):
        assert np.array_equal(getattr(made, name), getattr(again, name)), name
    assert made.specification == again.specification
    other = dataclasses.replace(dataset, name="renamed")
    assert make_partition(other, setting, seed).specification["stream"] != made.specification["stream"]


@repeatable
@given(datasets, clients, alphas, seeds)
def test_the_order_of_images_decides_no_size(dataset: Dataset, count: int, alpha: str, seed: int) -> None:
    """How many images of a class a client holds does not depend on where in the file they are."""
    setting = Setting("dirichlet", count, alpha, min_samples=1)
    order = np.random.default_rng(seed).permutation(len(dataset))
    shuffled = dataclasses.replace(dataset, labels=dataset.labels[order])
    try:
        sizes = [_held(one, make_partition(one, setting, seed)) for one in (dataset, shuffled)]
    except UserError:
        assume(False)
    assert np.array_equal(*sizes)


def _held(dataset: Dataset, made) -> np.ndarray:
    return np.stack(
        [np.bincount(dataset.labels[made.client == k], minlength=dataset.classes) for k in range(made.clients)]
    )


# Means.

numbers = st.floats(-1e6, 1e6, allow_nan=False, width=32)
rows = st.tuples(st.integers(1, 9), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=numbers)
)
RULES = [Mean(), Median(), TrimmedMean(), Krum(), CentredClipping(), CentredClipping(radius=0.5, iterations=3)]


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.ndarray, list[float]]:
    models = draw(rows)
    weights = draw(st.lists(st.integers(0, 10_000), min_size=len(models), max_size=len(models)).filter(any))
    return models, [float(weight) for weight in weights]


def mean(models: np.ndarray, weights: list[float]) -> np.ndarray:
    return weighted_mean([{"w": torch.as_tensor(model)} for model in models], weights)["w"].numpy()


@repeatable
@given(weighted(), seeds)
def test_the_weighted_mean_is_between_its_models_whatever_their_order_and_the_unit_of_weight(pair, seed) -> None:
    models, weights = pair
    made = mean(models, weights)
    counted = models[np.array(weights) > 0]
    assert made.dtype == np.float32
    assert (made >= counted.min(0)).all() and (made <= counted.max(0)).all()
    assert np.array_equal(mean(models, [4 * weight for weight in weights]), made)
    order = np.random.default_rng(seed).permutation(len(models))
    scale = np.abs(models).max() + 1
    assert np.allclose(mean(models[order], [weights[index] for index in order]), made, rtol=0, atol=1e-7 * scale)
    assert np.array_equal(mean(counted, [weight for weight in weights if weight]), made), "no weight, no influence"


@repeatable
@given(rows, st.integers(1, 6))
def test_the_weighted_mean_of_equal_models_is_that_model(models, count) -> None:
    assert np.array_equal(mean(np.repeat(models[:1], count, axis=0), list(range(1, count + 1))), models[0])


def apply(rule, updates: np.ndarray, byzantine: int, centre: np.ndarray | None = None) -> np.ndarray:
    start = np.zeros(updates.shape[1]) if centre is None else centre
    return rule(
        torch.as_tensor(updates, dtype=torch.float64), byzantine, torch.as_tensor(start, dtype=torch.float64)
    ).numpy()


@pytest.mark.parametrize("rule", RULES, ids=repr)
@repeatable
@given(updates=rows, byzantine=st.integers(0, 4), seed=seeds)
def test_a_rule_knows_no_order_keeps_what_all_agree_on_and_stays_between_them(rule, updates, byzantine, seed) -> None:
    byzantine = min(byzantine, rule.most(len(updates)))
    scale = np.abs(updates).max() + 1
    made = apply(rule, updates, byzantine)
    shuffled = np.random.default_rng(seed).permutation(updates)
    if not isinstance(rule, Krum):  # which takes the first of equals
        assert np.allclose(apply(rule, shuffled, byzantine), made, rtol=0, atol=1e-9 * scale)
    # Centred clipping starts at the update before, here at zero, and moves from there towards the others.
    seen = np.concatenate([updates, np.zeros((1, updates.shape[1]))]) if rule.remembers else updates
    assert (made >= seen.min(0) - 1e-9 * scale).all() and (made <= seen.max(0) + 1e-9 * scale).all()
    agreed = np.repeat(updates[:1], len(updates), axis=0)
    assert np.allclose(apply(rule, agreed, byzantine, centre=updates[0]), updates[0], rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("rule", [Median(), TrimmedMean()], ids=repr)
@repeatable
@given(st.integers(1, 3), st.integers(1, 3), seeds, st.floats(-1e30, 1e30))
def test_no_lie_of_a_minority_leaves_the_range_of_the_honest(rule, byzantine, size, seed, lie) -> None:
    honest = np.random.default_rng(seed).normal(size=(2 * byzantine + 1, size))
    both = np.concatenate([np.full((byzantine, size), lie), honest])
    made = apply(rule, both, byzantine)
    assert (made >= honest.min(0) - 1e-9).all() and (made <= honest.max(0) + 1e-9).all()


@repeatable
@given(st.integers(1, 3), seeds, st.floats(-1e30, 1e30))
def test_clipping_moves_no_further_than_its_radius_whatever_anybody_sends(byzantine, seed, lie) -> None:
    updates = np.random.default_rng(seed).normal(size=(9, 3))
    updates[:byzantine] = lie
    for iterations in (1, 3):
        made = apply(CentredClipping(radius=0.5, iterations=iterations), updates, byzantine)
        assert np.linalg.norm(made) <= 0.5 * iterations + 1e-9


# Courses of events.


@st.composite
def schedules(draw: st.DrawFn, mode: str = "async") -> tuple[Schedule, int]:
    """A schedule with the number of its clients."""
    count = draw(st.integers(1, 6))
    latency = draw(st.sampled_from([name for name in LATENCIES if name != "trace"]))
    values = {"mode": mode, "latency": latency, "mean": draw(st.floats(0.1, 5)), "spread": draw(st.floats(0, 1)),
              "heterogeneity": draw(st.floats(0, 1.5)), "download": draw(st.floats(0, 1)),
              "upload": draw(st.floats(0, 1)), "dropout": draw(st.sampled_from([0.0, 0.3, 0.9]))}  # fmt: skip
    away = st.tuples(st.integers(0, count - 1), st.floats(0, 5), st.none() | st.floats(5.5, 9))
    values["absences"] = tuple(draw(st.lists(away, max_size=2)))
    if mode == "async":
        values |= {
            "merge": draw(st.sampled_from(["mix", "delta"])), "staleness": draw(st.sampled_from(list(STALENESS))),
            "buffer": draw(st.integers(1, count)), "max_staleness": draw(st.none() | st.integers(0, 4)),
            "concurrency": draw(st.none() | st.integers(1, count)),
        }  # fmt: skip
    return Schedule(**values), count


FATES = {"merged", "lost", "discarded", "waiting"}


@repeatable
@given(schedules(), st.integers(1, 5), seeds)
def test_time_goes_on_and_every_upload_meets_one_fate(pair, rounds, seed) -> None:
    schedule, count = pair
    timeline = plan(schedule, range(count), rounds, seed)
    assert plan(schedule, list(reversed(range(count))), rounds, seed) == timeline, "a function of its arguments"
    assert len(timeline.arrivals) <= rounds * count
    if all(returns is not None for _, _, returns in schedule.absences):
        assert len(timeline.arrivals) == rounds * count
    _check_course(timeline)
    merges = [merge.time for merge in timeline.merges]
    for one in timeline.arrivals:
        assert one.started == sum(time <= one.start for time in merges), "trains from the newest version at its start"
        least_time = schedule.download + schedule.upload
        assert one.time - one.start >= least_time - 1e-9
        if schedule.max_staleness is not None and one.fate == "merged" and schedule.buffer == 1:
            assert one.staleness <= schedule.max_staleness
    assert all(len(merge.arrivals) == schedule.buffer for merge in timeline.merges)
    assert sum(one.fate == "waiting" for one in timeline.arrivals) < schedule.buffer
    assert schedule.dropout or schedule.absences or all(one.fate != "lost" for one in timeline.arrivals)
    if schedule.concurrency is not None:
        for one in timeline.arrivals:
            assert sum(other.start <= one.start < other.time for other in timeline.arrivals) <= schedule.concurrency


@repeatable
@given(schedules("sync"), st.integers(1, 5), seeds)
def test_synchronous_rounds_have_no_staleness_and_everybody_in_each(pair, rounds, seed) -> None:
    schedule, count = pair
    timeline = plan(schedule, range(count), rounds, seed)
    # A client that does not report is not waited for: without the lost uploads the course is like any other.
    heard = tuple(one for one in timeline.arrivals if one.fate != "lost")
    _check_course(dataclasses.replace(timeline, arrivals=heard), every_cycle=False)
    assert len(timeline.merges) == rounds and len(timeline.arrivals) == rounds * count
    assert {one.fate for one in timeline.arrivals} <= {"merged", "lost"}
    assert all(one.staleness == 0 for one in timeline.arrivals)
    ends = [0.0, *(merge.time for merge in timeline.merges)]
    for one in timeline.arrivals:
        assert one.start == ends[one.cycle - 1] and (one.fate == "lost" or one.time <= ends[one.cycle])


def _check_course(timeline: Timeline, every_cycle: bool = True) -> None:
    """What holds in any course: time is monotone, an upload comes after its download, no cycle is skipped or overlaps
    the next, versions are counted, staleness is the number of versions made in between, and nothing is lost from
    sight: what was merged is in one merge, the rest has another fate."""
    times, merges = [one.time for one in timeline.arrivals], timeline.merges
    assert times == sorted(times) and [one.time for one in merges] == sorted(one.time for one in merges)
    assert [merge.version for merge in merges] == list(range(1, len(merges) + 1))
    ends: dict[int, tuple[int, float]] = {}
    for one in timeline.arrivals:
        cycle, end = ends.get(one.client, (0, 0.0))
        assert one.fate in FATES and end <= one.start <= one.time
        assert one.cycle == cycle + 1 or (one.cycle > cycle and not every_cycle)
        between = [merge for merge in merges if one.started < merge.version <= one.version]
        assert one.staleness == len(between) >= 0
        assert all(merge.time <= one.time or one.fate in ("merged", "waiting") for merge in between)
        ends[one.client] = (one.cycle, one.time)
    merged = [one for merge in merges for one in merge.arrivals]
    assert sorted(merged, key=_name) == sorted((one for one in timeline.arrivals if one.fate == "merged"), key=_name)
    for merge in merges:
        assert all(one.version == merge.version - 1 and one.time <= merge.time for one in merge.arrivals)
        assert [one.client for one in merge.arrivals] == sorted(one.client for one in merge.arrivals)
    assert [merge.arrived for merge in merges] == sorted(merge.arrived for merge in merges)


def _name(one) -> tuple[int, int]:
    return one.client, one.cycle


@repeatable
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 80), st.integers(0, 16), st.integers(0, 16), seeds)
def test_equal_latencies_and_one_buffer_for_all_are_synchronous_rounds(count, rounds, mean_, down, up, seed) -> None:
    # Sixteenths, of which sums are exact: otherwise clients of one round may differ by a rounding error.
    times = {"mean": mean_ / 16, "download": down / 16, "upload": up / 16}
    one = plan(Schedule(mode="sync", **times), range(count), rounds, seed)
    other = plan(Schedule(merge="delta", buffer=count, **times), range(count), rounds, seed)
    assert one == other


# Metrics tables.

entry = st.fixed_dictionaries(
    {"accuracy": st.floats(0, 1), "loss": st.floats(0, 50), "samples": st.integers(0, 500),
     "train_samples": st.integers(0, 500), "client_role": st.sampled_from(["non_dropout", "dropout"])}
)  # fmt: skip
IDENTITY = {"dataset": "x", "setting": "iid-clients5", "method": "m", "semantics": "", "reading": "", "seed": 3}


@st.composite
def measured(draw: st.DrawFn) -> list[dict]:
    """Rows as an evaluation leaves them: each client in each round, with its weight and role throughout."""
    people = draw(st.lists(entry, min_size=1, max_size=6))
    rows_ = []
    for round_ in range(1, draw(st.integers(1, 3)) + 1):
        for client, person in enumerate(people):
            accuracy = draw(st.floats(0, 1))
            where = {"round": round_, "virtual_time": float(round_), "client": client, "model": "global"}
            rows_ += [person | where | {"test": test, "accuracy": accuracy} for test in ("pooled", "own")]
    return rows_


@few
@given(measured())
def test_averages_are_between_the_least_and_the_most_and_weights_count(found) -> None:
    frame = metrics_frame(found, **IDENTITY).to_pandas()
    for role in ("non_dropout", "dropout"):
        means = averages(frame, "global", "own", role).set_index("round")
        ours = frame[(frame["client_role"] == role) & (frame["test"] == "own")]
        kept = ours[(ours["samples"] > 0) & (ours["train_samples"] > 0)]
        assert set(means.index) == set(kept["round"])
        for round_, rows_ in kept.groupby("round"):
            line, accuracy, weight = means.loc[round_], rows_["accuracy"], rows_["train_samples"]
            for kind in ("weighted", "plain"):
                assert accuracy.min() - 1e-12 <= line[kind] <= accuracy.max() + 1e-12
            assert line["weighted"] == pytest.approx((accuracy * weight).sum() / weight.sum())
            assert line["plain"] == pytest.approx(accuracy.mean())
            assert line["clients"] == len(rows_) and line["clients"] + line["left_out"] == ours["client"].nunique()


@few
@given(measured(), seeds)
def test_averages_know_no_order_of_rows_and_no_unit_of_weight(found, seed) -> None:
    frame = metrics_frame(found, **IDENTITY).to_pandas()
    mixed = frame.sample(frac=1, random_state=seed % 2**31).assign(train_samples=lambda one: 3 * one["train_samples"])
    for role in ("non_dropout", "dropout"):
        one, other = (averages(table, "global", "pooled", role) for table in (frame, mixed))
        pd.testing.assert_frame_equal(one, other, rtol=1e-12)


@few
@given(measured())
def test_the_metrics_table_has_its_columns_and_types_even_without_rows(found) -> None:
    for rows_ in (found, []):
        frame = metrics_frame(rows_, **IDENTITY).to_pandas()
        assert tuple(frame.columns) == COLUMNS and len(frame) == len(rows_)
        for name in ("seed", "round", "client", "samples", "train_samples"):
            assert frame[name].dtype == "int64"
        for name in ("virtual_time", "accuracy", "loss"):
            assert frame[name].dtype == "float64"
    last = [row for row in found if row["round"] == 1]
    value, weights = headline(last, "global"), sum(row["train_samples"] for row in last)
    inside = [row["accuracy"] for row in last if row["train_samples"]]
    assert np.isnan(value) if not weights else min(inside) - 1e-12 <= value <= max(inside) + 1e-12
