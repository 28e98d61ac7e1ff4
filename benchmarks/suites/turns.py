"""The suites' programs side by side, each waiting for its turn."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0
"""Seconds that a program may take to start, or for a round."""


@dataclass(frozen=True)
class Way:
    """A suite and how it is run: ``processes`` beside each other, each with the whole federation and ``threads``."""

    suite: str
    processes: int = 1
    threads: int = 1
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.processes} process{'es' * (self.processes > 1)} of {threads}"


class Absent(Exception):
    """A suite cannot be measured here; says why."""


def interpreter(suite: str, root: Path = ROOT) -> Path:
    """The Python of the suite's own environment.

    :raises Absent: if ``make suites`` has not made it.
    """
    python = root / f".venv-{suite}" / "bin" / "python"
    if not python.exists():
        raise Absent("not installed; make suites")
    return python


class Running:
    """The processes of a way: `round` after `round`, and `finish`."""

    def __init__(self, way: Way, data: Path, rounds: int, folder: Path, python: Path | str = sys.executable) -> None:
        """Start the programs, and wait until they are ready.

        :param rounds: those that count; one more stands before them.
        :param folder: takes what the programs leave.
        :raises Absent: if a program fails or keeps silent.
        """
        folder.mkdir(parents=True)
        self.programs = [_Program(python, way, data, rounds, folder / f"{number}") for number in range(way.processes)]
        try:
            self._ready()
        except Absent:
            self.stop()
            raise

    def _ready(self) -> None:
        for program in self.programs:
            program.expect("ready")
        self.ready = True

    def round(self) -> float:
        """Images a second in the next round, all processes together.

        :raises Absent: if a program has ended or keeps silent.
        """
        if not self.ready:
            self._ready()
        for program in self.programs:
            program.go()
        self.ready = False
        return sum(program.images / float(program.expect()) for program in self.programs)

    def finish(self) -> list[dict[str, Any]]:
        """The lines of JSON that the programs end with, and where their final parameters are."""
        reports = [json.loads(program.expect()) | {"parameters": program.parameters} for program in self.programs]
        self.stop()
        return reports

    def stop(self) -> None:
        for program in self.programs:
            program.stop()


class _Program:
    def __init__(self, python: Path | str, way: Way, data: Path, rounds: int, stem: Path) -> None:
        with np.load(data, allow_pickle=False) as archive:
            self.images = len(archive["labels"])
        self.parameters = stem.with_suffix(".npz")
        self.log = stem.with_suffix(".log")
        arguments: Sequence[str] = (
            *("--data", str(data), "--rounds", str(rounds), "--threads", str(way.threads), "--in-turn"),
            *("--out", str(self.parameters), *way.options),
        )
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), "-m", f"benchmarks.suites.{way.suite}", *arguments],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": str(way.threads)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line.strip())
        self.lines.put(None)

    def go(self) -> None:
        with suppress(BrokenPipeError):  # the next line that is expected tells
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def expect(self, line: str | None = None) -> str:
        try:
            found = self.lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise Absent(f"said nothing for {PATIENCE:.0f} s") from None
        if found is None or (line is not None and found != line):
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise Absent(f"failed: {said[-1] if said else found}"[:200])
        return found

    def stop(self) -> None:
        """End the program and what it started."""
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.process.stdout.close()
