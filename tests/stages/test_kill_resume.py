"""Runs that are killed at any moment, restarted, and compared with a run that was left alone: equal to the last bit."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from apfl.registry.trees import ROOT
from tests.helpers.killing import (
    PROVENANCE,
    SIGNALS,
    STAGES,
    WHERE,
    Bench,
    Death,
    all_stages,
    artefacts,
    benched,
    differing,
    moments,
    parts,
)

CHECKPOINTED = ("federate", "asynchronous")
"""The stages that write checkpoints."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with benched(tmp_path_factory.mktemp("bench")) as made:
        yield made


def check_left(bench: Bench, stage: str, out: Path, death: Death, before: Set[Path] = frozenset()) -> None:
    """A folder in which a process died holds no run.json, or the whole run; besides what was there ``before``, one
    half-written file at most, which the next start removes. SIGTERM leaves none, but where it strikes between two
    instructions at the start or the end of writing."""
    left = artefacts(out) if out.exists() else {}
    if "run.json" in left:
        passing = ("checkpoint.safetensors", "metrics.csv")
        final = {name: left[name] for name in left if name not in passing and not name.endswith(".part")}
        assert not differing(final, artefacts(bench.whole(stage))), death
    assert len(parts(out) - before) <= 1, death


def kill_along(bench: Bench, stage: str, out: Path, deaths: list[Death]) -> None:
    """Start a run again and again, each time to be killed; when it finishes before, start anew. A stage with
    checkpoints is killed once more when it has some, wherever the moments fell, and must go on from there."""
    for death in deaths:
        before = parts(out)
        end = bench.server.run(bench.command(stage, out), death)
        if end.status == 0:
            assert not differing(artefacts(out), artefacts(bench.whole(stage)))
            shutil.rmtree(out)
            continue
        assert end.status in (-death.signal, 128 + death.signal), end.said
        check_left(bench, stage, out, death, before)
    bench.finish(stage, out)
    if stage not in CHECKPOINTED:
        return
    shutil.rmtree(out)
    assert bench.server.run(bench.command(stage, out), Death(where="renamed", count=3)).status == -signal.SIGKILL
    said = bench.finish(stage, out)
    assert "round 1/" not in said and "starting again" not in said, "it did not go on from its checkpoint"


def duration(bench: Bench, stage: str, tmp_path: Path) -> float:
    """Seconds of an unbroken run, now that everything is in the caches."""
    return bench.server.run(bench.command(stage, tmp_path / "timed")).seconds


@all_stages("federate", "asynchronous")
def test_a_run_killed_again_and_again_ends_in_the_same_bits(bench: Bench, tmp_path: Path, stage: str) -> None:
    times = moments(stage, duration(bench, stage, tmp_path), 10)
    deaths = [Death(number, after) for number, after in zip(itertools.cycle(SIGNALS), times, strict=False)]
    kill_along(bench, stage, tmp_path / "run", deaths)
    assert not differing(artefacts(tmp_path / "run"), artefacts(bench.whole(stage)))


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_any_of_twenty_moments_ends_in_the_same_bits(
    bench: Bench, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    times = moments(f"{stage} {number}", duration(bench, stage, tmp_path))
    for place, after in enumerate(times):
        out, death = tmp_path / str(place), Death(number, after)
        end = bench.server.run(bench.command(stage, out), death)
        assert end.status in (0, -number, 128 + number), end.said
        check_left(bench, stage, out, death)
        bench.finish(stage, out)
    if stage in CHECKPOINTED:
        kill_along(bench, stage, tmp_path / "chain", [Death(number, after) for after in times])


FINAL = {
    "federate": (9, 10, 11, 12),
    "asynchronous": (8, 9, 10, 11),
    "memorize": (1, 2, 3, 4),
    "personalize": (1, 2, 3),
}
"""Which writes of a run are the files that stay; those before are checkpoints, the last one is kept."""


@all_stages("federate", "asynchronous", "personalize")
def test_a_run_killed_between_two_files_is_finished_or_made_again(bench: Bench, tmp_path: Path, stage: str) -> None:
    for count in FINAL[stage]:
        out, death = tmp_path / str(count), Death(where="renamed", count=count)
        assert bench.server.run(bench.command(stage, out), death).status == -signal.SIGKILL
        check_left(bench, stage, out, death)
        bench.finish(stage, out)


@pytest.mark.parametrize("where", WHERE)
def test_a_run_killed_in_the_middle_of_a_write_leaves_nothing_behind(bench: Bench, tmp_path: Path, where: str) -> None:
    for count, number in ((3, signal.SIGKILL), (9, signal.SIGTERM)):
        out, death = tmp_path / f"{where}{count}{number}", Death(number, where=where, count=count)
        end = bench.server.run(bench.command("federate", out), death)
        assert end.status == (-number if number == signal.SIGKILL else 128 + number)
        left = parts(out)
        if number == signal.SIGKILL:
            assert len(left) == (where != "renamed"), left
        # Between making a file and remembering its name nothing can be cleaned up: the next start does.
        check_left(bench, "federate", out, death, left if where == "created" else frozenset())
        said = bench.finish("federate", out)
        assert "round 1/" not in said and "starting again" not in said, "it did not go on from its checkpoint"


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_at_any_point_of_any_write_ends_in_the_same_bits(
    bench: Bench, tmp_path: Path, stage: str, number: signal.Signals
) -> None:
    for where, count in itertools.product(WHERE, range(1, FINAL[stage][-1] + 1)):
        out, death = tmp_path / f"{where}{count}", Death(number, where=where, count=count)
        assert bench.server.run(bench.command(stage, out), death).status in (-number, 128 + number)
        check_left(bench, stage, out, death, parts(out) if where == "created" else frozenset())
        bench.finish(stage, out)


@all_stages("federate")
def test_new_files_beside_the_record_of_an_older_run_never_pass_for_it(
    bench: Bench, tmp_path: Path, stage: str
) -> None:
    for count in FINAL[stage][:-1]:
        out, other = tmp_path / str(count), bench.command(stage, tmp_path / str(count), seed=1)
        assert bench.server.run(other).status == 0
        killed = bench.server.run(bench.command(stage, out), Death(where="renamed", count=count))
        assert killed.status == -signal.SIGKILL and not (out / "run.json").exists()
        bench.finish(stage, out)


def test_a_run_killed_just_before_its_checkpoint_is_removed_is_finished_without_it(
    bench: Bench, tmp_path: Path
) -> None:
    bench.server.run(bench.command("federate", tmp_path), Death(where="renamed", count=13))
    assert {"run.json", "checkpoint.safetensors"} <= artefacts(tmp_path).keys()
    assert "nothing to do" in bench.finish("federate", tmp_path)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_the_installed_command_is_killed_and_goes_on(bench: Bench, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "apfl", *map(str, bench.command("federate", tmp_path))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if "round 3/" in line:
            process.send_signal(number)
            break
    process.stdout.close()
    assert process.wait(timeout=60) in (-number, 128 + number) and not process.stderr.read()
    process.stderr.close()
    assert not (tmp_path / "run.json").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "round 1/" not in done.stdout, done.stdout + done.stderr
    assert not differing(artefacts(tmp_path), artefacts(bench.whole("federate")))


def test_what_is_left_out_of_the_comparison_says_nothing_about_the_result(bench: Bench) -> None:
    record = json.loads((bench.whole("federate") / "run.json").read_text())
    compared = record.keys() - set(PROVENANCE)
    assert {"specification", "inputs", "outputs", "code", "status", "versions", "device", "precision"} <= compared
    assert set(PROVENANCE) <= record.keys()
