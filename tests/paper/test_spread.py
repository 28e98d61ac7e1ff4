"""The spread over clients, by the definitions written out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from apfl.paper import outputs as beside
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.numbers.spread import hurt, lowest_tenth, rows
from apfl.paper.tables import formats, spread
from apfl.study.cells import runs
from apfl.study.load import load_study
from tests.helpers.paper_runs import cell, row, write_run
from tests.helpers.studies import tiny

LOCAL, FEDAVG = [[0.5, 0.6, 0.7, 0.8], [0.4, 0.6, 0.7, 0.9]], [[0.6, 0.6, 0.6, 0.6], [0.5, 0.5, 0.7, 0.7]]
"""Accuracies [seeds, clients]."""


def measured(**accuracies):
    """Cells of these titles and their metrics, a round before the last one and a client without images among them."""
    cells, frames, records = [], {}, {}
    for title, seeds in accuracies.items():
        ours = cell(title.replace("_", "-"))
        cells.append(ours)
        for run, clients in zip(ours.runs, seeds, strict=True):
            lines = [
                row(value, client=client, round=last, test="own", model=ours.model)
                for last, values in ((1, [0.01] * len(clients)), (2, clients))
                for client, value in enumerate(values)
            ]
            lines += [row(0.0, client=9, round=2, test="own", model=ours.model, train=0)]
            lines += [row(0.99, client=0, round=2, test="pooled", model=ours.model)]
            frames[run] = pd.DataFrame(lines)
            records[run] = {"status": "finished", "payload": 3_000_000, "clients": 4}
    return cells, Metrics(frames, records)


def of(title, cells, metrics, origins=None):
    found = rows(cells, metrics, origins or {}, metrics.records)
    return found[found["title"] == title].iloc[0]


def test_measures_are_those_of_the_clients_on_their_own_tests_in_the_last_round():
    found = of("FedAvg", *measured(Local=LOCAL, FedAvg=FEDAVG))
    assert found["lowest_tenth_mean"] == pytest.approx(100 * np.mean([0.6, 0.5]))
    assert found["lowest_tenth_std"] == pytest.approx(100 * np.std([0.6, 0.5], ddof=1))
    assert found["deviation_mean"] == pytest.approx(100 * np.mean([np.std(FEDAVG[0]), np.std(FEDAVG[1])]))
    # Clients 2 and 3 of seed 0 are better alone, clients 1 and 3 of seed 1.
    assert found["hurt_mean"] == pytest.approx(50.0) and found["hurt_std"] == pytest.approx(0.0)
    assert (found["clients"], found["seeds"], found["status"]) == (4, 2, "ok")


def test_the_lowest_tenth_is_rounded_up_to_whole_clients():
    accuracies = np.arange(1, 12) / 100
    assert lowest_tenth(accuracies) == pytest.approx(0.015), "two of eleven"
    assert lowest_tenth(accuracies[:10]) == pytest.approx(0.01), "one of ten"


def test_a_client_as_good_as_alone_is_not_hurt():
    assert hurt(pd.Series([0.5, 0.5]), pd.Series([0.5, 0.5])) == 0.0


def test_nobody_is_said_to_be_hurt_where_nobody_is_seen_alone():
    assert np.isnan(of("FedAvg", *measured(FedAvg=FEDAVG))["hurt_mean"])
    assert np.isnan(of("Local", *measured(Local=LOCAL))["hurt_mean"]), "nor by being alone"


def test_a_round_moves_the_payload_to_each_client_that_takes_part_and_back():
    found = of("FedAvg", *measured(FedAvg=FEDAVG))
    assert found["megabytes_down"] == found["megabytes_up"] == 4 * 3.0


def test_a_method_on_top_of_another_moves_what_that_one_does_and_its_generator_once():
    cells, metrics = measured(FedAvg=FEDAVG, AP_FL=FEDAVG)
    fedavg, apfl = cells
    records = {**metrics.records, **{run: {"status": "finished", "generator_bytes": 500_000} for run in apfl.runs}}
    found = of("AP-FL", cells, Metrics(metrics.frames, records), dict(zip(apfl.runs, fedavg.runs, strict=True)))
    # Four of the five clients take part in a round; all of them draw from the generator.
    assert found["megabytes_down"] == 4 * 3.0 and found["megabytes_after"] == 5 * 0.5


def test_a_diverged_seed_leaves_no_number():
    cells, metrics = measured(Local=LOCAL, FedAvg=FEDAVG)
    run = cells[1].runs[0]
    found = of("FedAvg", cells, Metrics(metrics.frames, {**metrics.records, run: {"status": "diverged"}}))
    assert found["status"] == "diverged" and np.isnan(found["lowest_tenth_mean"])


def test_the_table_has_a_line_for_each_method_and_says_what_is_missing(tmp_path):
    made = spread.table(rows(*measured(Local=LOCAL, FedAvg=FEDAVG), {}, {}))
    (group,) = made.panels[0].sections[0].groups
    assert [line.name for line in group.lines] == ["Local", "FedAvg"]
    assert group.lines[1].entries[2].text == "50.00 ± 0.00" and group.lines[0].entries[2].text == "–"
    assert "55.00 ± 7.07" in formats.markdown(made)
    study = load_study(tiny())
    empty = spread.made(study, beside.gather(study, tmp_path), {})
    assert {line.entries[0].text for line in empty.panels[0].sections[0].groups[0].lines} == {"not run"}


def test_what_is_read_for_the_spread_includes_the_runs_that_others_start_from(tmp_path):
    study = load_study(tiny(methods={"fedavg": {}, "fedavg-ft": {}}, tables__table2__methods=["fedavg-ft"]))
    for run in runs(study):
        write_run(tmp_path, run.path, [row(0.5)], module=run.spec.get("module", ""))
    assert set(beside.gather(study, tmp_path).records) == {run.path for run in runs(study)}
