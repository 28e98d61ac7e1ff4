"""The workflow as a user meets it: commands in a copy of the project, on a study of seconds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from apfl.registry.trees import ROOT
from tests.helpers.project import BIN, RUNS, STUDY, TABLE, Project
from tests.helpers.studies import tiny


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Nothing has run yet, and nothing will."""
    return Project(tmp_path_factory.mktemp("fresh"), STUDY)


@pytest.fixture(scope="module")
def finished(finished_copy, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study, finished by plain `snakemake`."""
    project, said = finished_copy(tmp_path_factory.mktemp("finished"))
    assert "began federate digits, dirichlet-alpha0.1-clients3, fedavg, seed 0" in said
    assert said.index("[14 of 14 jobs") < said.index("\nthe page: results/tiny/report.html\n")
    return project


PAPER = {"table": 1, "figure": 1, "page": 1, "claims": 1}
"""The jobs that make the tiny study's table, figure, report and verdicts."""


def test_nothing_is_planned_twice(fresh: Project) -> None:
    runs = {"federate": 2, "memorize": 1, "personalize": 2}
    assert fresh.plan() == {"data": 1, "semantics": 1, "partition": 1, "study": 1} | runs | PAPER


def test_the_targets_make_their_part(fresh: Project) -> None:
    before = {"data": 1, "semantics": 1, "partition": 1, "study": 1, "federate": 2, "memorize": 1, "personalize": 2}
    assert fresh.plan("tables") == before | {"table": 1, "tables": 1}
    assert fresh.plan("figures") == before | {"figure": 1, "figures": 1}
    assert fresh.plan("report") == before | {"page": 1, "report": 1}
    assert fresh.plan("verdict") == before | {"claims": 1, "verdict": 1}
    assert fresh.plan("partial") == {"study": 1, "partial": 1}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seeds": []}, "seeds: [] should be non-empty"),
        ({"methods__fedfoo": {}}, "method 'fedfoo': there is no baselines/fedfoo.py"),
        ({"tables__table2__datasets": ["mnist"]}, "table2 'mnist': unknown data set"),
        ({"apfl__semantics": "glove"}, "apfl.semantics 'glove': unknown semantics"),
        ({"apfl__readings": ["mine"]}, "apfl.readings 'mine': unknown reading"),
    ],
)
def test_a_mistake_in_the_study_ends_in_one_line_before_any_job(
    fresh: Project, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(tiny(**changes)))
    done = fresh.run("snakemake", "--configfile", str(path))
    assert done.returncode == 2
    said = [text for text in done.stderr.splitlines() if "specific profile" not in text]
    assert len(said) == 1 and said[0].startswith("apfl: error: ") and line in said[0]
    checked = fresh.run(sys.executable, "-m", "apfl", "check", str(path))
    assert checked.returncode == 2 and line in checked.stderr and len(checked.stderr.splitlines()) == 1
    assert not (fresh.root / "results").exists()


def test_a_study_that_is_named_takes_the_place_of_the_demo_and_is_not_merged_into_it(
    fresh: Project, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**tiny(name="other", methods={"local": {}}), "apfl": {}}))
    plan = fresh.plan("--configfile", str(path), "--config", "data_root=nowhere")
    assert plan == {"data": 1, "partition": 1, "study": 1, "federate": 1, "table": 1, "page": 1, "compare": 1}


def test_a_broken_method_file_ends_in_one_line(fresh: Project) -> None:
    with fresh.edited("baselines/local.py", "@dataclass", "def broken(:\n@dataclass"):
        done = fresh.run("snakemake", "--dry-run")
    assert done.returncode == 2 and "apfl: error: baselines/local.py: line" in done.stderr


def test_the_workflow_is_lint_clean_and_formatted(fresh: Project) -> None:
    fresh.succeed("snakemake", "--lint")
    fresh.succeed("snakefmt", "--check", "Snakefile", "workflow")


def test_plain_snakemake_makes_every_table_and_figure_and_then_has_nothing_to_do(finished: Project) -> None:
    folder = finished.root / "results/tiny"
    assert {path.name for path in (folder / "tables").iterdir()} == {
        f"table2.{kind}" for kind in ("csv", "md", "tex", "html")
    }
    assert {"figure4.svg", "figure4.pdf", "figure4.png", "figure4_own.svg"} <= {
        path.name for path in (folder / "figures").iterdir()
    }
    assert (folder / "report.html").stat().st_size > 1000
    assert finished.plan() == {}
    assert "Nothing to be done" in finished.run("snakemake").stderr


