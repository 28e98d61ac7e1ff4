"""`apfl status`: what is done, alive, failed or left, told from files alone."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from apfl.cli import main
from apfl.jobs import log as joblog
from apfl.jobs.paths import KINDS, log_of
from apfl.jobs.status import STATES, Job, jobs, left, planned, rounds
from apfl.jobs.status_view import estimate, show
from apfl.registry.code import code_digest
from apfl.registry.trees import ROOT
from apfl.storage.files import write_json
from apfl.study.cells import runs
from apfl.study.load import load_study
from tests.helpers.project import Project
from tests.helpers.studies import tiny

STUDY = tiny(paper=True, seeds=[0, 1], figures={"figure4": {"panels": {"digits": "dirichlet-alpha0.1"}, "clients": 3}})
FOLDER = "tiny/runs/digits/dirichlet-alpha0.1-clients3"
HOLD = (
    "import time; from apfl.jobs.log import begin; begin('federate'); print('round 3/10', flush=True); time.sleep(60)"
)


def finish(results: Path, run: Any, **changes: Any) -> None:
    """The record of a finished run."""
    record = {"specification": dict(run.spec), "code": code_digest(*run.modules), "status": "finished", "seconds": 10.0}
    write_json(results / run.path / "run.json", record | changes)


def log(results: Path, path: str, text: str, age: float = 0.0) -> Path:
    """The log of a run, last written ``age`` seconds ago."""
    file = results / log_of("federate", path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (time.time() - age,) * 2)
    return file


def states(results: Path, **changes: Any) -> dict[str, Job]:
    return {job.path: job for job in jobs(load_study(STUDY | changes), results)}


@pytest.fixture
def planned_runs() -> dict[str, Any]:
    return {run.path: run for run in runs(load_study(STUDY))}


def test_nothing_is_begun_where_there_are_no_results(tmp_path: Path) -> None:
    found = jobs(load_study(STUDY), tmp_path)
    assert {job.state for job in found} == {"waiting"}
    outputs = ["table", "figure", "report", "claims"]
    assert [job.kind for job in found if job.kind in outputs] == outputs
    assert "no estimate yet" in estimate(left(found))
    assert not list(tmp_path.iterdir()), "looking leaves nothing behind"


def test_a_record_of_this_specification_and_code_is_done_and_any_other_is_outdated(
    tmp_path: Path, planned_runs: dict[str, Any]
) -> None:
    paths = [f"{FOLDER}/{name}" for name in ("local/seed0", "local/seed1", "fedavg/seed0", "fedavg/seed1")]
    finish(tmp_path, planned_runs[paths[0]])
    finish(tmp_path, planned_runs[paths[1]], status="diverged")
    finish(tmp_path, planned_runs[paths[2]], code="0" * 12)
    finish(tmp_path, planned_runs[paths[3]], specification={"rounds": 7})
    found = states(tmp_path)
    assert [found[path].state for path in paths] == ["done", "diverged", "outdated", "outdated"]
    assert states(tmp_path, training={"rounds": 2})[paths[0]].state == "outdated"


def test_a_damaged_record_is_a_failure_and_no_crash(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER / "local/seed0"
    folder.mkdir(parents=True)
    for text in ("{", "[]", ""):
        (folder / "run.json").write_text(text)
        job = states(tmp_path)[f"{FOLDER}/local/seed0"]
        assert job.state == "failed" and "run record" in job.error, text


def test_a_job_runs_as_long_as_its_process_lives_and_is_stopped_once_that_is_killed(tmp_path: Path) -> None:
    path = f"{FOLDER}/fedavg/seed0"
    file = log(tmp_path, path, "")
    with file.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=stream, cwd=ROOT)
    try:
        until = time.monotonic() + 20
        while "round" not in file.read_text() and time.monotonic() < until:
            time.sleep(0.02)
        job = states(tmp_path)[path]
        assert (job.state, job.note, job.share) == ("running", "round 3/10", 0.3)
        os.utime(file, (1.0, 1.0))
        assert states(tmp_path)[path].state == "running", "a long round writes nothing for hours"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    job = states(tmp_path)[path]
    assert (job.state, job.note, job.share) == ("stopped", "round 3/10", 0.0), "there is no checkpoint"
    checkpoint = tmp_path / path / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    log(tmp_path, path, file.read_text().replace("3/10", "8/10"))
    assert states(tmp_path)[path].share == 0.5, "it goes on after round 5, as checkpoint_every says"


def test_the_log_of_a_job_that_makes_all_seeds_counts_for_each_of_them(tmp_path: Path) -> None:
    (tmp_path / FOLDER.replace("/runs/", "/logs/runs/") / "fedavg").mkdir(parents=True)
    cell = tmp_path / FOLDER.replace("/runs/", "/logs/runs/") / "fedavg/seeds.log"
    cell.write_text("job federate on elsewhere, process 7\nFedAvg, seed 1: round 5/10  12 samples/s\n")
    found = states(tmp_path)
    first, second = (found[f"{FOLDER}/fedavg/seed{seed}"] for seed in (0, 1))
    assert [first.state, second.state] == ["running", "running"]
    assert [first.share, second.share] == [0.0, 0.5], "the line speaks of seed 1"
    cell.write_text("job federate on elsewhere, process 7\napfl: error: x: wrong; mend it\n")
    assert states(tmp_path)[f"{FOLDER}/fedavg/seed0"].error == "apfl: error: x: wrong; mend it"
    log(tmp_path, f"{FOLDER}/fedavg/seed0", "job federate on elsewhere, process 8\nFedAvg, seed 0: round 1/10\n")
    os.utime(cell, (1.0, 1.0))
    assert states(tmp_path)[f"{FOLDER}/fedavg/seed0"].share == 0.1, "its own log is younger"


def test_looking_at_a_log_does_not_keep_a_job_from_locking_it(tmp_path: Path) -> None:
    file = tmp_path / "job.log"
    file.touch()
    for _ in range(20):
        assert joblog.read(file).alive, "an empty log is that of a job that is just starting"
    with file.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=stream, cwd=ROOT)
    try:
        until = time.monotonic() + 20
        while "round" not in file.read_text() and time.monotonic() < until:
            joblog.read(file)
        assert joblog.held(file)
    finally:
        process.kill()
        process.wait()
    assert not joblog.held(file)


def test_a_log_of_another_machine_lives_while_it_is_fresh(tmp_path: Path) -> None:
    path, line = f"{FOLDER}/fedavg/seed0", "job federate on elsewhere, process 7\nround 1/10\n"
    for age, state in ((5, "running"), (3600, "stopped")):
        log(tmp_path, path, line, age)
        assert states(tmp_path)[path].state == state
    log(tmp_path, path, "", age=3600)
    assert states(tmp_path)[path].state == "stopped", "an empty log of long ago"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("round 1/2\napfl: error: data set x: gone; get it again\n", "apfl: error: data set x: gone; get it again"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'y'\nbye\n", "KeyError: 'y'"),
        ("torch.OutOfMemoryError: CUDA out of memory.\n", "torch.OutOfMemoryError: CUDA out of memory."),
        ("AssertionError\n", "AssertionError"),
        ("x" * 200_000 + "\nValueError: at the end\n", "ValueError: at the end"),
    ],
)
def test_a_failed_job_has_the_last_error_of_its_log_and_names_what_waits_for_it(
    tmp_path: Path, text: str, error: str
) -> None:
    log(tmp_path, f"{FOLDER}/fedavg/seed0", text)
    found = states(tmp_path)
    failed = found[f"{FOLDER}/fedavg/seed0"]
    assert (failed.state, failed.error, failed.log) == ("failed", error, f"tiny/logs/{FOLDER[5:]}/fedavg/seed0.log")
    waiting = {path for path, job in found.items() if job.needs}
    assert {job.needs for job in found.values() if job.needs} == {failed.path}
    assert f"{FOLDER}/fedavg-ft/seed0" in waiting and f"{FOLDER}/fedavg-ft/seed1" not in waiting
    assert {f"{FOLDER}/apfl/seed0", "tiny/tables/table2.csv", "tiny/report.html"} <= waiting, "by way of the generator"


@pytest.mark.parametrize("text", ["", "round 1/2\nAborted!\n", "UserWarning: an Error is near\nround 2/2\n"])
def test_a_log_without_an_error_is_of_a_job_that_was_stopped(tmp_path: Path, text: str) -> None:
    log(tmp_path, f"{FOLDER}/fedavg/seed0", f"job federate on {joblog.platform.node()}, process 1\n{text}")
    assert states(tmp_path)[f"{FOLDER}/fedavg/seed0"].state == "stopped"


def test_a_table_is_done_unless_a_run_is_younger_or_missing(tmp_path: Path, planned_runs: dict[str, Any]) -> None:
    for run in planned_runs.values():
        finish(tmp_path, run)
    table = tmp_path / "tiny/tables/table2.csv"
    assert states(tmp_path)["tiny/tables/table2.csv"].state == "waiting"
    table.parent.mkdir(parents=True)
    table.touch()
    assert states(tmp_path)["tiny/tables/table2.csv"].state == "done"
    record = tmp_path / FOLDER / "local/seed0/run.json"
    os.utime(record, (time.time() + 60,) * 2)
    assert states(tmp_path)["tiny/tables/table2.csv"].state == "outdated"
    record.unlink()
    assert states(tmp_path)["tiny/tables/table2.csv"].state == "outdated"


def test_verdicts_that_were_made_before_all_runs_are_interim(tmp_path: Path, planned_runs: dict[str, Any]) -> None:
    for run in planned_runs.values():
        finish(tmp_path, run)
    for paper, name in ((True, "claims.json"), (False, "ranks.csv")):
        made = tmp_path / "tiny/verdict" / name
        made.parent.mkdir(parents=True, exist_ok=True)
        made.touch()
        assert states(tmp_path, paper=paper)[f"tiny/verdict/{name}"].state == "done"
    (tmp_path / FOLDER / "local/seed0/run.json").unlink()
    for paper, name in ((True, "claims.json"), (False, "ranks.csv")):
        assert states(tmp_path, paper=paper)[f"tiny/verdict/{name}"].state == "interim"


def test_runs_by_which_a_reading_is_chosen_count_for_verdicts_and_the_page(tmp_path: Path) -> None:
    apfl = STUDY["apfl"] | {"readings": ["literal", "soft-labels"], "selection": {"seeds": [70]}}
    made = runs(load_study(STUDY | {"apfl": apfl}))
    for run in made:
        finish(tmp_path, run)
    verdicts, page = (tmp_path / "tiny" / name for name in ("verdict/claims.json", "report.html"))
    verdicts.parent.mkdir()
    for path in (verdicts, page):
        path.touch()

    def found() -> list[str]:
        there = states(tmp_path, apfl=apfl)
        return [there[path.relative_to(tmp_path).as_posix()].state for path in (verdicts, page)]

    assert found() == ["done", "done"]
    record = tmp_path / next(run.path for run in made if run.seed == 70 and run.stage == "personalize") / "run.json"
    os.utime(record, (time.time() + 60,) * 2)
    assert found() == ["outdated", "outdated"]
    record.unlink()
    assert found() == ["interim", "outdated"]


def test_what_is_left_is_judged_by_the_most_alike_runs(tmp_path: Path, planned_runs: dict[str, Any]) -> None:
    finish(tmp_path, planned_runs[f"{FOLDER}/fedavg/seed0"], seconds=100.0)
    found = left(jobs(load_study(STUDY), tmp_path))
    # fedavg's other seed as fedavg, local's two as the stage: 100 each; nothing to judge the other two stages by.
    assert (found.seconds, found.basis, found.runs) == (300.0, 1, 9)
    assert found.unknown == ("2 memorize", "4 personalize")
    finish(tmp_path, planned_runs[f"{FOLDER}/local/seed0"], seconds=40.0)
    assert left(jobs(load_study(STUDY), tmp_path)).seconds == 140.0
    finish(tmp_path, planned_runs[f"{FOLDER}/local/seed0"], seconds=40.0, status="diverged")
    assert left(jobs(load_study(STUDY), tmp_path)).seconds == 200.0, "a run that ends early is no measure"
    said = estimate(left(jobs(load_study(STUDY), tmp_path)))
    assert "about 3 min of computing" in said
    assert "an estimate from the rounds of 1 run; no estimate for 2 memorize" in said


def test_of_a_run_at_work_only_what_is_not_yet_done_is_left(tmp_path: Path, planned_runs: dict[str, Any]) -> None:
    finish(tmp_path, planned_runs[f"{FOLDER}/fedavg/seed0"], seconds=100.0)
    before = left(jobs(load_study(STUDY), tmp_path)).seconds
    log(tmp_path, f"{FOLDER}/fedavg/seed1", "job federate on elsewhere, process 1\nround 3/4\n")
    after = left(jobs(load_study(STUDY), tmp_path))
    assert before - after.seconds == 75.0 and after.runs == 9


def test_what_is_left_grows_with_the_rounds(tmp_path: Path) -> None:
    """A run of 10 rounds took 50 s; one of 40 rounds on other images takes four times that."""
    given = {
        **tiny(methods={"fedavg": {}}, training__rounds=10, training__datasets={"photos": {"rounds": 40}}),
        "data": {"digits": {"source": "digits", "max_samples": 300}, "photos": {"source": "photos"}},
        "apfl": {},
    }
    study = load_study(given)
    short, long = runs(study)
    assert (rounds(short), rounds(long)) == (10, 40)
    finish(tmp_path, short, seconds=50.0)
    assert left(jobs(study, tmp_path)).seconds == 200.0


def test_a_run_at_work_says_how_long_others_will_take(tmp_path: Path) -> None:
    study = load_study(tiny(methods={"fedavg": {}}, seeds=[0, 1], training__rounds=4, apfl={}))
    line = "FedAvg, seed 0: round 1/4  pooled 31.00 %  900 samples/s  30:00:00 left\n"
    log(tmp_path, f"{FOLDER}/fedavg/seed0", f"job federate on elsewhere, process 1\n{line}")
    found = left(jobs(study, tmp_path))
    # 30 hours for the last three quarters of the first run, and 40 for the other.
    assert (found.seconds, found.basis, found.runs) == (70 * 3600.0, 1, 2)


def test_logs_are_where_the_rules_write_them(tmp_path: Path) -> None:
    """As Snakemake itself says, for every kind of job."""
    changes = {"flower": {"module": "external/flower"}}
    tuning = {"seeds": [70], "partitions": {"digits": "iid-clients3"}, "trials": 2, "methods": ["apfl"]}
    kinds, project = set(), Project(tmp_path, STUDY)
    for paper in (True, False):
        given = STUDY | {"methods": STUDY["methods"] | changes, "paper": paper, "tuning": tuning}
        project.configure(given)
        done = project.succeed("snakemake", "--dry-run", "--quiet", "host")
        said = done.stdout + done.stderr
        blocks = re.findall(r"^ +output: (.*)\n(?: +.*\n)*? +log: (.*)$", said, re.MULTILINE)
        logs = {file: log for outputs, log in blocks for file in outputs.split(", ")}
        found = jobs(load_study(given), tmp_path / "results")
        for job in found:
            files = [file for file in logs if file == f"results/{job.path}" or file.startswith(f"results/{job.path}/")]
            assert files and {logs[file] for file in files} == {f"results/{job.log}"}, job.path
        kinds |= {job.kind for job in found}
    assert kinds == set(KINDS)


def test_every_log_is_written_anew_by_each_attempt() -> None:
    for file in (ROOT / "workflow/rules").rglob("*.smk"):
        assert ">>" not in file.read_text(), f"{file}: a log that is appended to grows with every attempt"


def test_the_command_prints_lines_where_there_is_no_terminal_and_json_for_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], planned_runs: dict[str, Any]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    finish(tmp_path / "results", planned_runs[f"{FOLDER}/local/seed0"])
    log(tmp_path / "results", f"{FOLDER}/fedavg/seed1", "KeyError: 'x'\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["status", "study.yaml"])
    said = capsys.readouterr().out
    assert not ended.value.code and "\x1b" not in said
    lines = said.splitlines()
    assert lines[0] == "study tiny: 1 of 18 jobs finished"
    assert "failed   federate results/tiny/runs/digits/dirichlet-alpha0.1-clients3/fedavg/seed1" in lines
    place = lines.index("         KeyError: 'x'")
    assert lines[place + 1].strip() == f"log: results/tiny/logs/{FOLDER[5:]}/fedavg/seed1.log"
    with pytest.raises(SystemExit):
        main(["status", "study.yaml", "--json"])
    value = json.loads(capsys.readouterr().out)
    assert set(value["counts"]) == set(STATES) and value["counts"]["failed"] == 1 and len(value["jobs"]) == 18


def test_on_a_terminal_there_is_a_table_and_a_log_cannot_steer_it(tmp_path: Path) -> None:
    log(tmp_path, f"{FOLDER}/fedavg/seed0", "ValueError: [red]\x1b]0;owned\x07\x1b[2J\n")
    found = jobs(load_study(STUDY), tmp_path)
    screen = io.StringIO()
    show("tiny", tmp_path, found, left(found), Console(file=screen, force_terminal=True, width=100, color_system=None))
    said = screen.getvalue()
    assert "┃" in said and "ValueError: [red]" in said
    assert "\x1b" not in said.replace("\x1b[0m", "") and "\x07" not in said


def test_where_the_data_lie_need_not_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APFL_DATA_ROOT", raising=False)
    monkeypatch.delenv("APFL_SEMANTICS_ROOT", raising=False)
    for path in sorted((ROOT / "config").glob("*.yaml")):
        assert {job.state for job in jobs(planned(path), tmp_path)} == {"waiting"}, path


def test_only_jobs_mark_their_output_and_only_where_it_is_a_file(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(tiny(methods={"local": {}}, apfl={})))
    plan = tmp_path / "plan.json"
    with plan.open("w") as stream:
        subprocess.run([sys.executable, "-m", "apfl", "plan", study, "--json"], stdout=stream, check=True, cwd=ROOT)
    assert json.loads(plan.read_text())
    command = ["data", "digits", "--source", "nowhere", "--out", str(tmp_path / "x.npz")]
    file = tmp_path / "data.log"
    with file.open("w") as stream:
        subprocess.run([sys.executable, "-m", "apfl", *command], stdout=stream, stderr=stream, cwd=ROOT)
    first, last = file.read_text().splitlines()
    assert joblog.FIRST_LINE.fullmatch(first)["command"] == "data" and last.startswith("apfl: error: source 'nowhere'")
    done = subprocess.run([sys.executable, "-m", "apfl", *command], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == ""
