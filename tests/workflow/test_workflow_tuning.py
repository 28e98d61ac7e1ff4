"""A study with tuning as a user meets it: one command makes trials, choices, tuned runs, tables and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apfl.paper.numbers.metrics import collect
from apfl.paper.numbers.tuning import choice, read_choices, trials, with_digests
from apfl.study.load import load_study
from tests.helpers.project import Project
from tests.helpers.studies import tiny

STUDY = tiny(methods={"fedavg": {}, "fedprox": {}, "apfl": {}}) | {
    "tuning": {
        "seeds": [10],
        "trials": 3,
        "partitions": {"digits": "dirichlet-alpha0.1-clients3"},
        # Beside the published 0.01, terms that forbid the model to leave its start.
        "spaces": {
            "fedprox": {"mu": [1e5, 1e6]},
            "apfl": {"beta": {"low": 0.3, "high": 0.9}, "width": [4, 16]},
        },
    }
}


@pytest.mark.slow
def test_one_command_tunes_and_tuned_runs_use_what_was_chosen(tmp_path: Path) -> None:
    project = Project(tmp_path, STUDY)
    project.succeed("snakemake")
    study, results = load_study(STUDY), tmp_path / "results"
    made = read_choices(study, results)
    assert set(made) == {("digits", method) for method in study.methods}
    for key, found in made.items():
        cells = trials(study)[key]
        metrics = collect(results, [run for cell in cells for run in cell.runs])
        assert found == with_digests(choice(cells, metrics), results), "made again from the trials' metrics"
    for method, chosen in ((method, found["chosen"]["parameters"]) for (_, method), found in made.items()):
        records = [json.loads(path.read_text()) for path in results.glob("tiny/*/digits/*/*tuned*/seed0/run.json")]
        used: dict[str, object] = {}
        for record in records:
            if record["specification"]["tuned"].endswith(f"/{method}.json"):
                used |= record["specification"]["parameters"]
                used |= {f"training.{name}": value for name, value in record["specification"]["training"].items()}
        assert {name: used[name] for name in chosen} == chosen
    page = (results / "tiny/report.html").read_text()
    assert page.count("(published)") == 3 and "AP-FL (tuned)" in page
    assert "(tuned)" in (results / "tiny/tables/table2.csv").read_text()
    assert project.plan() == {}, "nothing is left to do"
    project.configure(STUDY | {"seeds": [0, 1]})
    assert "tune" not in project.plan(), "another seed of the tables is no reason to choose again"
