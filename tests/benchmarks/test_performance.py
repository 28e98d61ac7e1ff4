"""`make bench`: what benchmarks say comes out on docs/performance.md, and nothing else does."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from apfl.registry.trees import ROOT
from benchmarks.demo_times import NoDemo, demo_times
from benchmarks.measuring import Record, in_turn, ratio
from benchmarks.performance import IMAGES, MEASURED, PAGE, added, kept, met, number, page, picture_name, trimmed
from benchmarks.profile import section

MADE_UP = '''"""Made-up things.

Said of them.
"""
import pytest
from benchmarks.measuring import in_turn, ratio

def bench_one(benchmark, record, quick):
    """A thing."""
    assert quick
    ours, theirs = in_turn(benchmark, 2, lambda: 3.0, lambda: 2.0)
    record("a thing", 1234.5678, "things/s", ratio=ratio(ours, theirs), against="another", asked=">= 2")
    record.series("things", "ours", [1, 10], [2, 3], "s")

def bench_two(benchmark, record):
    """A machine that few have."""
    pytest.skip("there is no such machine")

def bench_three(benchmark, record):
    """A thing that breaks."""
    raise ValueError("broken")
'''


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the JSON file of a run over made-up benchmarks is trimmed to."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "bench_made_up.py").write_text(MADE_UP)
    command = [sys.executable, "-m", "pytest", "--quick", "--rootdir", str(folder), "-p", "benchmarks.conftest"]
    command += ["-o", "python_files=bench_*.py", "-o", "python_functions=bench_*", "--benchmark-json", "out.json"]
    done = subprocess.run(
        [*command, "bench_made_up.py"], cwd=folder, env=_alone() | {"PYTHONPATH": str(ROOT)}, capture_output=True
    )
    assert done.returncode == 1, done.stdout  # one benchmark failed
    return trimmed(json.loads((folder / "out.json").read_text()))


def _alone() -> dict[str, str]:
    """The environment without what pytest-xdist says to its workers: benchmarks do not run under it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def test_the_page_is_what_the_measurements_give() -> None:
    measurements = json.loads(MEASURED.read_text())
    assert PAGE.read_text() == page(measurements, {"generator": section()}), "run: make bench"
    drawn = {picture_name(topic) for topic in measurements["topics"] if topic["series"]}
    assert {path.name for path in IMAGES.glob("performance-*.svg")} == drawn


def test_every_figure_comes_out_on_the_page_with_whether_it_is_as_asked(measured: dict) -> None:
    (topic,) = measured["topics"]
    text = page(measured)
    assert "## Made-up things\n\nSaid of them.\n" in text
    assert "| a thing | 1,235 things/s | 1.50 | another | ≥ 2 | **no** |" in text
    assert "**A trial run" in text and "images/performance-made_up.svg" in text
    assert topic["series"] == [{"plot": "things", "label": "ours", "x": [1.0, 10.0], "y": [2.0, 3.0], "unit": "s"}]
    assert "trial run" not in page(measured | {"machine": measured["machine"] | {"quick": False}})


def test_what_was_skipped_or_failed_is_on_the_page_with_its_reason(measured: dict) -> None:
    text = page(measured)
    assert "- Left out: A machine that few have: there is no such machine\n" in text
    assert "- Left out: A thing that breaks: failed: broken\n" in text


def test_topics_of_another_machine_are_added_with_where_they_were_measured(measured: dict) -> None:
    there = measured | {"machine": measured["machine"] | {"gpu": "a GPU", "quick": False}, "date": "2030-01-01"}
    there["topics"] = [{"topic": "gpu", "title": "On a GPU", "about": "", "figures": [], "series": [], "left_out": []}]
    both = added(measured, there)
    text = page(both)
    assert [topic["topic"] for topic in both["topics"]] == ["gpu", "made_up"] and both["machine"] == measured["machine"]
    assert "## On a GPU\n\nMeasured on 2030-01-01" in text and "GPU: a GPU" in text.split("## Made-up")[0]
    assert "Measured" not in text.split("## Made-up")[1]
    assert page(added(both, there)) == text, "once more, in its own place"
    here = measured | {"topics": [there["topics"][0] | {"left_out": [{"what": "it", "reason": "no GPU"}]}]}
    assert kept(here, both)["topics"] == [both["topics"][0]] and kept(here, measured)["topics"] == here["topics"]


def test_the_page_names_the_machine(measured: dict) -> None:
    machine = measured["machine"]
    assert 1 <= machine["cores_used"] <= 2 and machine["memory_bytes"] > 2**28
    assert f"{machine['processor']}, {machine['cores_used']} of {machine['cores']} cores" in page(measured)


def test_pictures_have_a_panel_a_plot_and_no_dates(measured: dict) -> None:
    from benchmarks.performance_plots import draw

    (topic,) = measured["topics"]
    two = topic | {"series": topic["series"] + [topic["series"][0] | {"plot": "others"}]}
    assert draw(two) == draw(two)
    assert (draw(topic).count(b"<clipPath"), draw(two).count(b"<clipPath")) == (1, 2)


