"""A foreign method: Flower's FedAvg, in an environment of its own, against ours.

Its environment is made by `make flower`; without it these tests are skipped by name.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from apfl.data.dataset import save_dataset
from apfl.data.decode import make_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.data.sources import digits
from apfl.errors import UserError
from apfl.federation.evaluation import evaluate
from apfl.federation.method import load_method
from apfl.federation.problem import run_work
from apfl.registry.cards import card
from apfl.registry.trees import ROOT
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.specification import Specification
from apfl.storage.files import read_json
from apfl.storage.metrics_table import metrics_frame
from apfl.storage.tensors import read_tensors, write_tensors
from apfl.study.cells import cells, runs
from apfl.study.load import load_study
from tests.helpers.problems import distance
from tests.helpers.studies import tiny

PYTHON = ROOT / ".venv-flower" / "bin" / "python"
SCRIPT = ROOT / "workflow" / "rules" / "external" / "flower.py"
SETTING = "pathological-classes2-clients10-missing20"


@pytest.fixture(scope="module")
def flower(tmp_path_factory) -> tuple[Path, dict]:
    """One round of SGD without shuffling, by Flower, on 200 digits dealt out as in Table 1."""
    if not PYTHON.exists():
        pytest.skip("needs Flower's environment: run `make flower`")
    folder = tmp_path_factory.mktemp("flower")
    dataset = make_dataset("digits", digits("digits"), max_samples=200)
    save_dataset(folder / "data.npz", dataset)
    save_partition(folder / "partition.npz", make_partition(dataset, SETTING, 0))
    training = {"rounds": 1, "local_epochs": 2, "batch_size": 7, "learning_rate": 0.05, "optimizer": "sgd"}
    spec = {"dataset": "digits", "setting": SETTING, "method": "flower", "module": "external/flower", "seed": 0}
    spec |= {"training": training | {"evaluate_rounds": [1], "save_rounds": [1], "precision": "fp32"}}
    problem = load_problem(Specification.parse(spec), Inputs(folder / "data.npz", folder / "partition.npz"), "cpu")
    write_tensors(folder / "initial.safetensors", problem.start)
    command = [PYTHON, SCRIPT, "--spec", json.dumps(spec), "--no-shuffle"]
    for name, file in (("data", "data.npz"), ("partition", "partition.npz"), ("initial", "initial.safetensors")):
        command += [f"--{name}", folder / file]
    done = subprocess.run(
        [*map(str, command), "--out", str(folder / "out")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder, spec


def ours(folder: Path, spec: dict):
    """The same round by our server."""
    problem = load_problem(Specification.parse(spec), Inputs(folder / "data.npz", folder / "partition.npz"), "cpu")
    fedavg = load_method("fedavg")
    state = fedavg.init(problem)
    work = fedavg.client_work(state, problem, 1, problem.participants)
    unshuffled = [
        dataclasses.replace(piece, phases=tuple(dataclasses.replace(phase, shuffle=False) for phase in piece.phases))
        for piece in work
    ]
    results = [run_work(problem, piece, 1) for piece in unshuffled]
    return problem, fedavg.server_update(state, problem, 1, results)


@pytest.mark.slow
def test_one_round_of_flower_gives_our_parameters(flower) -> None:
    folder, spec = flower
    tensors, _ = read_tensors(folder / "out" / "state.safetensors", "state")
    theirs = {name.removeprefix("round1/global/"): value for name, value in tensors.items()}
    problem, state = ours(folder, spec)
    assert distance(state["global"], theirs) < 1e-5
    assert distance(problem.start, theirs) > 1e-2


@pytest.mark.slow
def test_flowers_metrics_are_the_table_that_we_would_write(flower) -> None:
    folder, spec = flower
    theirs = pd.read_parquet(folder / "out" / "metrics.parquet")
    problem, state = ours(folder, spec)
    rows = evaluate(problem, {"global": state["global"]}, 1)
    identity = {"dataset": "digits", "setting": SETTING, "method": "flower", "semantics": "", "reading": "", "seed": 0}
    expected = metrics_frame(rows, **identity).to_pandas()
    pd.testing.assert_frame_equal(theirs[list(expected.columns)], expected, atol=1e-4)
    record = read_json(folder / "out" / "run.json")
    assert record["status"] == "finished" and record["specification"] == spec


def test_a_foreign_method_is_a_column_of_the_tables_like_any_other() -> None:
    study = load_study(tiny(methods={"fedavg": {}, "fedavg-flower": {"module": "external/flower"}}, apfl={}))
    (foreign,) = [run for run in runs(study) if run.stage == "external"]
    assert foreign.inputs.keys() == {"data", "partition", "initial"}
    assert [cell.title for cell in cells(study, "table2")] == ["FedAvg", "FedAvg (Flower)"]


def test_a_foreign_method_without_a_script_is_refused() -> None:
    with pytest.raises(UserError, match=r"no workflow/rules/external/nothing\.py; add it, or .* external/flower"):
        card("external/nothing")
