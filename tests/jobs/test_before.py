"""What is noted of the files that data sets are made from, before Snakemake looks at anything."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from apfl.jobs.before import note_source


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.png").write_bytes(name.encode())
    return tmp_path / "pets"


def is_new(pets: Path, made: Path) -> bool:
    """Whether the note on a folder is younger than a minute ago, when it was last written."""
    note = made.with_suffix(".files.json")
    then = time.time() - 60
    if note.exists():
        os.utime(note, (then, then))
    note_source(pets, note, made)
    return note.stat().st_mtime > then + 30


def test_the_note_is_new_only_when_a_file_has_another_content(pets: Path, tmp_path: Path) -> None:
    made = tmp_path / "results/pets.npz"
    assert is_new(pets, made) and not is_new(pets, made)
    os.utime(pets / "cat/1.png", (1, 1))
    assert not is_new(pets, made), "only the time is another"
    moved = tmp_path / "elsewhere/animals"
    shutil.copytree(pets, moved)
    assert not is_new(moved, made), "the files lie elsewhere"
    (pets / "cat/1.png").write_bytes(b"owl")  # as many bytes
    assert is_new(pets, made) and not is_new(pets, made)
    (pets / "dog/2.png").write_bytes(b"dog")
    assert is_new(pets, made)
    (pets / "dog/1.png").rename(pets / "dog/3.png")
    assert is_new(pets, made)
    (pets / "dog/2.png").unlink()
    assert is_new(pets, made)


def test_a_folder_that_is_gone_changes_nothing_and_one_that_comes_back_neither(pets: Path, tmp_path: Path) -> None:
    made = tmp_path / "results/pets.npz"
    assert is_new(pets, made)
    away = pets.rename(tmp_path / "away")
    assert not is_new(pets, made)
    away.rename(pets)
    assert not is_new(pets, made)


def test_a_first_note_beside_a_data_set_that_is_there_is_older_than_that(pets: Path, tmp_path: Path) -> None:
    made = tmp_path / "results/pets.npz"
    made.parent.mkdir()
    made.write_bytes(b"")
    os.utime(made, (1000, 1000))
    note_source(pets, made.with_suffix(".files.json"), made)
    assert made.with_suffix(".files.json").stat().st_mtime < 1000
