"""Bad input of every kind: one line that names the field or file, the value and the remedy, status 2, and no file
touched."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import Case, artefacts, command_line, configuration, contents, federate, make_world, memorize, runs

from apfl.cli import main
from apfl.registry import ROOT

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
    assert re.search("; |must ", said), f"says no remedy: {said}"
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
        (("check", "study.yaml"), r"study\.yaml: line \d+: key 'seeds' is there twice"),
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
