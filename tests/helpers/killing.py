"""Processes that are killed, at moments or in the middle of a write, and what they leave behind.

Run as a script this is a server: it imports the suite once and forks a process for each command line that it is sent,
so that a kill and a restart cost a fraction of a second. The children run `apfl.cli.main` and die of real signals.
"""

from __future__ import annotations

import errno
import importlib
import itertools
import json
import os
import random
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apfl.data.dataset import Dataset, save_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.registry.trees import ROOT
from apfl.semantics.packaged import packaged
from apfl.semantics.table import save_semantics

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETTING = "pathological-classes2-clients10-missing20"
TRAINING = {"rounds": 8, "local_epochs": 1, "learning_rate": 1e-3, "checkpoint_every": 1, "precision": "fp32",
            "evaluate_rounds": [0, 4, 8], "save_rounds": [4, 8]}  # fmt: skip
CLOCK = {"latency": "exponential", "heterogeneity": 0.5, "buffer": 2, "merge": "delta", "staleness": "polynomial"}
MEMORY = {"samples_per_class": 10, "epochs": 1, "width": 4, "noise_dimension": 5}
STAGES = ("federate", "asynchronous", "memorize", "personalize")
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
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (environment or {}),
        )  # fmt: skip

    def start(
        self, arguments: Sequence[object], death: Death | None = None, log: Path | None = None, **more: Any
    ) -> None:
        """Start a command line; it is the caller's to `finish` it.

        ``more``: ``humble``: permission bits count even for root; ``locks`` false: a file system without locks;
        ``clock``: seconds that the clock jumps at each look.
        """
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


def all_stages(*quick: str) -> pytest.MarkDecorator:
    """All stages; the quick tests take these."""
    marks = {stage: [] if stage in quick else [pytest.mark.slow] for stage in STAGES}
    return pytest.mark.parametrize("stage", [pytest.param(stage, marks=mark) for stage, mark in marks.items()])


def parts(folder: Path) -> set[Path]:
    """Half-written files."""
    return set(folder.glob(".*.part"))


def specification(method: str, **more: object) -> dict[str, object]:
    return {
        "dataset": "noise", "setting": SETTING, "method": method, "module": method, "parameters": {}, "seed": 0,
        "network": {"name": "tests.helpers.problems:Tiny"}, "training": TRAINING, **more,
    }  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """A server, inputs, and for each stage its command, an unbroken run, and what that took."""

    server: Server
    folder: Path

    def command(self, stage: str, out: Path, seed: int = 0) -> list[object]:
        rounds = {"semantics": "minilm", "rounds": [4, 8], "seed": seed}
        spec = {
            "federate": specification("scaffold", seed=seed),
            "asynchronous": specification("fedavg", schedule=CLOCK, seed=seed),
            "memorize": specification("apfl", base="fedavg", **rounds) | {"parameters": MEMORY},
            "personalize": specification("apfl", reading="literal", **rounds)
            | {"parameters": {"samples_per_class": 6}},
        }[stage]
        files = {"data": self.folder / "data.npz", "partition": self.folder / "partition.npz", "out": out}
        files |= {"semantics": self.folder / "semantics.npz"} if stage == "memorize" else {}
        files |= {"run": self.whole("asynchronous")} if stage in ("memorize", "personalize") else {}
        files |= {"generator": self.whole("memorize")} if stage == "personalize" else {}
        options = itertools.chain.from_iterable((f"--{name}", path) for name, path in files.items())
        return ["federate" if stage == "asynchronous" else stage, "--spec", json.dumps(spec), *options]

    def whole(self, stage: str) -> Path:
        return self.folder / "whole" / stage

    def finish(self, stage: str, out: Path) -> str:
        """Let a run end; it must be the unbroken one to the last bit, with nothing left over. Returns what it says."""
        end = self.server.run(self.command(stage, out))
        assert end.status == 0, end.said
        assert not differing(artefacts(out), artefacts(self.whole(stage)))
        return end.said


@contextmanager
def benched(folder: Path) -> Iterator[Bench]:
    """A data set of 300 noisy images, Table 1's partition of it, embeddings, and every stage run without a break."""
    labels = np.arange(300, dtype=np.int64) % 10
    images = np.random.default_rng(0).integers(0, 200, (300, 1, 32, 32), dtype=np.uint8)
    dataset = Dataset("noise", images, labels, NAMES, {"kind": "test"})
    save_dataset(folder / "data.npz", dataset)
    save_partition(folder / "partition.npz", make_partition(dataset, SETTING, 0))
    save_semantics(folder / "semantics.npz", packaged(NAMES))
    with served(folder) as server:
        made = Bench(server, folder)
        for stage in STAGES:
            end = server.run(made.command(stage, made.whole(stage)))
            assert end.status == 0, end.said
        yield made


def serve() -> None:
    """Fork a process for each order on standard input; say on standard output how each ended.

    What takes long and is the same for all is done once: imports, and digests of the code, which are cached. Pictures
    are of two classes.
    """
    from apfl.registry.code import code_digest

    for module in ("federate", "memorize", "personalize", "samples"):
        importlib.import_module(f"apfl.stages.{module}")
    for module in ("apfl.cli", "matplotlib.backends.backend_agg", "pandas", "pyarrow.parquet", "torch"):
        importlib.import_module(module)
    for module in ("federate", "memorize", "personalize"):
        code_digest(f"apfl.stages.{module}", "baselines.fedavg", "baselines.scaffold", "baselines.apfl")
    importlib.import_module("apfl.stages.samples").SHOWN_CLASSES = 2
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
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _bend(order)
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


def _bend(order: dict[str, Any]) -> None:
    """Be one whom permission bits stop, on a machine without locks, or with a clock that jumps."""
    import ctypes
    import fcntl

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    if order.get("humble"):
        header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        library = ctypes.CDLL(None)
        library.capget(header, sets)
        sets[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of those in effect
        library.capset(header, sets)
    if not order.get("locks", True):
        fcntl.flock = refuse
    if "clock" in order:
        real, looks = time.time, itertools.count()
        time.time = lambda: real() + order["clock"] * next(looks)


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
        # A folder is synced, too; and a link is renamed without having been made here.
        if deadly["where"] == "torn" and deadly["count"] == made[0] and stat.S_ISREG(os.fstat(handle).st_mode):
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