def test_a_run_s_record_holds_the_specification_and_the_code_that_it_was_planned_with(finished: Project) -> None:
    done = finished.run(sys.executable, "-m", "apfl", "plan", "config/demo.yaml", "--json")
    for run in json.loads(done.stdout):
        record = json.loads((finished.root / "results" / run["path"] / "run.json").read_text())
        assert record["specification"] == run["spec"], run["path"]
        assert re.fullmatch("[0-9a-f]{12}", record["code"])


def test_a_new_method_is_a_file_and_a_name_and_plans_its_own_runs_and_what_hangs_on_them(finished: Project) -> None:
    text = (finished.root / "baselines/fedavg.py").read_text().replace('"FedAvg"', '"Mine"')
    (finished.root / "baselines/mine.py").write_text(text)
    finished.configure({**STUDY, "methods": {**STUDY["methods"], "mine": {}}})
    try:
        assert finished.plan() == {"federate": 1, "study": 1} | PAPER
    finally:
        finished.configure(STUDY)
        (finished.root / "baselines/mine.py").unlink()
    assert finished.plan() == {}


def test_editing_one_method_runs_that_method_again_and_editing_its_words_runs_nothing(finished: Project) -> None:
    with finished.edited("baselines/fedavg_ft.py", '"localized": localize', '"localized": {} | localize'):
        assert finished.plan() == {"personalize": 1} | PAPER
    with finished.edited("baselines/local.py", "Local training: each client", "# No code.\nEach client, by itself,"):
        assert finished.plan() == {}
    with finished.edited("baselines/local.py", '"Local"', '"Local training"'):
        assert finished.plan() == PAPER
    with finished.edited("apfl/stages/samples.py", "dpi=110", "dpi=220"):
        assert finished.plan() == {}
    with finished.edited("apfl/engine/training.py", "import math", "import math\n\nANSWER = 42"):
        assert finished.plan() == {"federate": 2, "memorize": 1, "personalize": 2} | PAPER


