"""The choice of a reading: by validation images alone, on seeds of its own, and the same for all rows of a data set."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import yaml

from apfl.cli import main
from apfl.errors import UserError
from apfl.paper import outputs as beside
from apfl.paper.numbers import choice as choice_module
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.report.material import gather
from apfl.paper.tables import readings
from apfl.paper.verdict.best import check_choice
from apfl.paper.verdict.claims import claims
from apfl.paper.verdict.contrasts import Question, Source
from apfl.paper.verdict.document import across_readings
from apfl.registry.trees import ROOT
from apfl.study.cells import cells, runs
from apfl.study.load import load_study
from tests.helpers.paper_runs import row, write_run
from tests.helpers.studies import tiny

READINGS = ["literal", "soft-labels", "uniform-labels"]


def study_of(**selection):
    values = tiny()
    values["apfl"] = values["apfl"] | {"readings": READINGS, "selection": {"seeds": [70, 71]} | selection}
    return load_study(values)


def measured(study, accuracy, leak=0.0):
    """Metrics of the choice's runs: ``accuracy`` (reading, setting, seed) on validation images, ``leak`` times it on
    test images."""
    frames, records = {}, {}
    for cell in cells(study, "selection"):
        for seed, run in zip(cell.seeds, cell.runs, strict=True):
            value = accuracy(cell.reading, cell.setting, seed)
            rows = [row(value, model=cell.model, test=test) for test in ("validation-pooled", "validation-own")]
            rows += [row(leak * value, model=cell.model, test=test) for test in ("pooled", "own")]
            frames[run], records[run] = pd.DataFrame(rows), {"status": "finished"}
    return Metrics(frames, records)


def test_the_highest_mean_over_settings_and_seeds_is_chosen() -> None:
    study = study_of(alphas=["0.05", "0.1"])
    high = {"literal": 0.5, "soft-labels": 0.6, "uniform-labels": 0.55}

    def accuracy(reading, setting, seed):
        # Alone in one setting another reading would win.
        return high[reading] + (0.08 if reading == "uniform-labels" and "0.05" in setting else 0) - 0.01 * (seed - 70)

    found = choice_module.best_readings(study, measured(study, accuracy))
    assert found == {("digits", "pooled"): "soft-labels", ("digits", "own"): "soft-labels"}
    table = choice_module.rows(cells(study, "selection"), measured(study, accuracy)).set_index(["test", "reading"])
    assert table.loc[("pooled", "uniform-labels"), "validation_mean"] == pytest.approx(100 * (0.55 + 0.04 - 0.005))


def test_test_images_decide_nothing() -> None:
    study = study_of()
    by_name = dict(zip(READINGS, (0.3, 0.2, 0.1), strict=True))
    plain, leaked = (measured(study, lambda reading, *_: by_name[reading], leak) for leak in (1.0, -0.0))
    assert choice_module.best_readings(study, plain) == choice_module.best_readings(study, leaked)
    frames = {
        run: frame.assign(accuracy=frame["accuracy"].where(frame["test"].str.startswith("validation"), 1.0))
        for run, frame in plain.frames.items()
    }
    assert choice_module.best_readings(study, dataclasses.replace(plain, frames=frames)) == choice_module.best_readings(
        study, plain
    )


def test_nothing_is_chosen_while_a_run_is_missing() -> None:
    study = study_of()
    whole = measured(study, lambda reading, *_: 0.5)
    lost = cells(study, "selection")[1].runs[0]
    part = Metrics(*({run: one for run, one in kind.items() if run != lost} for kind in (whole.frames, whole.records)))
    assert choice_module.best_readings(study, part) == {}
    assert not choice_module.rows(cells(study, "selection"), part)["chosen"].any()


def test_its_seeds_are_run_in_every_reading_and_shown_in_no_table() -> None:
    study = study_of()
    seeds = {run.seed for run in runs(study) if run.method == "apfl" and run.seed in (70, 71)}
    assert seeds == {70, 71} and not seeds & set(study.seeds)
    for output in (*study.tables, *study.figures):
        assert all(seed in study.seeds for cell in cells(study, output) for seed in cell.seeds)
    assert {cell.reading for cell in cells(study, "selection")} == set(READINGS)


def test_the_best_reading_is_judged_by_the_runs_of_the_reading_that_was_chosen() -> None:
    study = study_of()
    chosen = measured(study, lambda reading, *_: 0.6 if reading == "soft-labels" else 0.5)
    frames, records = dict(chosen.frames), dict(chosen.records)
    heights = dict(zip(READINGS, (0.9, 0.2, 0.8), strict=True))
    for cell in cells(study, "table2"):
        for run in cell.runs:
            rows = [row(heights.get(cell.reading, 0.1), model=cell.model, test=test) for test in ("pooled", "own")]
            frames[run], records[run] = pd.DataFrame(rows), {"status": "finished"}
    source = Source.of(study, Metrics(frames, records))
    assert source.readings()[:2] == ("literal", choice_module.BEST)
    claim = next(claim for claim in claims() if claim.id == "above-every-baseline")
    place = {"dataset": "digits", "clients": "3", "alpha": "0.1"}
    found = source.series(Question(claim, choice_module.BEST, "pooled"), claim.asks[0], "AP-FL", place)
    assert found.values == pytest.approx(100 * heights["soft-labels"])


def test_the_best_reading_may_be_one_that_only_the_figure_of_all_readings_runs() -> None:
    values = tiny()
    values["apfl"] = values["apfl"] | {"readings": ["literal"], "selection": {"seeds": [70, 71], "readings": READINGS}}
    values["figures"] = values.get("figures", {}) | {
        "figure_multiverse": {"datasets": ["digits"], "clients": 3, "alphas": ["0.1", "0.7"], "readings": READINGS}
    }
    study = load_study(values)
    chosen = measured(study, lambda reading, *_: 0.6 if reading == "soft-labels" else 0.5)
    frames, records = dict(chosen.frames), dict(chosen.records)
    for output in ("table2", "figure_multiverse"):
        for cell in cells(study, output):
            for run in cell.runs:
                height = 0.9 if cell.reading == "soft-labels" else 0.1
                rows = [row(height, model=cell.model, test=test) for test in ("pooled", "own")]
                frames[run], records[run] = pd.DataFrame(rows), {"status": "finished"}
    source = Source.of(study, Metrics(frames, records))
    assert source.best["digits", "pooled"] == "soft-labels"
    claim = next(claim for claim in claims() if claim.id == "above-every-baseline")
    asked = Question(claim, choice_module.BEST, "pooled")
    for alpha, there in (("0.1", True), ("0.7", False)):
        place = {"dataset": "digits", "clients": "3", "alpha": alpha}
        found = source.series(asked, claim.asks[0], "AP-FL", place)
        assert (found.status == "ok") == there
        if there:
            assert found.values == pytest.approx(90)
    titles = [facts["title"] for facts in source.facts("table2") if facts["reading"] == "literal"]
    assert len(titles) == len(set(titles)) * len({cell.setting for cell in cells(study, "table2")}), "each cell once"


def test_a_choice_among_readings_that_a_table_does_not_run_is_refused_when_the_study_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = tiny(paper=True)
    chosen_among = {"seeds": [70], "readings": ["literal", "soft-labels"]}
    values["apfl"] = values["apfl"] | {"readings": ["literal"], "selection": chosen_among}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit) as ended:
        main(["check", str(path)])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1
    assert "apfl.selection.readings: Table 2 does not run soft-labels everywhere" in said and "apfl.readings" in said
    # All readings are in the tables, and the first alone in the figure.
    values["apfl"]["readings"] = ["literal", "soft-labels"]
    values["figures"] = {"figure4": {"panels": {"digits": "dirichlet-alpha0.1"}, "clients": 3, "rounds": [1]}}
    path.write_text(yaml.safe_dump(values))
    with suppress(SystemExit):
        main(["check", str(path)])
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and "Figure 4 does not run soft-labels; where that is the best reading" in notes[0]
    # A study that judges nothing needs them nowhere.
    values["apfl"]["readings"] = ["literal"]
    assert check_choice(load_study(values | {"paper": False})) == []


def test_the_figure_of_all_readings_may_run_what_table_2_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the paper's scale, where all readings of the choice are in the figure alone."""
    for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.setenv(variable, "nowhere")
    values = yaml.safe_load((ROOT / "config" / "paper_scale.yaml").read_text(encoding="utf-8"))
    there = check_choice(load_study(values, [ROOT / "config"]))
    assert len(there) == 1 and there[0].startswith("note: Figure 4 does not run uniform-soft-labels")
    for path in ROOT.glob("config/*.yaml"):
        check_choice(load_study(path))
    values["figures"]["figure_multiverse"]["alphas"] = ["0.01"]
    with pytest.raises(UserError, match=r"Table 2 does not run soft-labels\+weights-over-all"):
        check_choice(load_study(values, [ROOT / "config"]))


