"""The comparison at the level of a table's row: the methods of the other way, the study, and what is recorded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from apfl.data.sources import image_folder
from apfl.engine.device import Engine
from apfl.federation.synchronous import run
from apfl.study.cells import runs
from apfl.study.load import load_study
from baselines.ditto import Ditto
from baselines.fedavg import FedAvg
from baselines.fedprox import FedProx
from baselines.local import Local
from baselines.scaffold import Scaffold
from benchmarks import bench_study
from benchmarks.measuring import Record
from benchmarks.suites import common, pfllib_methods
from benchmarks.suites.ours import Ordered, problem_of
from benchmarks.suites.pfllib_way import together, write_files
from benchmarks.suites.turns import Absent

ROUNDS = 3
OURS = {"local": Local, "fedavg": FedAvg, "fedprox": FedProx, "scaffold": Scaffold, "ditto": Ditto}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("federation") / "federation.npz"
    common.write(path, 3, 12, batch_size=5, learning_rate=0.05)
    return path


def in_order(method: type) -> type:
    return dataclass(frozen=True)(type(method.__name__, (Ordered, method), {}))


def distance(params, other) -> float:
    return math.sqrt(sum(float((params[name] - other[name]).square().sum()) for name in other))


def last_models(name: str, problem) -> list:
    """The global model and the clients' own ones after the last round."""
    state = [now.state for now in run(in_order(OURS[name])(), problem)][-1]
    own = state["clients"] if name in ("local", "ditto") else {}
    return ([state["global"]] if "global" in state else []) + [own[client] for client in sorted(own)]


@pytest.mark.parametrize("name", bench_study.FIVE)
def test_methods_of_the_other_way_train_what_ours_do(name: str, data: Path, tmp_path: Path) -> None:
    given = common.load(data)
    kind = pfllib_methods.METHODS[name]
    write_files(given, tmp_path)
    clients = [kind(given, number, tmp_path, torch.device("cpu")) for number in range(given.clients)]
    *_, server = together(clients, ROUNDS)
    theirs = [] if name == "local" else [server]
    theirs += [client.model if name == "local" else client.personal for client in clients if name in ("local", "ditto")]
    problem = problem_of(given, Engine(), ROUNDS)
    ours = last_models(name, problem)
    assert len(ours) == len(theirs) > 0
    fedavg = last_models("fedavg", problem)[0]
    for own, other in zip(ours, theirs, strict=True):
        way = distance(own, given.start)
        apart = distance(other.state_dict(), own)
        assert apart < 1e-3 * way
        if own is not ours[0] or name not in ("fedavg", "ditto"):  # nor would FedAvg have passed for it
            assert apart < distance(fedavg, own) / 30


def test_the_row_is_a_study_of_fifteen_runs_on_as_many_images(tmp_path: Path) -> None:
    rows = bench_study.Rows(tmp_path, 20, 2)
    study = load_study(bench_study.study(bench_study.FIVE, tmp_path, 2, "fp32"))
    assert {(run.method, run.seed) for run in runs(study)} == {
        (method, seed) for method in bench_study.FIVE for seed in range(3)
    }
    images = image_folder("patterns", tmp_path / "patterns")
    assert len(images.labels) == 200 and len(set(images.labels)) == common.CLASSES
    assert len(common.load(rows.data)) == pytest.approx(0.9 * len(images.labels))


def test_a_loop_makes_all_runs_and_tells_of_one_that_fails(data: Path, tmp_path: Path, monkeypatch) -> None:
    rows = bench_study.Rows(tmp_path, 20, 1)
    calls: list[tuple] = []
    monkeypatch.setattr(bench_study, "call", lambda command, *given: calls.append(tuple(command)))
    assert rows.pfllib() > 0
    methods = sorted(command[command.index("--method") + 1] for command in calls)
    assert methods == sorted(3 * bench_study.FIVE) and all("--rounds" in command for command in calls)
    files = {command[command.index("--files") + 1] for command in calls}
    assert [len([*Path(one).glob("*.npz")]) for one in files] == [bench_study.CLIENTS], "made once, for all runs"
    monkeypatch.undo()
    with pytest.raises(Absent, match="invalid choice"):
        rows.loop("pfllib_methods", bench_study.sys.executable, [("--method", "nothing")], 1)


def test_times_are_compared_as_ratios_of_ours_to_theirs() -> None:
    class Given:
        seeds = 3

        def here(self, methods, precision: str) -> float:
            return {"auto": 1.0, "fp32": 2.0}[precision]

    class Once:
        def pedantic(self, target, setup, rounds) -> None:
            for _ in range(rounds):
                setup(), target()

    record = Record({})
    bench_study.compare(Once(), record, 2, ["fedavg"], Given(), lambda: 4.0, "another")
    told = {row["figure"]: (row["value"], row["ratio"]) for row in record.info["figures"]}
    assert told == {
        "1 methods, 3 seeds: another": (4, None),
        "1 methods, 3 seeds: this suite, default precision": (1, 0.25),
        "1 methods, 3 seeds: this suite, fp32": (2, 0.5),
    }


def test_the_study_can_be_written_and_read() -> None:
    given = bench_study.study(["fedavg"], Path("images"), 4, "auto")
    assert yaml.safe_load(yaml.safe_dump(given)) == given
