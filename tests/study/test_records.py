"""What a study asks for beside what a finished run was asked for: old numbers never stand for new settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apfl.cli import main
from apfl.paper.numbers.metrics import collect
from apfl.storage.files import write_json
from apfl.study.cells import runs
from apfl.study.load import load_study
from apfl.study.records import difference, is_asked
from apfl.study.runs import Run
from tests.helpers.paper_runs import both, write_run
from tests.helpers.studies import tiny

STUDY = tiny(paper=True, seeds=[0, 1])


def planned(**changes: Any) -> dict[str, Run]:
    return {run.path: run for run in runs(load_study(STUDY | changes))}


def record(run: Run) -> dict[str, Any]:
    return {"stage": run.stage, "specification": json.loads(json.dumps(run.spec)), "code": "aaa"}


def test_every_run_is_what_its_own_record_says() -> None:
    for run in planned().values():
        assert is_asked(run, record(run)) and not difference(run, record(run))


def test_a_changed_setting_is_named_with_both_values() -> None:
    before = planned()
    for path, run in planned(training={"rounds": 1, "learning_rate": 0.5}).items():
        old = before[path].spec["training"]["learning_rate"]
        assert f"training.learning_rate was {old} and is 0.5 in the study" == difference(run, record(before[path]))


def test_more_rounds_to_look_at_change_no_number_and_more_rounds_of_training_do() -> None:
    run = next(run for run in planned().values() if run.stage == "federate")
    shown, longer = record(run), record(run)
    shown["specification"]["training"] |= {"evaluate_rounds": [1, *run.spec["training"]["evaluate_rounds"]]}
    shown["specification"]["training"] |= {"save_rounds": [1]}
    assert not difference(run, shown) and not is_asked(run, shown)
    longer["specification"]["training"]["rounds"] = 99
    assert "training.rounds was 99" in difference(run, longer)


def test_a_record_of_an_older_version_may_lack_a_hyper_parameter() -> None:
    run = next(run for run in planned().values() if run.spec["parameters"])
    older = record(run)
    older["specification"]["parameters"].popitem()
    assert not difference(run, older) and not is_asked(run, older)


def test_a_tuned_run_has_what_its_choice_gave_it() -> None:
    run = next(iter(planned().values()))
    tuned = Run(**{**vars(run), "spec": {**run.spec, "tuned": "a/choice.json"}})
    given = record(tuned)
    given["specification"] |= {"training": {"learning_rate": 7.0}, "parameters": {"mu": 3.0}}
    assert is_asked(tuned, given) and not difference(tuned, given)


def status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """Results of a study, and its file, in which the learning rate was changed since."""
    for run in planned().values():
        write_run(tmp_path / "results", run.path, both(0.5))
        write_json(tmp_path / "results" / run.path / "run.json", record(run))
    write_json(
        tmp_path / "results" / "tiny" / "study.json", STUDY | {"training": {**STUDY["training"], "learning_rate": 0.5}}
    )
    return tmp_path


def test_old_runs_are_left_out_of_what_is_partial_and_refused_otherwise(
    edited: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, results = str(edited / "results" / "tiny" / "study.json"), str(edited / "results")
    assert status("tables", study, "--results", results) == 2
    assert "training.learning_rate was" in capsys.readouterr().err
    for command in (["tables", "--partial"], ["report"], ["claims"]):
        assert status(*command, study, "--results", results) == 0
        assert "leaves out what the study has changed since" in capsys.readouterr().err
    assert "0 of" in (edited / "results" / "tiny" / "report.html").read_text()
    assert status("pack", study, "--out", str(edited / "archive"), "--results", results) == 2
    assert "or pack with the study as it was" in capsys.readouterr().err


def test_runs_that_the_study_still_asks_for_are_shown(edited: Path) -> None:
    before = planned()
    found = collect(edited / "results", before, planned=before.values())
    assert set(found.records) == set(before)
