"""How far a study is, from its files alone: while the workflow runs, after a kill, and without one.

A job is done if what it makes is there; it lives if its log is locked (`apfl.jobs.log`). What is left is estimated from
the seconds that finished runs of the same kind took.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from apfl.errors import UserError
from apfl.jobs import log as joblog
from apfl.jobs.paths import BESIDE, KINDS, RUNS, log_of, program_log
from apfl.registry.code import code_digest
from apfl.storage.files import read_record
from apfl.study.cells import artefacts, beside, cells, runs
from apfl.study.load import load_study
from apfl.study.outputs import JUDGED, OUTPUTS
from apfl.study.parse import read as read_study
from apfl.study.records import is_asked
from apfl.study.runs import Run, job_unit, jobs_of
from apfl.study.study import Study

STATES = ("done", "diverged", "running", "failed", "stopped", "interim", "outdated", "waiting")
"""done: finished; diverged: finished, without a usable model; failed: its log ends in an error; stopped: begun, with no
error and no process that goes on; interim: verdicts that were made while runs were missing; outdated: made for another
specification, by other code, or older than what it shows; waiting: not begun."""
ROUND = re.compile(
    r"(?:.*, seed (?P<seed>\d+): )?.*\bround (?P<round>\d+)/(?P<last>\d+)\b(?:.* (?P<left>\d+:\d\d:\d\d) left)?"
)
"""A line of a log: of which run's round it speaks, and how long that run will take yet."""


@dataclass(frozen=True)
class Job:
    """A job of the study; ``path`` (what it makes) and ``log`` are relative to results/.

    error: the last error in the log of a failed job; note: the last line of its log; needs: the failed job that it
    waits for, if there is one; share: the part of a run that is done, in [0, 1]; seconds: what a finished run took, or
    one at work will have taken.
    """

    kind: str
    path: str
    log: str
    state: str
    error: str = ""
    note: str = ""
    needs: str = ""
    share: float = 0.0
    seconds: float | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Left:
    """What is left: seconds of computing for ``runs`` runs, judged by the rounds of ``basis`` others. ``unknown`` are
    the numbers of those that are in no estimate, with their stages, of which no run has got that far."""

    seconds: float
    runs: int
    basis: int
    unknown: tuple[str, ...]


def planned(path: Path) -> Study:
    """The study in a file; where its data lie does not matter here, so the roots need not be known."""
    where, values = read_study(path)
    roots = {
        root: values.get(root) or os.environ.get(variable) or "."
        for root, variable in (("data_root", "APFL_DATA_ROOT"), ("semantics_root", "APFL_SEMANTICS_ROOT"))
    }
    return load_study({**values, **roots}, [Path(where).parent])


def jobs(study: Study, results: Path) -> list[Job]:
    """Every job of the study in the order of the stages, as its files say."""
    found: dict[str, Job] = {}
    for entry in artefacts(study):
        made = (results / entry.path).is_file()
        found[entry.path] = _job(entry.kind, entry.path, "done" if made else "", results, found, entry.inputs.values())
    for name, ours in jobs_of(runs(study), job_unit(study.one_job_per)).items():
        for run in ours:
            found[run.path] = run_job(run, results, found, name)
    judged = ("claims",) if study.paper else beside(study)[:1]
    for output in (*study.tables, *study.figures, "report", *judged):
        found[output] = _output_job(study, output, results, found)
    order = list(KINDS)
    return sorted(found.values(), key=lambda job: order.index(job.kind))


def _log(kind: str, path: str, results: Path, batch: str = "") -> str:
    """The log of a job, of the one that makes all seeds of a cell, or of a ``batch``, whichever was written last."""
    names = (path, f"{path.rpartition('/')[0]}/seeds", batch or path) if kind in RUNS else (path,)
    logs = [*(log_of(kind, name) for name in names), *([program_log(path)] if kind == "external" else [])]
    there = [log for log in logs if (results / log).is_file()]
    return max(there, key=lambda log: (results / log).stat().st_mtime_ns, default=logs[0])


def left(all_jobs: Sequence[Job]) -> Left:
    """An estimate of the computing time that is left, one run after another: rounds times seconds a round."""
    timed = [(job.run, job.seconds / rounds(job.run)) for job in all_jobs if job.run and job.seconds is not None]
    known: dict[tuple[object, ...], list[float]] = {}
    for run, seconds in timed:
        for key in _likeness(run):
            known.setdefault(key, []).append(seconds)
    waiting = [(job, job.run) for job in all_jobs if job.run and job.state not in ("done", "diverged")]
    total, unknown = 0.0, Counter[str]()
    for job, run in waiting:
        if alike := next((known[key] for key in _likeness(run) if key in known), None):
            total += (1 - job.share) * rounds(run) * mean(alike)
        else:
            unknown[job.kind] += 1
    return Left(total, len(waiting), len(timed), tuple(f"{number} {kind}" for kind, number in unknown.items()))


