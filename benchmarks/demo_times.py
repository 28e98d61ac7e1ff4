"""How well a finished demo used its cores, from what Snakemake left behind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


class NoDemo(Exception):
    """There is no finished demo to read; the message says what is missing."""


@dataclass(frozen=True)
class DemoTimes:
    """Wall-clock seconds of a whole run, its cores and jobs, and the sum of the jobs' own seconds."""

    wall: float
    cores: int
    jobs: int
    own: float

    @property
    def busy(self) -> float:
        """The share of the cores' time that jobs took."""
        return self.own / (self.cores * self.wall)

    @property
    def overhead(self) -> float:
        """The share of the cores' time without a job: Snakemake's own work, and cores that had nothing to do."""
        return 1 - self.busy


def demo_times(root: Path, study: str = "demo") -> DemoTimes:
    """The newest run in ``root`` that made all of results/{study}; `NoDemo` if there is none.

    The run's wall-clock time and cores are in ``.snakemake/log``, what each job took in its benchmark table. Jobs
    without such a table count from their start to their end in ``.snakemake/metadata``.
    """
    # One record a file: those of one job have its log in common.
    jobs = {(one["rule"], *(one.get("log") or [one["starttime"]])): one for one in _metadata(root)}
    of_study = [one["starttime"] for one in jobs.values() if f"results/{study}/" in "".join(one.get("log") or [])]
    if not of_study:
        raise NoDemo(f"no run of the study {study} in .snakemake/metadata: run `make demo` first")
    for log in sorted((root / ".snakemake" / "log").glob("*.snakemake.log"), reverse=True):
        text = log.read_text()
        cores, elapsed = re.search(r"Provided cores: (\d+)", text), re.search(r"Elapsed time: ([\d:.]+)", text)
        if not (cores and elapsed and re.search(r"\[(\d+) of \1 jobs\] finished", text)):
            continue
        start = datetime.strptime(log.name.partition(".snakemake")[0], "%Y-%m-%dT%H%M%S.%f").timestamp()
        hours, minutes, seconds = elapsed[1].split(":")
        end = start + 3600 * int(hours) + 60 * int(minutes) + float(seconds)
        if start <= min(of_study) and max(of_study) <= end:
            own = [_own_seconds(root, one) for one in jobs.values() if start <= one["starttime"] <= end]
            return DemoTimes(end - start, int(cores[1]), len(own), sum(own))
    raise NoDemo(f"no single run in .snakemake/log made all of results/{study}: run `make demo` without results")


def _metadata(root: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((root / ".snakemake" / "metadata").rglob("*")):
        if path.is_file():
            record = json.loads(path.read_text())
            if record.get("starttime") and record.get("endtime"):
                yield record


def _own_seconds(root: Path, record: dict[str, Any]) -> float:
    """A job's seconds from its benchmark table, which has the place of its log under another name."""
    log = (record.get("log") or [""])[0]
    table = root / log.replace("/logs/", "/benchmarks/").removesuffix(".log")
    try:
        titles, values = table.with_name(f"{table.name}.tsv").read_text().splitlines()[:2]
        return float(values.split("\t")[titles.split("\t").index("s")])
    except (OSError, ValueError):
        return record["endtime"] - record["starttime"]
