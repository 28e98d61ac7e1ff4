"""Methods from outside the project, as docs/adding-a-method.md shows them, run as they stand there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

from apfl.registry.trees import ROOT
from tests.helpers.commands import files_of
from tests.helpers.project import STUDY, Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The files of the page in a folder of their own, and the study finished."""
    project = Project(tmp_path_factory.mktemp("outside"), STUDY)
    for name, text in files_of(ROOT / "docs/adding-a-method.md").items():
        path = project.root / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project.succeed(sys.executable, "-m", "apfl", "check", "mine/study.yaml")
    project.succeed("snakemake", "--configfile=mine/study.yaml")
    return project


def test_a_file_a_command_and_a_rule_beside_the_study_are_columns_of_its_table(project: Project) -> None:
    table = pd.read_csv(project.root / "results/my_methods/tables/table2.csv")
    means = table[table["test"] == "pooled"].set_index("title")["reproduced_mean"].dropna()
    assert {"FedAvg", "FedFoo", "prototypes", "Prototypes by rule"} <= set(means.index)
    assert means["prototypes"] > 50, "the nearest mean recognises most digits"


def test_the_study_as_it_was_run_finds_what_lies_beside_it_and_is_finished(project: Project) -> None:
    assert project.plan("--configfile=mine/study.yaml") == {}
    done = project.succeed(sys.executable, "-m", "apfl", "status", "results/my_methods/study.json")
    assert "left: no run" in done.stdout, done.stdout


def test_an_edit_of_the_program_or_of_the_method_s_file_repeats_its_runs_alone(project: Project) -> None:
    with project.edited("mine/prototypes.py", "(0) for label", "(axis=0) for label"):
        plan = project.plan("--configfile=mine/study.yaml")
        assert {name: plan.get(name) for name in ("program", "prototypes_by_rule", "accept", "federate")} == {
            "program": 1, "prototypes_by_rule": 1, "accept": 2, "federate": None,
        }  # fmt: skip
    with project.edited("mine/fedfoo.py", "self.strength)", "0.1 + self.strength)"):
        assert project.plan("--configfile=mine/study.yaml")["federate"] == 1


def test_an_archive_brings_the_files_of_the_methods_along(project: Project, tmp_path: Path) -> None:
    apfl = [sys.executable, "-m", "apfl"]
    project.succeed(*apfl, "pack", "results/my_methods/study.json", "--out", str(tmp_path / "packed"))
    shutil.move(project.root / "mine", tmp_path / "mine")
    try:
        project.succeed(*apfl, "unpack", str(tmp_path / "packed"), "--out", str(tmp_path / "there"))
        done = project.succeed(*apfl, "tables", str(tmp_path / "there/my_methods/study.json"))
        assert "FedFoo" in (tmp_path / "there/my_methods/tables/table2.csv").read_text(), done.stdout
    finally:
        shutil.move(tmp_path / "mine", project.root / "mine")
