"""Schedules in the workflow: a study with a trace, from the command to its tables, and mistakes before any job."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.project import Project
from tests.helpers.studies import tiny

ENTRIES = [{"method": "fedavg", "schedule": "sync"}, {"method": "fedavg", "schedule": "measured", "title": "FedAsync"}]
TRACE = "client,start,arrival\n0,0,2\n0,2,4\n1,0,3\n1,3,6\n"


def study(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "methods": {"fedavg": {}},
        "apfl": {},
        "training__rounds": 2,
        "schedules": {"sync": {"mode": "sync"}, "measured": {"latency": "trace", "trace": "speeds.csv"}},
        "tables": {"convergence": {"clients": 2, "heterogeneity": [0, 1], "entries": ENTRIES}},
        "figures": {"figure_time": {}, "figure_staleness": {}, "figure_timeline": {}},
    }
    return tiny(**given | changes)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("schedules"), study())
    (made.root / "config/speeds.csv").write_text(TRACE)
    return made


@pytest.mark.parametrize(
    ("trace", "changes", "line"),
    [
        (TRACE.replace("0,2,4", "0,1,4"), {}, "speeds.csv: line 3: client 0 from 1 to 4 is out of order"),
        (TRACE.replace("1,3,6", "2,3,6"), {}, "schedules.measured.trace: client 2 is not one of [0, 1]"),
        (TRACE, {"schedules__sync__download": -1}, "schedules.sync.download: -1 is less than the minimum of 0"),
        (TRACE, {"schedules__measured__buffer": 3}, "schedules.measured.buffer 3: larger than the number of clients"),
        (TRACE, {"schedules__measured__dropout": 1.0}, "schedules.measured.dropout: 1.0 is greater than or equal to"),
        (TRACE, {"methods": {"fdms": {}}, "tables__convergence__entries": [
            {"method": "fdms", "schedule": "sync"}, {"method": "fdms", "schedule": "measured"}
        ]}, "convergence.entries.1: FL-FDMS's server update is not a sum over clients"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_schedule_ends_in_one_line_before_any_job(
    project: Project, tmp_path: Path, trace: str, changes: dict[str, Any], line: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study(**changes), sort_keys=False))
    (tmp_path / "speeds.csv").write_text(trace)
    done = project.run("snakemake", "--configfile", str(path))
    said = [text for text in done.stderr.splitlines() if "specific profile" not in text]
    assert done.returncode == 2 and len(said) == 1, done.stderr
    assert said[0].startswith("apfl: error: ") and line in said[0]
    checked = project.run(sys.executable, "-m", "apfl", "check", str(path))
    assert checked.returncode == 2 and line in checked.stderr and len(checked.stderr.splitlines()) == 1
    assert not (project.root / "results").exists()


def test_a_study_with_a_trace_makes_its_tables_and_figures_once(project: Project) -> None:
    planned = project.plan()
    assert planned["federate"] == 2, "one run of each server, though two levels of heterogeneity are asked for"
    assert (planned["table"], planned["figure"], planned["course"]) == (1, 1, 2)
    project.succeed("snakemake")
    folder = project.root / "results/tiny"
    written = json.loads((folder / "study.json").read_text())["schedules"]["measured"]
    assert written["trace"] == [[0, 0.0, 2.0], [0, 2.0, 4.0], [1, 0.0, 3.0], [1, 3.0, 6.0]]
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert {"figure_time_own.pdf", "figure_staleness.svg", "figure_timeline.png", "figure_timeline.csv"} <= figures
    assert "figure_timeline_own.svg" not in figures
    report = (folder / "report.html").read_text()
    assert all(text in report for text in ("Time to target accuracy", "Who trained when", "Accuracy along time"))
    checked = project.run(sys.executable, "-m", "apfl", "check-tables", "results/tiny/study.json")
    assert checked.returncode == 0, checked.stdout
    assert project.plan() == {}
    run = folder / "runs/digits/dirichlet-alpha0.1-clients2/fedavg--measured/seed0/run.json"
    assert [row[3] for row in json.loads(run.read_text())["timeline"]["rows"]] == [2.0, 3.0, 4.0, 6.0]


def test_snakemake_s_own_report_holds_the_figures_of_the_course_of_events(project: Project) -> None:
    project.succeed("snakemake", "--report", "report.html")
    page = (project.root / "report.html").read_text()
    assert "figure_timeline.svg" in page and "convergence.html" in page and "which client trained when" in page


def test_another_trace_in_the_file_runs_what_hangs_on_it_again(project: Project) -> None:
    path = project.root / "config/speeds.csv"
    path.write_text(TRACE.replace("1,3,6", "1,3,7"))
    try:
        plan = project.plan()
        assert plan["federate"] == 1 and plan["course"] == 2 and "data" not in plan
    finally:
        path.write_text(TRACE)
    assert project.plan() == {}
