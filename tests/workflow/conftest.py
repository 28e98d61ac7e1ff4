"""The tiny study, finished once for all tests of a run, whichever process they are in."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.project import STUDY, Project


@pytest.fixture(scope="session")
def finished_copy(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[Path], tuple[Project, str]]:
    """A function that puts a copy of the finished study where it is told; with it, what plain `snakemake` said."""
    base = tmp_path_factory.getbasetemp()
    place = (base if worker_id == "master" else base.parent) / "finished"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process makes it, and others wait
        if not (place / "said").exists():
            said = Project(place, STUDY).succeed("snakemake").stderr
            (place / "said").write_text(said)

    def copy(folder: Path) -> tuple[Project, str]:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        return Project(folder), (folder / "said").read_text()

    return copy
