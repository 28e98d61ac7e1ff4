"""The process that training runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from subprocess import PIPE

import pytest

from apfl.engine import process as tuning
from apfl.engine.process import cores, own_gpu, peak_memory, take, threads
from apfl.registry.trees import ROOT


def test_the_peak_memory_of_a_process_is_its_own() -> None:
    program = "from apfl.engine.process import peak_memory; print(peak_memory())"
    held = bytearray(400 * 2**20)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert peak_memory() > len(held) > 4 * int(done.stdout)


def test_where_the_system_does_not_say_it_peak_memory_is_what_python_says(tmp_path, monkeypatch) -> None:
    (tmp_path / "status").write_text("Name:\tpython\n")
    monkeypatch.setattr(tuning, "Path", lambda path: tmp_path / "status")
    assert peak_memory() > 2**20


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [("3", 3), ("4,2", 4), (" 2 ", 2), ("", 5), ("0", 5), ("-1", 5), ("many", 5), ("2.5", 5), ("99999999", 5)],
)
def test_threads_are_those_asked_for_or_else_the_usual_ones(asked: str, wanted: int, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "cores", lambda: 8)
    assert threads(asked, usual=5) == wanted


def test_no_more_threads_are_usual_than_there_are_cores(monkeypatch) -> None:
    monkeypatch.setattr(tuning, "cores", lambda: 2)
    assert threads("", usual=64) == 2 and threads("64", usual=64) == 64


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "6400000 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ({"cpu.max": "nonsense"}, 16),
        ({}, 16),
    ],
)
def test_in_a_container_there_are_as_many_cores_as_its_share_is_worth(tmp_path, monkeypatch, files, wanted) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert cores(tmp_path) == wanted


TAKE = "import sys; from pathlib import Path; from apfl.engine.process import take; "


def test_each_of_several_processes_takes_a_gpu_of_its_own_and_gives_it_back_when_it_ends(tmp_path) -> None:
    program = f"{TAKE}print(take(['0', '1', 'GPU-a/b'], Path(sys.argv[1])), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(tmp_path / "locks")]
    running = []
    for _ in range(3):
        running.append(subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True))
        assert running[-1].stdout is not None
        running[-1].taken = running[-1].stdout.readline().strip()
    assert [process.taken for process in running] == ["0", "1", "GPU-a/b"]
    assert take(["0", "1", "GPU-a/b"], tmp_path / "locks") in ("0", "1", "GPU-a/b")  # more jobs than GPUs share them
    running[1].communicate("")
    assert take(["0", "1", "GPU-a/b"], tmp_path / "locks") == "1"
    for process in (running[0], running[2]):
        process.communicate("")


@pytest.mark.parametrize(
    ("visible", "there", "wanted"),
    [(None, 4, "0"), ("2,3", 2, "2"), (" 2, 3", 2, "2"), ("1", 1, "1"), ("", 0, ""), (None, 1, None), (None, 0, None)],
)
def test_of_several_gpus_one_is_shown_and_what_was_granted_stays(
    visible: str | None, there: int, wanted: str | None, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(tuning.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    own_gpu(there)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == wanted


def test_what_cuda_leaves_out_is_no_gpu_to_take(monkeypatch) -> None:
    monkeypatch.setattr(tuning, "take", lambda names, folder: names[-1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,-1,4")
    own_gpu(2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize("missing", ["resource", "fcntl"])
@pytest.mark.parametrize(
    "entry", ["import runpy; runpy.run_module('apfl')", "from apfl.cli import main", "import apfl.jobs.before"]
)
def test_a_system_that_is_no_posix_is_told_so_in_one_line(missing: str, entry: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; {entry}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("apfl: error: needs Linux, macOS or WSL")
