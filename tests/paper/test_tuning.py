"""The choice among trials: the highest mean on validation images, and no test image enters it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from apfl.cli import main
from apfl.paper.numbers import ranks
from apfl.paper.numbers.metrics import Metrics, collect
from apfl.paper.numbers.tuning import choice, read_choices, with_digests
from apfl.paper.numbers.tuning import trials as trials_by_method
from apfl.paper.report.report import build
from apfl.paper.report.tuning import panels
from apfl.paper.tables.build import table
from apfl.storage.files import sha256_file, write_json
from apfl.study.cells import cells
from apfl.study.load import load_study
from tests.helpers.paper_runs import row, write_run
from tests.helpers.studies import tiny

PLACE = {"digits": "dirichlet-alpha0.1-clients3"}
VALUES = tiny(methods__fedprox={}) | {"tuning": {"seeds": [70, 71], "partitions": PLACE, "trials": 4}}


def measured(trials, validation, test):
    """Metrics of the trials: by trial and seed the accuracy on validation images, and that on test images."""
    frames, records = {}, {}
    for place, cell in enumerate(trials):
        for number, run in enumerate(cell.runs):
            high, leak = validation[place][number], test[place][number]
            rows = [row(high, model=cell.model, test=name) for name in ("validation-pooled", "validation-own")]
            rows += [row(leak, model=cell.model, test=name) for name in ("pooled", "own")]
            frames[run], records[run] = pd.DataFrame(rows), {"status": "finished"}
    return Metrics(frames, records)


@pytest.fixture
def trials():
    return trials_by_method(load_study(VALUES))["digits", "fedprox"]


HIGH = ((0.5, 0.5), (0.7, 0.5), (0.6, 0.7), (0.9, 0.2))


def test_the_highest_mean_over_seeds_is_chosen_and_all_trials_are_kept(trials) -> None:
    made = choice(trials, measured(trials, HIGH, HIGH))
    assert made["chosen"] == {"trial": 3, "parameters": trials[2].axis["parameters"]}
    assert [one["mean"] for one in made["trials"]] == pytest.approx([50, 60, 65, 55])
    assert [one["parameters"] for one in made["trials"]] == [cell.axis["parameters"] for cell in trials]


def images_of_tests_enter(trials, choose):
    """Does a choice change with the accuracies on test images, which are the contrary of those on validation images?"""
    contrary = [[1 - value for value in pair] for pair in HIGH]
    plain = measured(trials, HIGH, contrary)
    without = {run: frame[frame["test"].str.startswith("validation")] for run, frame in plain.frames.items()}
    others = (measured(trials, HIGH, HIGH), dataclasses.replace(plain, frames=without))
    return any(choose(trials, other) != choose(trials, plain) for other in others)


def test_no_test_image_enters_the_choice_and_a_planted_leak_is_caught(trials, monkeypatch) -> None:
    assert not images_of_tests_enter(trials, choice)
    monkeypatch.setattr("apfl.paper.numbers.tuning.TEST", "pooled")
    assert images_of_tests_enter(trials, choice)


def test_the_choice_follows_the_validation_images(trials) -> None:
    contrary = [[1 - value for value in pair] for pair in HIGH]
    assert choice(trials, measured(trials, contrary, HIGH))["chosen"]["trial"] == 1


def test_of_equal_trials_the_first_is_chosen_and_one_that_diverged_is_not(trials) -> None:
    equal = measured(trials, [(0.5, 0.5)] * 4, HIGH)
    assert choice(trials, equal)["chosen"]["trial"] == 1
    lost = equal.records | {trials[0].runs[1]: {"status": "diverged"}}
    made = choice(trials, dataclasses.replace(equal, records=lost))
    assert made["chosen"]["trial"] == 2 and made["trials"][0]["mean"] is None
    assert made["trials"][0]["status"] == ["ok", "diverged"]
    everything = {run: {"status": "diverged"} for run in equal.records}
    assert choice(trials, dataclasses.replace(equal, records=everything))["chosen"]["trial"] == 1


def write_trials(results, trials, high):
    for cell, pair in zip(trials, high, strict=True):
        for run, value in zip(cell.runs, pair, strict=True):
            rows = [row(value, model=cell.model, test="validation-pooled"), row(1 - value, model=cell.model)]
            write_run(results, run, rows, module=cell.method)


def test_the_page_says_how_many_trials_are_finished_while_none_is_chosen(trials, tmp_path) -> None:
    write_trials(tmp_path, trials, HIGH)
    (tmp_path / trials[1].runs[0] / "run.json").unlink()
    study = load_study(VALUES)
    shown = {one.title: one for one in panels(study, tmp_path)}
    title = next(name for name in shown if name.startswith("FedProx"))
    assert (shown[title].rows, shown[title].done) == ((), "3 of 4")
    assert "No trial has been chosen yet; 3 of 4 trials are finished." in build(
        study, tmp_path, tmp_path / "study.yaml"
    )


def test_the_command_writes_the_choice_and_names_what_it_read(trials, tmp_path, capsys) -> None:
    path = tmp_path / "study.json"
    write_json(path, VALUES)
    results = tmp_path / "results"
    write_trials(results, trials, HIGH)
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(path), "--results", str(results), "--dataset", "digits", "--method", "fedprox"])
    assert not ended.value.code
    made = read_choices(load_study(VALUES), results)[("digits", "fedprox")]
    # Made again from the metrics, it is the same.
    runs = [run for cell in trials for run in cell.runs]
    assert made == with_digests(choice(trials, collect(results, runs)), results)
    assert made["metrics"] == {run: sha256_file(results / run / "metrics.parquet") for run in runs}
    assert made["chosen"]["trial"] == 3
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(path), "--results", str(results), "--method", "ditto"])
    assert ended.value.code == 2 and "does not tune ditto" in capsys.readouterr().err


def test_the_choice_waits_for_every_trial(trials, tmp_path, capsys) -> None:
    path, results = tmp_path / "study.json", tmp_path / "results"
    write_json(path, VALUES)
    write_trials(results, trials[:-1], HIGH[:-1])
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(path), "--results", str(results), "--method", "fedprox"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "not finished" in said and "--partial" not in said, "which it does not have"
    assert not (results / "tiny/tuning").exists()


def of_table2(study):
    """Metrics of Table 2: 80 % where a method is tuned, 40 % elsewhere."""
    frames, records = {}, {}
    for cell in cells(study, "table2"):
        value = 0.8 if cell.title.endswith("(tuned)") else 0.4
        for run in cell.runs:
            rows = [row(value, model=cell.model, test=test) for test in ("pooled", "own")]
            frames[run], records[run] = pd.DataFrame(rows), {"status": "finished"}
    return Metrics(frames, records)


def test_ranks_are_of_published_settings_so_that_no_method_counts_twice() -> None:
    study = load_study(VALUES)
    ranked = ranks.values(cells(study, "table2"), of_table2(study), "pooled")
    assert set(ranked) == {entry.title for entry in study.methods.values()}


def test_several_values_and_tuned_ones_stand_beside_each_other_in_a_table() -> None:
    values = VALUES | {"methods": VALUES["methods"] | {"ditto": {"lam": [0.1, 0.2]}}}
    study = load_study(values)
    columns = list(dict.fromkeys(table(study, "table2", None, of_table2(study)).rows["column"]))
    first = columns.index("Ditto (lam 0.1)")
    assert columns[first : first + 3] == ["Ditto (lam 0.1)", "Ditto (lam 0.2)", "Ditto (tuned)"]


def test_a_table_has_a_column_of_published_and_one_of_tuned_settings() -> None:
    study = load_study(VALUES)
    made = table(study, "table2", None, of_table2(study))
    ours = made.rows[(made.rows["test"] == "pooled") & (made.rows["seeds"] > 0)].set_index("column")["reproduced_mean"]
    assert np.allclose(ours[["FedProx", "FedProx (tuned)", "AP-FL", "AP-FL (tuned)"]], [40, 80, 40, 80])
    assert any(note.startswith("(tuned): ") for note in made.notes)
    columns = list(dict.fromkeys(made.rows["column"]))
    for title in ("FedProx", "AP-FL"):
        assert columns.index(f"{title} (tuned)") == columns.index(title) + 1
    absent = [panel for panel in made.panels if not panel.in_study]
    assert not any(column.endswith("(tuned)") for panel in absent for column in panel.columns)
