"""Several runs in one process: the same files as each alone, kept when a later one fails, and stacks across seeds."""

from __future__ import annotations

import dataclasses
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from apfl.cli import main
from apfl.data.dataset import Dataset, save_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.engine import stack as stacked
from apfl.engine.device import Engine
from apfl.engine.work import Diverged
from apfl.errors import UserError
from apfl.federation import problem as problem_module
from apfl.federation import side_by_side as together
from apfl.federation.method import load_method
from apfl.federation.side_by_side import side_by_side
from apfl.federation.synchronous import run
from apfl.stages import stopwatch
from apfl.stages.federate import federate
from apfl.stages.problem import Inputs
from apfl.stages.several import Call, federate_all
from apfl.stages.specification import Specification
from apfl.storage.files import read_json
from tests.helpers.problems import DEVICE, moved, tiny_problem

NAMES = ("a", "b", "c")
SETTING = "iid-clients3"
STACKED = Engine(DEVICE, stack=64)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[int, Inputs]:
    """A data set of 90 noisy images, and by seed its partition."""
    folder = tmp_path_factory.mktemp("artefacts")
    labels = np.arange(90, dtype=np.int64) % 3
    images = np.random.default_rng(0).integers(0, 200, (90, 1, 32, 32), dtype=np.uint8)
    dataset = Dataset("noise", images, labels, NAMES, {"kind": "test"})
    save_dataset(folder / "data.npz", dataset)
    for seed in (0, 1):
        save_partition(folder / f"partition{seed}.npz", make_partition(dataset, SETTING, seed))
    return {seed: Inputs(folder / "data.npz", folder / f"partition{seed}.npz") for seed in (0, 1)}


def specification(seed: int, **training) -> Specification:
    usual = {"rounds": 2, "local_epochs": 1, "learning_rate": 1e-3, "precision": "fp32", "batch_size": 8}
    return Specification("noise", SETTING, seed, usual | training, {"name": "cnn"}, "fedavg", "fedavg", {})


def calls_of(inputs: dict[int, Inputs], out: Path, **training) -> list[Call]:
    return [Call(specification(seed, **training), inputs[seed], out / f"seed{seed}") for seed in inputs]


def lanes() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == together.LANE]


def metrics(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "metrics.parquet")


@pytest.fixture
def stacking(monkeypatch) -> list[int]:
    """An engine that stacks, as on a GPU; afterwards the sizes of the stacks that were trained."""
    sizes: list[int] = []
    together_ = stacked.together
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # on a GPU
    monkeypatch.setattr(stacked, "together", lambda *given: sizes.append(len(given[1])) or together_(*given))
    monkeypatch.setattr(Engine, "choose", classmethod(lambda cls, precision="auto", device="auto": STACKED))
    return sizes


def test_runs_of_one_process_are_those_of_their_own(inputs, tmp_path: Path) -> None:
    calls = calls_of(inputs, tmp_path)
    federate_all(calls, "cpu")
    for call in calls:
        alone = tmp_path / "alone" / call.out.name
        federate(call.specification, call.inputs, alone, "cpu")
        for name in ("metrics.parquet", "state.safetensors"):
            assert (call.out / name).read_bytes() == (alone / name).read_bytes()


def test_seeds_are_one_stack_where_the_engine_stacks(inputs, tmp_path: Path, stacking: list[int]) -> None:
    calls = calls_of(inputs, tmp_path)
    federate_all(calls)
    assert stacking == [6, 6], "three clients of two seeds, in two rounds"
    assert not lanes(), "no thread is left"
    for call in calls:
        alone = tmp_path / "alone" / call.out.name
        federate(call.specification, call.inputs, alone)
        loss, other = (metrics(folder)["loss"] for folder in (call.out, alone))
        np.testing.assert_allclose(loss, other, rtol=1e-4)
    seconds = [read_json(call.out / "run.json", "record")["seconds"] for call in calls]
    assert all(value > 0 for value in seconds)


def test_a_seed_that_diverges_leaves_the_others_alone(inputs, tmp_path: Path, stacking: list[int]) -> None:
    calls = calls_of(inputs, tmp_path)
    calls[1] = dataclasses.replace(calls[1], specification=specification(1, learning_rate=1e30))
    side_by_side(
        [
            lambda carry_out, call=call: federate(call.specification, call.inputs, call.out, "cpu", carry_out)
            for call in calls
        ]
    )
    assert [read_json(call.out / "run.json", "record")["status"] for call in calls] == ["finished", "diverged"]


def test_runs_of_other_training_are_not_side_by_side(inputs, tmp_path: Path, stacking: list[int]) -> None:
    calls = calls_of(inputs, tmp_path)
    calls[1] = dataclasses.replace(calls[1], specification=specification(1, rounds=1))
    federate_all(calls)
    assert stacking == [3, 3, 3]


def test_federations_take_turns_and_end_when_each_of_them_does() -> None:
    problems = [
        dataclasses.replace(moved(tiny_problem(seed=seed, rounds=rounds)), engine=STACKED)
        for seed, rounds in ((0, 3), (1, 1))
    ]
    at_once: list[int] = []
    running = threading.Semaphore(1)

    def task(problem):
        def body(carry_out):
            rounds = 0
            for now in run(load_method("fedavg"), problem, carry_out=carry_out):
                assert running.acquire(blocking=False), "two federations at a time"
                time.sleep(0.01)  # in which another one would come along
                rounds = now.round
                running.release()
            at_once.append(rounds)
            return rounds

        return body

    assert side_by_side([task(problem) for problem in problems]) == [3, 1]
    assert at_once == [1, 3]


