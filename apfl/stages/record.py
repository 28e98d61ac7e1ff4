"""What a run writes down about itself, so that it can be run again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apfl.artifacts import read_record, require_file, sha256_file, write_json
from apfl.errors import UserError
from apfl.federation import Problem
from apfl.registry import code_digest, modules_of
from apfl.stages.inputs import Inputs
from apfl.stages.kept import keep
from apfl.tuning import peak_memory

IDENTITY = ("dataset", "setting", "method", "semantics", "reading", "seed")


def identity(specification: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of the metrics table that are the same for all rows of a run."""
    return {name: specification.get(name, "") for name in IDENTITY}


def run_record(stage: str, specification: Mapping[str, Any], inputs: Inputs, **files: Path | None) -> dict[str, Any]:
    """The start of a run.json: what is asked for, the SHA-256 of what it is made from, and a digest of the code that
    decides the result. ``files`` are inputs beyond those of every stage."""
    read = {name: path for name, path in {**vars(inputs), **files}.items() if path is not None}
    hashes = {name: sha256_file(require_file(path, name)) for name, path in read.items()}
    for name, path in files.items():
        if path is not None:
            _check_origin(path, name, hashes, read)
    code = code_digest(*modules_of(stage, specification.get("module")))
    return {"stage": stage, "specification": dict(specification), "inputs": hashes, "code": code}


def _check_origin(path: Path, name: str, hashes: Mapping[str, str], read: Mapping[str, Path]) -> None:
    """A `UserError` unless the file is the one that the run.json beside it speaks of, and was made from the same data,
    partition and run as this one is to be."""
    beside = path.with_name("run.json")
    recorded = read_record(beside)
    made, inputs = (part if isinstance(part := recorded.get(key), dict) else {} for key in ("outputs", "inputs"))
    if made.get(path.name, hashes[name]) != hashes[name]:
        raise UserError(f"{path}: not the file that {beside} speaks of; remove both and make that run again")
    for other in ("data", "partition", "run"):
        if other != name and other in hashes and inputs.get(other, hashes[other]) != hashes[other]:
            raise UserError(
                f"{path}: was made from another {other} than {read[other]}; make it again, or give that one"
            )


@contextmanager
def recorded(out: Path, record: dict[str, Any], *names: str) -> Iterator[None]:
    """Write the files ``names`` of a run within this context; afterwards ``run.json``, with their SHA-256, is written.

    Until then there is no ``run.json``, not even that of an earlier run, so new files and old ones are never taken for
    one run.
    """
    path = out / "run.json"
    path.unlink(missing_ok=True)
    yield
    record["outputs"] = {name: sha256_file(out / name) for name in names}
    keep(out, record)
    write_json(path, record)


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
