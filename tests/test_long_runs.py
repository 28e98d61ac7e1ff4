"""Many runs after each other leave open files, memory, temporary files and logs as they were; a failure stops no
other."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from apfl.data.dataset import save_dataset
from apfl.data.decode import make_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.data.sources import digits
from apfl.jobs.paths import RUNS
from apfl.registry.trees import ROOT
from apfl.semantics.packaged import packaged
from apfl.semantics.table import save_semantics
from apfl.stages.federate import federate
from apfl.stages.memorize import memorize_run
from apfl.stages.personalize import personalize_run
from apfl.stages.problem import Inputs
from apfl.stages.specification import Specification
from apfl.storage.run_folder import KEPT
from tests.helpers.project import BIN, Project
from tests.helpers.studies import tiny

pytestmark = pytest.mark.slow

SETTING = "dirichlet-alpha0.5-clients3"
TRAINING = {
    "rounds": 2, "local_epochs": 1, "checkpoint_every": 1, "evaluate_rounds": [2], "save_rounds": [2],
    "precision": "fp32",
}  # fmt: skip
SPEC = Specification("digits", SETTING, 0, TRAINING)
FEDERATE = replace(SPEC, method="fedavg", module="fedavg")
CLOCK = replace(FEDERATE, schedule={"latency": "exponential", "heterogeneity": 0.5})
MEMORY = {"samples_per_class": 2, "epochs": 1, "width": 4, "noise_dimension": 5}
MEMORIZE = replace(SPEC, base="fedavg", semantics="minilm", rounds=(2,), parameters=MEMORY)
PERSONALIZE = replace(SPEC, method="apfl", module="apfl", rounds=(2,), parameters={"samples_per_class": 2})
CYCLES, WARM = 56, 14
"""Cycles of four runs, and those after which nothing may grow any more."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Ninety digits for three clients."""
    folder = tmp_path_factory.mktemp("inputs")
    dataset = make_dataset("digits", digits("digits"), max_samples=90)
    save_dataset(folder / "data.npz", dataset)
    save_partition(folder / "partition.npz", make_partition(dataset, SETTING, 0))
    save_semantics(folder / "minilm.npz", packaged(dataset.class_names))
    return Inputs(folder / "data.npz", folder / "partition.npz")


def cycle(inputs: Inputs, folder: Path) -> None:
    """A federated run, one on the asynchronous server, a generator and a personalization."""
    after = replace(inputs, run=folder / "federate")
    federate(FEDERATE, inputs, folder / "federate", "cpu")
    federate(CLOCK, inputs, folder / "clock", "cpu")
    memorize_run(MEMORIZE, replace(after, semantics=inputs.data.with_name("minilm.npz")), folder / "memorize", "cpu")
    personalize_run(PERSONALIZE, replace(after, generator=folder / "memorize"), folder / "personalize", "cpu")


class Mallinfo2(ctypes.Structure):
    """What glibc's mallinfo2(3) returns, in bytes."""

    NAMES = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in NAMES]


