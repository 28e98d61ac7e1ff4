"""From metrics to the numbers of a cell, each computed by hand."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from apfl.errors import UserError
from apfl.paper.numbers.metrics import averages, cell_values, collect, curve, estimate
from tests.helpers.paper_runs import both, cell, row, write_cell, write_run


def value(results, ours, test="own", role="non_dropout", **options):
    return estimate(cell_values(collect(results, ours.runs, **options), ours, test, role))


def test_a_cell_weighs_clients_by_training_samples_and_keeps_the_plain_mean(tmp_path):
    ours = cell("FedAvg")
    write_run(tmp_path, ours.runs[0], [row(0.5, train=30, test="own"), row(0.9, client=1, train=10, test="own")])
    write_run(tmp_path, ours.runs[1], [row(0.8, train=30, test="own"), row(0.4, client=1, train=10, test="own")])
    found = value(tmp_path, ours)
    # Eq. 2: (30 * 0.5 + 10 * 0.9) / 40 = 0.6 and (30 * 0.8 + 10 * 0.4) / 40 = 0.7; plain means 0.7 and 0.6.
    assert found.mean == pytest.approx(65.0)
    assert found.plain == pytest.approx(65.0)
    assert [item.weighted for item in cell_values(collect(tmp_path, ours.runs), ours, "own", "non_dropout")] == [
        pytest.approx(0.6),
        pytest.approx(0.7),
    ]
    # Two values 5 from their mean: sqrt((25 + 25) / 1), not sqrt(50 / 2).
    assert found.std == pytest.approx(50**0.5)
    assert (found.status, found.seeds, found.planned, found.clients, found.left_out) == ("ok", 2, 2, 4, 0)


def test_one_seed_has_no_standard_deviation(tmp_path):
    ours = cell("FedAvg", seeds=(3,))
    write_cell(tmp_path, ours, 0.25)
    found = value(tmp_path, ours)
    assert (found.mean, found.std, found.seeds) == (pytest.approx(25.0), None, 1)


def test_a_cell_takes_the_last_round_and_not_the_best(tmp_path):
    ours = cell("FedAvg", seeds=(0,))
    write_run(tmp_path, ours.runs[0], [*both(0.9, round=9), *both(0.4, round=10), *both(0.8, round=2)])
    assert value(tmp_path, ours).mean == pytest.approx(40.0)


def test_a_cell_takes_its_model_its_test_and_its_clients_alone(tmp_path):
    ours = cell("AP-FL", seeds=(0,))
    noise = [row(0.1, model="friend", test="own"), row(0.2, model="personalized", test="pooled")]
    dropout = [row(0.3, model="personalized", test="own", role="dropout", client=8)]
    write_run(tmp_path, ours.runs[0], [row(0.7, model="personalized", test="own"), *noise, *dropout])
    assert value(tmp_path, ours).mean == pytest.approx(70.0)
    assert value(tmp_path, ours, test="pooled").mean == pytest.approx(20.0)
    assert value(tmp_path, ours, role="dropout").mean == pytest.approx(30.0)


def test_clients_without_training_or_test_samples_are_left_out_and_counted(tmp_path):
    ours = cell("FedAvg", seeds=(0,))
    rows = [*both(0.5, train=10), *both(0.0, client=1, train=0), row(0.1, client=2, train=20)]
    write_run(tmp_path, ours.runs[0], [*rows, row(0.0, client=3, samples=0, test="own", train=5)])
    found = value(tmp_path, ours)
    assert (found.mean, found.clients, found.left_out) == (pytest.approx(50.0), 1, 3)


def test_a_test_that_no_client_can_take_gives_no_number(tmp_path):
    ours = cell("FedAvg", seeds=(0,))
    write_run(tmp_path, ours.runs[0], [row(0.5), row(0.5, client=1)])
    found = value(tmp_path, ours)
    assert (found.status, found.mean, found.left_out) == ("no samples", None, 2)


def test_one_diverged_seed_makes_the_cell_diverged(tmp_path):
    ours = cell("FedAvg")
    write_cell(tmp_path, ours, 0.9, 0.9)
    write_run(tmp_path, ours.runs[1], both(0.9, model="global"), status="diverged")
    found = value(tmp_path, ours)
    assert (found.status, found.mean) == ("diverged", None)


def test_an_accuracy_that_is_no_number_is_a_divergence_and_no_gap(tmp_path):
    ours = cell("FedAvg", seeds=(0,))
    write_run(tmp_path, ours.runs[0], [*both(0.5), *both(float("nan"), client=1)])
    assert value(tmp_path, ours).status == "diverged"


def test_a_missing_run_is_refused_with_its_name_and_the_command(tmp_path):
    ours = cell("FedAvg")
    write_run(tmp_path, ours.runs[0], both(0.5))
    with pytest.raises(UserError, match=re.escape(ours.runs[1]) + ".*`make it so`"):
        collect(tmp_path, ours.runs, command="make it so")


def test_a_run_without_its_record_is_missing(tmp_path):
    ours = cell("FedAvg", seeds=(0,))
    write_cell(tmp_path, ours, 0.5)
    (tmp_path / ours.runs[0] / "run.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        collect(tmp_path, ours.runs)


def test_partial_results_count_the_seeds_there_are(tmp_path):
    ours = cell("FedAvg", seeds=(0, 1, 2))
    for run, accuracy in zip(ours.runs[:2], (0.4, 0.6), strict=True):
        write_run(tmp_path, run, both(accuracy))
    found = value(tmp_path, ours, partial=True)
    assert (found.status, found.mean, found.seeds, found.planned) == ("ok", pytest.approx(50.0), 2, 3)


def test_no_run_at_all_is_not_run_and_no_zero(tmp_path):
    found = value(tmp_path, cell("FedAvg"), partial=True)
    assert (found.status, found.mean, found.std, found.plain) == ("not run", None, None, None)


def test_runs_of_different_code_are_refused_by_name(tmp_path):
    ours = cell("FedAvg")
    write_run(tmp_path, ours.runs[0], both(0.5), code="old")
    write_run(tmp_path, ours.runs[1], both(0.5), code="new")
    for partial in (False, True):
        with pytest.raises(UserError, match="different code") as caught:
            collect(tmp_path, ours.runs, partial=partial)
        assert all(name in str(caught.value) for name in (*ours.runs, "old", "new"))


def test_different_methods_may_have_different_code(tmp_path):
    one, other = cell("FedAvg", seeds=(0,)), cell("Local", seeds=(0,))
    write_run(tmp_path, one.runs[0], both(0.5), code="a", module="fedavg")
    write_run(tmp_path, other.runs[0], both(0.5), code="b", module="local")
    assert set(collect(tmp_path, one.runs + other.runs).frames) == {*one.runs, *other.runs}


def test_a_run_without_the_model_of_the_cell_is_refused(tmp_path):
    ours = cell("AP-FL", seeds=(0,))
    write_run(tmp_path, ours.runs[0], both(0.5, model="local"))
    with pytest.raises(UserError, match=r"has no model 'personalized' for table2 \(it has local\)"):
        value(tmp_path, ours)


def test_a_client_with_two_rows_is_refused():
    frame = pd.DataFrame([row(0.5), row(0.6)])
    with pytest.raises(UserError, match="client 0 has two rows in round 1"):
        averages(frame, "global", "pooled", "non_dropout")


def test_a_curve_has_mean_and_deviation_in_every_round(tmp_path):
    ours = cell("FedAvg")
    for run, values in zip(ours.runs, ((0.2, 0.4), (0.4, 0.8)), strict=True):
        write_run(tmp_path, run, [row(item, round=number) for number, item in enumerate(values)])
    found = curve(collect(tmp_path, ours.runs), ours, "pooled", "non_dropout")
    assert found["round"].tolist() == [0, 1]
    assert found["mean"].tolist() == pytest.approx([30.0, 60.0])
    assert found["std"].tolist() == pytest.approx([200**0.5, 800**0.5])


def test_a_curve_ends_where_the_first_seed_diverged(tmp_path):
    ours = cell("FedAvg")
    write_run(tmp_path, ours.runs[0], [row(0.2, round=0), row(0.4, round=1)])
    write_run(tmp_path, ours.runs[1], [row(0.2, round=0), row(float("nan"), round=1)], status="diverged")
    assert curve(collect(tmp_path, ours.runs), ours, "pooled", "non_dropout")["round"].tolist() == [0]
