"""A finished run that is asked for again is put back, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from apfl.errors import UserError
from apfl.storage.files import read_json, write_json, write_text
from apfl.storage.run_folder import KEPT, Record, finished, keep, write_run

RECORD = Record("federate", {"seed": 0}, {"data": "1"}, "2")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished run with two files."""
    write(tmp_path, RECORD, "first")
    return tmp_path


def write(out: Path, record: Record, text: str) -> None:
    write_run(out, record, dict.fromkeys(("a", "b"), lambda path: write_text(path, text)), dict)


def texts(out: Path) -> list[str]:
    return [(out / name).read_text() for name in ("a", "b")]


@pytest.mark.parametrize("lost", [["a", "b", "run.json"], ["a"], ["run.json"], []])
def test_what_is_missing_is_put_back(out: Path, lost: list[str]) -> None:
    whole = {name: (out / name).read_bytes() for name in ("a", "b", "run.json")}
    for name in lost:
        (out / name).unlink()
    assert finished(out, RECORD)
    assert {name: (out / name).read_bytes() for name in whole} == whole


@pytest.mark.parametrize("key", ["specification", "inputs", "code"])
def test_another_run_is_not_put_back(out: Path, key: str) -> None:
    for name in ("a", "b", "run.json"):
        (out / name).unlink()
    assert not finished(out, replace(RECORD, **{key: {"other": 1}}))
    assert [path.name for path in out.iterdir()] == [KEPT]


def test_what_another_run_has_left_is_replaced(out: Path) -> None:
    def fail(path: Path) -> None:
        raise RuntimeError

    files = {"a": lambda path: write_text(path, "half of another run"), "b": fail}
    with pytest.raises(RuntimeError):
        write_run(out, replace(RECORD, code="3"), files, dict)
    assert not (out / "run.json").exists()
    assert finished(out, RECORD) and texts(out) == ["first", "first"]


def test_a_later_run_takes_the_place_of_an_earlier_one(out: Path) -> None:
    later = replace(RECORD, code="3")
    write(out, later, "second")
    assert not finished(out, RECORD)
    (out / "a").unlink()
    assert finished(out, later) and texts(out) == ["second", "second"]


def test_what_is_kept_and_was_damaged_is_not_put_back(out: Path, capsys) -> None:
    (out / "a").write_text("torn")  # in place, so that the link is torn too
    assert not finished(out, RECORD) and "missing, or not as run.json says; running again" in capsys.readouterr().out


def test_a_run_is_finished_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / KEPT).write_text("a file in the way of the folder")
    write(tmp_path, RECORD, "first")
    assert finished(tmp_path, RECORD) and texts(tmp_path) == ["first", "first"]


def test_a_run_that_was_not_kept_is_from_then_on(out: Path) -> None:
    for path in (out / KEPT).iterdir():
        path.unlink()
    assert finished(out, RECORD)
    (out / "b").unlink()
    assert finished(out, RECORD) and texts(out) == ["first", "first"]


def test_a_run_that_is_kept_twice_leaves_nothing_half_written(out: Path) -> None:
    write_text(out / "checkpoint", "the last state")
    for _ in range(2):
        keep(out, Record.read(out / "run.json").json(), [out / "checkpoint"])
    assert {path.name for path in (out / KEPT).iterdir()} == {"a", "b", "run.json", "checkpoint"}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = replace(RECORD, found={"status": "finished", "seconds": 1.5}, outputs={"a": "4"})
    write_json(tmp_path / "run.json", whole.json())
    assert Record.read(tmp_path / "run.json") == whole
    assert read_json(tmp_path / "run.json") == {
        "stage": "federate", "specification": {"seed": 0}, "inputs": {"data": "1"}, "code": "2", "outputs": {"a": "4"},
        "status": "finished", "seconds": 1.5,
    }  # fmt: skip


def test_a_record_of_another_version_or_a_damaged_one_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"status": "finished", "inputs": ["data"], "later": 1})
    assert Record.read(tmp_path / "run.json") == Record("", {}, {}, "", {"status": "finished", "later": 1})
    write_json(tmp_path / "run.json", [1])
    with pytest.raises(UserError, match="holds no JSON object"):
        Record.read(tmp_path / "run.json")


def test_a_record_that_names_no_files_is_of_no_finished_run(out: Path) -> None:
    record = {name: value for name, value in read_json(out / "run.json").items() if name != "outputs"}
    for folder in (out, out / KEPT):
        write_json(folder / "run.json", record)
    assert not finished(out, RECORD)
