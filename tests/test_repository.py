"""What stands around the code: forms, workflows of GitHub, and what the owner has to fill in."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from apfl.registry.trees import ROOT

FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}


def steps(name: str) -> str:
    """All commands of a workflow."""
    jobs = WORKFLOWS[name]["jobs"].values()
    return "\n".join(step["run"] for job in jobs for step in job.get("steps", ()) if "run" in step)


def test_the_tests_run_on_every_version_of_python_that_is_supported() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    versions = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13", "3.14"]
    assert all(version in SpecifierSet(wanted) for version in versions) and "3.10" not in SpecifierSet(wanted)


def test_the_workflows_run_what_the_local_check_runs() -> None:
    local = set(re.findall(r"make ([a-z-]+)", (ROOT / ".ci/run").read_text()))
    assert local <= set(re.findall(r"make ([a-z-]+)", steps("tests") + steps("docs")))
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", steps("tests"))) <= targets


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_no_right_that_it_does_not_name_and_an_end(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for job in WORKFLOWS[name]["jobs"].values():
        assert "timeout-minutes" in job or "make" not in str(job)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_what_decides(form) -> None:
    body = yaml.safe_load(form.read_text())["body"]
    asked = [part["id"] for part in body if part.get("validations", {}).get("required")]
    assert asked and len({part["id"] for part in body}) == len(body)


def test_what_changes_stands_in_the_changelog_and_what_the_owner_fills_in_is_said() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    assert "To be filled in by the owner" in (ROOT / "CITATION.cff").read_text()
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_hooks_are_programs_that_are_installed_for_development() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    extra = " ".join(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"])
    names = {"lint-imports": "import-linter"}
    programs = {hook["entry"].split()[0] for hook in hooks} - {"python"}
    assert all(names.get(program, program) in extra for program in programs)
