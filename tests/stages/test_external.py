"""What a foreign program has measured is checked, and made a run of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apfl.data.dataset import save_dataset
from apfl.data.decode import make_dataset
from apfl.data.partition import make_partition, save_partition
from apfl.data.sources import digits
from apfl.errors import UserError
from apfl.federation.evaluation import evaluate
from apfl.stages.external import accept
from apfl.stages.problem import Inputs, load_problem
from apfl.stages.specification import Specification
from apfl.storage.files import read_json
from apfl.storage.metrics_table import COLUMNS

SETTING = "pathological-classes2-clients5-missing20"
SPEC = Specification.parse({
    "dataset": "digits", "setting": SETTING, "method": "mine", "module": "program/mine", "seed": 0,
    "network": {"name": "cnn"}, "training": {"rounds": 2, "local_epochs": 1},
})  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("external")
    dataset = make_dataset("digits", digits("digits"), max_samples=200)
    save_dataset(folder / "data.npz", dataset)
    save_partition(folder / "partition.npz", make_partition(dataset, SETTING, 0))
    return Inputs(folder / "data.npz", folder / "partition.npz")


@pytest.fixture(scope="module")
def ours(inputs: Inputs) -> pd.DataFrame:
    """What the suite itself would measure of the initial model."""
    problem = load_problem(SPEC, inputs, "cpu")
    return pd.DataFrame([row for round in (1, 2) for row in evaluate(problem, {"global": problem.start}, round)])


def made(frame: pd.DataFrame, inputs: Inputs, folder: Path, name: str = "metrics.csv") -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / name, index=False)
    accept(SPEC, inputs, folder / "run", folder / name, "global", "c0de")
    return pd.read_parquet(folder / "run/metrics.parquet")


def test_roles_and_numbers_of_images_are_filled_in_as_the_suite_counts_them(
    inputs: Inputs, ours: pd.DataFrame, tmp_path: Path
) -> None:
    table = made(ours[["round", "client", "test", "accuracy"]], inputs, tmp_path)
    assert tuple(table.columns) == COLUMNS and set(table["method"]) == {"mine"}
    filled = ["round", "virtual_time", "client", "client_role", "model", "test", "samples", "train_samples"]
    pd.testing.assert_frame_equal(table[filled], ours[filled], check_dtype=False)
    np.testing.assert_allclose(table["accuracy"], ours["accuracy"])
    record = read_json(tmp_path / "run/run.json")
    assert (record["stage"], record["code"], record["status"]) == ("external", "c0de", "finished")
    assert record["specification"] == SPEC.json()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"accuracy": 43.0}, "row 1: accuracy 43.0: is not 0 to 1"),
        ({"accuracy": float("nan")}, "row 1: accuracy nan: is not 0 to 1"),
        ({"client": 5}, "row 1: there is no client 5"),
        ({"client": -1}, "row 1: there is no client -1"),
        ({"round": 3}, "row 1: round 3: is not 1 to 2"),
        ({"round": 0.5}, "column 'round' holds something other than whole numbers"),
        ({"test": "train"}, "has no images of the test 'train'; use pooled, own or monopoly"),
        ({"model": "best"}, "row 1: model 'best': unknown; choose one of global"),
        ({"accuracy": "high"}, "column 'accuracy' holds something other than numbers"),
        ({"loss": "low"}, "column 'loss' holds something other than numbers"),
        ({"virtual_time": "1 h"}, "column 'virtual_time' holds something other than numbers"),
        ({"seed": 1}, "column 'seed' is unknown; write round, client"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_in_one_line(
    inputs: Inputs, ours: pd.DataFrame, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    table = ours[["round", "client", "test", "accuracy", "model"]].astype(object)
    for name, value in change.items():
        table.loc[0, name] = value
    with pytest.raises(UserError) as refused:
        made(table, inputs, tmp_path)
    assert line in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "run/run.json").exists()


@pytest.mark.parametrize("name", ["test", "model"])
def test_a_list_where_text_belongs_is_refused_in_one_line(
    inputs: Inputs, ours: pd.DataFrame, tmp_path: Path, name: str
) -> None:
    table = ours[["round", "client", "test", "accuracy", "model"]].assign(**{name: [["own"]] * len(ours)})
    table.to_parquet(tmp_path / "metrics.parquet")
    with pytest.raises(UserError, match=f"column '{name}' holds something other than text; correct it"):
        accept(SPEC, inputs, tmp_path / "run", tmp_path / "metrics.parquet", "global", "c0de")


def test_rows_that_are_missing_or_there_twice_are_refused(inputs: Inputs, ours: pd.DataFrame, tmp_path: Path) -> None:
    table = ours[["round", "client", "test", "accuracy"]]
    last = table[(table["round"] == 2) & (table["client"] == 3) & (table["test"] == "own")].index
    with pytest.raises(UserError, match="round 2 has no row of client 3, model 'global', test 'own'"):
        made(table.drop(last), inputs, tmp_path)
    with pytest.raises(UserError, match="are those of another row; remove one"):
        made(pd.concat([table, table[:1]]), inputs, tmp_path)
    with pytest.raises(UserError, match="has no column 'test'"):
        made(table.drop(columns="test"), inputs, tmp_path)
    made(table[table["round"] == 2], inputs, tmp_path)  # earlier rounds may be left out
