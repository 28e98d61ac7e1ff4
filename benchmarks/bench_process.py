"""Programs and the workflow.

Start-up is the time of a whole process, from its start to its end, measured in turn with a process that only does
`import torch`. The demo is read from what Snakemake left in this folder when `make demo` last made all of it: the
wall-clock time in its log, and the seconds that each job took. The rest of the cores' time is Snakemake's work between
jobs, and cores that wait for a job, mostly at the end. Planning is `snakemake --dry-run` on a study that has already
been tried out (by `apfl check`, once per study). The study of ten thousand jobs is the paper's with more seeds. Nearly
all planning time is spent in Snakemake: on the graph of jobs, and on a line for each job, which it makes even when it
does not print it.
"""

from __future__ import annotations

import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.demo_times import NoDemo, demo_times
from benchmarks.measuring import in_turn, ratio

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {
    "`python -m apfl --help`": ["-m", "apfl", "--help"],
    "`python -m apfl methods`": ["-m", "apfl", "methods"],
    "a training job without training (the imports of `apfl federate`)": ["-c", "import apfl.stages.federate"],
}


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of a Python process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


@pytest.mark.parametrize("program", PROGRAMS)
def bench_start(benchmark, record, quick, program: str) -> None:
    """Start-up of the command line."""
    ours, torch = in_turn(
        benchmark, 2 if quick else 3, lambda: seconds(PROGRAMS[program]), lambda: seconds(["-c", "import torch"])
    )
    record(
        program, statistics.median(ours), "s",
        ratio=ratio(ours, torch), against=f"`import torch`, {statistics.median(torch):.2f} s",
    )  # fmt: skip


def planning(folder: Path, seeds: int) -> tuple[float, int]:
    """Seconds of processor time that Snakemake takes to plan the paper's study with so many seeds, and its jobs."""
    given = ["data_root=.", "semantics_root=.", "one_job_per=seed", f"seeds={[*range(seeds)]}"]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--dry-run",
        "--quiet",
        "rules",
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, f"--configfile={ROOT / 'config/paper.yaml'}", "--config", *given],
        cwd=folder, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = re.search(r"^total +(\d+)", done.stdout + done.stderr, re.MULTILINE)
    assert found, "Snakemake no longer says how many jobs there are"
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(found[1])


@pytest.mark.parametrize(("seeds", "asked"), [(3, "<= 10"), (10, "<= 60")])
def bench_planning(benchmark, record, quick, tmp_path, seeds: int, asked: str) -> None:
    """Planning of large studies."""
    if quick and seeds > 3:
        pytest.skip("only a trial")
    planning(tmp_path, seeds)  # which tries the study out
    seconds, jobs = benchmark.pedantic(lambda: planning(tmp_path, seeds), rounds=1)
    record(f"`snakemake --dry-run`, {jobs:,} jobs, processor time", seconds, "s", asked=asked)


def bench_demo(benchmark, record) -> None:
    """The demo: its time, and the scheduler's part of it."""
    try:
        demo = benchmark.pedantic(lambda: demo_times(ROOT), rounds=1)
    except NoDemo as error:
        pytest.skip(str(error))
    # What is asked holds for two cores: more of them meet it more easily.
    asked = "<= 4" if demo.cores <= 2 else None
    record(f"the demo, {demo.jobs} jobs on {demo.cores} cores", demo.wall / 60, "min", asked=asked)
    record("its jobs' own time, of all cores", 100 * demo.busy, "%")
    record("scheduler, and cores without a job, of all cores", 100 * demo.overhead, "%", asked="<= 10")