def test_the_page_reads_the_runs_by_which_a_reading_is_chosen(tmp_path) -> None:
    study = study_of()
    for cell in cells(study, "selection"):
        for run in cell.runs:
            rows = [row(0.6, model=cell.model, test=f"validation-{test}") for test in ("pooled", "own")]
            write_run(tmp_path, run, rows, module=cell.method)
    found = readings.made(study, gather(study, tmp_path, "study.yaml").metrics).rows
    assert found["chosen"].sum() == 2 and (found["runs"] == found["runs_planned"]).all()
    assert found.equals(readings.made(study, beside.gather(study, tmp_path)).rows), (
        "as the command of the verdicts does"
    )


def test_while_the_choice_is_not_made_the_best_reading_is_planned_and_waits_for_it() -> None:
    study = study_of()
    whole = measured(study, lambda reading, *_: 0.6 if reading == "soft-labels" else 0.5)
    frames, records = dict(whole.frames), dict(whole.records)
    for cell in cells(study, "table2"):
        for run in cell.runs:
            rows = [row(0.4, model=cell.model, test=test) for test in ("pooled", "own")]
            frames[run], records[run] = pd.DataFrame(rows), {"status": "finished"}
    lost = cells(study, "selection")[0].runs[0]
    part = {name: record for name, record in records.items() if name != lost}
    claim = next(claim for claim in claims() if claim.id == "above-every-baseline")
    question, place = (
        Question(claim, choice_module.BEST, "pooled"),
        {"dataset": "digits", "clients": "3", "alpha": "0.1"},
    )
    done, open_ = (
        Source.of(study, Metrics(frames, there)).series(question, claim.asks[0], "AP-FL", place)
        for there in (records, part)
    )
    assert done.status == "ok" and open_.status == "not run"
    assert done.planned and open_.planned and open_.missing == (lost,)
    assert Source.of(study, Metrics(frames, part)).runs(claim, choice_module.BEST)


