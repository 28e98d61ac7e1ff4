"""Profiles and the image: what they name exists, what they ask for is what the documents say."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from apfl.registry.trees import ROOT
from tests.helpers.project import BIN, PARTS, Project
from tests.helpers.studies import tiny
from tests.test_setup import PROJECT

RULES = "\n".join(path.read_text() for path in ROOT.glob("workflow/rules/**/*.smk"))
SLURM = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
IMAGE = (ROOT / "Containerfile").read_text()
HOME = "/opt/apfl-bench"
"""Where the suite lies in the image."""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("profiles"), tiny())


@pytest.fixture(scope="module")
def jobs(fresh: Project) -> str:
    """What a dry run with Slurm's profile says of each job."""
    done = fresh.succeed("snakemake", "--dry-run", "--workflow-profile", "profiles/slurm")
    return done.stdout + done.stderr


def rules_with(words: str) -> set[str]:
    bodies = re.split(r"^(?:rule |for one in rules_of\(\")(\w+)(?:\"\))?:$", RULES, flags=re.MULTILINE)
    return {name for name, body in zip(bodies[1::2], bodies[2::2], strict=True) if words in body}


def test_slurm_s_profile_decides_for_every_rule_that_can_use_a_gpu() -> None:
    assert set(SLURM["set-resources"]) == rules_with("gpu=gpu()") != set()
    assert all(asked == {"gpu": 0} for asked in SLURM["set-resources"].values())


def test_jobs_ask_for_what_the_page_on_clusters_says(jobs: str) -> None:
    page = (ROOT / "docs/cluster.md").read_text()
    rows = re.findall(r"^\| (.+) \| ([\d,]+) MB.* \| (1 day|1 hour) \|$", page, re.MULTILINE)
    said = {name: (int(memory.replace(",", "")), time) for names, memory, time in rows for name in names.split(", ")}
    default = SLURM["default-resources"]
    assert said.pop("the others") == (default["mem_mb"], {60: "1 hour"}[default["runtime"]])
    assert set(said) == {"`federate`", "`memorize`", "`personalize`", "`flower`", "`program`", "`semantics`"}
    planned = re.findall(r"^rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", jobs, re.MULTILINE)
    assert {"federate", "semantics", "page"} <= {name for name, _ in planned}
    for name, text in planned:
        asked = dict(pair.split("=", 1) for pair in text.split(", "))
        memory, time = said.get(f"`{name}`", (default["mem_mb"], "1 hour"))
        assert (int(asked["mem_mb"]), int(asked["runtime"])) == (memory, {"1 hour": 60, "1 day": 1440}[time]), name


def test_what_takes_no_time_waits_in_no_queue() -> None:
    assert rules_with("localrule: True") == {"study", "partial", "tune"}


def test_the_image_starts_the_workflow_from_the_folder_of_a_volume(fresh: Project, tmp_path: Path) -> None:
    lines = (re.search(rf"^{name} (.*)$", IMAGE, re.MULTILINE)[1] for name in ("ENTRYPOINT", "CMD"))
    command = [part.replace(HOME, str(fresh.root)) for line in lines for part in json.loads(line)]
    environ = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "APFL_DATA_ROOT": "", "APFL_SEMANTICS_ROOT": ""}
    done = subprocess.run([*command, "--dry-run"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^federate +2$", done.stdout + done.stderr, re.MULTILINE)


def test_the_image_holds_the_workflow_fits_its_python_and_is_not_root() -> None:
    (version,) = re.findall(r"^ARG BASE=docker.io/library/python:(\d+\.\d+)-.*\nFROM \$BASE$", IMAGE, re.MULTILINE)
    assert version in SpecifierSet(PROJECT["requires-python"])
    assert re.findall(r"^USER (\S+)$", IMAGE, re.MULTILINE) == ["1000"]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all((ROOT / name).exists() for name in let_in)
    assert let_in >= {*PARTS, "README.md", "LICENSE"}


def test_the_extra_for_clusters_has_the_executor_that_the_profile_names() -> None:
    (plug_in,) = PROJECT["optional-dependencies"]["cluster"]
    assert plug_in.startswith(f"snakemake-executor-plugin-{SLURM['executor']}>=")
