"""A study of one's own images, run by plain Snakemake from wherever and as whoever one is."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.project import BIN, Project

STREAM = np.random.default_rng(0)


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(STREAM.integers(0, 256, (8, 8, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    for name in ("cat", "dog"):
        for number in range(30):
            picture(root / "pets" / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def finished(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    study = {
        "name": "mine",
        "seeds": [0, 1],
        "data_root": str(root),
        "data": {"pets": {"source": "folder", "classes": 2}},
        "training": {"rounds": 1, "local_epochs": 1},
        "methods": {"fedavg": {}},
        "tables": {"table2": {"clients": [3], "alphas": ["0.1"], "partitions": {"pets": "iid"}}},
    }
    project = Project(tmp_path_factory.mktemp("project"), study)
    project.succeed("snakemake", "tables")
    yield project


def test_the_seeds_in_another_order_and_a_copy_of_the_images_plan_no_run(finished: Project, root: Path) -> None:
    assert "federate" not in finished.plan("tables", "--config", "seeds=[1,0]")
    shutil.copytree(root, root.with_name("copy"))
    assert finished.plan("tables", "--config", f"data_root={root.with_name('copy')}") == {}


def test_numbers_in_lists_and_sections_of_the_command_line_are_numbers(finished: Project) -> None:
    assert finished.plan("tables", "--config", "seeds=[0]").get("federate", 0) == 0
    assert finished.plan("tables", "--config", "training={rounds: 2}")["federate"] == 2
    done = finished.run("snakemake", "--dry-run", "tables", "--config", "training={rounds: many}")
    assert done.returncode == 2 and "training.rounds: 'many' is not of type 'integer'" in done.stderr


def test_an_image_that_is_replaced_plans_the_data_set_and_all_that_comes_of_it(finished: Project, root: Path) -> None:
    picture(root / "pets/cat/3.png")
    plan = finished.plan("tables")
    assert plan["data"] == 1 and plan["federate"] == 2


@pytest.mark.parametrize("home", ["/proc/nobody", "/dev/null", None])
def test_a_home_that_is_missing_or_cannot_be_written_is_not_needed(finished: Project, home: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG_"))}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}"} | ({} if home is None else {"HOME": home})
    command = ["snakemake", "--dry-run", "tables"]
    done = subprocess.run(command, cwd=finished.root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_the_demo_is_found_from_any_folder(finished: Project, tmp_path: Path) -> None:
    done = finished.run("snakemake", "-s", str(finished.root / "Snakefile"), "-d", str(tmp_path), "--dry-run")
    assert done.returncode == 0, done.stderr
