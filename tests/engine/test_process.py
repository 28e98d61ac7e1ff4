"""The process that training runs in."""

from __future__ import annotations

import subprocess
import sys

from apfl.engine import process as tuning
from apfl.engine.process import peak_memory
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
