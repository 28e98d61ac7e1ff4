"""The process that training runs in."""

from __future__ import annotations

import subprocess
import sys

from apfl.registry import ROOT
from apfl.tuning import peak_memory


def test_the_peak_memory_of_a_process_is_its_own() -> None:
    program = "from apfl.tuning import peak_memory; print(peak_memory())"
    held = bytearray(400 * 2**20)
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert peak_memory() > len(held) > 4 * int(done.stdout)