def held() -> tuple[float, int]:
    """Megabytes allocated and not freed, tensors among them, and Python's small blocks; without what only waits for
    the garbage collector. (Resident memory says less: the allocator gives freed memory back when it likes.)"""
    gc.collect()
    info = ctypes.CDLL(None).mallinfo2
    info.restype = Mallinfo2
    return (info().uordblks + info().hblkhd) / 2**20, sys.getallocatedblocks()


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc 2.33 for the memory it gave")
def test_two_hundred_runs_in_one_process_leave_files_memory_and_threads_as_they_were(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    seen = []
    for number in range(CYCLES):
        cycle(inputs, tmp_path / "out")
        left = names_below(tmp_path / "out") - {f"federate/{KEPT}/checkpoint.safetensors"}
        assert not [name for name in left if name.endswith((".part", "checkpoint.safetensors")) or ".tmp" in name]
        shutil.rmtree(tmp_path / "out")
        if number >= WARM:
            seen.append((len(os.listdir("/proc/self/fd")), threading.active_count(), *held()))
    assert not names_below(tmp_path / "tmp"), "temporary files"
    files, threads, megabytes, blocks = zip(*seen, strict=True)
    assert len(set(files)) == 1, "open files"
    assert len(set(threads)) == 1, "threads"
    half = len(seen) // 2
    grown, more = (statistics.median(each[half:]) - statistics.median(each[:half]) for each in (megabytes, blocks))
    with capsys.disabled():
        held_now = f"{megabytes[-1]:.0f} MB, {grown:+.3f} MB and {more:+.0f} blocks in the second half"
        print(f"\n{4 * CYCLES} runs: {files[-1]} open files, {held_now}")
    assert grown < 0.5, "a leak of 6 kB a run would show here"
    assert more < 20_000, "a leak of 240 objects a run would show here"  # safetensors keeps one a tensor that it reads


def test_runs_of_the_command_line_leave_nothing_behind_and_logs_of_one_run(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "apfl",
        "federate",
        "--spec",
        json.dumps(FEDERATE.json()),
        "--data",
        str(inputs.data),
    ]
    command += ["--partition", str(inputs.partition), "--out", str(tmp_path / "out"), "--device", "cpu"]
    before: list[tuple[set[str], int]] = []
    for _ in range(6):
        with (tmp_path / "run.log").open("w") as log:  # as the rules do
            subprocess.run(command, stdout=log, stderr=log, env=environment, cwd=ROOT, check=True, timeout=300)
        before.append((names_below(tmp_path), len((tmp_path / "run.log").read_text().splitlines())))
        shutil.rmtree(tmp_path / "out")
    names, lines = before[0]
    assert all(later == names for later, _ in before), "files that a run leaves behind"
    assert all(count == lines for _, count in before), "a log holds one run"
    assert not names_below(tmp_path / "tmp")
    assert lines < 10, "a line a round, and not one a step"


FAILING = '''
"""A method whose training fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.fedavg import FedAvg


@dataclass(frozen=True)
class Broken(FedAvg):
    """Fails in its first round."""

    title: ClassVar[str] = "Broken"

    def client_work(self, state, problem, round, clients):
        raise RuntimeError("this method is broken")


METHOD = Broken
'''


def test_a_failing_method_stops_no_other_and_status_tells_how_it_stands(tmp_path: Path) -> None:
    given = tiny(
        methods={"local": {}, "broken": {}, "fedavg": {}, "fedavg-ft": {}, "apfl": {}, "ft": {"module": "fedavg_ft"}},
        training__rounds=3,
    )
    given["methods"]["ft"] |= {"base": "broken", "title": "FT of the broken one"}
    project = Project(tmp_path, given)
    (tmp_path / "baselines/broken.py").write_text(FAILING)
    study = tmp_path / "config/demo.yaml"
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = ["snakemake", "--cores", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    during = []
    while process.poll() is None:
        during.append(status(project, study))
        time.sleep(0.2)
    said = process.communicate()[0].decode()
    assert process.returncode == 1, said

    after = status(project, study)
    state = {job["path"].partition("clients3/")[2]: job for job in after["jobs"] if job["kind"] in RUNS}
    assert {name for name, job in state.items() if job["state"] == "done"} == {
        name for name in state if not name.startswith(("broken", "ft"))
    }, said
    broken = state["broken/seed0"]
    assert (broken["state"], broken["error"]) == ("failed", "RuntimeError: this method is broken")
    assert "RuntimeError: this method is broken" in (tmp_path / "results" / broken["log"]).read_text()
    assert state["ft/seed0"]["state"] == "waiting" and state["ft/seed0"]["needs"] == broken["path"]
    assert after["left"]["runs"] == 2 and after["left"]["basis"] == len(state) - 2

    for job in (job for moment in during for job in moment["jobs"]):
        assert job["state"] != "stopped", f"seen while the workflow ran: {job}"
        assert job["state"] != "failed" or job["path"] == broken["path"], job
    running = {job["kind"] for moment in during for job in moment["jobs"] if job["state"] == "running"}
    assert {"federate", "memorize"} <= running, "the longest jobs were seen at work"

    # Mended, the study goes on from there; every log is that of one attempt.
    (tmp_path / "baselines/broken.py").write_text(FAILING.partition("    def client_work")[0] + "\n\nMETHOD = Broken\n")
    logs = [tmp_path / "results" / job["log"] for job in state.values() if job["state"] == "done"]
    sizes = [log.stat().st_size for log in logs]
    project.succeed("snakemake", "--cores", "2")
    counts = status(project, study)["counts"]
    assert counts["done"] == sum(counts.values()) == len(after["jobs"])
    assert [log.stat().st_size for log in logs] == sizes
    assert "RuntimeError" not in (tmp_path / "results" / broken["log"]).read_text()


def status(project: Project, study: Path) -> dict:
    done = project.succeed(sys.executable, "-m", "apfl", "status", str(study), "--json")
    return json.loads(done.stdout)
