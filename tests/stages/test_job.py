"""The frame of a stage: a run is carried out once, whoever asks for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from apfl.errors import UserError
from apfl.stages.job import Made, run_once
from apfl.stages.problem import Inputs
from apfl.stages.record import run_record
from apfl.stages.specification import Specification
from apfl.storage.files import read_json, write_text
from apfl.storage.run_folder import write_run
from tests.helpers.problems import tiny_problem

SPECIFICATION = Specification("noise", "iid-clients3", 0, {"rounds": 1}, method="fedavg", module="fedavg")


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    for name in ("data", "partition"):
        (tmp_path / name).write_text(name)
    return Inputs(tmp_path / "data", tmp_path / "partition")


def made(record, watch, diverged: bool = False) -> Made:
    return Made({"a": lambda path: write_text(path, "made")}, {"payload": 3}, diverged, earlier=100.0)


@pytest.mark.parametrize("diverged", [False, True])
def test_a_run_is_written_with_what_it_found_and_what_it_took(inputs: Inputs, tmp_path: Path, diverged: bool) -> None:
    run_once(
        "federate", SPECIFICATION, inputs, tmp_path / "out", lambda: (tiny_problem(), partial(made, diverged=diverged))
    )
    record = read_json(tmp_path / "out" / "run.json")
    assert (tmp_path / "out" / "a").read_text() == "made" and record["outputs"].keys() == {"a"}
    assert record["payload"] == 3 and record["status"] == ("diverged" if diverged else "finished")
    assert 100 < record["seconds"] < 160, "with those of the processes that were interrupted"


def test_a_finished_run_is_not_prepared_again(inputs: Inputs, tmp_path: Path) -> None:
    run_once("federate", SPECIFICATION, inputs, tmp_path / "out", lambda: (tiny_problem(), made))
    before = (tmp_path / "out" / "run.json").read_bytes()
    run_once("federate", SPECIFICATION, inputs, tmp_path / "out", lambda: pytest.fail("prepared again"))
    assert (tmp_path / "out" / "run.json").read_bytes() == before


def test_a_run_that_another_process_finished_meanwhile_is_not_carried_out(inputs: Inputs, tmp_path: Path) -> None:
    def prepare():
        record = run_record("federate", SPECIFICATION, inputs)
        write_run(tmp_path / "out", record, {"a": lambda path: write_text(path, "theirs")}, dict)
        return tiny_problem(), lambda record, watch: pytest.fail("carried out again")

    run_once("federate", SPECIFICATION, inputs, tmp_path / "out", prepare)
    assert (tmp_path / "out" / "a").read_text() == "theirs"


def test_what_cannot_be_prepared_leaves_no_folder(inputs: Inputs, tmp_path: Path) -> None:
    def prepare():
        raise UserError("spec: wrong")

    with pytest.raises(UserError, match="spec: wrong"):
        run_once("federate", SPECIFICATION, inputs, tmp_path / "out", prepare)
    assert not (tmp_path / "out").exists()