@pytest.mark.parametrize(
    ("value", "share", "asked", "kept"),
    [
        (5, None, ">= 5", True),
        (5, None, "> 5", False),
        (5, 0.94, ">= 0.95", False),
        (0.1, 0.96, ">= 0.95", True),
        (5, 1.3, "<= 1.3", True),
        (5, 0.03, "< 0.03", False),
        (5, 0.03, None, None),
    ],
)
def test_what_is_asked_is_asked_of_the_ratio_where_there_is_one(value, share, asked, kept) -> None:
    info: dict = {}
    Record(info)("it", value, "s", ratio=share, against=None if share is None else "that", asked=asked)
    assert met(info["figures"][0]) is kept


def test_a_figure_that_would_mislead_is_refused() -> None:
    record = Record({})
    with pytest.raises(ValueError, match="against"):
        record("it", 1, "s", ratio=2)
    with pytest.raises(ValueError, match="write it as"):
        record("it", 1, "s", asked="at least 2")
    with pytest.raises(ValueError, match="2 places and 1 values"):
        record.series("plot", "label", [1, 2], [1], "s")
    assert record.info == {}


class Pedantic:
    """As much of pytest-benchmark as `in_turn` uses."""

    def pedantic(self, target, setup, rounds) -> None:
        for _ in range(rounds):
            setup()
            target()


def test_what_is_compared_is_measured_in_turn_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def function(name: str, *values: float):
        given = iter(values)

        def call() -> float:
            calls.append(name)
            return next(given)

        return call

    ours, theirs = in_turn(Pedantic(), 3, function("a", 99, 1, 8, 2), function("b", 99, 1, 2, 4))
    assert "".join(calls) == "ba" * 4
    assert (ours, theirs) == ([1, 8, 2], [1, 2, 4])
    assert ratio([1, 8, 2], [1, 2, 4]) == 1  # the median of 1, 4 and 0.5; the medians have a ratio of 2 / 2
    assert ratio([1, 8, 3], [2, 4, 1]) == 2  # and of 0.5, 2 and 3, where the medians have 3 / 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(3038.2, "3,038"), (41.23, "41.2"), (0.98, "0.980"), (0.0123, "0.0123"), (0, "0"), (float("inf"), "inf")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678901).timestamp()


def job(root: Path, name: str, rule: str, start: float, end: float, own: float | None, files: int = 1) -> None:
    """What Snakemake leaves of a job: a record a file, and perhaps a benchmark table."""
    log = f"results/demo/logs/{name}.log"
    for file in range(files):
        record = {"rule": rule, "log": [log], "starttime": BEGAN + start + file / 1e6, "endtime": BEGAN + end}
        path = root / ".snakemake/metadata" / f"{rule}{name}{file}".replace("/", "_")
        path.write_text(json.dumps(record))
    if own is not None:
        table = root / "results/demo/benchmarks" / f"{name}.tsv"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(f"s\th:m:s\tcpu_time\n{own}\t0:00:00\t1.0\n")


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A demo of 1 min 40 s on two cores: jobs of 90, 60 and 20 seconds, the last one without a benchmark table."""
    for name in ("log", "metadata"):
        (tmp_path / ".snakemake" / name).mkdir(parents=True)
    (tmp_path / ".snakemake/log/2026-01-02T030405.678901.snakemake.log").write_text(
        "Provided cores: 2\n[1 of 3 jobs] finished data\n[3 of 3 jobs] finished all\nElapsed time: 0:01:40.000000\n"
    )
    job(tmp_path, "runs/x/seed0", "federate", 1, 93, own=90, files=2)
    job(tmp_path, "runs/x/seed1", "federate", 3, 63, own=60)
    job(tmp_path, "tables/table2", "table", 70, 90, own=None)
    return tmp_path


def test_the_scheduler_has_the_time_of_the_cores_that_no_job_has(demo: Path) -> None:
    times = demo_times(demo)
    assert (times.cores, times.jobs) == (2, 3)
    assert times.wall == pytest.approx(100) and times.own == pytest.approx(170)
    assert times.overhead == pytest.approx(0.15) and times.busy == pytest.approx(0.85)


def test_a_demo_of_several_runs_or_unfinished_or_of_another_study_is_not_read(demo: Path) -> None:
    with pytest.raises(NoDemo, match="no run of the study cpu"):
        demo_times(demo, "cpu")
    job(demo, "runs/x/seed2", "federate", -1000, -900, own=100)
    with pytest.raises(NoDemo, match="no single run"):
        demo_times(demo)
    (demo / ".snakemake/metadata/federateruns_x_seed20").unlink()
    (log,) = (demo / ".snakemake/log").iterdir()
    log.write_text(log.read_text().replace("[3 of 3 jobs] finished all\n", ""))
    with pytest.raises(NoDemo, match="no single run"):
        demo_times(demo)


def test_every_benchmark_says_what_it_is() -> None:
    files = sorted((ROOT / "benchmarks").glob("bench_*.py"))
    assert len(files) >= 7
    for path in files:
        module = ast.parse(path.read_text())
        functions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name[:6] == "bench_"]
        assert functions, path.name
        for node in (module, *functions):
            assert ast.get_docstring(node), f"{path.name}: {getattr(node, 'name', 'the file')}"
        for node in functions:
            assert {"benchmark", "record"} <= {argument.arg for argument in node.args.args}, f"{path.name}: {node.name}"
