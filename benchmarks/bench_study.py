"""A table's row in other suites.

How long you wait for one row of a table: three seeds of each method, ten clients, the paper's CNN, evenly distributed
images of 32x32 pixels, four rounds of one epoch, batch size 50, SGD. *This suite* takes one `snakemake` from a folder
of images to the finished table, including data preparation and evaluation. *PFLlib's way* is a shell loop that starts a
process of one thread for each run, as many at a time as there are cores. It covers the five methods of
`benchmarks/suites/pfllib_methods.py`; FedDF is missing because PFLlib lacks it. *Flower's simulation* is the same kind
of loop, but each run takes all cores; it covers FedAvg and FedProx, for which Flower has strategies. Both loops start
from a prepared file with the same number of training images, and end with a loss. All times are wall-clock times,
measured in turn and without a warm-up round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.measuring import Record, cores, in_turn, ratio
from benchmarks.suites import common
from benchmarks.suites.pfllib_way import write_files
from benchmarks.suites.turns import ROOT, Absent, interpreter

FIVE = ("local", "fedavg", "fedprox", "scaffold", "ditto")
TWO = {"fedavg": "0", "fedprox": "0.01"}
"""Flower's methods, with the weight of the proximal term."""
SEEDS = 3
CLIENTS = 10
TESTED = 0.1
"""The share of a client's images on which the study tests."""


def study(methods: Sequence[str], folder: Path, rounds: int, precision: str, seeds: int = SEEDS) -> dict[str, Any]:
    """The row as a study on the ``patterns`` below the folder."""
    return {
        "name": "row",
        "seeds": [*range(seeds)],
        "data_root": str(folder),
        "data": {"patterns": {"source": "folder", "classes": common.CLASSES}},
        "training": {
            "rounds": rounds,
            "local_epochs": 1,
            "batch_size": 50,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "precision": precision,
            "evaluate_every": rounds,
        },
        "methods": {method: {} for method in methods},
        "tables": {"table2": {"clients": [CLIENTS], "partitions": {"patterns": "iid"}}},
    }


def write_images(folder: Path, images: int) -> None:
    """All images as files, in a folder for each class."""
    common.write(folder / "all.npz", CLIENTS, images)
    with np.load(folder / "all.npz", allow_pickle=False) as archive:
        for number, (pixels, label) in enumerate(zip(archive["images"], archive["labels"], strict=True)):
            place = folder / "patterns" / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(place / f"{number:05}.png")


def call(command: Sequence[object], threads: int, folder: Path, log: Path) -> None:
    """Run a program to its end.

    :raises Absent: if it fails.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    with log.open("w") as said:
        done = subprocess.run([*map(str, command)], cwd=folder, env=environment, stdout=said, stderr=said)
    if done.returncode:
        raise Absent(f"failed: {(log.read_text(errors='replace').strip().splitlines() or ['in silence'])[-1]}"[:200])


class Rows:
    """The same row in several ways, each a number of seconds from an empty folder on."""

    def __init__(self, folder: Path, images: int, rounds: int, seeds: int = SEEDS) -> None:
        """
        :param images: of a client, those for tests among them.
        :param rounds: two or more, as the programs time all but the first one.
        """
        self.folder, self.rounds, self.seeds, self.made = folder, rounds, seeds, 0
        write_images(folder, images)
        self.data, self.files = folder / "train.npz", folder / "files"
        common.write(self.data, CLIENTS, round(images * (1 - TESTED)))
        self.files.mkdir()
        write_files(common.load(self.data), self.files)

    def _empty(self) -> Path:
        self.made += 1
        place = self.folder / f"{self.made}"
        place.mkdir()
        return place

    def here(self, methods: Sequence[str], precision: str) -> float:
        """One `snakemake`, from the images to the table."""
        place = self._empty()
        (place / "row.yaml").write_text(yaml.safe_dump(study(methods, self.folder, self.rounds, precision, self.seeds)))
        command = (sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--configfile", "row.yaml")
        return _seconds(lambda: call((*command, "--cores", cores(), "tables"), 1, place, place / "log"))

    def loop(self, suite: str, python: Path | str, runs: Sequence[Sequence[str]], threads: int) -> float:
        """A program of `benchmarks.suites` for each run, with its own options; as many at a time as the cores allow."""
        place = self._empty()

        def one(run: tuple[int, Sequence[str]]) -> None:
            number, options = run
            given = ("--data", self.data, "--rounds", self.rounds - 1, "--threads", threads, *options)
            call((python, "-m", f"benchmarks.suites.{suite}", *given), threads, ROOT, place / f"{number}.log")

        def every() -> None:
            with ThreadPool(max(1, cores() // threads)) as pool:
                for _ in pool.imap_unordered(one, enumerate(runs)):
                    pass

        return _seconds(every)

    def pfllib(self) -> float:
        runs = [("--method", method, "--files", str(self.files)) for _ in range(self.seeds) for method in FIVE]
        return self.loop("pfllib_methods", sys.executable, runs, 1)

    def flower(self) -> float:
        runs = [("--mu", mu) for _ in range(self.seeds) for mu in TWO.values()]
        return self.loop("flower", interpreter("flower"), runs, cores())


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@pytest.fixture
def rows(tmp_path: Path, quick: bool) -> Iterator[Rows]:
    return Rows(tmp_path, *((20, 2, 1) if quick else (500, 4)))


def compare(
    benchmark: Any,
    record: Record,
    turns: int,
    methods: Sequence[str],
    rows: Rows,
    theirs: Callable[[], float],
    who: str,
) -> None:
    """Ours in both precisions against another suite, as rows of the page."""
    precisions = {"default precision": "auto", "fp32": "fp32"}
    ways = [lambda given=given: rows.here(methods, given) for given in precisions.values()]
    *ours, other = in_turn(benchmark, turns, ways[0], *ways[1:], theirs, warm_up=False)
    what = f"{len(methods)} methods, {rows.seeds} seeds"
    record(f"{what}: {who}", statistics.median(other), "s")
    for name, values in zip(precisions, ours, strict=True):
        record(f"{what}: this suite, {name}", statistics.median(values), "s", ratio=ratio(values, other), against=who)


def bench_five_methods(benchmark: Any, record: Record, quick: bool, rows: Rows) -> None:
    """A row of five methods, against PFLlib's way."""
    compare(benchmark, record, 1 if quick else 2, FIVE, rows, rows.pfllib, "PFLlib's way")


def bench_two_methods(benchmark: Any, record: Record, quick: bool, rows: Rows) -> None:
    """A row of FedAvg and FedProx, against Flower's simulation."""
    try:
        interpreter("flower")
    except Absent as reason:
        pytest.skip(str(reason))
    compare(benchmark, record, 1 if quick else 2, [*TWO], rows, rows.flower, "Flower's simulation")