def test_a_claim_says_in_which_readings_it_holds() -> None:
    def verdict(reading, status):
        *interim, status = status.split(": ")
        return {"primary": True, "reading": reading, "status": status, "interim": bool(interim)}

    def said(*states):
        return across_readings({"verdicts": [verdict(name, state) for name, state in zip("abc", states, strict=True)]})

    assert said("open", "open", "not run") == "Of 2 readings: reproduced in no reading; contradicted in no reading."
    assert said("reproduced", "open", "contradicted") == (
        "Of 3 readings: reproduced in some: a; contradicted in some: c."
    )
    assert said(*["contradicted"] * 3) == "Of 3 readings: reproduced in no reading; contradicted in every reading."
    assert said("interim: reproduced", "open", "not run").endswith("contradicted in no reading; interim in a.")
    assert said("interim: reproduced", "interim: open", "not run").endswith("interim in every reading.")


def test_a_choice_needs_seeds_of_its_own_and_validation_images() -> None:
    values = tiny()
    values["apfl"] = values["apfl"] | {"selection": {"seeds": [values["seeds"][0]]}}
    with pytest.raises(UserError, match="is a seed of the study too"):
        load_study(values)
    values["apfl"] = values["apfl"] | {"selection": {"seeds": [70]}}
    assert load_study(values).validation
    with pytest.raises(UserError, match="validation false"):
        load_study(values | {"validation": False})
    with pytest.raises(UserError, match="one_job_per 'cell'"):
        load_study(values | {"one_job_per": "cell"})
