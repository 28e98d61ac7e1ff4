"""A job for all seeds of a cell: the same files as a job for each, fewer starts, and nothing trained twice."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from apfl.storage.run_folder import KEPT
from tests.helpers.project import RUNS, TABLE, Project
from tests.helpers.studies import tiny

pytestmark = pytest.mark.slow

STUDY = tiny(seeds=[0, 1], one_job_per="cell")
FEDAVG = RUNS / "fedavg"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("cells"), STUDY)
    made.succeed("snakemake")
    return made


def files(project: Project) -> dict[str, bytes]:
    """What the runs of the study decided."""
    names = ("metrics.parquet", "state.safetensors", "generator.safetensors")
    found = (path for path in (project.root / "results/tiny").rglob("*") if path.name in names)
    return {str(path.relative_to(project.root)): path.read_bytes() for path in found if path.parent.name != KEPT}


def test_a_job_for_a_cell_makes_what_jobs_for_each_seed_make(project: Project, tmp_path: Path) -> None:
    fresh = Project(tmp_path, STUDY)
    runs = {"federate": 2, "memorize": 1, "personalize": 2}
    assert {name: number for name, number in fresh.plan().items() if name in runs} == runs
    fresh.configure(STUDY | {"one_job_per": "seed"})
    assert {name: number for name, number in fresh.plan().items() if name in runs} == {
        name: 2 * number for name, number in runs.items()
    }
    fresh.succeed("snakemake", "tables")
    assert files(fresh) == files(project) and len(files(project)) == 2 * (2 * 2 + 1 + 2)
    assert (fresh.root / TABLE).read_bytes() == (project.root / TABLE).read_bytes()
    assert project.plan() == {}


def test_the_seeds_in_another_order_train_nothing(project: Project) -> None:
    assert {"federate", "memorize", "personalize"}.isdisjoint(project.plan("--config", "seeds=[1,0]"))


def test_the_state_of_a_study_with_such_jobs_is_known(project: Project) -> None:
    done = project.run(sys.executable, "-m", "apfl", "status", "config/demo.yaml")
    assert "study tiny: 17 of 17 jobs finished" in done.stdout, done.stdout + done.stderr


def test_snakemake_s_report_has_the_pictures_of_every_seed(project: Project) -> None:
    project.succeed("snakemake", "--report", "report.html")
    text = (project.root / "report.html").read_text()
    assert all(f"seed{seed}/samples.png" in text for seed in (0, 1))
    assert "Synthetic images" in text, "the category in which the report shows them"


def test_a_seed_that_was_finished_is_not_trained_again_after_the_job_failed(project: Project) -> None:
    partition = project.root / "results/tiny/partitions/digits/dirichlet-alpha0.1-clients3/seed1.npz"
    log = project.root / "results/tiny/logs/runs/digits/dirichlet-alpha0.1-clients3/fedavg/seeds.log"
    whole = partition.read_bytes()
    shutil.rmtree(project.root / FEDAVG)
    partition.write_bytes(b"torn")  # which the run of seed 1 finds, after that of seed 0
    try:
        failed = project.run("snakemake", "--rerun-triggers", "input", "--", f"{FEDAVG}/seed0/metrics.parquet")
        assert failed.returncode == 1 and "seed1.npz: cannot be read" in log.read_text()
        assert not (project.root / FEDAVG / "seed0/run.json").exists(), "Snakemake removes what a failed job made"
    finally:
        partition.write_bytes(whole)
    project.succeed("snakemake", "--rerun-triggers", "input", "--", f"{FEDAVG}/seed0/metrics.parquet")
    said = log.read_text()
    assert "seed0: finished already" in said and "seed 1: round 1/1" in said and "seed 0: round 1/1" not in said


def test_of_a_cell_to_which_a_seed_is_added_that_seed_alone_is_trained(project: Project) -> None:
    log = project.root / "results/tiny/logs/runs/digits/dirichlet-alpha0.1-clients3/fedavg/seeds.log"
    before = (project.root / FEDAVG / "seed0/run.json").read_bytes()
    project.configure(STUDY | {"seeds": [0, 1, 2]})
    project.succeed("snakemake", "--", f"{FEDAVG}/seed2/metrics.parquet")
    said = log.read_text()
    assert "seed0: finished already" in said and "seed1: finished already" in said and "seed 2: round 1/1" in said
    assert "seed 0: round" not in said and (project.root / FEDAVG / "seed0/run.json").read_bytes() == before


BATCH = Path("results/tiny/logs/batches/federate/digits/dirichlet-alpha0.1-clients3/1.log")


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same study with a job for up to eight cells of a setting, as far as the tables."""
    made = Project(tmp_path_factory.mktemp("batches"), STUDY | {"one_job_per": "8 cells"})
    made.succeed("snakemake", "tables")
    return made