def _likeness(run: Run) -> list[tuple[object, ...]]:
    """What runs of the same kind as this one share, the most alike first."""
    kind = (run.stage, run.spec.get("module"), run.dataset, run.setting)
    return [kind[:length] for length in range(len(kind), 0, -1)]


def rounds(run: Run) -> int:
    """How many rounds a run trains, or after how many it is carried out."""
    return len(run.spec["rounds"]) if "rounds" in run.spec else int(run.spec["training"]["rounds"])


def run_job(run: Run, results: Path, found: Mapping[str, Job], batch: str = "") -> Job:
    """What the files of a run say of it, and the log of the ``batch`` that it may be made in."""
    record, broken = _record(results / run.path)
    state = ""
    if record:
        asked = is_asked(run, record)
        current = asked and (run.stage == "external" or record.get("code") == code_digest(*run.modules))
        ended = "diverged" if record.get("status") == "diverged" else "done"
        state = ended if current else "outdated"
    job = _job(run.stage, run.path, state, results, found, run.inputs.values(), broken, batch)
    share, expected = 0.0, None
    match = ROUND.match(job.note)
    # The log of a job that makes several runs may speak of another one: of all seeds of a cell it says the seed, and of
    # a batch whoever is at work holds the folder.
    its_own = "/batches/" not in job.log or joblog.held(results / run.path)
    if match and its_own and match["seed"] in (None, str(run.seed)) and job.state in ("running", "stopped"):
        now, last = int(match["round"]), int(match["last"])
        if match["left"] and now < last:
            hours, minutes, rest = map(int, match["left"].split(":"))
            expected = (3600 * hours + 60 * minutes + rest) / (1 - now / last)
        if job.state == "stopped":  # it goes on from its checkpoint, if it has one
            every = run.spec["training"]["checkpoint_every"]
            now = now // every * every if (results / run.path / "checkpoint.safetensors").is_file() else 0
        share = now / last
    seconds = record.get("seconds")
    counted = seconds if isinstance(seconds, float | int) and record.get("status") == "finished" else expected
    return replace(job, share=share, seconds=counted, run=run)


def _record(folder: Path) -> tuple[dict[str, Any], str]:
    """A run's record, empty if there is none; and what is wrong with it."""
    try:
        return (read_record(path) if (path := folder / "run.json").is_file() else {}), ""
    except UserError as error:
        return {}, str(error)


def _output_job(study: Study, output: str, results: Path, found: Mapping[str, Job]) -> Job:
    """A table, a figure, the report or the verdicts: done if nothing that it shows is younger or missing."""
    judging = {"claims", *BESIDE}
    names = {"report": tuple(OUTPUTS), **dict.fromkeys(judging, JUDGED)}.get(output, (output,))
    shown = {run for name in names for cell in cells(study, name) for run in (*cell.runs, *cell.origins)}
    known = {name: name for name in KINDS} | dict.fromkeys(BESIDE, "compare") | dict.fromkeys(study.tables, "table")
    kind = known.get(output, "figure")
    path = KINDS[kind].path.format_map({"study": study.name, kind: output})
    made = (results / path).stat().st_mtime_ns if (results / path).is_file() else None
    state = ""
    if made is not None:
        files = [results / run if run.endswith(".npz") else results / run / "run.json" for run in shown]
        fresh = all(found[run].state in ("done", "diverged") for run in shown)
        fresh = fresh and all(file.stat().st_mtime_ns <= made for file in files if file.is_file())
        unfinished = output in judging and any(found[run].state not in ("done", "diverged") for run in shown)
        state = "done" if fresh else "interim" if unfinished else "outdated"
    return _job(kind, path, state, results, found, shown)


def _job(
    kind: str, path: str, made: str, results: Path, found: Mapping[str, Job], inputs: Iterable[str], broken: str = "",
    batch: str = "",
) -> Job:  # fmt: skip
    """A job whose result is there (``made`` says in which state), or else what its log says of it."""
    log = _log(kind, path, results, batch)
    if made in ("done", "diverged"):
        return Job(kind, path, log, made)
    said = joblog.read(results / log)
    if kind in RUNS and joblog.held(results / path):  # perhaps by somebody without a log
        return Job(kind, path, log, "running", note=said.last if said else "")
    if said is None:
        failed = (found[name].path if found[name].state == "failed" else found[name].needs for name in inputs)
        state = "failed" if broken else made or "waiting"
        return Job(kind, path, log, state, error=broken, needs=next(filter(None, failed), ""))
    if said.alive:
        return Job(kind, path, log, "running", note=said.last)
    if said.error or broken:
        return Job(kind, path, log, "failed", error=said.error or broken, note=said.last)
    return Job(kind, path, log, made or "stopped", note=said.last)
