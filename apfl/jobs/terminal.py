"""What the terminal says of a running study: a line when a job begins, ends or fails, in place of Snakemake's own.

    [12 of 118 jobs, about 20 min left] began federate digits, dirichlet-alpha0.1-clients5, fedavg, seed 0

A filter of Snakemake's logger, so that no thread and no second process is needed, and its log file says the same.
Snakemake logs from several threads (failures from those that waited for the job), hence the lock.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from apfl.durations import hours
from apfl.jobs import log as joblog
from apfl.jobs.paths import KINDS, STUDY
from apfl.jobs.status import Job, jobs, left, run_job
from apfl.study.runs import job_unit, jobs_of
from apfl.study.study import Study

FAILURES = 20
"""How many failed jobs are named again at the end."""
UNSAID = ("Select jobs to execute", "Execute ", "RuleException:\nCalledProcessError")
"""How records begin that are not shown: Snakemake's steps, and the whole command of a job that has failed."""


class Terminal(logging.Filter):
    """Turns Snakemake's records on jobs into one line each.

    ``quietness`` is Snakemake's name for those who want to hear of no progress; they hear of failures all the same.
    """

    def __init__(self, study: Study, quietness: Any = None, results: Path = Path("results")) -> None:
        super().__init__()
        self.study, self.quietness, self.results = study, quietness, results
        self.done = self.total = 0
        self.jobs: dict[str, Job] = {}
        self.made_by: dict[str, str] = {}  # by run, what names the job that makes it
        self.at_work: dict[int, tuple[str, Sequence[str]]] = {}  # by Snakemake's number: what it is, runs that it makes
        self.most = 1  # jobs that have made runs at the same time
        self.failures: list[str] = []
        self.lock = threading.Lock()
        self.said: Mapping[str, Callable[[Any], str]] = {
            "job_info": self._begun,
            "job_finished": self._finished,
            "job_error": self._failed,
            "progress": lambda record: "",
        }

    def begin(self, total: int) -> None:
        """So many jobs are to be run."""
        self.total = total
        self.jobs = {job.path: job for job in jobs(self.study, self.results)}
        runs = [job.run for job in self.jobs.values() if job.run]
        made = jobs_of(runs, job_unit(self.study.one_job_per))
        self.made_by = {run.path: name for name, ours in made.items() for run in ours}

    def filter(self, record: logging.LogRecord) -> bool:
        """Give a record on a job its line; False for what is not shown."""
        event = str(getattr(record, "event", None))
        if event not in self.said:
            return not str(record.msg).startswith(UNSAID)
        with self.lock:
            record.msg = self.said[event](record)
        record.event, record.quietness = None, None if event == "job_error" else self.quietness
        return bool(record.msg)

    def last_words(self) -> Iterator[str]:
        """What is said at the end: the page if it is there, or else which jobs failed and what tells more."""
        page, study = (self.results / path.format(study=self.study.name) for path in (KINDS["report"].path, STUDY))
        yield from islice(self.failures, FAILURES)
        if self.failures:
            yield f"{len(self.failures)} failed; apfl status {study} says what is done, failed and left"
        elif page.is_file():
            yield f"the page: {page}"

    def _begun(self, record: Any) -> str:
        parts = {name: value for name, value in record.wildcards.items() if name not in ("study", "seed")}
        seed = record.wildcards.get("seed")
        of_all = record.rule_name in KINDS and KINDS[record.rule_name].several
        words = [*parts.values(), *([f"seed {seed}"] if seed else ["all seeds"] if of_all else [])]
        folders = {str(Path(file).parent.relative_to(self.results)) for file in record.output if "/" in file}
        runs = [path for path in folders if path in self.jobs and self.jobs[path].run]
        if not words and len(runs) > 1 and (run := self.jobs[runs[0]].run):  # a batch
            words = [run.dataset, run.setting, f"{len(runs)} runs"]
        name = " ".join(filter(None, (record.rule_name, ", ".join(words))))
        self.at_work[record.jobid] = name, runs
        self.most = max(self.most, sum(bool(runs) for _, runs in self.at_work.values()))
        return self._line(f"began {name}")

    def _finished(self, record: Any) -> str:
        self.done += 1
        name = self._over(record.job_id)
        return self._line(f"finished {name}")

    def _failed(self, record: Any) -> str:
        name = self._over(record.jobid)
        log = Path(record.log[0]) if record.log else None
        said = joblog.read(log) if log else None
        reason = (said and said.error) or record.rule_msg or (said and said.last) or "it left no error"
        self.failures.append(f"failed {name}: {reason}" + (f"; log: {log}" if log else ""))
        return self._line(self.failures[-1])

    def _over(self, number: int) -> str:
        """A job is no longer at work; returns what it was."""
        name, runs = self.at_work.pop(number, ("a job", ()))
        self._look_at(runs)
        return name

    def _look_at(self, paths: Sequence[str]) -> None:
        for path in paths:
            if (run := self.jobs[path].run) is not None:
                self.jobs[path] = run_job(run, self.results, self.jobs, self.made_by[path])

    def _line(self, words: str) -> str:
        for _, runs in self.at_work.values():
            self._look_at(runs)
        return f"[{self.done} of {self.total} jobs{self._time_left()}] {words}"

    def _time_left(self) -> str:
        """How long the study's runs will take, as many at a time as there have been so far."""
        remaining = left(list(self.jobs.values()))
        if not remaining.seconds:
            return ""
        least = "at least" if remaining.unknown else "about"
        return f", {least} {hours(remaining.seconds / self.most)} left"
