"""What the terminal says while a study runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from apfl.jobs.terminal import Terminal
from apfl.registry.code import code_digest
from apfl.storage.files import write_json
from apfl.study.cells import runs
from apfl.study.load import load_study
from tests.helpers.studies import tiny

STUDY = load_study(tiny(methods={"fedavg": {}}, seeds=[0, 1, 2], training__rounds=4, apfl={}))
FEDERATE = {run.seed: run for run in runs(STUDY)}


def record(event: str | None, message: str = "", **fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"event": event, "msg": message, **fields})


def began(seed: int) -> logging.LogRecord:
    run = FEDERATE[seed]
    return record(
        "job_info",
        jobid=seed,
        rule_name="federate",
        wildcards={"dataset": run.dataset, "setting": run.setting, "method": "fedavg", "seed": str(seed)},
        output=[f"results/{run.path}/metrics.parquet", f"results/{run.path}/run.json"],
    )


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(STUDY, quietness="progress")
    terminal.begin(total=9)
    return terminal


def said(terminal: Terminal, one: logging.LogRecord) -> str:
    return str(one.msg) if terminal.filter(one) else ""


NAME = "federate digits, dirichlet-alpha0.1-clients3, fedavg"


def test_a_line_says_what_a_job_is_and_how_many_are_done(terminal: Terminal) -> None:
    assert said(terminal, began(0)) == f"[0 of 9 jobs] began {NAME}, seed 0"
    assert said(terminal, record("job_finished", job_id=0)) == f"[1 of 9 jobs] finished {NAME}, seed 0"


def test_what_is_left_is_shared_by_the_jobs_that_run_at_the_same_time(terminal: Terminal) -> None:
    for seed in (0, 1):
        said(terminal, began(seed))
    run = FEDERATE[0]
    done = {"specification": dict(run.spec), "code": code_digest(*run.modules), "status": "finished", "seconds": 7200.0}
    write_json(Path("results", run.path, "run.json"), done)
    line = said(terminal, record("job_finished", job_id=0))
    assert line == f"[1 of 9 jobs, about 2.0 h left] finished {NAME}, seed 0", "two runs of two hours, two at a time"


def test_a_failed_job_has_its_reason_in_one_line_there_and_at_the_end(terminal: Terminal) -> None:
    log = Path("results/tiny/logs/seed1.log")
    log.parent.mkdir(parents=True)
    log.write_text("Traceback (most recent call last):\n  File x\nValueError: too hot\n")
    said(terminal, began(1))
    line = said(terminal, record("job_error", jobid=1, log=[str(log)], rule_msg=None, rule_name="federate"))
    assert line == f"[0 of 9 jobs] failed {NAME}, seed 1: ValueError: too hot; log: {log}"
    first, last = terminal.last_words()
    assert line.endswith(first) and last.startswith("1 failed; apfl status results/tiny/study.json ")


def test_where_a_job_left_no_log_what_the_cluster_says_is_the_reason(terminal: Terminal) -> None:
    said(terminal, began(1))
    line = said(terminal, record("job_error", jobid=1, log=["nowhere"], rule_msg="OUT_OF_MEMORY", rule_name="federate"))
    assert "seed 1: OUT_OF_MEMORY; log: nowhere" in line


def test_a_job_that_makes_all_seeds_is_called_so(terminal: Terminal) -> None:
    one = began(0)
    del one.wildcards["seed"]  # type: ignore[attr-defined]
    assert said(terminal, one).endswith("fedavg, all seeds")


def test_a_job_that_makes_several_cells_is_called_by_its_setting_and_the_number_of_its_runs(terminal: Terminal) -> None:
    files = [f"results/{run.path}/run.json" for run in FEDERATE.values()]
    one = record("job_info", jobid=0, rule_name="federate_1", wildcards={}, output=files)
    run = FEDERATE[0]
    assert said(terminal, one).endswith(f"began federate_1 {run.dataset}, {run.setting}, {len(FEDERATE)} runs")


def test_lines_of_several_threads_wait_for_one_another(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    other = threading.Thread(target=terminal.filter, args=[record("job_finished", job_id=1)])
    look_at = terminal._look_at

    def in_the_middle(paths: Sequence[str]) -> None:
        if not other.ident:
            other.start()
            other.join(timeout=0.5)
        look_at(paths)

    for seed in (0, 1, 2):
        said(terminal, began(seed))
    monkeypatch.setattr(terminal, "_look_at", in_the_middle)
    failed = record("job_error", jobid=0, log=[], rule_msg="gone", rule_name="federate")
    assert said(terminal, failed) == f"[0 of 9 jobs] failed {NAME}, seed 0: gone"
    other.join()
    assert terminal.done == 1


def test_at_the_end_stands_the_page_if_there_is_one(terminal: Terminal) -> None:
    assert list(terminal.last_words()) == []
    page = Path("results/tiny/report.html")
    page.parent.mkdir(parents=True)
    page.touch()
    assert list(terminal.last_words()) == [f"the page: {page}"]


def test_who_wants_no_progress_hears_of_failures_alone(terminal: Terminal) -> None:
    first, failed = began(0), record("job_error", jobid=0, log=[], rule_msg="gone", rule_name="federate")
    assert terminal.filter(first) and terminal.filter(failed)
    assert (first.quietness, failed.quietness) == ("progress", None)  # type: ignore[attr-defined]


def test_of_snakemake_s_own_lines_the_whole_commands_and_its_steps_are_left_out(terminal: Terminal) -> None:
    assert not terminal.filter(record(None, "RuleException:\nCalledProcessError in file x, line 3:\nCommand 'set ..."))
    assert not terminal.filter(record(None, "Select jobs to execute..."))
    assert terminal.filter(record(None, "Nothing to be done"))
    assert terminal.filter(record("run_info", "Job stats"))
