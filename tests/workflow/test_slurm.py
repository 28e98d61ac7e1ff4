"""A study on a real Slurm: jobs are killed, the command is given again, and the results are those of a local run."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from apfl.storage.run_folder import KEPT
from tests.helpers.killing import artefacts, differing
from tests.helpers.project import BIN, RUNS, TABLE, Project
from tests.helpers.slurm_cluster import Cluster, cluster, missing, wait_for
from tests.helpers.studies import tiny

pytestmark = pytest.mark.slow

# Long enough for the two trainings to be found at work, with a checkpoint, and killed.
STUDY = tiny(training__rounds=30, training__checkpoint_every=2)
COMMAND = ("snakemake", "--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "3")
BEFORE = Counter(data=1, semantics=1, partition=1, federate=2)
PATIENCE = 1500
"""Seconds: a busy machine takes a multiple of its usual time, as Slurm is asked less often the longer a job takes."""
TRAINING, REST = (1, 8000, 1440), (1, 4000, 60)
"""Processors, MB and minutes."""
ASKED = {
    "semantics": (1, 8000, 60, 0),
    **dict.fromkeys(("memorize", "personalize"), (*TRAINING, 0)),
    "federate": (*TRAINING, 1),
}


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    if os.geteuid():
        pytest.skip("needs a Slurm of its own, which root alone can start")
    if lacking := missing():
        asked = os.environ.get("CI") == "true" and not os.environ.get("APFL_WITHOUT_SLURM")
        why = os.environ.get("APFL_WITHOUT_SLURM") or "apt-get install slurmctld slurmd slurm-client munge"
        (pytest.fail if asked else pytest.skip)(f"needs Slurm (there is no {', '.join(lacking)}): {why}")
    with cluster(processors=4) as here:
        yield here


def edit_profile(project: Project) -> None:
    """GPUs for the trainings, as docs/cluster.md says it, and none for others, one of which the profile leaves out."""
    path = project.root / "profiles/slurm/config.yaml"
    text = path.read_text()
    for old, new in (("federate: {gpu: 0}", "federate: {gpu: 1}"), ("  personalize: {gpu: 0}\n", "")):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@contextmanager
def started(project: Project, path: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A command in the background, which ends with the block."""
    environ = os.environ | {"PATH": path, "APFL_DATA_ROOT": "", "APFL_SEMANTICS_ROOT": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=project.root, env=environ, text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def rules(here: Cluster) -> Counter[str]:
    return Counter(job.rule for job in here.jobs())


def training(project: Project, method: str) -> int | None:
    """The process of a method's training, if there is one with a checkpoint."""
    folder = RUNS / method / "seed0"
    assert not (project.root / folder / "run.json").exists(), f"{method} ended before it was killed"
    if not (project.root / folder / "checkpoint.safetensors").exists():
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().split("\0")
            if "federate" in command and str(folder) in command and (process / "cwd").resolve() == project.root:
                return int(process.name)
        except OSError:  # it has ended in the meantime
            continue
    return None


def environment(process: int) -> dict[str, str]:
    entries = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def kill_the_trainings(here: Cluster, project: Project) -> None:
    """FedAvg's job is cancelled by Slurm, Local's is killed behind Slurm's back."""
    process = wait_for("a checkpoint of fedavg", lambda: training(project, "fedavg"), PATIENCE)
    assert environment(process)["CUDA_VISIBLE_DEVICES"] in {"0", "1"}
    (number,) = (job.number for job in here.jobs() if job.rule == "federate" and "fedavg" in job.wildcards)
    here.ask("scancel", number)
    os.kill(wait_for("a checkpoint of local", lambda: training(project, "local"), PATIENCE), signal.SIGKILL)


def results(project: Project) -> dict[str, object]:
    """What a study leaves, but for what tells of the execution: logs, times, and the page that shows them."""
    told = ("logs/", "tiny/logs/", "benchmarks/", "tiny/benchmarks/", "tiny/report.html")
    return {name: made for name, made in artefacts(project.root / "results").items() if not name.startswith(told)}


def test_killed_jobs_go_on_at_the_next_start_and_end_as_they_do_locally(slurm: Cluster, tmp_path: Path) -> None:
    for name in ("local", "remote"):
        (tmp_path / name).mkdir()
    local, remote = Project(tmp_path / "local", STUDY), Project(tmp_path / "remote", STUDY)
    edit_profile(remote)
    planned = Counter(local.plan()) - Counter(study=1)  # which is done where Snakemake is
    path = f"{slurm.clients}:{BIN}:{os.environ['PATH']}"

    with started(remote, path, *COMMAND) as first:
        kill_the_trainings(slurm, remote)
        # The local run is done while the other waits for Slurm.
        with started(local, path, "snakemake") as second:
            said, done_locally = (process.communicate(timeout=PATIENCE)[0] for process in (first, second))
    assert first.returncode == 1, said
    assert second.returncode == 0, done_locally
    assert "SLURM status is: 'CANCELLED'" in said and "SLURM status is: 'FAILED'" in said
    assert rules(slurm) == BEFORE
    assert not (remote.root / TABLE).exists(), "a table without its runs"
    for method in ("local", "fedavg"):
        assert not (remote.root / RUNS / method / "seed0/run.json").exists(), f"{method} was killed"

    with started(remote, path, *COMMAND) as again:
        said = again.communicate(timeout=PATIENCE)[0]
    assert again.returncode == 0, said
    assert rules(slurm) == planned + Counter(federate=2), "what had finished was run again"
    for job in slurm.jobs():
        assert (job.processors, job.memory, job.minutes, job.gpus) == ASKED.get(job.rule, (*REST, 0)), job
    for method in ("local", "fedavg"):
        log = (remote.root / "results/tiny/logs" / RUNS.relative_to("results/tiny") / method / "seed0.log").read_text()
        assert "round 30/30" in log and "round 1/30" not in log, f"{method} began again"

    ours, theirs = results(remote), results(local)
    assert len([name for name in ours if name.endswith("run.json") and KEPT not in name]) == 5
    assert differing(ours, theirs) == []
