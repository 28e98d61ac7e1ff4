"""Robust aggregation against NumPy written out, and simulated attacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from apfl.engine.images import SyntheticImages
from apfl.federation.aggregation import (
    CentredClipping,
    Krum,
    Mean,
    Median,
    TrimmedMean,
    bucketed,
    descend,
    difference,
    flatten,
    unflatten,
)
from apfl.federation.byzantine import ATTACKS, attackers
from apfl.streams import torch_stream

ROBUST = [Median(), TrimmedMean(), Krum(), CentredClipping(), CentredClipping(radius=0.5, iterations=3)]
ALL = [Mean(), *ROBUST]
numbers = st.floats(-100, 100, allow_nan=False, width=32)
updates = st.tuples(st.integers(7, 11), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=numbers)
)
quick = settings(max_examples=60, deadline=None)


def apply(rule, rows, byzantine=2, centre=None) -> np.ndarray:
    rows = torch.as_tensor(np.asarray(rows, dtype=float))
    centre = torch.zeros(rows.shape[1], dtype=torch.float64) if centre is None else torch.as_tensor(centre)
    return rule(rows, byzantine, centre).numpy()


def krum(rows: np.ndarray, byzantine: int) -> np.ndarray:
    scores = []
    for i, row in enumerate(rows):
        squares = sorted(((row - other) ** 2).sum() for j, other in enumerate(rows) if j != i)
        scores.append(sum(squares[: len(rows) - byzantine - 2]))
    return rows[int(np.argmin(scores))]


def centred_clipping(rows: np.ndarray, centre: np.ndarray, radius: float, iterations: int) -> np.ndarray:
    for _ in range(iterations):
        lengths = [np.sqrt(((row - centre) ** 2).sum()) for row in rows]
        tau = radius or np.median(lengths)
        parts = [
            (row - centre) * (min(1.0, tau / size) if size else 1.0) for row, size in zip(rows, lengths, strict=True)
        ]
        centre = centre + sum(parts) / len(rows)
    return centre


@quick
@given(updates)
def test_mean_median_and_trimmed_mean_are_numpys(rows) -> None:
    assert np.allclose(apply(Mean(), rows), rows.mean(0))
    assert np.allclose(apply(Median(), rows), np.median(rows, axis=0))
    for f in range(4):
        assert np.allclose(apply(TrimmedMean(), rows, f), np.sort(rows, axis=0)[f : len(rows) - f].mean(0))


@quick
@given(updates)
def test_krum_is_krum_written_out(rows) -> None:
    for f in range(Krum().most(len(rows)) + 1):
        assert np.allclose(apply(Krum(), rows, f), krum(rows, f))


def test_krum_leaves_out_the_distance_to_itself_and_counts_n_minus_f_minus_2_neighbours() -> None:
    rows = [[0.0], [3.0], [3.1], [9.0], [9.1], [9.15]]
    assert apply(Krum(), rows, 1).item() == 9.0  # squares to three neighbours: 0.01, 0.0225 and 34.81
    assert apply(Krum(), rows, 2).item() == 9.1  # to two: 0.01 and 0.0025


@quick
@given(updates, st.floats(0.1, 50), st.integers(1, 4))
def test_centred_clipping_is_centred_clipping_written_out(rows, radius, iterations) -> None:
    centre = np.linspace(-1, 1, rows.shape[1])
    for tau in (radius, 0.0):
        reached = apply(CentredClipping(tau, iterations), rows, centre=centre)
        assert np.allclose(reached, centred_clipping(rows, centre, tau, iterations))


def test_centred_clipping_with_a_wide_radius_is_the_mean_and_never_moves_further_than_its_radius() -> None:
    rows = np.random.default_rng(0).normal(size=(8, 5))
    assert np.allclose(apply(CentredClipping(radius=1e6), rows), rows.mean(0))
    rows[:3] = 1e9
    assert np.linalg.norm(apply(CentredClipping(radius=0.1, iterations=4), rows)) <= 0.4 + 1e-12


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_the_order_of_clients_does_not_matter(rule) -> None:
    rows = np.random.default_rng(1).normal(size=(9, 6))
    shuffled = np.random.default_rng(2).permutation(rows)
    assert np.allclose(apply(rule, rows), apply(rule, shuffled), rtol=1e-12)


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_equal_updates_are_their_own_mean_and_shifts_carry_over(rule) -> None:
    rows = np.random.default_rng(3).normal(size=(9, 6))
    equal = np.repeat(rows[:1], 9, 0)
    assert np.allclose(apply(rule, equal, centre=rows[0]), rows[0])
    assert np.allclose(apply(rule, rows + 3, centre=np.full(6, 3.0)), apply(rule, rows) + 3)


@quick
@given(arrays(np.float64, (7, 3), elements=numbers), arrays(np.float64, (3, 3), elements=st.floats(-1e12, 1e12)))
def test_byzantine_clients_cannot_move_a_robust_rule_out_of_the_honest_range(honest, hostile) -> None:
    rows = np.concatenate([hostile, honest])
    for rule in (Median(), TrimmedMean()):
        middle = apply(rule, rows, 3)
        assert (middle >= honest.min(0) - 1e-4).all() and (middle <= honest.max(0) + 1e-4).all()


@pytest.mark.parametrize("rule", ROBUST, ids=repr)
def test_far_away_byzantine_clients_move_the_mean_and_no_robust_rule(rule) -> None:
    honest = np.random.default_rng(4).normal(0, 0.1, size=(7, 5))
    rows = np.concatenate([np.full((3, 5), 1e6), honest])
    assert np.abs(apply(rule, rows, 3)).max() < 1
    assert np.abs(apply(Mean(), rows, 3)).max() > 1e5


@pytest.mark.parametrize("rule", ROBUST, ids=repr)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_clients_are_enough(rule, count) -> None:
    rows = np.ones((count, 2))
    assert np.allclose(apply(rule, rows, min(3, rule.most(count)), centre=np.ones(2)), 1)


def test_how_many_byzantine_clients_a_rule_is_defined_for() -> None:
    assert [Median().most(n) for n in (1, 2, 3, 10, 11)] == [0, 0, 1, 4, 5]
    assert [Krum().most(n) for n in (1, 5, 8, 9, 10)] == [0, 1, 2, 3, 3]  # n >= 2 f + 3


@quick
@given(updates, st.integers(1, 5), st.randoms(use_true_random=False))
def test_buckets_are_means_of_the_shuffled_updates_and_keep_every_one_of_them(rows, size, random) -> None:
    order = random.sample(range(len(rows)), len(rows))
    found = bucketed(torch.as_tensor(rows), size, order).numpy()
    parts = [order[first : first + size] for first in range(0, len(rows), size)]
    assert np.allclose(found, [rows[part].mean(0) for part in parts])
    assert np.allclose(sum(len(part) * row for part, row in zip(parts, found, strict=True)), rows.sum(0))


def test_vectors_and_parameters_are_two_forms_of_the_same() -> None:
    params = {"b": torch.randn(2, 3), "a": torch.randn(4)}
    vector = flatten(params)
    assert vector.dtype == torch.float64 and torch.equal(vector[:4], params["a"].double())
    back = unflatten(vector, dict(reversed(params.items())))
    assert all(torch.equal(back[name], params[name]) for name in params)


def test_descending_by_a_whole_mean_update_ends_at_the_mean_model() -> None:
    start, ends = {"w": torch.ones(3)}, [{"w": torch.full((3,), float(value))} for value in (2, 4)]
    moved = descend(start, [difference(start, end) for end in ends], 1.0)
    assert torch.equal(moved["w"], torch.full((3,), 3.0))
    assert torch.equal(descend(start, [difference(start, ends[0])], 0.5)["w"], torch.full((3,), 1.5))
    assert torch.equal(descend(start, [], 1.0)["w"], start["w"])


def test_attacks_flip_the_sign_make_noise_and_turn_labels_round() -> None:
    update, stream = torch.linspace(-1, 1, 20_000, dtype=torch.float64), torch_stream(0, "attack")
    assert torch.equal(ATTACKS["sign_flip"].update(update, 3.0, stream), -3 * update)
    noise = ATTACKS["gaussian"].update(update, 3.0, stream)
    assert noise.shape == update.shape and abs(noise.mean()) < 0.1 and abs(noise.std() - 3) < 0.1
    assert torch.equal(ATTACKS["label_flip"].update(update, 3.0, stream), update)
    soft = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    for labels, turned in ((torch.tensor([0, 1, 2, 0]), [2, 1, 0, 2]), (soft, soft.flip(1).tolist())):
        samples = SyntheticImages(torch.zeros(4, 1, 2, 2), labels)
        assert ATTACKS["label_flip"].samples(samples, 3).batch(torch.arange(4)).labels.tolist() == turned
        assert ATTACKS["sign_flip"].samples(samples, 3) is samples


def test_attackers_are_the_same_in_any_order_of_clients_and_differ_between_seeds() -> None:
    assert attackers(0, [3, 1, 2, 0, 9], 2) == attackers(0, [0, 1, 2, 3, 9], 2)
    assert len(attackers(0, range(10), 3)) == 3 and not attackers(0, range(10), 0)
    assert len({attackers(seed, range(10), 3) for seed in range(5)}) > 1
