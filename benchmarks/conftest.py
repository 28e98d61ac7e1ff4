"""What all benchmarks share: the cores they are bound to, and what they say for docs/performance.md.

``make bench`` runs the functions ``bench_*`` of the files ``bench_*.py``. What one of them measured goes through the
fixture `record` into the JSON file of pytest-benchmark, and what was skipped or failed goes there too, with its reason.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.measuring import Record, cores, place, processor


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks")
    group.addoption("--bench-cores", type=int, default=2, help="bind the benchmarks to this many cores (default 2)")
    group.addoption("--quick", action="store_true", help="few and small repetitions: to try a benchmark, not to quote")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: config.getoption("--bench-cores")])
    # Programs that a benchmark starts use the cores that it has.
    os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
    config.stash[LEFT_OUT] = []


LEFT_OUT = pytest.StashKey[list[dict[str, str]]]()


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    """Is this only a trial, in which numbers need not be good?"""
    return request.config.getoption("--quick")


@pytest.fixture
def record(request: pytest.FixtureRequest, benchmark: Any) -> Record:
    """What a benchmark says for the page: figures by calling it, curves by `Record.series`."""
    benchmark.extra_info.update(_topic(request.module))
    return Record(benchmark.extra_info)


@pytest.fixture
def leave_out(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Says for the page what a benchmark leaves out, and why, while it measures the rest."""
    topic, left_out = _topic(request.module), request.config.stash[LEFT_OUT]
    return lambda what, reason: left_out.append(topic | {"what": what, "reason": reason})


def _topic(module: Any) -> dict[str, str]:
    """The topic of a benchmark's file: its name, and its docstring's first line and the rest, as heading and text."""
    title, _, about = (module.__doc__ or module.__name__).partition("\n")
    name = module.__name__.rpartition(".")[2].removeprefix("bench_")
    return {"topic": name, "title": title.rstrip("."), "about": about.strip()}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place(item.path.stem.removeprefix("bench_")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Any:
    report = yield
    if report.skipped or report.failed:
        said = str(call.excinfo.value) if call.excinfo else ""
        reason = said.removeprefix("Skipped: ") if report.skipped else f"failed: {' '.join(said.split())[:200]}"
        what = (item.function.__doc__ or item.name).partition("\n")[0].rstrip(".")
        item.config.stash[LEFT_OUT].append(_topic(item.module) | {"what": what, "reason": reason})
    return report


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    machine_info["bench"] = {
        "processor": processor(machine_info.get("cpu", {})),
        "cores": os.cpu_count(),
        "cores_used": cores(),
        "memory_bytes": memory,
        "bf16": torch.cpu._is_avx512_bf16_supported(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "quick": config.getoption("--quick"),
    }


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list, output_json: dict[str, Any]) -> None:
    output_json["left_out"] = config.stash[LEFT_OUT]
