"""Differences of two cells, paired by seed, and their interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from apfl.paper.numbers.intervals import Cellwise, differences, interval, mean
from apfl.paper.numbers.metrics import SeedValue


def seeds(**accuracies):
    return [SeedValue(int(seed[1:]), "ok", accuracy) for seed, accuracy in accuracies.items()]


def test_only_seeds_that_both_have_finished_are_paired():
    ours = [*seeds(s0=0.5, s1=0.7), SeedValue(2, "diverged"), *seeds(s3=0.9)]
    theirs = [*seeds(s1=0.4, s0=0.4, s2=0.1), SeedValue(3, "not run")]
    assert differences(ours, theirs).values == pytest.approx([10.0, 30.0])
    assert differences(ours, []).values.shape == (0,)


def test_the_interval_is_students():
    low, high = interval(Cellwise(np.array([1.0, 2.0, 3.0])))
    assert (low + high) / 2 == pytest.approx(2.0)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 2) * 1.0 / 3**0.5)


def test_one_seed_has_none():
    assert interval(Cellwise(np.array([1.0]))) is None
    assert interval(Cellwise(np.array([]))) is None


def test_seeds_that_agree_are_known_to_an_image_of_the_smaller_test_alone():
    ours = [SeedValue(seed, "ok", 0.51 + 1 / 300, images=300) for seed in range(3)]
    theirs = [SeedValue(seed, "ok", 0.51, images=600) for seed in range(3)]
    found = differences(ours, theirs)
    assert found.resolution == pytest.approx(100 / 300)
    low, high = interval(found)
    assert low < 0 < high
    # As a verdict has it for a cell of which an image is as much.
    assert (low, high) == pytest.approx(mean([Cellwise(found.values, 100 / 300)]).interval())
