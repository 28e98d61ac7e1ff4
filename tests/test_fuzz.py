"""Damaged files: read as they were written, or refused in one line; no crash, no hang, no memory without end.

The files are real ones, damaged in ways that a seed decides: bits, pieces, lengths. Each reader has a process of its
own with a gigabyte and a half of memory beyond its start, and each case a clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from apfl.registry.trees import ROOT
from tests.helpers import readers

HELPERS = Path(__file__).parent / "helpers"
MADE = [name for name in readers.READERS if name != "real.parquet"]
SLOW_READERS = ("study.yaml", "study.json", "real.parquet")
QUICK, LONG = 100, 3000


def fuzz(reader: str, folder: Path, seed: int, count: int) -> Counter[str]:
    """How often what became of a damaged file; fails with the first case that is neither read nor refused."""
    command = [sys.executable, str(HELPERS / "mutations.py"), reader, str(folder), str(seed), str(count)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "APFL_DATA_ROOT": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 + 2 * count)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    wrong = [case for case in found if case[1] not in ("started", "read", "refused")]
    assert not wrong, f"{reader}, seed {seed}, case {wrong[0][0]}: {wrong[0][1]}: {wrong[0][2]}"
    assert done.returncode == 0, (
        f"{reader}, seed {seed}: ended by {done.returncode} in {found[-1:]}: {done.stderr[-2000:]}"
    )
    assert not done.stderr, done.stderr
    return Counter(case[1] for case in found if case[1] != "started")


def made(reader: str, folder: Path) -> Path:
    """A folder with the good file."""
    path = folder / reader
    readers.make(reader, path)
    path.rename(folder / "original")
    return folder


@pytest.mark.parametrize("reader", MADE)
def test_a_damaged_file_is_read_as_it_was_or_refused_in_one_line(reader: str, tmp_path: Path) -> None:
    count = QUICK // 2 if reader in SLOW_READERS else QUICK
    became = fuzz(reader, made(reader, tmp_path), seed=0, count=count)
    assert sum(became.values()) > 0.8 * count
    assert became["refused"] > 0.1 * count or reader == "checkpoint.safetensors", became


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("reader", MADE)
def test_thousands_of_damaged_files_are_read_or_refused(reader: str, tmp_path: Path, seed: int) -> None:
    count = LONG // 5 if reader in SLOW_READERS else LONG
    assert sum(fuzz(reader, made(reader, tmp_path), seed, count).values()) > 0.8 * count


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_a_damaged_file_of_real_images_is_read_or_refused(data_root: Path, tmp_path: Path, count: int) -> None:
    readers.smallest_real(data_root, tmp_path / "original")
    assert sum(fuzz("real.parquet", tmp_path, seed=count, count=count).values()) > 0.8 * count


def test_what_is_not_damaged_is_read(tmp_path: Path) -> None:
    for reader, (read, _) in readers.READERS.items():
        if reader != "real.parquet":
            path = readers.place(made(reader, tmp_path), reader)
            path.write_bytes((tmp_path / "original").read_bytes())
            assert read(path) is not None, reader
