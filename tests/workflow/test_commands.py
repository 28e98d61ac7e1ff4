"""Every command that documents, comments and messages tell people to give works as it stands.

What would run for long is only planned (`--dry-run`), and capitals such as STUDY stand for a name.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from apfl.registry.trees import ROOT
from tests.helpers.commands import in_documents, in_messages, printed
from tests.helpers.project import RUNS, Project

LACKING = {
    "pip": "the package index",
    "podman": "a container engine",
    "squeue": "a cluster, as tests/workflow/test_slurm.py has one",
    "sbatch": "a cluster",
    "scontrol": "a cluster",
    "sacct": "a cluster with accounting",
}
"""What a program needs that a test has not."""
ELSEWHERE = {
    "snakemake --cores all --use-conda": "tests/workflow/test_workflow.py",
}
NAMES = {
    "PARTITION.npz --data DATA.npz --path FOLDER": "partition.npz --data pictures.npz --path pictures",
    "--data digits.npz": "--data results/data/digits-300.npz",
    "STUDY": "config/demo.yaml",
    "../grid.yaml": "config/demo.yaml",
    "../ten_seeds.yaml": "config/demo.yaml",
    "FILE": "config/demo.yaml",
    "FOLDER": "folder",
    "results/paper/study.json": "results/tiny/study.json",
    "results/paper_scale/study.json": "results/tiny/study.json",
    "results/grid/study.json": "results/tiny/study.json",
    **{f"results/{path.parent.name}": str(path.parent) for path in sorted(ROOT.glob("results/*/metrics.parquet"))},
}
"""What stands for a placeholder, for results that are not here, and for the archives that the copy lacks."""
FOUND = sorted({command for _, command in (*in_documents(), *in_messages())})
LARGE = re.compile(r"(snakemake .*|apfl plan )config/\w+\.yaml")
COMMANDS = [pytest.param(one, marks=[pytest.mark.slow] if LARGE.match(one) else [], id=one) for one in FOUND]
"""Each once; to plan a large study takes a while."""


@pytest.fixture(scope="module")
def project(finished_copy, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny study, finished, and a folder of images with a partition."""
    project, _ = finished_copy(tmp_path_factory.mktemp("commands"))
    shutil.copy(ROOT / "Makefile", project.root)
    shutil.copytree(ROOT / "docs/measurements", project.root / "docs/measurements")
    for number in range(20):
        path = project.root / f"pictures/{number % 2}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    for command in (
        "data mine --source folder --path pictures --out pictures.npz",
        "partition --data pictures.npz --setting iid-clients2 --out partition.npz",
        "pack results/tiny/study.json --out machine-b/packed",
    ):
        project.succeed(sys.executable, "-m", "apfl", *shlex.split(command))
    shutil.copytree(project.root / "results", project.root / "machine-a/results")
    return project


def words(command: str) -> list[str]:
    """The command with names in place of placeholders."""
    for name, value in NAMES.items():
        command = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w.=])", value, command)
    return shlex.split(command)


def arguments(command: str) -> list[str]:
    """What to run to see that a command works."""
    program, *rest = words(re.sub(r"^python -m apfl\b(?!\.)", "apfl", command))
    if program == "apfl":  # its name alone is no command to give
        return [sys.executable, "-m", "apfl", *rest, *([] if rest[1:] else ["--help"])]
    return [program, *rest, *([] if {"--rulegraph", "--unlock"} & set(rest) else ["--dry-run"])]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_as_it_stands(project: Project, command: str) -> None:
    program, *_ = command.split()
    if program in LACKING:
        pytest.skip(f"needs {LACKING[program]}")
    if command in ELSEWHERE:
        pytest.skip(f"tested elsewhere: {ELSEWHERE[command]}")
    if command.startswith("python -m ") and not re.match(r"python -m apfl( |$)", command):
        assert importlib.util.find_spec(command.split()[2]), "it takes long, and is only looked for"
        return
    # Where data lie, who does not say so in the command has said in the environment.
    done = project.run(*arguments(command), root="folder")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_commands_that_a_page_a_message_and_verdicts_print_make_what_is_missing(
    project: Project, tmp_path: Path
) -> None:
    study = project.root / "results/tiny"
    missing = [project.root / RUNS / "local/seed0", *(study / name for name in ("tables", "figures", "verdict"))]
    for number, path in enumerate(missing):
        shutil.move(path, tmp_path / str(number))
    try:
        project.succeed("snakemake", "partial")
        message = project.run(sys.executable, "-m", "apfl", "tables", "config/demo.yaml").stderr
        page, verdicts = ((study / "partial" / name).read_text() for name in ("report.html", "verdict/claims.md"))
        found = [printed(text) for text in (message, page, verdicts)]
        assert all(found) and "config/paper.yaml" in str(found), found
        commands = sorted({one for commands in found for one in commands})
        # Those of the large study have one plan together, as each would take a while.
        large = {word for one in commands if "config/paper.yaml" in one for word in shlex.split(one)}
        project.succeed("snakemake", "--dry-run", *sorted(large - {"snakemake"}))
        for command in [one for one in commands if "config/paper.yaml" not in one]:
            assert "federate" in project.succeed(*shlex.split(command), "--dry-run").stdout, command
    finally:
        for number, path in enumerate(missing):
            shutil.rmtree(path, ignore_errors=True)
            shutil.move(tmp_path / str(number), path)