def test_a_job_for_several_cells_makes_what_jobs_for_each_make(batches: Project, project: Project) -> None:
    others = {name: content for name, content in files(project).items() if "/seed2/" not in name}
    assert files(batches) == others  # a test above adds seed 2
    assert (batches.root / TABLE).read_bytes() == (project.root / TABLE).read_bytes()
    assert batches.plan("tables") == {}
    for stage in ("federate", "memorize", "personalize"):
        assert (batches.root / str(BATCH).replace("federate", stage)).is_file()
    logs = (batches.root / "results/tiny/logs").rglob("*.log")
    assert sum("/batches/" in str(log) for log in logs) == 3, "a job for each stage"


def test_what_is_asked_of_a_stage_holds_for_each_of_its_batches(batches: Project) -> None:
    given = ("--forceall", "--set-resources", "federate:mem_mb=4321", "--quiet", "progress")
    said = batches.succeed("snakemake", "--dry-run", *given, "--", f"{FEDAVG}/seed0/metrics.parquet")
    assert "rule federate_1:" in said.stdout and "mem_mb=4321" in said.stdout


def test_editing_a_method_trains_that_one_alone_in_its_batch(batches: Project) -> None:
    fedavg, local = (batches.root / RUNS / method / "seed0/run.json" for method in ("fedavg", "local"))
    before, other = fedavg.read_bytes(), local.read_bytes()
    with batches.edited("baselines/local.py", "@dataclass", "ANSWER = 42\n\n\n@dataclass"):
        assert batches.plan("tables")["federate_1"] == 1
        batches.succeed("snakemake", "tables")
        said = (batches.root / BATCH).read_text()
        assert "Local, seed 0: round 1/1" in said and "FedAvg, seed 0: round" not in said
        assert fedavg.read_bytes() == before and local.read_bytes() != other
        assert batches.plan("tables") == {}


def test_finished_runs_of_a_batch_outlive_one_that_fails(batches: Project) -> None:
    partition = batches.root / "results/tiny/partitions/digits/dirichlet-alpha0.1-clients3/seed0.npz"
    whole = partition.read_bytes()
    shutil.rmtree(batches.root / RUNS)
    partition.write_bytes(b"torn")  # which the runs of seed 0 find, before those of seed 1
    given = ("--rerun-triggers", "input", "--", f"{FEDAVG}/seed0/metrics.parquet")
    try:
        failed = batches.run("snakemake", *given)
        said = (batches.root / BATCH).read_text()
        assert failed.returncode == 1 and "seed0.npz: cannot be read" in said
        assert "Local, seed 1: round 1/1" in said and "FedAvg, seed 1: round 1/1" in said, "the others are trained"
        assert not (batches.root / FEDAVG / "seed1/run.json").exists(), "Snakemake removes what a failed job made"
    finally:
        partition.write_bytes(whole)
    batches.succeed("snakemake", *given)
    said = (batches.root / BATCH).read_text()
    assert said.count("seed1: finished already") == 2 and "seed 1: round" not in said
    assert "Local, seed 0: round 1/1" in said and "FedAvg, seed 0: round 1/1" in said
