"""Processes that are killed, at moments or in the middle of a write, and what they leave behind.

Run as a script this is a server: it imports the suite once and forks a process for each command line that it is sent,
so that a kill and a restart cost a fraction of a second. The children run `apfl.cli.main` and die of real signals.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
PROVENANCE = ("seconds", "peak_memory", "commit", "clean")
"""What a run.json says of how a run was made, not of what came out: the time and memory it took and the state of the
repository, which may change between two runs. Everything else is compared."""


@dataclass(frozen=True)
class Death:
    """How a process ends: by a signal ``after`` so many seconds, or at the ``count``-th write of a file.

    ``where`` in that write: ``created`` (an empty temporary file), ``torn`` (half of it), ``written`` (the whole, not
    yet renamed) or ``renamed`` (before the next file is written).
    """

    signal: int = signal.SIGKILL
    after: float | None = None
    where: str = ""
    count: int = 0


WHERE = ("created", "torn", "written", "renamed")


@dataclass(frozen=True)
class End:
    """How a process ended: ``status`` as `subprocess` gives it, what it said, and how long it took."""

    status: int
    said: str
    seconds: float
    writes: int

    @property
    def error(self) -> str:
        """The one line in which it ended; fails if it was not one line of the suite."""
        lines = [line for line in self.said.splitlines() if line.startswith("apfl: error: ")]
        assert self.status == 2 and len(lines) == 1 and "Traceback" not in self.said, (self.status, self.said)
        return lines[0]


class Server:
    """The other end of this file's `serve`."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.log = folder / "child.log"
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        )  # fmt: skip

    def start(
        self, arguments: Sequence[object], death: Death | None = None, log: Path | None = None, **more: Any
    ) -> None:
        """Start a command line; it is the caller's to `finish` it. ``more``: uid to run as."""
        order = {"arguments": [str(one) for one in arguments], "log": str(log or self.log), **more}
        order["death"] = asdict(death) if death else None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def finish(self) -> End:
        """The end of the command line that was started first."""
        return End(**json.loads(self.process.stdout.readline()))

    def run(self, arguments: Sequence[object], death: Death | None = None, **more: Any) -> End:
        """A command line from its start to its end."""
        self.start(arguments, death, **more)
        return self.finish()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server for as long as the context lasts."""
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()


def moments(name: str, seconds: float, number: int = 20) -> list[float]:
    """Seeded moments, one in each of ``number`` equal parts of a duration, in a random order."""
    stream = random.Random(name)
    spread = [(place + stream.random()) / number * seconds for place in range(number)]
    return stream.sample(spread, number)


def artefacts(folder: Path) -> dict[str, object]:
    """All that is in a folder, hidden files included; of a run.json what is no `PROVENANCE`."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == "run.json":
            found[str(path.relative_to(folder))] = {
                key: value for key, value in json.loads(path.read_text()).items() if key not in PROVENANCE
            }
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def differing(one: dict[str, object], two: dict[str, object]) -> list[str]:
    """The names of the artefacts in which two folders differ: bytes would fill the screen."""
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def serve() -> None:
    """Fork a process for each order on standard input; say on standard output how each ended.

    What takes long and is the same for all is done once: imports, and digests of the code, which are cached. Pictures
    are of two classes.
    """
    from apfl.registry import code_digest

    for module in ("federate", "memorize", "personalize", "pictures"):
        importlib.import_module(f"apfl.stages.{module}")
    for module in ("apfl.cli", "matplotlib.backends.backend_agg", "pandas", "pyarrow.parquet", "torch"):
        importlib.import_module(module)
    for module in ("federate", "memorize", "personalize"):
        code_digest(f"apfl.stages.{module}", "baselines.fedavg", "baselines.scaffold", "baselines.apfl")
    importlib.import_module("apfl.stages.pictures").SHOWN_CLASSES = 2
    for line in sys.stdin:
        order = json.loads(line)
        start, counted = time.monotonic(), os.pipe()
        child = os.fork()
        if not child:
            os.close(counted[0])
            _child(order, counted[1])
        os.close(counted[1])
        status = _watch(child, order["death"])
        seconds = time.monotonic() - start
        with os.fdopen(counted[0], "rb") as pipe:
            writes = len(pipe.read())
        said = Path(order["log"]).read_text(errors="replace")
        print(json.dumps({"status": status, "said": said, "seconds": seconds, "writes": writes}), flush=True)


def _watch(child: int, death: dict[str, Any] | None) -> int:
    """Wait for a child, and kill it when its time has come."""
    handle = os.pidfd_open(child)
    if death and death["after"] is not None and not select.select([handle], [], [], death["after"])[0]:
        signal.pidfd_send_signal(handle, death["signal"])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(handle)
    return status


def _child(order: dict[str, Any], counted: int) -> None:
    """Be the command line, as if this process had been started with it."""
    import traceback

    import apfl.cli

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if order.get("uid"):
        os.setgid(order["uid"])
        os.setuid(order["uid"])
    _arm(order["death"], counted)
    code: object = 0
    try:
        apfl.cli.main(order["arguments"])
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _arm(death: dict[str, Any] | None, counted: int) -> None:
    """Count the files that are written, and die in the middle of one if so asked."""
    import tempfile

    deadly = death if death and death["where"] else {"where": "", "count": -1}
    made, renamed = [0], [0]
    create, replace, sync = tempfile.mkstemp, os.replace, os.fsync

    def die(where: str, number: int) -> None:
        if (where, number) == (deadly["where"], deadly["count"]):
            os.kill(os.getpid(), deadly["signal"])
            time.sleep(0.01)  # SIGTERM is handled between two steps of the interpreter: here

    def creating(*arguments: Any, **options: Any) -> Any:
        made[0] += 1
        done = create(*arguments, **options)
        die("created", made[0])
        return done

    def syncing(handle: int) -> None:
        if deadly["where"] == "torn" and deadly["count"] == made[0] == renamed[0] + 1:
            path = f"/proc/self/fd/{handle}"
            os.truncate(path, os.stat(path).st_size // 2)
            die("torn", made[0])
        sync(handle)

    def replacing(*paths: Any) -> None:
        die("written", renamed[0] + 1)
        replace(*paths)
        renamed[0] += 1
        os.write(counted, b".")
        die("renamed", renamed[0])

    tempfile.mkstemp, os.replace, os.fsync = creating, replacing, syncing


if __name__ == "__main__":
    serve()
