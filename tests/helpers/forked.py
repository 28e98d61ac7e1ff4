"""Commands run by forks of a process that has imported their packages, which saves two thirds of what a start takes.

Nothing of the project is imported here: the fork imports that of the folder in which it runs, as a new process does.
What hangs on the start itself (HOME as packages are imported, PYTHONPATH, the seed of hashes) needs a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

PACKAGES = ("snakemake.cli", "pandas", "scipy.stats", "pyarrow.parquet", "jinja2", "jsonschema", "typer")
"""What `PROGRAMS` import, imported beforehand."""
PROGRAMS = {"snakemake": ("snakemake",), "apfl": (sys.executable, "-m", "apfl")}
"""The commands' first words."""


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PACKAGES, __name__])
    return context


def program(command: Sequence[str]) -> str:
    """The one of `PROGRAMS` that a command starts, if any."""
    return next((name for name, words in PROGRAMS.items() if tuple(command[: len(words)]) == words), "")


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run` returns of a command, which is left to it unless its program is one of `PROGRAMS`."""
    if not program(command):
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("stdout", "stderr")]
        child = _context().Process(target=_child, args=(list(command), cwd, dict(env), said))
        child.start()
        child.join(timeout)
        if child.exitcode is None:
            child.kill()
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, child.exitcode, *(path.read_text() for path in said))


def _child(command: list[str], cwd: Path, env: Mapping[str, str], said: Sequence[Path]) -> None:
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    name = program(command)
    sys.argv = [name, *command[len(PROGRAMS[name]) :]]
    if name == "apfl":
        sys.path.insert(0, str(cwd))
    runpy.run_module(name, run_name="__main__", alter_sys=True)
