"""The same federation in other suites.

FedAvg with ten clients that hold 1,000 images of CIFAR-10's shape each: the paper's CNN, batch size 50, one local
epoch, SGD with learning rate 0.01, no evaluation. Each suite is a program of `benchmarks/suites` in an environment of
its own, with the same version of torch. All suites start from the same parameters and train on the same batches in the
same order; the final parameters confirm this. They take turns, round by round. Start-up and the first round do not
count. *PFLlib's way* is a plain loop that works the way PFLlib does.

Two cores can be used in two ways: by one process of two threads, or by two federations that run side by side, each in a
process of one thread, whose speeds are added. Flower, whose workers take one core each anyway, and the bf16 of
pfl-research were only run in the first way; for the others, ratios compare the faster ways. FedJAX trains in JAX 0.5.3,
the newest version that its last release, 0.0.17, works with. BlazeFL 3.0 was not available from the package registry at
the time of measurement.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.measuring import Record, cores, in_turn, ratio
from benchmarks.suites import common
from benchmarks.suites.turns import Absent, Running, Way, interpreter

TITLES = {
    "default": "This suite, default precision",
    "fp32": "This suite, fp32",
    "pfl": "pfl-research",
    "pfl bf16": "pfl-research, its option bf16",
    "fedlab": "FedLab",
    "fedjax": "FedJAX",
    "flower": "Flower",
    "pfllib_way": "PFLlib's way",
}
ASKED = {("default", "pfl"): ">= 2.0", ("fp32", "pfl"): ">= 1.2"}


def ways(count: int) -> dict[tuple[str, str], Way]:
    """By who is measured and how, on ``count`` cores; whoever is to be compared closely stands close in a turn."""
    alone = {"processes": 1, "threads": count}
    beside = {"processes": count, "threads": 1}
    fp32 = ("--precision", "fp32")
    listed = [
        ("flower", Way("flower", **alone)),
        ("fedlab", Way("fedlab", **alone)),
        ("fedlab", Way("fedlab", **beside)),
        ("fedjax", Way("fedjax", **alone)),
        ("fedjax", Way("fedjax", **beside)),
        ("pfllib_way", Way("pfllib_way", **alone)),
        ("pfllib_way", Way("pfllib_way", **beside)),
        ("fp32", Way("ours", **beside, options=fp32)),
        ("pfl", Way("pfl", **beside)),
        ("default", Way("ours", **beside)),
        ("fp32", Way("ours", **alone, options=fp32)),
        ("pfl bf16", Way("pfl", **alone, options=("--bf16",))),
        ("pfl", Way("pfl", **alone)),
        ("default", Way("ours", **alone)),
    ]
    has_bf16 = torch.cpu._is_avx512_bf16_supported()
    return {(who, str(way)): way for who, way in listed if has_bf16 or who != "pfl bf16"}


@dataclass
class Contest:
    """Ways that run in turn; one that fails is out, with its reason, and the others go on."""

    running: dict[tuple[str, str], Running]
    speeds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    out: dict[str, str] = field(default_factory=dict)

    def round(self, key: tuple[str, str]) -> float:
        """Samples a second in the next round; not a number once the way has failed."""
        if key not in self.running:
            return float("nan")
        try:
            return self.running[key].round()
        except Absent as reason:
            self.fail(key, reason)
            return float("nan")

    def fail(self, key: tuple[str, str], reason: Absent) -> None:
        self.out[key[0]] = str(reason)
        self.running.pop(key).stop()

    def finish(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        reports = {}
        for key, running in list(self.running.items()):
            try:
                reports[key] = running.finish()
            except Absent as reason:
                self.fail(key, reason)
        return reports

    def stop(self) -> None:
        for running in self.running.values():
            running.stop()


def start(data: Path, rounds: int, folder: Path, listed: Mapping[tuple[str, str], Way]) -> Contest:
    """The programs of all ways that can be had, started one after another."""
    contest = Contest({})
    for number, (key, way) in enumerate(listed.items()):
        own = way.suite not in ("ours", "pfllib_way")
        try:
            python = {"python": interpreter(way.suite)} if own else {}
            contest.running[key] = Running(way, data, rounds, folder / str(number), **python)
        except Absent as reason:
            contest.out[key[0]] = str(reason)
    return contest


def travelled(report: Mapping[str, Any], reference: Mapping[str, Any], start: Mapping[str, np.ndarray]) -> float:
    """How far the final parameters of two runs are apart, in units of the way that the second one has gone."""
    one, other = (dict(np.load(which["parameters"], allow_pickle=False)) for which in (report, reference))
    apart = sum(float(np.square(one[name] - other[name]).sum()) for name in start)
    return (apart / sum(float(np.square(other[name] - start[name]).sum()) for name in start)) ** 0.5


def best(speeds: Mapping[tuple[str, str], list[float]], who: str) -> tuple[str, list[float]]:
    """The faster way of a suite, and its speeds."""
    found = {how: values for (name, how), values in speeds.items() if name == who}
    how = max(found, key=lambda way: statistics.median(found[way]))
    return how, found[how]


@pytest.fixture
def contest(tmp_path: Path, quick: bool) -> Iterator[Contest]:
    data = tmp_path / "federation.npz"
    common.write(data, images=100 if quick else 1000)
    contest = start(data, rounds_of(quick), tmp_path / "programs", ways(cores()))
    yield contest
    contest.stop()


def rounds_of(quick: bool) -> int:
    return 1 if quick else 3


def bench_federation(
    benchmark: Any, record: Record, leave_out: Callable[[str, str], None], contest: Contest, quick: bool, tmp_path: Path
) -> None:
    """FedAvg in all suites."""
    *others, ours = ways(cores())
    turns = [lambda key=key: contest.round(key) for key in (ours, *others)]
    measured = in_turn(benchmark, rounds_of(quick), *turns)
    reports = contest.finish()
    speeds = {key: values for key, values in zip((ours, *others), measured, strict=True) if key in reports}
    for who, reason in contest.out.items():
        leave_out(TITLES[who], reason)
    show(record, speeds, reports, common.load(tmp_path / "federation.npz"))


def show(
    record: Record,
    speeds: Mapping[tuple[str, str], list[float]],
    reports: Mapping[tuple[str, str], list[dict[str, Any]]],
    federation: common.Federation,
) -> None:
    """What was measured, as rows of the page."""
    found = [who for who in TITLES if any(name == who for name, _ in speeds)]
    for (who, how), values in sorted(speeds.items(), key=lambda item: (list(TITLES).index(item[0][0]), item[0][1])):
        record(f"{TITLES[who]}: {how}", statistics.median(values), "samples/s")
    for who in found:
        if who in ("default", "fp32"):
            continue
        _, theirs = best(speeds, who)
        for own in ("default", "fp32"):
            how, ours = best(speeds, own)
            facts = {"ratio": ratio(ours, theirs), "against": TITLES[who], "asked": ASKED.get((own, who))}
            record(f"{TITLES[own]}: {how}", statistics.median(ours), "samples/s", **facts)
    for who in found:
        report = next(reports[key] for key in reports if key[0] == who and len(reports[key]) == 1)[0]
        record(f"{TITLES[who]}: most memory resident", report["peak_rss_bytes"] / 1e6, "MB")
    parameters = {name: value.numpy() for name, value in federation.start.items()}
    reference = next(one[0] for (who, _), one in reports.items() if who == "fp32")
    for who, asked in (("default", "<= 0.1"), *((who, "<= 0.01") for who in found if who not in ("default", "fp32"))):
        distances = [travelled(one, reference, parameters) for key in reports if key[0] == who for one in reports[key]]
        asked = "<= 0.1" if "bf16" in who else asked
        record(
            f"{TITLES[who]}: final parameters, distance from ours in fp32", max(distances), "of the way", asked=asked
        )
