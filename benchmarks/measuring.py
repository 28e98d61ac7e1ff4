"""How benchmarks measure, and how they say what they found.

Machines are shared and their clocks drift, so whatever is compared is measured in turn (A B A B ...) within one run,
and a ratio is the median over the pairs.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cpuinfo

ORDER = (
    "training",
    "precision",
    "suites",
    "study",
    "gpu",
    "server",
    "generator",
    "data",
    "clock",
    "process",
    "scaling",
)
"""The topics in the order of the page; others follow."""


def place(topic: str) -> int:
    """Where a topic stands on the page."""
    return ORDER.index(topic) if topic in ORDER else len(ORDER)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(cpu: Mapping[str, Any] | None = None) -> str:
    """The model of the processor, with its family and number: clouds hide them behind a name such as "AMD EPYC".

    :param cpu: what py-cpuinfo says of it; asked here if left out.
    """
    cpu = cpuinfo.get_cpu_info() if cpu is None else cpu
    name = " ".join((cpu.get("brand_raw") or platform.processor() or platform.machine()).split())
    numbers = [f"{key} {cpu[key]}" for key in ("family", "model") if cpu.get(key) is not None]
    return f"{name} ({', '.join(numbers)})" if numbers else name


@dataclass(frozen=True)
class Record:
    """Where a benchmark puts its figures and curves: ``info`` goes into the JSON file as it is."""

    info: dict[str, Any]

    def __call__(
        self,
        figure: str,
        value: float,
        unit: str,
        *,
        ratio: float | None = None,
        against: str | None = None,
        asked: str | None = None,
    ) -> None:
        """One row of the page.

        :param figure: what was measured, such as "Local training, bf16, one thread".
        :param value: in ``unit``.
        :param ratio: of the value to that of ``against``, which is to be named then.
        :param asked: what is asked of the ratio, or of the value where there is no ratio: ">= 0.95" or "<= 1.3".
        """
        if (ratio is None) != (against is None):
            raise ValueError(f"{figure}: a ratio and what it is against go together")
        if asked is not None:
            bound(asked)
        entry = {"figure": figure, "value": float(value), "unit": unit}
        entry |= {"ratio": None if ratio is None else float(ratio), "against": against, "asked": asked}
        self.info.setdefault("figures", []).append(entry)

    def series(self, plot: str, label: str, x: Sequence[float], y: Sequence[float], unit: str) -> None:
        """A curve of the plot ``plot``: one point for each x; curves of a plot have one unit."""
        if len(x) != len(y) or not x:
            raise ValueError(f"{plot}, {label}: {len(x)} places and {len(y)} values")
        entry = {"plot": plot, "label": label, "x": list(map(float, x)), "y": list(map(float, y)), "unit": unit}
        self.info.setdefault("series", []).append(entry)


def bound(asked: str) -> tuple[str, float]:
    """What is asked, as its sign and its number: ">= 0.95" to (">=", 0.95)."""
    sign, _, number = asked.partition(" ")
    if sign not in (">=", "<=", "<", ">"):
        raise ValueError(f"asked {asked!r}: write it as '>= 0.95'")
    return sign, float(number)


def in_turn(
    benchmark: Any, rounds: int, ours: Callable[[], float], *others: Callable[[], float], warm_up: bool = True
) -> list[list[float]]:
    """What each function returned, a list each: all are called in turn, ``rounds`` times after one round to warm up.

    pytest-benchmark times ``ours``. The functions measure themselves, because only a part of what they do counts.
    """
    found: list[list[float]] = [[] for _ in range(1 + len(others))]

    def measure_others() -> None:
        for values, function in zip(found[1:], others, strict=True):
            values.append(function())

    if warm_up:
        measure_others(), ours()
    for values in found:
        values.clear()
    benchmark.pedantic(lambda: found[0].append(ours()), setup=measure_others, rounds=rounds)
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of pairs that were measured in turn."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))
