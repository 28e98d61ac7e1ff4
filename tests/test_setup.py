"""Setting up: one list of packages, a second make that installs nothing, a command line that starts at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from apfl.jobs.archive import contents
from apfl.registry.trees import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def named(requirements: list[str]) -> dict[str, tuple[frozenset[str], str]]:
    """Extras and range of each package."""
    parsed = [Requirement(text) for text in requirements]
    return {entry.name.lower(): (frozenset(entry.extras), str(entry.specifier)) for entry in parsed}


def test_environment_yml_names_the_packages_and_ranges_of_pyproject_toml() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert named(pip) == named(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["full"])
    assert named(plain) == {"python": (frozenset(), PROJECT["requires-python"]), "pip": (frozenset(), "")}


def test_the_demo_is_spared_the_packages_of_downloads_and_language_models() -> None:
    assert not named(PROJECT["dependencies"]).keys() & named(PROJECT["optional-dependencies"]["full"]).keys()
    assert {"torchvision", "open_clip_torch", "transformers", "gensim"} == set(
        named(PROJECT["optional-dependencies"]["full"])
    )


def test_the_packages_of_downloads_and_language_models_work_together() -> None:
    program = "import torch, torchvision, open_clip, transformers, gensim; torchvision.ops.nms"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def locked(name: str) -> dict[str, str]:
    """The versions in a file of locks/, each of which has hashes."""
    text = (ROOT / "locks" / name).read_text()
    entries = re.findall(
        r"^([a-z0-9][\w.-]*)==([^ ;]+)(?: ;[^\\\n]*)? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)*)", text, re.M
    )
    assert len(entries) == len(re.findall(r"^[a-z0-9]", text, re.M)) and all(hashes for _, _, hashes in entries)
    return {package: version for package, version, _ in entries}


def test_the_locks_have_every_package_in_its_range_with_hashes() -> None:
    extras = PROJECT["optional-dependencies"]
    full = [text for extra in extras.values() for text in extra]
    for name, asked in (("core.txt", PROJECT["dependencies"]), ("full.txt", [*PROJECT["dependencies"], *full])):
        found = locked(name)
        for requirement in map(Requirement, [*asked, *PYPROJECT["build-system"]["requires"]]):
            version = found[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), (
                f"{requirement}: locks/{name} has {version}; run `make lock`"
            )


def test_the_locks_have_the_versions_that_the_reference_was_made_with() -> None:
    record = next(text for name, text in contents(ROOT / "results/reference").items() if name.endswith("run.json"))
    made = {name: version for name, version in json.loads(record)["versions"].items() if name != "apfl-bench"}
    assert {"numpy", "torch", "pandas"} <= made.keys()
    assert {name: locked("full.txt")[name] for name in made} == made


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which an environment seems to be there."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/pip").touch()
    return tmp_path


def commands(checkout: Path, *target: str) -> str:
    done = subprocess.run(["make", "--dry-run", *target], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def would_install(checkout: Path, target: str) -> bool:
    return "pip install" in commands(checkout, target)


def test_what_is_installed_names_its_extras_as_pyproject_toml_does(checkout: Path) -> None:
    asked = [re.search(r"--editable '\.(?:\[(.*)\])?'", commands(checkout, target)) for target in ("demo", "test")]
    demo, tests = ((found.group(1) or "").split(",") for found in asked if found)
    assert demo == [""] and set(tests) == {"full", "cluster", "dev"} <= set(PROJECT["optional-dependencies"])


def test_a_second_make_installs_nothing_until_the_requirements_change(checkout: Path) -> None:
    assert would_install(checkout, "demo") and would_install(checkout, "test")
    (checkout / ".venv/core.stamp").touch()
    assert not would_install(checkout, "demo") and would_install(checkout, "test")
    (checkout / ".venv/full.stamp").touch()
    assert not would_install(checkout, "test") and not would_install(checkout, "lint")
    later = (checkout / ".venv/full.stamp").stat().st_mtime + 10
    os.utime(checkout / "pyproject.toml", (later, later))
    assert would_install(checkout, "demo") and would_install(checkout, "test")


def test_a_locked_demo_is_installed_by_hashes_alone(checkout: Path) -> None:
    done = subprocess.run(["make", "-n", "demo", "LOCKED=1"], cwd=checkout, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.replace("\\\n", "").splitlines() if "pip install" in line]
    assert lines and all("--require-hashes" in line or "--no-deps --no-build-isolation" in line for line in lines)
    assert "--requirement locks/core.txt" in lines[0]


@pytest.mark.parametrize(
    ("target", "study"),
    [
        (("demo",), "config/demo.yaml"),
        (("demo", "STUDY=config/cpu.yaml"), "config/cpu.yaml"),
        (("reference",), "config/grid.yaml"),
        (("reference", "STUDY=ten_seeds"), "config/ten_seeds.yaml"),
    ],
)
def test_each_command_makes_its_own_study(checkout: Path, target: tuple[str, ...], study: str) -> None:
    named = set(re.findall(r"(?<![\w/])config/\w+\.yaml", commands(checkout, *target)))
    assert named == {study} and (ROOT / study).is_file()


def test_make_help_lists_every_command(checkout: Path) -> None:
    done = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True)
    for command in ("demo", "test", "lint", "docs", "bench", "clean"):
        assert any(line.startswith(f"{command} ") for line in done.stdout.splitlines())


@pytest.mark.parametrize("module", ["apfl.cli", "apfl.study.cells", "apfl.study.study", "apfl.registry.cards"])
def test_planning_and_help_load_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; {module}.register() if '{module}' == 'apfl.cli' else None; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "pandas", "matplotlib", "sklearn", "pyarrow", "snakemake"}


def test_apfl_methods_lists_every_file_of_baselines_with_its_hyper_parameters() -> None:
    done = subprocess.run([sys.executable, "-m", "apfl", "methods"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = {line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith(" ")}
    files = {path.stem for path in (ROOT / "baselines").glob("*.py") if not path.stem.startswith("_")}
    assert first == files
    assert "beta = 0.01" in done.stdout and "McMahan" in done.stdout


def test_every_shell_and_citation_file_can_be_read() -> None:
    assert os.access(ROOT / ".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == PROJECT["license"] == "MIT"
    assert "MIT License" in (ROOT / "LICENSE").read_text()
