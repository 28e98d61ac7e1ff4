"""A Slurm of one node with two pretended GPUs, in a folder of its own: the machine's configuration is left alone."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TypeVar

T = TypeVar("T")
TEMPLATES = Path(__file__).parent / "slurm"
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "sacct", "sacctmgr", "sshare")
SYSTEM = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


def missing() -> list[str]:
    """The programs of Slurm that this machine lacks."""
    return [name for name in (*DAEMONS, *CLIENTS) if not shutil.which(name, path=SYSTEM)]


def wait_for(what: str, look: Callable[[], T], seconds: float) -> T:
    """The first true value of ``look``; an `AssertionError` that says ``what`` if there is none in time."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, f"{what}: not within {seconds} seconds"
        time.sleep(0.05)
    return found


@dataclass(frozen=True)
class Job:
    """A job that Slurm knows: its rule, the values of the rule's wildcards, and what it asked for."""

    number: str
    rule: str
    wildcards: str
    processors: int
    memory: int
    minutes: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A running Slurm whose files are in ``folder``."""

    folder: Path

    @property
    def clients(self) -> Path:
        """The folder of its commands, to be first on the PATH."""
        return self.folder / "bin"

    def ask(self, *command: str) -> str:
        """The output of a command of Slurm."""
        done = subprocess.run([self.clients / command[0], *command[1:]], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[Job]:
        """Every job since the start, first the first."""
        rows = self.ask("scontrol", "show", "job", "--oneliner").splitlines()
        return [parse_job(row) for row in rows if row.startswith("JobId=")]


def parse_job(row: str) -> Job:
    """A line of `scontrol show job --oneliner`."""
    fields = dict(pair.split("=", 1) for pair in row.split() if "=" in pair)
    days, hours, minutes = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):\d+", fields["TimeLimit"]).groups()
    rule, _, wildcards = fields["Comment"].removeprefix("rule_").partition("_wildcards_")
    asked = dict(pair.split("=") for pair in fields["TRES"].split(","))
    gpus = re.search(r"gpu:(\d+)", fields.get("TresPerJob", ""))
    return Job(
        number=fields["JobId"],
        rule=rule,
        wildcards=wildcards,
        processors=int(asked["cpu"]),
        memory=round(float(asked["mem"][:-1]) * {"M": 1, "G": 1024}[asked["mem"][-1]]),
        minutes=(int(days or 0) * 24 + int(hours)) * 60 + int(minutes),
        gpus=int(gpus[1]) if gpus else 0,
    )


@contextmanager
def cluster(processors: int) -> Iterator[Cluster]:
    """A Slurm with a node of so many processors; when the block ends, however it does, its jobs and daemons end too."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name, ExitStack() as daemons:
        here = Cluster(Path(name))
        configure(here.folder, processors)
        # The daemon of keys may be asked by any user of the machine, so its socket's folder must be open to them.
        here.folder.chmod(0o755)
        keys = [f"--{what}={here.folder}/munge.{what.split('-')[0]}" for what in ("socket", "key-file", "pid-file")]
        keys += [f"--log-file={here.folder}/munged.log", f"--seed-file={here.folder}/munge.seed"]
        daemons.enter_context(daemon(here.folder, "munged", "--foreground", "--force", *keys))
        wait_for("munged's socket", (here.folder / "munge.socket").exists, 10)
        conf = here.folder / "slurm.conf"
        daemons.enter_context(daemon(here.folder, "slurmctld", "-D", "-c", "-f", str(conf)))
        daemons.enter_context(daemon(here.folder, "slurmd", "-D", "-c", "-f", str(conf), "-N", "localhost"))
        daemons.callback(cancel_all, here)
        wait_for("the node", lambda: node_state(here) == "idle", 60)
        yield here


def configure(folder: Path, processors: int) -> None:
    """The files of a Slurm below ``folder``."""
    controller_port, node_port = free_ports(2)
    values = {"folder": folder, "controller_port": controller_port, "node_port": node_port}
    values |= {"processors": processors, "cgroups": cgroup_plugin()}
    for template in TEMPLATES.glob("*.conf"):
        (folder / template.name).write_text(Template(template.read_text()).substitute(values))
    for name in ("state", "spool", "bin", "node"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    for name in CLIENTS:
        # The executor takes every SLURM_ variable from its jobs, the place of the configuration among them.
        found = shutil.which(name, path=SYSTEM)
        path = f" PATH={folder}/node:$PATH" if name == "sbatch" else ""
        write_script(folder / "bin" / name, f'SLURM_CONF={folder}/slurm.conf{path} exec {found} "$@"')
    # The node has a GPU's tools, which the machine that jobs are sent from has not.
    write_script(folder / "node" / "nvidia-smi", "")


def write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def cgroup_plugin() -> str:
    """How a slurmd of this version is told to leave control groups alone."""
    text = subprocess.run([shutil.which("slurmd", path=SYSTEM), "-V"], capture_output=True, text=True).stdout
    year, month = re.search(r"(\d+)\.(\d+)", text).groups()
    return "disabled" if (int(year), int(month)) >= (24, 5) else "cgroup/v1"


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    with ExitStack() as sockets:
        open_ = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in open_:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in open_]


@contextmanager
def daemon(folder: Path, program: str, *arguments: str) -> Iterator[None]:
    """A program in the background, which ends with the block, or with this process if that is killed."""
    command: Sequence[str] = (shutil.which(program, path=SYSTEM), *arguments)
    with (folder / f"{program}.out").open("w") as out:
        process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stdout=out, stderr=out, cwd=folder)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def node_state(here: Cluster) -> str:
    """What Slurm says of the node; nothing while the controller starts."""
    done = subprocess.run([here.clients / "sinfo", "--noheader", "--format=%T"], capture_output=True, text=True)
    return done.stdout.strip()


def cancel_all(here: Cluster) -> None:
    """End what still runs, so that no process of a job outlives its slurmd."""
    for number in re.findall(r"\d+", here.ask("squeue", "--noheader", "--format=%A")):
        here.ask("scancel", "--full", f"--signal={signal.SIGKILL.name[3:]}", number)
        here.ask("scancel", number)
    wait_for("the end of the jobs", lambda: not here.ask("squeue", "--noheader").strip(), 60)
