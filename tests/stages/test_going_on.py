"""More rounds of a finished run go on from its last state, to the bits of a run made at once; equal runs are shared."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apfl.cli import main
from apfl.data.dataset import Dataset, save_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.federation.problem import run_all
from apfl.registry.cards import methods
from apfl.registry.code import mentions
from apfl.stages.federate import federate
from apfl.stages.job import Keeping
from apfl.stages.personalize import personalize_run
from apfl.stages.problem import Inputs
from apfl.stages.specification import Specification
from apfl.storage.files import canonical_json, read_json
from apfl.storage.run_folder import KEPT

SETTING = "iid-clients3"
FILES = ("metrics.parquet", "state.safetensors")
LAST_STATE = "checkpoint.safetensors"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    """A data set of 60 noisy images, shared among three clients."""
    folder = tmp_path_factory.mktemp("artefacts")
    labels = np.arange(60, dtype=np.int64) % 3
    images = np.random.default_rng(0).integers(0, 200, (60, 1, 32, 32), dtype=np.uint8)
    dataset = Dataset("noise", images, labels, ("a", "b", "c"), {"kind": "test"})
    save_dataset(folder / "data.npz", dataset)
    save_partition(folder / "partition.npz", make_partition(dataset, SETTING, 0))
    return Inputs(folder / "data.npz", folder / "partition.npz", proxy=folder / "data.npz")


def asked(rounds: int, method: str = "fedavg", schedule: dict[str, Any] | None = None, **training) -> Specification:
    usual = {"rounds": rounds, "local_epochs": 1, "learning_rate": 1e-3, "precision": "fp32", "batch_size": 16}
    parameters = {"feddf": {"steps": 3}, "fedgen": {"generator_steps": 2}}.get(method, {})
    usual |= {"evaluate_rounds": list(range(1, rounds + 1)), "save_rounds": [rounds]}
    spec = Specification("noise", SETTING, 0, usual | training, {"name": "cnn"}, method, method, parameters)
    return dataclasses.replace(spec, schedule=schedule)


@pytest.fixture
def train(inputs: Inputs, capsys):
    """Make a run, and return the rounds that were trained for it."""

    def train(specification: Specification, out: Path, **keeping) -> list[int]:
        given = inputs if specification.module == "feddf" else dataclasses.replace(inputs, proxy=None)
        federate(specification, given, out, "cpu", keeping=Keeping(**keeping))
        said = capsys.readouterr().out
        return [int(number) for number in re.findall(rf"round (\d+)/{specification.training['rounds']}\b", said)]

    return train


def contents(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


def facts(out: Path) -> dict[str, Any]:
    record = read_json(out / "run.json")
    return {name: record.get(name) for name in ("specification", "inputs", "code", "outputs", "status", "drawn")}


@pytest.mark.parametrize(
    ("method", "training"),
    [
        ("fedavg", {}),
        ("scaffold", {"clients_per_round": 2}),
        ("ditto", {"clients_per_round": 2, "client_sampling": "size"}),
        ("feddf", {}),
        ("fedgen", {}),
        ("local", {"keep_local_models": False}),
    ],
)
def test_eight_rounds_after_four_train_four_and_end_in_the_bits_of_eight(
    train, tmp_path: Path, method: str, training: dict[str, Any]
) -> None:
    at_once, longer = tmp_path / "at once", tmp_path / "longer"
    assert train(asked(8, method, **training), at_once) == list(range(1, 9))
    assert train(asked(4, method, **training), longer) == [1, 2, 3, 4]
    assert train(asked(8, method, **training), longer) == [5, 6, 7, 8]
    assert contents(longer) == contents(at_once) and facts(longer) == facts(at_once)


def test_the_shorter_run_is_not_lost(train, tmp_path: Path) -> None:
    train(asked(2), tmp_path)
    short, said = contents(tmp_path), facts(tmp_path)
    assert train(asked(4), tmp_path) == [3, 4]
    long = contents(tmp_path)
    assert train(asked(2), tmp_path) == [] and contents(tmp_path) == short and facts(tmp_path) == said
    assert train(asked(3), tmp_path) == [3], "goes on from the two rounds"
    assert train(asked(4), tmp_path) == [] and contents(tmp_path) == long


def test_it_goes_on_where_the_workflow_has_removed_the_files_of_the_shorter_run(train, tmp_path: Path) -> None:
    train(asked(2), tmp_path)
    for name in (*FILES, "run.json"):
        (tmp_path / name).unlink()
    assert train(asked(3), tmp_path) == [3]


def test_rounds_that_only_the_shorter_run_looked_at_or_saved_are_left_out(train, tmp_path: Path) -> None:
    at_once, longer = tmp_path / "at once", tmp_path / "longer"
    wanted = asked(5, evaluate_rounds=[2, 5], save_rounds=[5])
    train(wanted, at_once)
    train(asked(3, evaluate_rounds=[2, 3], save_rounds=[1, 3]), longer)
    assert train(wanted, longer) == [4, 5] and contents(longer) == contents(at_once)


@pytest.mark.parametrize("changed", [{"evaluate_rounds": [1, 3]}, {"save_rounds": [1, 3]}, {"learning_rate": 1e-2}])
def test_a_run_that_looked_elsewhere_or_trained_otherwise_is_not_gone_on_with(
    train, tmp_path: Path, changed: dict[str, Any]
) -> None:
    train(asked(2, evaluate_rounds=[2]), tmp_path)
    assert train(asked(3, **{"evaluate_rounds": [2, 3]} | changed), tmp_path) == [1, 2, 3]


def test_synchronous_rounds_in_virtual_time_go_on_and_asynchronous_ones_start_anew(train, tmp_path: Path) -> None:
    for mode, trained in (("sync", [3]), ("async", [1, 2, 3])):
        schedule = {"mode": mode, "latency": "exponential"} | ({"merge": "delta"} if mode == "async" else {})
        at_once, longer = tmp_path / f"{mode} at once", tmp_path / mode
        train(asked(3, schedule=schedule), at_once)
        train(asked(2, schedule=schedule), longer)
        assert train(asked(3, schedule=schedule), longer) == trained
        assert contents(longer) == contents(at_once)
        assert read_json(longer / "run.json")["timeline"] == read_json(at_once / "run.json")["timeline"]


def test_a_method_that_asks_how_many_rounds_there_will_be_is_not_gone_on_with() -> None:
    """AP-FL (feedback) names a stream after the last round, so that its first rounds are others in a longer run."""
    assert {name for name in methods() if mentions("rounds", f"baselines.{name}")} == {"apfl_feedback"}


def test_without_a_last_state_all_rounds_are_trained(train, tmp_path: Path) -> None:
    train(asked(1), tmp_path, last_state=False)
    assert not list(tmp_path.rglob(LAST_STATE)) and train(asked(2), tmp_path) == [1, 2]
    assert (tmp_path / KEPT / LAST_STATE).is_file() and not (tmp_path / LAST_STATE).exists()


def test_a_damaged_last_state_is_left_alone(train, tmp_path: Path) -> None:
    train(asked(1), tmp_path)
    kept = tmp_path / KEPT / LAST_STATE
    kept.write_bytes(kept.read_bytes()[:-9])
    assert train(asked(2), tmp_path) == [1, 2]


def test_what_goes_on_and_is_killed_goes_on_again(train, inputs: Inputs, tmp_path: Path, capsys) -> None:
    at_once, longer = tmp_path / "at once", tmp_path / "longer"
    wanted = asked(6, checkpoint_every=1)
    train(wanted, at_once)
    train(asked(2, checkpoint_every=1), longer)

    def killed(problem, work):
        work = list(work)
        if work[0][1] == 5:
            raise KeyboardInterrupt
        return run_all(problem, work)

    with pytest.raises(KeyboardInterrupt):
        federate(wanted, dataclasses.replace(inputs, proxy=None), longer, "cpu", killed)
    assert "goes on from round 2" in capsys.readouterr().out
    assert train(wanted, longer) == [5, 6] and contents(longer) == contents(at_once)


def test_two_studies_share_the_runs_of_a_store(train, tmp_path: Path) -> None:
    one, other, store = tmp_path / "one" / "run", tmp_path / "other" / "run", tmp_path / "store"
    assert train(asked(2), one, store=store) == [1, 2]
    assert train(asked(2), other, store=store) == []
    assert contents(one) == contents(other) and read_json(one / "run.json") == read_json(other / "run.json")
    assert all((one / name).samefile(other / name) for name in FILES), "hard links take no room"
    assert train(asked(2), tmp_path / "third") == [1, 2], "no store is looked into unless it is named"
    assert train(asked(3), tmp_path / "longer", store=store) == [3]
    assert train(asked(2, save_rounds=[2, 0]), tmp_path / "more", store=store) == [1, 2]
    assert train(asked(3, evaluate_rounds=[3]), tmp_path / "less", store=store) == [], "nothing is left to train"
    assert not list(store.rglob(".*"))


def test_a_run_that_was_damaged_in_the_store_is_made_again(train, tmp_path: Path) -> None:
    train(asked(1), tmp_path / "one", store=tmp_path / "store")
    whole = contents(tmp_path / "one")
    for path in (tmp_path / "store").rglob("*.*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    assert train(asked(1), tmp_path / "other", store=tmp_path / "store") == [1]
    assert contents(tmp_path / "other") == whole
    assert train(asked(1), tmp_path / "third", store=tmp_path / "store") == [], "and is whole there from then on"


def test_a_store_that_cannot_be_written_costs_no_run(train, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the way of the folder")
    assert train(asked(1), tmp_path / "run", store=tmp_path / "store") == [1]


def test_the_command_line_takes_the_store_from_the_environment(
    inputs: Inputs, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("APFL_STORE_ROOT", str(tmp_path / "store"))
    monkeypatch.setenv("APFL_LAST_STATE", "0")
    for name, line in (("one", "round 1/1"), ("other", "finished already")):
        spec = canonical_json(asked(1).json())
        command = ["federate", "--spec", spec, "--data", inputs.data, "--partition", inputs.partition]
        with pytest.raises(SystemExit) as ended:
            main([*map(str, command), "--out", str(tmp_path / name), "--device", "cpu"])
        assert ended.value.code == 0 and line in capsys.readouterr().out
    assert not list(tmp_path.rglob(LAST_STATE))


def test_what_starts_from_a_run_is_shared_and_kept_too(train, inputs: Inputs, tmp_path: Path, capsys) -> None:
    base, store = tmp_path / "base", tmp_path / "store"
    train(asked(1), base)
    fine_tuning = dataclasses.replace(asked(1), method="fedavg-ft", module="fedavg_ft", rounds=(1,))
    given = dataclasses.replace(inputs, proxy=None, run=base)
    for name, line in (("one", "round 1  pooled"), ("other", "finished already")):
        personalize_run(fine_tuning, given, tmp_path / name, "cpu", Keeping(store))
        assert line in capsys.readouterr().out
    # The base becomes longer, and what was made of the shorter one is still there.
    train(asked(2), base)
    longer = dataclasses.replace(asked(2), method="fedavg-ft", module="fedavg_ft", rounds=(2,))
    personalize_run(longer, given, tmp_path / "one", "cpu")
    train(asked(1), base)
    capsys.readouterr()
    personalize_run(fine_tuning, given, tmp_path / "one", "cpu")
    assert "finished already" in capsys.readouterr().out
