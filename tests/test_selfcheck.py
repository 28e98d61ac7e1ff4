"""The paper against itself: the bounds by hand, the findings by numbers that anyone can look up in the tables."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apfl.data.dataset import Dataset
from apfl.data.partition import make_partition
from apfl.paper import drawn, published, selfcheck, selfcheck_claims, selfcheck_possible, selfcheck_wording


@pytest.fixture(scope="module")
def found():
    return {one.identifier: one for one in selfcheck.findings()}


def test_bounds_are_those_worked_out_by_hand():
    # Client 0: 30 of class 0, 10 of class 1; client 1: 60 of class 1. Sizes 40 and 60, classes 30 and 70.
    floor, ceiling = drawn.bounds_of(np.array([[30, 10], [0, 60]]))
    assert floor == pytest.approx(100 * (0.4 * 30 / 40 + 0.6 * 1))
    assert ceiling == pytest.approx(100 * (0.4 * 1 + 0.6 * 0.7))


@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_bounds_lie_between_chance_and_certainty(held):
    held = np.array(held)
    if held.sum():
        floor, ceiling = drawn.bounds_of(held)
        assert 100 / 3 - 1e-9 <= floor <= 100 + 1e-9
        assert 0 < ceiling <= 100 + 1e-9


def test_the_partitions_are_those_that_a_run_would_get():
    labels = np.repeat(np.arange(10), drawn.IMAGES["cifar10"] // 10)
    images = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (len(labels), 3, 32, 32))
    dataset = Dataset("cifar10", images, labels, tuple("abcdefghij"), {"kind": "test"})
    partition = make_partition(dataset, "dirichlet-alpha0.1-clients5", seed=3)
    held = drawn.counts("cifar10", 5, "0.1", seed=3)
    assert [np.bincount(labels[partition.client == client], minlength=10).tolist() for client in range(5)] == (
        held.tolist()
    )


def test_every_finding_has_a_question_numbers_and_a_sentence(found):
    names = [one.identifier for one in selfcheck.findings()]
    assert len(names) == len(set(names)) >= 18
    for one in found.values():
        assert one.question.endswith("?")
        assert one.sentence.endswith(".")
        assert one.numbers.columns[0] == "item"
        assert len(one.numbers)


def test_the_local_row_of_table_2_does_not_fit_the_stated_test(found):
    one = found["table2-test-split"]
    assert one.outcome == "misfit"
    rows = one.numbers.set_index("item")
    assert len(rows) == 18
    first = rows.loc["CIFAR-10, 10 clients, α = 0.01"]
    assert first["Local"] == 15.76
    assert first["own floor, least"] > 50
    assert (rows["Local"] < rows["pooled ceiling, least"]).all()


def test_the_check_of_the_test_split_can_come_out_the_other_way(monkeypatch):
    honest = selfcheck_possible.dirichlet_rows().assign(**{"Local": 99.0, "AP-FL": 99.0})
    monkeypatch.setattr(selfcheck_possible, "dirichlet_rows", lambda: honest)
    one = selfcheck_possible.own_test()
    assert one.outcome == "fit"
    assert "in 0 of 18 Dirichlet rows" in one.sentence


def test_the_friend_of_table_4_is_above_the_personalized_model_of_table_3(found):
    rows = found["friend-and-personalized"].numbers.set_index("item")
    assert rows.loc["CIFAR-10", "friend minus the better one"] == pytest.approx(49.79 - 34.18)
    assert rows.loc["Fashion-MNIST", "friend minus the better one"] == pytest.approx(58.63 - 58.97)
    assert "in 3 of 4 data sets" in found["friend-and-personalized"].sentence


def test_welchs_test_is_that_of_samples_with_the_printed_moments():
    one, other = (
        published.Published("x", (), name, mean, std) for name, mean, std in (("a", 5.0, 1.0), ("b", 3.0, 2.0))
    )
    # Samples with exactly these means and standard deviations.
    from scipy import stats

    first, second = np.array([4.0, 5.0, 6.0]), np.array([1.0, 3.0, 5.0])
    expected = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert selfcheck_claims.welch(one, other, 3) == pytest.approx(expected)


def test_margins_are_to_the_best_other_method():
    rows = selfcheck_claims.margins("table2").set_index("item")
    assert rows.loc["CIFAR-10, 5 clients, α = 0.01: SCAFFOLD", "difference"] == pytest.approx(61.84 - 54.47)
    assert rows.loc["EMNIST letters, 10 clients, α = 0.1: FedDF", "difference"] == pytest.approx(88.94 - 89.12)
    assert rows.loc["CIFAR-100, 5 clients, α = 0.01: SCAFFOLD", "larger deviation"] == 4.21
    assert (rows["Welch's p, 5 seeds"] < rows["Welch's p, 3 seeds"]).all()


def test_all_bold_entries_are_the_best_and_a_wrong_one_would_be_noticed(found, monkeypatch):
    assert found["bold"].outcome == "fit"
    monkeypatch.setattr(
        selfcheck_claims, "BOLD", selfcheck_claims.BOLD | {("table2", "cifar10", ("5", "0.01")): ("FedDF",)}
    )
    assert selfcheck_claims.bold().outcome == "misfit"


def test_gains_are_averages_over_the_twenty_rows(found):
    rows = found["summary-gains"].numbers.set_index("item")
    printed = published.lookup("table2")
    places = {(dataset, row) for dataset, row, _ in printed}
    expected = np.mean([printed[*place, "AP-FL"].mean - printed[*place, "FedAvg"].mean for place in places])
    assert len(places) == 20
    assert rows.loc["over FedAvg", "mean"] == pytest.approx(expected)
    assert rows.loc["over the best other method", "mean"] < rows["mean"].drop("over the best other method").min()


def test_eq_8_pushes_images_apart():
    assert selfcheck_wording.eq8([0.0, 0.0]) == 0.0
    assert selfcheck_wording.eq8([0.0, 3.0]) == -3.0
    # The mean over ordered pairs of distinct samples: distances 1, 2 and 3.
    assert selfcheck_wording.eq8([0.0, 1.0, 3.0]) == pytest.approx(-2.0)


def test_an_unknown_outcome_is_refused():
    with pytest.raises(ValueError, match="maybe"):
        selfcheck.Finding("x", "Is it?", "maybe", "It is.", pd.DataFrame({"item": []}))


def test_files_and_the_section_of_the_page(found, tmp_path):
    table, text = selfcheck.write(tmp_path)
    rows = pd.read_csv(table)
    assert list(rows.columns) == list(selfcheck.COLUMNS)
    assert set(rows["id"]) == set(found)
    given = rows[(rows["id"] == "friend-and-personalized") & (rows["item"] == "CIFAR-10")].set_index("quantity")[
        "value"
    ]
    assert float(given["friend minus the better one"]) == pytest.approx(15.61)
    written = text.read_text(encoding="utf-8")
    page = selfcheck.section()
    assert page.identifier == "paper-check"
    for one in found.values():
        assert one.question in written
        assert one.sentence in written
    assert page.body.count("<details>") == len(found)
    assert table.read_bytes() == selfcheck.write(tmp_path / "again")[0].read_bytes()


def test_a_bar_in_a_text_does_not_break_the_table_of_the_file(found):
    one = dataclasses.replace(found["bold"], numbers=pd.DataFrame({"item": ["a|b"], "x": [1.0]}))
    assert "| a\\|b | 1 |" in selfcheck.markdown([one])
