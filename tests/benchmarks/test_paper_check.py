"""The paper against itself: the bounds by hand, the findings by numbers that anyone can look up in the tables."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apfl.data.catalogue import CATALOGUE
from apfl.data.dataset import Dataset
from apfl.data.partition import make_partition
from apfl.paper import published
from benchmarks.paper_check import __main__ as document
from benchmarks.paper_check import bounds, claimed, possible, wording
from benchmarks.paper_check.finding import OUTCOMES, printed


@pytest.fixture(scope="module")
def found():
    return {one.identifier: one for one in document.findings()}


def test_the_committed_document_and_its_numbers_are_what_the_script_writes(found) -> None:
    assert document.PAGE.read_text(encoding="utf-8") == document.markdown(found.values())
    assert document.FILE.read_text(encoding="utf-8") == document.csv(found.values())


def test_the_last_bits_of_a_number_are_not_written() -> None:
    assert document.text(4.935) == document.text(np.nextafter(4.935, 5)) == document.text(np.nextafter(4.935, 4))


def test_the_csv_holds_every_number_of_every_finding(found) -> None:
    rows = pd.read_csv(io.StringIO(document.csv(found.values())))
    assert len(rows) == sum(one.numbers.size for one in found.values())
    given = rows.set_index(["id", "item", "quantity"])["value"]
    friend = given["friend-and-personalized", "CIFAR-10", "friend minus the better one"]
    assert float(friend) == pytest.approx(49.79 - 34.18)


def test_every_finding_has_a_question_an_outcome_a_sentence_and_numbers(found) -> None:
    assert len(found) == len(list(document.findings())) >= 18
    for one in found.values():
        assert one.question.endswith("?") and one.sentence.endswith(".") and one.outcome in OUTCOMES
        assert one.numbers.size and one.numbers.index.is_unique


def test_bounds_are_those_worked_out_by_hand() -> None:
    # Client 0: 30 of class 0, 10 of class 1; client 1: 60 of class 1. Sizes 40 and 60, classes 30 and 70.
    floor, ceiling = bounds.bounds_of(np.array([[30, 10], [0, 60]]))
    assert floor == pytest.approx(100 * (0.4 * 30 / 40 + 0.6 * 1))
    assert ceiling == pytest.approx(100 * (0.4 * 1 + 0.6 * 0.7))


@given(st.lists(st.lists(st.integers(0, 50), min_size=3, max_size=3), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_bounds_lie_between_chance_and_certainty(held) -> None:
    held = np.array(held)
    if held.sum():
        floor, ceiling = bounds.bounds_of(held)
        assert 100 / 3 - 1e-9 <= floor <= 100 + 1e-9
        assert 0 < ceiling <= 100 + 1e-9


def test_the_partitions_are_those_that_a_run_would_get() -> None:
    labels = np.repeat(np.arange(10), CATALOGUE["cifar10"].images // 10)
    images = np.broadcast_to(np.zeros((1, 1, 1, 1), np.uint8), (len(labels), 3, 32, 32))
    dataset = Dataset("cifar10", images, labels, tuple("abcdefghij"), {"kind": "test"})
    partition = make_partition(dataset, "dirichlet-alpha0.1-clients5", seed=3)
    held = bounds.counts("cifar10", 5, "0.1", seed=3)
    assert [np.bincount(labels[partition.client == client], minlength=10).tolist() for client in range(5)] == (
        held.tolist()
    )


def test_the_local_row_of_table_2_does_not_fit_the_stated_test(found) -> None:
    one = found["table2-test-split"]
    assert one.outcome == "misfit" and len(one.numbers) == 18
    first = one.numbers.loc["CIFAR-10, 10 clients, α = 0.01"]
    assert first["Local"] == 15.76
    assert first["own floor, least"] > 50
    assert (one.numbers["Local"] < one.numbers["pooled ceiling, least"]).all()


def test_the_check_of_the_test_split_can_come_out_the_other_way() -> None:
    one = possible.own_test(possible.dirichlet_rows().assign(**{"Local": 99.0, "AP-FL": 99.0}))
    assert one.outcome == "fit"
    assert "in 0 of 18 Dirichlet rows" in one.sentence


def test_the_friend_of_table_4_is_above_the_personalized_model_of_table_3(found) -> None:
    numbers = found["friend-and-personalized"].numbers["friend minus the better one"]
    assert numbers["CIFAR-10"] == pytest.approx(49.79 - 34.18)
    assert numbers["Fashion-MNIST"] == pytest.approx(58.63 - 58.97)
    assert "in 3 of 4 data sets" in found["friend-and-personalized"].sentence


def test_welchs_test_is_that_of_samples_with_the_printed_moments() -> None:
    # Samples with exactly these means and standard deviations.
    expected = stats.ttest_ind([4.0, 5.0, 6.0], [1.0, 3.0, 5.0], equal_var=False).pvalue
    assert claimed.welch(5.0, 1.0, 3.0, 2.0, seeds=3) == pytest.approx(expected)


def test_margins_are_to_the_best_other_method() -> None:
    rows = claimed.margins("table2")
    assert rows.loc["CIFAR-10, 5 clients, α = 0.01: SCAFFOLD", "difference"] == pytest.approx(61.84 - 54.47)
    assert rows.loc["EMNIST letters, 10 clients, α = 0.1: FedDF", "difference"] == pytest.approx(88.94 - 89.12)
    assert rows.loc["CIFAR-100, 5 clients, α = 0.01: SCAFFOLD", "larger deviation"] == 4.21
    assert (rows["Welch's p, 5 seeds"] < rows["Welch's p, 3 seeds"]).all()


def test_all_bold_entries_are_the_best_and_a_wrong_one_would_be_noticed(found) -> None:
    assert found["bold"].outcome == "fit"
    wrong = claimed.bold(claimed.BOLD | {("table2", "cifar10", "5", "0.01"): "FedDF"})
    assert wrong.outcome == "misfit" and "not CIFAR-10, 5 clients, α = 0.01: FedDF" in wrong.sentence


def test_gains_are_averages_over_the_twenty_rows(found) -> None:
    means = found["summary-gains"].numbers["mean"]
    values = published.lookup("table2")
    places = {(dataset, row) for dataset, row, _ in values}
    expected = np.mean([values[*place, "AP-FL"].mean - values[*place, "FedAvg"].mean for place in places])
    assert len(places) == len(printed("table2")) == 20
    assert means["over FedAvg"] == pytest.approx(expected)
    assert means["over the best other method"] < means.drop("over the best other method").min()


def test_eq_8_pushes_images_apart() -> None:
    assert wording.eq8([0.0, 0.0]) == 0.0
    assert wording.eq8([0.0, 3.0]) == -3.0
    # The mean over ordered pairs of distinct samples: distances 1, 2 and 3.
    assert wording.eq8([0.0, 1.0, 3.0]) == pytest.approx(-2.0)
