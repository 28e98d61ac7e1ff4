"""The Snakemake Workflow Catalog takes the repository up, with standardised usage.

The rules are those of snakemake/snakemake-workflow-catalog: source/docs/about/adding_workflows.md, and
scripts/generate-catalog.py, which looks for these files. tests/workflow/test_workflow.py checks lint and format.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from apfl.registry.trees import ROOT
from tests.helpers.project import Project
from tests.helpers.studies import tiny

USAGE = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
DEPLOYMENTS = {"conda", "apptainer", "apptainer+conda", "singularity", "singularity+conda"}


def test_the_readme_names_snakemake_and_workflow() -> None:
    text = (ROOT / "README.md").read_text().lower()
    assert "snakemake" in text and "workflow" in text


def test_the_workflow_and_its_rules_lie_where_the_catalogue_looks() -> None:
    assert (ROOT / "workflow/Snakefile").is_file()
    assert [path for path in (ROOT / "workflow/rules").iterdir() if path.is_file() and path.suffix == ".smk"]


def test_the_configuration_is_explained_and_begins_as_snakedeploy_begins() -> None:
    assert "# Configuration" in (ROOT / "config/README.md").read_text()
    assert (ROOT / "config/config.yaml").is_file(), "snakedeploy's Snakefile reads this one"


def test_what_the_catalogue_prints_as_usage_is_of_its_form() -> None:
    assert USAGE.keys() <= {"mandatory-flags", "software-stack-deployment", "report"}
    deployment = USAGE["software-stack-deployment"]
    assert deployment.keys() <= DEPLOYMENTS and any(deployment.values())
    assert all(value in (True, False) for value in (*deployment.values(), USAGE["report"]))
    rules = "\n".join(path.read_text() for path in ROOT.glob("workflow/rules/**/*.smk"))
    assert deployment["conda"] and "conda:" in rules
    assert "default_target: True" in (ROOT / "workflow/Snakefile").read_text()


def test_the_repository_is_small_enough_to_be_cloned_by_a_job() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a repository of git")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(path.stat().st_size for path in files if path.is_file()) < 100e6


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that is a repository of git too."""
    project = Project(tmp_path_factory.mktemp("catalogue"), tiny(name="theirs"))
    as_somebody = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*as_somebody, "commit", "--quiet", "--message", "all"]):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    return project


def importer(folder: Path, snakefile: str, more: str = "") -> Path:
    """A Snakefile as snakedeploy writes it."""
    (folder / "config.yaml").write_text(yaml.safe_dump({**tiny(name="ours", methods={"ditto": {}}), "apfl": {}}))
    text = f'configfile: "config.yaml"\nmodule one:\n    snakefile: {snakefile}\n    config: config\n{more}'
    (folder / "Snakefile").write_text(f"{text}\nuse rule * from one\n")
    return folder


def planned(project: Project, folder: Path, *arguments: str) -> CompletedProcess[str]:
    own = ["--directory", str(folder), "--snakefile", str(folder / "Snakefile"), "--workflow-profile", "none"]
    return project.run("snakemake", *own, "--dry-run", *arguments)


@pytest.mark.parametrize("source", ["checkout", "repository"])
def test_another_workflow_takes_this_one_as_a_module(project: Project, tmp_path: Path, source: str) -> None:
    git = f'gitfile("{project.root}", path="workflow/Snakefile", ref="HEAD")'
    folder = importer(tmp_path, json.dumps(f"{project.root}/workflow/Snakefile") if source == "checkout" else git)
    done = planned(project, folder)
    assert done.returncode == 0, done.stderr
    assert "results/ours/report.html" in done.stdout and "theirs" not in done.stdout and "/ditto/" in done.stdout


def test_a_study_on_the_command_line_takes_the_place_of_the_importer_s(project: Project, tmp_path: Path) -> None:
    folder = importer(tmp_path, json.dumps(f"{project.root}/workflow/Snakefile"))
    done = planned(project, folder, "--configfile", str(project.root / "config/demo.yaml"))
    assert done.returncode == 0, done.stderr
    assert "results/theirs/report.html" in done.stdout and "results/ours" not in done.stdout
    assert "/ditto/" not in done.stdout, "nothing of the other study is left in it"


@pytest.mark.parametrize(
    ("more", "use", "place"),
    [
        ("", "", "results"),
        pytest.param('    prefix: "below"\n', " as x_*", "below/results", marks=pytest.mark.slow),
    ],
)
def test_a_module_runs_in_a_folder_of_one_s_own_with_its_own_code(
    project: Project, tmp_path: Path, more: str, use: str, place: str
) -> None:
    method = (project.root / "baselines/local.py").read_text().replace('"Local"', '"Mine"')
    (project.root / "baselines/mine.py").write_text(method)
    folder = importer(tmp_path, json.dumps(f"{project.root}/workflow/Snakefile"), more)
    (folder / "config.yaml").write_text(yaml.safe_dump({**tiny(name="ours", methods={"mine": {}}), "apfl": {}}))
    text = (folder / "Snakefile").read_text().replace("use rule * from one", f"use rule * from one{use}")
    mine = f'\nrule mine:\n    default_target: True\n    input: "{place}/ours/report.html"\n    output: "mine.txt"\n'
    (folder / "Snakefile").write_text(f"{text}{mine}    shell: 'cp {{input}} {{output}}'\n")
    own = ["--directory", str(folder), "--snakefile", str(folder / "Snakefile"), "--workflow-profile", "none"]
    project.succeed("snakemake", *own, "--cores", "2")
    assert "Mine" in (folder / "mine.txt").read_text()
    assert (folder / place / "ours/runs/digits/dirichlet-alpha0.1-clients3/mine/seed0/run.json").is_file()
    assert (place == "results") == (folder / "results").exists()