def test_the_order_of_keys_and_the_place_of_the_data_plan_nothing(finished: Project) -> None:
    def backwards(value: Any) -> Any:
        return {key: backwards(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    finished.configure({**backwards(STUDY), "methods": STUDY["methods"]})
    try:
        assert finished.plan() == {}
        assert finished.plan("--config", "data_root=elsewhere") == {}
    finally:
        finished.configure(STUDY)


def test_a_hyper_parameter_plans_the_runs_that_read_it(finished: Project) -> None:
    try:
        finished.configure(tiny(paper=True, apfl__parameters__beta=0.2, figures=STUDY["figures"]))
        assert finished.plan() == {"personalize": 1, "study": 1} | PAPER
        finished.configure(tiny(paper=True, apfl__parameters__width=4, figures=STUDY["figures"]))
        assert finished.plan() == {"memorize": 1, "personalize": 1, "study": 1} | PAPER
    finally:
        finished.configure(STUDY)


def test_a_template_or_a_published_number_plans_what_shows_it_and_no_run(finished: Project) -> None:
    with finished.edited("apfl/paper/templates/table.html.j2", "<h2>", "<h2 >"):
        assert finished.plan() == {"table": 1, "page": 1}
    with finished.edited("apfl/paper/published/table2.csv", "\n", "\n\n"):
        assert finished.plan() == {"table": 1, "page": 1, "claims": 1}
    with finished.edited("apfl/paper/verdict/claims.yaml", "# The paper's claims", "# All of the paper's claims"):
        assert finished.plan() == {"claims": 1, "page": 1}
    assert finished.plan() == {}


def test_a_lost_run_is_planned_again_although_the_table_is_there(finished: Project) -> None:
    path = finished.root / RUNS / "local/seed0/metrics.parquet"
    aside = path.rename(path.with_suffix(".aside"))
    try:
        for target in ("all", "tables"):
            assert finished.plan(target)["federate"] == 1
    finally:
        aside.rename(path)


def test_what_is_there_can_be_shown_while_runs_are_missing(finished: Project) -> None:
    folder = finished.root / RUNS / "local/seed0"
    aside = folder.rename(folder.with_name("aside"))
    try:
        finished.succeed("snakemake", "partial")
        rows = (finished.root / "results/tiny/partial/tables/table2.csv").read_text().splitlines()
        assert any("Local" in row and row.endswith("not run") for row in rows)
        assert any("FedAvg" in row and row.endswith("ok") for row in rows)
        assert not folder.exists(), "partial runs nothing"
    finally:
        aside.rename(folder)


def test_a_crashed_rerun_never_leaves_an_old_table_passing_for_a_new_one(finished: Project) -> None:
    before = (finished.root / TABLE).read_text()
    with finished.edited("baselines/fedavg_ft.py", "    def personalize(", "    def personalise("):
        done = finished.run("snakemake")
        assert done.returncode == 1
        (line,) = re.findall(r"^\[.*\] failed (.*)$", done.stderr, re.MULTILINE)
        assert line.startswith("personalize digits, dirichlet-alpha0.1-clients3, fedavg-ft, seed 0: TypeError: ")
        assert (finished.root / line.partition("log: ")[2]).is_file() and "Command '" not in done.stderr
        assert (finished.root / TABLE).read_text() == before, "the old table is still there"
        assert finished.plan()["personalize"] == 1, "but the study is not finished"
        assert finished.run("snakemake", "tables").returncode == 1
    done = finished.run("snakemake")
    assert done.returncode == 0 and (finished.root / TABLE).read_text() == before


def test_snakemake_s_own_report_is_made_without_a_network(finished: Project) -> None:
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = ["env", "http_proxy=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9"]
    metadata = ["--report-metadata", "workflow/report/metadata.yml"]
    finished.succeed(*alone, "snakemake", "--report", "report.html", *metadata)
    page = (finished.root / "report.html").read_text()
    assert "table2.html" in page and "figure4.svg" in page and "full-participation" in page
    assert f"torch {version('torch')}" in page, "what made the results"


@pytest.mark.slow
def test_the_documented_command_runs_every_job_in_the_conda_environment(tmp_path: Path) -> None:
    project = Project(tmp_path, {**tiny(methods={"fedavg": {}}), "apfl": {}})
    stub = ROOT / "tests/conda_stub/bin"
    project.succeed("snakemake", "--cores", "all", "--use-conda", path=f"{stub}:{BIN}:{os.environ['PATH']}")
    (environment,) = (path for path in (tmp_path / ".snakemake/conda").iterdir() if path.is_dir())
    assert (environment / "used").exists(), "the jobs ran with another interpreter"
    assert (tmp_path / TABLE).is_file()


@pytest.mark.slow
def test_jobs_run_with_the_python_of_the_image_and_see_the_code(tmp_path: Path) -> None:
    project = Project(tmp_path / "project", {**tiny(methods={"fedavg": {}}), "apfl": {}})
    image = tmp_path / "image"
    (image / "bin").mkdir(parents=True)
    python = image / "bin/python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH" >> {image}/used\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    path = f"{ROOT / 'tests/conda_stub/bin'}:{BIN}:{os.environ['PATH']}"
    done = project.run("snakemake", "--sdm", "apptainer", path=path)
    assert done.returncode == 2 and "APFL_CONTAINER" in done.stderr
    project.succeed("env", f"APFL_CONTAINER={image}", "snakemake", "tables", "--sdm", "apptainer", path=path)
    assert (project.root / TABLE).is_file()
    assert set((image / "used").read_text().split()) == {str(project.root)}
    assert f"--bind\n{project.root}" in (image / "called").read_text()


@pytest.mark.slow
def test_in_a_conda_environment_a_lock_has_the_last_word(tmp_path: Path) -> None:
    project = Project(tmp_path, {**tiny(methods={"fedavg": {}}), "apfl": {}})
    path = f"{ROOT / 'tests/conda_stub/bin'}:{BIN}:{os.environ['PATH']}"
    lock = tmp_path / "lock.txt"
    command = ["env", f"APFL_LOCK={lock}", "snakemake", "--sdm", "conda", "--conda-create-envs-only"]
    lock.write_text(f"numpy=={version('numpy')} --hash=sha256:{'0' * 64}\n")
    project.succeed(*command, path=path)
    shutil.rmtree(tmp_path / ".snakemake/conda")
    lock.write_text(f"numpy==0.0.1 --hash=sha256:{'0' * 64}\n")
    done = project.run(*command, path=path)
    assert done.returncode == 1 and "numpy==0.0.1" in done.stdout + done.stderr, "there is none of that version"


def test_without_conda_the_documented_command_says_that_conda_is_missing(fresh: Project) -> None:
    folders = [folder for folder in os.environ["PATH"].split(":") if not (Path(folder) / "conda").exists()]
    done = fresh.run("snakemake", "--cores", "all", "--use-conda", path=":".join([str(BIN), *folders]))
    assert done.returncode == 1 and "conda" in done.stderr


def test_profiles_are_yaml_and_never_retry_a_training_run() -> None:
    for path in (ROOT / "profiles").glob("*/config.yaml"):
        assert not yaml.safe_load(path.read_text()).get("retries"), path
