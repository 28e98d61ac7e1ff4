"""How long a run has been at work, alone or beside others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from apfl.engine.process import peak_memory
from apfl.federation.problem import Problem


@dataclass
class Company:
    """How many runs are at work side by side in one process, and so share its time."""

    running: int = 0


class Stopwatch:
    """How long a run has been at work; of runs side by side, each one's share of the seconds, too."""

    def __init__(self, company: Company | None = None) -> None:
        self.company = company or Company()
        self.company.running += 1
        self.start = self.last = time.perf_counter()
        self._share = 0.0

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds since the start."""
        return time.perf_counter() - self.start

    @property
    def seconds(self) -> float:
        """The run's own share of them: what it costs. Company that comes or goes counts from the next lap on."""
        return self._share + (time.perf_counter() - self.last) / self.company.running

    def lap(self) -> float:
        """Wall-clock seconds since the last lap."""
        now = time.perf_counter()
        lap, self.last = now - self.last, now
        self._share += lap / self.company.running
        return lap

    def stop(self) -> None:
        """Leave the company, whose others have the time for themselves from now on."""
        self.company.running -= 1

    def usage(self, problem: Problem) -> dict[str, Any]:
        """Device, precision, threads and peak memory in bytes."""
        return {
            "device": str(problem.engine.device),
            "precision": problem.engine.precision,
            "threads": torch.get_num_threads(),
            "peak_memory": peak_memory(),
        }
