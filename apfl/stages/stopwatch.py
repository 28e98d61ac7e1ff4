"""How long a run has been at work, alone or beside others."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass
class SharedTime:
    """How many runs are at work side by side in one process, and so share its time."""

    running: int = 0


class Stopwatch:
    """How long a run has been at work; of runs side by side, each one's share of the seconds, too."""

    def __init__(self, shared: SharedTime | None = None) -> None:
        self.shared = shared or SharedTime()

    def __enter__(self) -> Stopwatch:
        self.shared.running += 1
        self.start = self.last = time.perf_counter()
        self._share = 0.0
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the time to the other runs from now on."""
        self.shared.running -= 1

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds since the start."""
        return time.perf_counter() - self.start

    @property
    def seconds(self) -> float:
        """The run's own share of them: what it costs. A run that starts or ends beside it counts from the next lap."""
        return self._share + (time.perf_counter() - self.last) / self.shared.running

    def lap(self) -> float:
        """Wall-clock seconds since the last lap."""
        now = time.perf_counter()
        lap, self.last = now - self.last, now
        self._share += lap / self.shared.running
        return lap
