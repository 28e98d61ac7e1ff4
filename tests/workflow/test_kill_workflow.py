"""The workflow on a tiny study, killed as a whole, without its jobs, or job by job: the same command ends in the same
files."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from apfl.registry.trees import ROOT
from tests.helpers.killing import SIGNALS, artefacts, differing
from tests.helpers.studies import tiny

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
PARTS = ("Snakefile", "environment.yml", "apfl", "baselines", "workflow", "profiles")
STUDY = tiny(methods={"fedavg": {}, "fedavg-ft": {}, "apfl": {}}, training__rounds=3, training__checkpoint_every=1)
OF_A_RUN = r"(^|/)(logs|benchmarks)/|report\.html$"
"""Files that tell how long something took, and so are other ones in every run."""
VICTIMS = ("all", "snakemake", "job")
KILLS = 20
PATIENCE = 900
"""Seconds that a step may take on a busy machine; on a quiet one none takes a tenth."""


class Workflow:
    """A copy of the project with the tiny study, and the processes that were started in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.sessions = root, set[int]()
        for name in PARTS:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, root / name)
        (root / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        command = ["snakemake", "--configfile", "study.yaml", "--cores", "2", *arguments]
        with (self.root / "said").open("wb") as said:
            process = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        self.sessions.add(process.pid)
        return process

    def said(self) -> str:
        return (self.root / "said").read_text()

    def run(self, *arguments: str) -> tuple[int, str]:
        status = self.start(*arguments).wait(timeout=PATIENCE)
        return status, self.said()

    def processes(self, pattern: str = "") -> list[int]:
        """Those that were started from here and live, with a command line that has ``pattern``."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                state, *_, session = path.joinpath("stat").read_text().rpartition(") ")[2].split()[:4]
                if int(session) in self.sessions and state != "Z" and pattern in path.joinpath("cmdline").read_text():
                    found.append(int(path.name))
            except OSError:  # it has just ended
                continue
        return found

    def kill(self, process: subprocess.Popen[bytes], victim: str, number: int) -> None:
        jobs = self.processes("-m\0apfl") if victim == "job" else []
        if jobs:
            os.kill(min(jobs), number)
        elif victim == "snakemake":
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """The status that ``process`` ends with after a signal.

        Snakemake's handler of SIGTERM takes a lock that the interrupted thread may hold: once in some hundred kills it
        then waits for itself. A person kills it for good, and so does this; a job of ours that hangs fails the test.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                return process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                if not self.processes("-m\0apfl"):
                    process.kill()
        raise AssertionError(f"a job without end\n{self.said()}")

    def settle(self) -> None:
        """Wait for the jobs that a killed Snakemake has left behind."""
        for _ in range(2 * PATIENCE):
            if not self.processes():
                return
            time.sleep(0.5)
        raise AssertionError("jobs without end")

    def clear(self) -> None:
        shutil.rmtree(self.root / "results", ignore_errors=True)

    def results(self) -> dict[str, object]:
        found = artefacts(self.root / "results")
        return {name: value for name, value in found.items() if not re.search(OF_A_RUN, name)}


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workflow]:
    made = Workflow(tmp_path_factory.mktemp("workflow"))
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def whole(workflow: Workflow) -> tuple[dict[str, object], float]:
    """What the study makes without a break, and how many seconds that takes."""
    start = time.monotonic()
    status, said = workflow.run()
    assert status == 0, said
    return workflow.results(), time.monotonic() - start


def combinations() -> Iterator[tuple[str, int]]:
    """Whom to kill with what, from the whole workflow with SIGKILL to one job with SIGTERM."""
    return itertools.cycle(itertools.product(VICTIMS, SIGNALS))


def test_a_workflow_killed_at_twenty_moments_ends_in_the_same_files(
    workflow: Workflow, whole: tuple[dict[str, object], float]
) -> None:
    expected, seconds = whole
    stream, kills, attempts, who = random.Random("workflow"), 0, 0, combinations()
    workflow.clear()
    while kills < KILLS:
        attempts += 1
        assert attempts < 5 * KILLS, "most runs are over before they are killed"
        fresh, start, process = not (workflow.root / "results").exists(), time.monotonic(), workflow.start()
        try:
            process.wait(timeout=stream.random() * seconds)
        except subprocess.TimeoutExpired:
            victim, number = next(who)
            workflow.kill(process, victim, number)
            kills += 1
        status = workflow.end(process)
        assert "Traceback" not in workflow.said() and "LockException" not in workflow.said()
        if status == 0:
            seconds = time.monotonic() - start if fresh else seconds  # the machine may be quicker now
            workflow.settle()
            assert not differing(workflow.results(), expected)
            workflow.clear()
    status, said = workflow.run()
    assert status == 0, said
    workflow.settle()
    status, said = workflow.run()  # what a late job has written again counts as new
    assert status == 0, said
    assert not differing(workflow.results(), expected)
    assert "Nothing to be done" in workflow.run()[1]


def test_a_second_workflow_in_the_same_folder_is_refused_and_hurts_nobody(
    workflow: Workflow, whole: tuple[dict[str, object], float]
) -> None:
    workflow.clear()
    first = workflow.start()
    for _ in range(2 * PATIENCE):
        if list(workflow.root.glob(".snakemake/locks/*.lock")) or first.poll() is not None:
            break
        time.sleep(0.5)
    status, said = workflow.run()
    assert status == 1 and "Directory cannot be locked" in said and "Traceback" not in said, said
    assert first.wait(timeout=PATIENCE) == 0
    assert not differing(workflow.results(), whole[0])


def test_a_clock_set_back_throws_nothing_away(workflow: Workflow, whole: tuple[dict[str, object], float]) -> None:
    status, said = workflow.run()
    assert status == 0, said
    tomorrow = time.time() + 86400
    data, *_, state = sorted(workflow.root.glob("results/**/*.npz")) + sorted(workflow.root.glob("results/**/state.*"))
    for path in (data, state):
        os.utime(path, (tomorrow, tomorrow))
    for path in workflow.root.glob("results/**/fedavg-ft*/seed0/metrics.parquet"):
        path.unlink()
    status, said = workflow.run()
    assert status == 0, said
    assert not differing(workflow.results(), whole[0])
    assert "Nothing to be done" in workflow.run()[1]
