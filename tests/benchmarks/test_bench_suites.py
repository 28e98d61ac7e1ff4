"""The comparison with other suites: the same mathematics, the line that each program prints, and what is left out."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from apfl.engine.device import Engine
from apfl.engine.networks import CNN
from apfl.federation.synchronous import run
from baselines.fedavg import FedAvg
from benchmarks import bench_gpu, bench_suites
from benchmarks.measuring import Record
from benchmarks.suites import common, pfllib_way
from benchmarks.suites.ours import InOrder, problem_of
from benchmarks.suites.turns import ROOT, Absent, Running, Way, interpreter

CLIENTS, IMAGES = 3, 12
FP32 = ("--precision", "fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("federation") / "federation.npz"
    common.write(path, CLIENTS, IMAGES, batch_size=5, learning_rate=0.05)
    return path


def distance(params, other) -> float:
    return math.sqrt(sum(float((params[name] - other[name]).square().sum()) for name in other))


def test_the_suites_are_given_our_network(data) -> None:
    given = common.load(data)
    ours = CNN(3, 10)
    ours.load_state_dict(dict(given.start))
    images = torch.randn(4, 3, 32, 32)
    for pool_first in (True, False):
        assert torch.allclose(given.network(pool_first)(images), ours(images), atol=1e-6)


def test_the_way_of_pfllib_trains_what_ours_does(data) -> None:
    given = common.load(data)
    theirs = [{name: value.clone() for name, value in params.items()} for params in pfllib_way.federate(given, 2)]
    ours = [now.state["global"] for now in run(InOrder(), problem_of(given, Engine(), 2))]
    shuffled = [now.state["global"] for now in run(FedAvg(), problem_of(given, Engine(), 2))]
    way = distance(ours[2], given.start)
    assert distance(theirs[0], given.start) == 0 < way
    assert distance(theirs[2], ours[2]) < 1e-3 * way < distance(shuffled[2], ours[2])
    assert given.loss(theirs[2]) < given.loss(given.start)


def test_a_program_prints_one_line_and_leaves_its_parameters(data, tmp_path) -> None:
    command = [sys.executable, "-m", "benchmarks.suites.ours", "--data", data, "--rounds", "2", "--threads", "1"]
    done = subprocess.run([*command, "--out", tmp_path / "final.npz", *FP32], cwd=ROOT, capture_output=True, text=True)
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found["suite"] == "ours" and found["images"] == CLIENTS * IMAGES and len(found["round_seconds"]) == 2
    assert found["samples_per_second"] == pytest.approx(2 * found["images"] / sum(found["round_seconds"]))
    assert found["loss"] < found["start_loss"] == pytest.approx(math.log(10), abs=0.1)
    assert found["peak_rss_bytes"] > 100e6 and found["startup_seconds"] > 0 and "torch" in found["versions"]
    given = common.load(data)
    final = [now.state["global"] for now in run(InOrder(), problem_of(given, Engine(), 3))][-1]
    reference = {"parameters": tmp_path / "ours.npz"}
    common.np.savez(reference["parameters"], **{name: value.numpy() for name, value in final.items()})
    start = {name: value.numpy() for name, value in given.start.items()}
    assert bench_suites.travelled({"parameters": tmp_path / "final.npz"}, reference, start) < 1e-3
    reference["parameters"] = tmp_path / "start.npz"
    common.np.savez(reference["parameters"], **{name: 2 * value for name, value in start.items()})
    assert bench_suites.travelled({"parameters": tmp_path / "final.npz"}, reference, start) > 0.1


@pytest.mark.parametrize("suite", ["pfl", "fedlab", "fedjax"])
def test_a_suite_that_is_installed_trains_what_ours_does(suite, tmp_path) -> None:
    try:
        python = interpreter(suite)
    except Absent as reason:
        pytest.skip(str(reason))
    data, reports = tmp_path / "federation.npz", {}
    common.write(data, CLIENTS, IMAGES, batch_size=4, learning_rate=0.05)
    for name, way, chosen in (("ours", Way("ours", options=FP32), {}), (suite, Way(suite), {"python": python})):
        running = Running(way, data, 1, tmp_path / name, **chosen)
        try:
            running.round(), running.round()
            (reports[name],) = running.finish()
        finally:
            running.stop()
    start = {name: value.numpy() for name, value in common.load(data).start.items()}
    assert bench_suites.travelled(reports[suite], reports["ours"], start) < 1e-3


def test_programs_wait_for_their_turn(data, tmp_path) -> None:
    ours = ("ours", Way("ours", processes=2, options=FP32))
    theirs = ("pfllib_way", Way("pfllib_way", threads=2))
    contest = bench_suites.start(data, 1, tmp_path / "programs", {(who, str(way)): way for who, way in (ours, theirs)})
    keys = [("ours", "2 processes of 1 thread"), ("pfllib_way", "1 process of 2 threads")]
    try:
        speeds = {key: [contest.round(key), contest.round(key)][1:] for key in keys}
        reports = contest.finish()
    finally:
        contest.stop()
    assert not contest.out
    assert [len(reports[key]) for key in keys] == [2, 1]
    for key in keys:
        assert speeds[key] == [pytest.approx(sum(one["samples_per_second"] for one in reports[key]))]
    said = {"default": speeds[keys[0]], "fp32": speeds[keys[0]], "pfllib_way": speeds[keys[1]]}
    both = {"default": [reports[keys[0]][0]], "fp32": [reports[keys[0]][0]], "pfllib_way": reports[keys[1]]}
    record = Record({})
    bench_suites.show(
        record,
        {(who, "so"): values for who, values in said.items()},
        {(who, "so"): values for who, values in both.items()},
        common.load(data),
    )
    rows = {(row["figure"], row["against"]): row for row in record.info["figures"]}
    row = rows["This suite, fp32: so", "PFLlib's way"]
    assert row["ratio"] == pytest.approx(said["fp32"][0] / said["pfllib_way"][0])
    apart = rows["PFLlib's way: final parameters, distance from ours in fp32", None]
    assert apart["value"] < 0.01 and apart["asked"] == "<= 0.01"


def test_a_suite_that_is_missing_or_breaks_is_left_out_with_its_reason(data, tmp_path, monkeypatch) -> None:
    with pytest.raises(Absent, match=r"^not installed; make suites$"):
        interpreter("pfl", tmp_path)
    assert interpreter("pfl", _environment(tmp_path)) == tmp_path / ".venv-pfl/bin/python"
    with pytest.raises(Absent, match=r"No module named benchmarks\.suites\.nobody"):
        Running(Way("nobody"), data, 1, tmp_path / "nobody")

    def missing(suite: str) -> Path:
        raise Absent("not installed; make suites")

    monkeypatch.setattr(bench_suites, "interpreter", missing)
    contest = bench_suites.start(data, 1, tmp_path / "programs", {("pfl", "so"): Way("pfl")})
    assert contest.out == {"pfl": "not installed; make suites"} and math.isnan(contest.round(("pfl", "so")))


def _environment(root: Path) -> Path:
    python = root / ".venv-pfl" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    return root


def test_the_benchmarks_of_a_gpu_run_on_a_cpu(data) -> None:
    engine = Engine(stack=64)
    given = bench_gpu.federations(data, 2)
    own = bench_gpu.problems(given[0], 2, 2, engine)
    for federation, problem in zip(given, own, strict=True):  # both ways train on the same images
        for client, rows in enumerate(problem.train):
            images, labels = federation.client(client)
            batch = problem.images.batch(rows)
            assert torch.equal(batch.labels, labels) and torch.allclose(batch.images, images, atol=1e-4)
    for state, problem in zip(bench_gpu.lockstep(FedAvg(), own, 2), own, strict=True):
        alone = [now.state["global"] for now in run(FedAvg(), problem_of_seed(problem))][-1]
        assert distance(state["global"], alone) < 1e-3 * distance(alone, problem.start)

    benchmark = SimpleNamespace(pedantic=_pedantic)
    record = Record({})
    bench_gpu.against_pfllib(benchmark, record, data, "cpu", engine, seeds=2, repeats=1)
    bench_gpu.one_round(benchmark, record, bench_gpu.paper_scale(data, engine, epochs=2), "cpu")
    bench_gpu.where_time_goes(benchmark, record, own, "cpu")
    stacked = [row for row in record.info["figures"] if row["figure"] == "3 clients x 2 seeds in one stack, fp32"]
    assert [row["against"] for row in stacked] == ["PFLlib's way", "the sequential engine"]
    figures = {row["figure"]: row for row in record.info["figures"]}
    for row in stacked:
        against = figures[f"{row['against'][0].upper()}{row['against'][1:]}, fp32"]["value"]
        assert row["ratio"] == pytest.approx(row["value"] / against)
    one, all_rounds = (row for name, row in figures.items() if name.startswith("FedAvg"))
    assert all_rounds["value"] == pytest.approx(50 * one["value"]) and all_rounds["asked"] == "<= 60"
    shares = [row["value"] for name, row in figures.items() if name.startswith("Time on the device")]
    assert len(shares) == bench_gpu.OPERATIONS and 50 < sum(shares) <= 100 and shares == sorted(shares, reverse=True)


def problem_of_seed(problem):
    """The problem on the engine that trains one client after another."""
    return bench_gpu.dataclasses.replace(problem, engine=Engine())


def _pedantic(function, setup=lambda: None, rounds=1):
    for _ in range(rounds):
        setup()
        result = function()
    return result
