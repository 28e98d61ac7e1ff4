"""The house: every package has its line in docs/architecture.md, files and folders stay small, imports go down only,
and planning and drawing need no torch."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import apfl.paper
from apfl.registry.trees import ROOT

LINES, MODULES, AT_THE_TOP = 400, 16, 8
PACKAGES = sorted(path.parent for path in (ROOT / "apfl").rglob("__init__.py"))
TREE = re.search(r"```text\n(.*?)```", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), re.S)[1]


def test_every_package_has_its_line_in_the_tree_and_every_line_its_folder() -> None:
    named, above = set(), list[str]()
    for line in TREE.splitlines():
        if found := re.match(r"( *)(\w+)/( |$)", line):
            depth = len(found[1]) // 2
            above[depth:] = [found[2]]
            named.add("/".join(above))
    assert {path for path in named if not (ROOT / path).is_dir()} == set()
    missing = {str(path.relative_to(ROOT)) for path in PACKAGES} - named - {"apfl", "apfl/data/partitioners"}
    assert not {path for path in missing if list((ROOT / path).glob("[a-z]*.py"))}


def test_no_file_is_long_and_no_folder_crowded() -> None:
    sources = [path for folder in ("apfl", "baselines") for path in (ROOT / folder).rglob("*.py")]
    assert {path.name for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > LINES} == set()
    own = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in PACKAGES}
    assert {folder.name for folder, files in own.items() if len(files) > MODULES} == set()
    assert len(own[ROOT / "apfl"]) <= AT_THE_TOP


def test_imports_go_down_only() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine where torch cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch is imported')\n")
    return os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def test_the_workflow_is_planned_without_torch(without_torch: dict[str, str], tmp_path: Path) -> None:
    files = ["--snakefile", ROOT / "Snakefile", "--configfile", ROOT / "config" / "demo.yaml"]
    command = [Path(sys.executable).with_name("snakemake"), *files, "--dry-run", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, env=without_torch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_outputs_of_the_paper_are_made_without_torch(without_torch: dict[str, str]) -> None:
    modules = [name for _, name, _ in pkgutil.walk_packages(apfl.paper.__path__, "apfl.paper.")]
    assert len(modules) > 40
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    done = subprocess.run(command, env=without_torch, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