def test_federations_hold_as_many_models_together_as_one_alone(monkeypatch) -> None:
    monkeypatch.setattr(problem_module, "STACKS", 2)
    monkeypatch.setattr(together, "STACKS", 2)
    alive: weakref.WeakSet = weakref.WeakSet()
    most: list[int] = []
    attempt = together.attempt_stack

    def counted(*given):
        results = attempt(*given)
        alive.update(next(iter(result.params.values())) for result in results)
        most.append(len(alive))
        return results

    monkeypatch.setattr(together, "attempt_stack", counted)

    def task(seed):
        problem = moved(tiny_problem(sizes=(6,) * 40, rounds=2, seed=seed, keep_local_models=False))
        problem = dataclasses.replace(problem, engine=Engine(DEVICE, stack=4))
        return lambda carry_out: [*run(load_method("fedavg"), problem, carry_out=carry_out)][-1].state["global"]

    side_by_side([task(seed) for seed in range(2)])
    assert len(most) == 2 * 10 and max(most) <= 2 * 2 * 4, "two rounds of 2 x 40 models, eight at a time"


def test_runs_side_by_side_share_the_seconds_and_not_the_time_that_is_left(monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
    shared = stopwatch.SharedTime()
    with stopwatch.Stopwatch(shared) as second:
        with stopwatch.Stopwatch(shared) as first:
            clock[0] += 10
            assert (first.lap(), second.lap()) == (10, 10)
            assert (first.seconds, second.seconds, first.elapsed) == (5, 5, 10)
        clock[0] += 4
        second.lap()
        assert (second.seconds, second.elapsed) == (9, 14), "alone, it has the time for itself"


def test_a_federation_that_fails_is_raised_when_the_others_have_ended() -> None:
    problem = dataclasses.replace(moved(tiny_problem(rounds=2)), engine=STACKED)
    ended: list[int] = []

    def good(carry_out):
        ended.append([*run(load_method("fedavg"), problem, carry_out=carry_out)][-1].round)

    def bad(carry_out):
        raise UserError("spec: wrong")

    with pytest.raises(UserError, match="spec: wrong"):
        side_by_side([bad, good])
    assert ended == [2]


def test_a_signal_ends_all_federations(monkeypatch) -> None:
    problem = dataclasses.replace(moved(tiny_problem(rounds=2)), engine=STACKED)
    unwound: list[bool] = []

    def task(carry_out):
        try:
            return [*run(load_method("fedavg"), problem, carry_out=carry_out)]
        finally:
            unwound.append(True)

    def killed(*given):
        raise SystemExit(143)

    monkeypatch.setattr(together, "attempt_stack", killed)
    with pytest.raises(SystemExit):
        side_by_side([task, task])
    assert unwound == [True, True]
    assert not lanes()


@pytest.mark.parametrize("stacks", [False, True])
def test_what_is_finished_outlives_a_later_failure(inputs, tmp_path: Path, stacks: bool, request) -> None:
    trained = request.getfixturevalue("stacking") if stacks else None
    calls = calls_of(inputs, tmp_path)
    broken = dataclasses.replace(calls[1], inputs=dataclasses.replace(calls[1].inputs, partition=tmp_path / "none.npz"))
    with pytest.raises(UserError):
        federate_all([calls[0], broken], "cpu")
    whole = {name: (calls[0].out / name).read_bytes() for name in ("metrics.parquet", "state.safetensors", "run.json")}
    for name in whole:  # as Snakemake does with all that a failed job was to make
        (calls[0].out / name).unlink()
    federate_all(calls, "cpu")
    assert {name: (calls[0].out / name).read_bytes() for name in whole} == whole, "run.json has the first run's seconds"
    assert (calls[1].out / "run.json").is_file()
    assert trained in (None, [3, 3, 3, 3]), "two rounds of one seed, and then of the other"


def test_a_job_of_more_seeds_trains_those_that_are_new(inputs, tmp_path: Path, capsys) -> None:
    first, second = calls_of(inputs, tmp_path)
    federate_all([first], "cpu")
    for name in (
        "metrics.parquet",
        "state.safetensors",
        "run.json",
    ):  # as Snakemake does before it starts the job again
        (first.out / name).unlink()
    capsys.readouterr()
    federate_all([first, second], "cpu")
    said = capsys.readouterr().out
    assert "seed0: finished already" in said and "seed 0: round" not in said and "seed 1: round 2/2" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--spec", "{}", "--spec", "{}", "--data", "d", "--partition", "p", "--partition", "p", "--out", "x", "--out",
          "y"], "--data: given 1 times, but --spec 2 times"),
        (["--spec", "{}", "--spec", "{}", "--data", "d", "--data", "d", "--partition", "p", "--partition", "p", "--out",
          "x"], "--out: given 1 times, but --spec 2 times"),
        (["--spec", "{}", "--spec", "{}", "--data", "d", "--data", "d", "--partition", "p", "--partition", "p", "--out",
          "x", "--out", "x"], "--out: two runs have the same folder"),
        (["--spec", "{}", "--spec", "{}", "--data", "d", "--data", "d", "--partition", "p", "--partition", "p", "--out",
          "x", "--out", "y/../x"], "--out: two runs have the same folder"),
    ],
)  # fmt: skip
def test_options_that_do_not_match_are_refused(options, message, capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["federate", *options])
    assert end.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverged_in_a_stack_says_which_client() -> None:
    problem = dataclasses.replace(moved(tiny_problem(rounds=1, learning_rate=1e38, local_epochs=3)), engine=STACKED)
    with pytest.raises(Diverged, match="round 1: client"):
        side_by_side([lambda carry_out: [*run(load_method("fedavg"), problem, carry_out=carry_out)]])
