"""The log of a job says whether the job is alive: its process holds a lock on it, which ends with the process.

The rules send a job's output to its log, so the lock is on standard output: it needs no file of its own, and nothing is
left to clean up after a kill. The first line of the log names the machine, because file systems that machines share may
not pass locks on.
"""

from __future__ import annotations

import os
import platform
import re
import stat
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from apfl.storage.locks import busy

TAIL = 65536
"""How many bytes at the end of a log are looked at."""
STARTING = 120.0
"""Seconds after which an empty log without a lock is no longer that of a job that is just starting."""
QUIET = 600.0
"""Seconds without a line after which a job of another machine is taken for dead."""
FIRST_LINE = re.compile(r"job (?P<command>\S+) on (?P<host>\S+), process \d+")
ERROR = re.compile(r"apfl: error: |(?:\w+\.)*\w*(?:Error|Exception)\b(?::|$)")


def begin(command: str) -> None:
    """Lock standard output and write the first line, if it is a file: it is the log of this job then."""
    try:
        if not stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode):
            return
    except (OSError, ValueError, AttributeError):  # closed, no file, or nothing at all
        return
    print(f"job {command} on {platform.node() or 'unknown'}, process {os.getpid()}", flush=True)
    with suppress(OSError):  # there are no locks here
        for _ in range(5):
            if not busy(sys.stdout.fileno()):
                return
            time.sleep(0.01)  # somebody is looking whether the job lives


def held(path: Path) -> bool:
    """Whether a process holds a lock on a file or folder, as a run does on the folder that it writes."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return busy(descriptor, shared=True)
        finally:
            os.close(descriptor)
    except OSError:
        return False


@dataclass(frozen=True)
class JobLog:
    """What a log says: is its job alive, its last line, and its last error."""

    alive: bool
    last: str
    error: str


def read(path: Path, now: float | None = None) -> JobLog | None:
    """The log at ``path``; None if there is none."""
    try:
        with path.open("rb") as stream:
            locked = None  # where there are no locks
            with suppress(OSError):
                locked = busy(stream.fileno(), shared=True)
            facts = os.fstat(stream.fileno())
            first = _text(stream.readline(TAIL))
            stream.seek(max(0, facts.st_size - TAIL))
            lines = [text for line in stream.read().splitlines() if (text := _text(line))]
    except OSError:
        return None
    age = max(0.0, (time.time() if now is None else now) - facts.st_mtime)
    error = next((line for line in reversed(lines) if ERROR.match(line)), "")
    begun = FIRST_LINE.match(first)
    if locked or (locked is False and begun and begun["host"] == platform.node()):
        alive = locked
    else:
        # Of another machine or another program, or only just begun: no lock is no proof, but a fresh line is a sign.
        alive = not error and age < (QUIET if lines else STARTING)
    shown = [line for line in lines if not FIRST_LINE.match(line)]
    return JobLog(alive, shown[-1] if shown else "", error)


def _text(line: bytes) -> str:
    """A line without what could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in line.decode("utf-8", "replace")).strip()
