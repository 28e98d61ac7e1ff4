"""Bad input of every kind: one line that names the field or file, the value and the remedy, status 2, and no file
touched."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from apfl.cli import main
from apfl.errors import UserError
from apfl.jobs import before as trial
from apfl.registry.trees import ROOT
from apfl.study.load import load_study
from tests.bad_input import (
    Case,
    artefacts,
    command_line,
    configuration,
    contents,
    federate,
    make_world,
    memorize,
    methods,
    runs,
)
from tests.helpers.project import Project
from tests.helpers.studies import tiny

PARTS = {module.__name__.rpartition(".")[2]: module.CASES for module in (configuration, artefacts, runs, command_line)}
CASES = [pytest.param(case, id=f"{part}: {case.name}") for part, cases in PARTS.items() for case in cases]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files of every kind; each case has a copy of its own."""
    world = tmp_path_factory.mktemp("good") / "world"
    make_world(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        for command in (federate(out="base"), memorize(out="generator")):
            with pytest.raises(SystemExit) as ended:
                main(list(command))
            assert not ended.value.code
    return world


def run(command: tuple[str, ...]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    return ended.value.code


def refused(said: str, line: str) -> None:
    """That ``said`` is one line that answers a mistake."""
    assert said.endswith("\n") and said.count("\n") == 1, said
    assert said.startswith("apfl: error: ") and "Traceback" not in said
    assert re.search(line, said), said
    assert re.search("; |must |: give ", said), f"says no remedy: {said}"
    assert len(said) < 700


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_line_with_status_2_and_touches_no_file(
    case: Case, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for variable in ("APFL_DATA_ROOT", "APFL_SEMANTICS_ROOT"):
        monkeypatch.delenv(variable, raising=False)
    world = tmp_path / "world"
    shutil.copytree(good, world)
    case.damage(world)
    before = contents(world)
    monkeypatch.chdir(world)
    capfd.readouterr()
    status = run(case.command)
    refused(capfd.readouterr().err, case.line)
    assert status == 2
    assert contents(world) == before


def test_there_are_many_cases_and_no_two_of_one_name() -> None:
    names = [case.id for case in CASES]
    assert len(names) == len(set(names)) > 80


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("check", "study.yaml"), r"study\.yaml: line \d+: key 'seeds' appears twice"),
        (("federate", "--spec", "{"), r"Missing option"),
        (federate(), r"data set data\.npz: cannot be read"),
    ],
    ids=["study", "command line", "data"],
)
def test_a_real_process_says_the_same(command: tuple[str, ...], line: str, good: Path, tmp_path: Path) -> None:
    world = tmp_path / "world"
    shutil.copytree(good, world)
    (world / "study.yaml").open("a").write("seeds: [1]\n")
    (world / "data.npz").write_bytes((world / "data.npz").read_bytes()[:1000])
    before = contents(world)
    done = subprocess.run(
        [sys.executable, "-m", "apfl", *command],
        cwd=world,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    refused(done.stderr, line)
    assert done.returncode == 2 and done.stdout == "" and contents(world) == before


def test_a_mistake_in_the_file_of_a_method_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    for name in ("apfl", "baselines", "workflow"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for module, _, content, _ in methods.FILES:
        (tmp_path / "baselines" / f"{module}.py").write_text(content)
    asked = json.dumps([(command, module) for module, command, *_ in methods.FILES])
    done = subprocess.run(
        [sys.executable, "-B", "-c", methods.PROGRAM, asked],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    for module, _, _, line in methods.FILES:
        status, said = answers[module]
        assert status == 2, (module, said)
        refused(said, line)
        assert "baselines/" in said, said


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"), tiny())


@pytest.mark.parametrize(
    ("content", "status", "line"),
    [
        (json.dumps(tiny(methods__fedprox={"mu": -1.0})), 2, r"methods\.fedprox: fedprox\.mu -1\.0: must not"),
        (yaml.safe_dump(tiny()) + "seeds: [1]\n", 2, r"line \d+: key 'seeds' appears twice; remove one of them"),
        ("- a\n- list\n", 1, r"keys at top level"),
    ],
    ids=["negative mu", "key twice", "list"],
)
def test_plain_snakemake_refuses_such_a_study_before_any_job(
    project: Project, tmp_path: Path, content: str, status: int, line: str
) -> None:
    (tmp_path / "study.yaml").write_text(content)
    done = project.run("snakemake", "--dry-run", "--configfile", str(tmp_path / "study.yaml"))
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    said = [one for one in (done.stdout + done.stderr).splitlines() if re.search(line, one)]
    assert len(said) == 1 and "job" not in done.stdout
    if status == 2:  # otherwise Snakemake itself could not read the file
        refused(said[0] + "\n", line)
    assert not (project.root / "results").exists() and not (project.root / ".snakemake/tried").exists()


def test_a_study_is_tried_out_once_until_it_or_the_code_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, answer = [], [subprocess.CompletedProcess([], 0, "", "")]
    monkeypatch.setattr(trial.subprocess, "run", lambda command, **more: calls.append(command) or answer[0])
    study, other = load_study(tiny()), load_study(tiny(methods__fedprox={}))
    for given, text in ((study, "{}"), (study, "{}"), (study, '{"a": 1}'), (other, "{}"), (other, "{}")):
        trial.try_once(given, text, tmp_path / "tried")
    assert len(calls) == 3
    answer[0] = subprocess.CompletedProcess([], 2, "", "apfl: error: mu -1: no; give 1\n")
    for _ in range(2):
        with pytest.raises(UserError, match="mu -1: no; give 1"):
            trial.try_once(study, '{"b": 1}', tmp_path / "tried")
    answer[0] = subprocess.CompletedProcess([], 1, "", "Traceback: no torch here")
    trial.try_once(study, '{"b": 1}', tmp_path / "tried")
    assert len(calls) == 6


def test_a_shell_without_a_folder_or_without_letters_sees_no_traceback(tmp_path: Path) -> None:
    def apfl(here: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = f"mkdir -p gone; cd gone; {here} {sys.executable} -m apfl claims --page"
        return subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
        )

    plain = apfl("", PYTHONIOENCODING="ascii")
    assert plain.returncode == 0 and plain.stdout.isascii() and "?" in plain.stdout
    gone = apfl("rmdir ../gone;")
    assert gone.returncode == 2 and gone.stdout == ""
    refused(gone.stderr, "the folder in which this shell stands was removed; change to another one")
