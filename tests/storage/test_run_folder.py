"""A finished run that is asked for again is put back, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from apfl.storage.run_folder import KEPT, finished, recorded

RECORD = {"specification": {"seed": 0}, "inputs": {"data": "1"}, "code": {"a": "2"}}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished run with two files."""
    write(tmp_path, dict(RECORD), "first")
    return tmp_path


def write(out: Path, record: dict, text: str) -> None:
    with recorded(out, record, "a", "b"):
        for name in ("a", "b"):
            (out / name).unlink(missing_ok=True)  # as files are written: a new one takes the old one's place
            (out / name).write_text(text)


def texts(out: Path) -> list[str]:
    return [(out / name).read_text() for name in ("a", "b")]


@pytest.mark.parametrize("lost", [["a", "b", "run.json"], ["a"], ["run.json"], []])
def test_what_is_missing_is_put_back(out: Path, lost: list[str]) -> None:
    whole = {name: (out / name).read_bytes() for name in ("a", "b", "run.json")}
    for name in lost:
        (out / name).unlink()
    assert finished(out, RECORD)
    assert {name: (out / name).read_bytes() for name in whole} == whole


@pytest.mark.parametrize("key", RECORD)
def test_another_run_is_not_put_back(out: Path, key: str) -> None:
    for name in ("a", "b", "run.json"):
        (out / name).unlink()
    assert not finished(out, RECORD | {key: {"other": 1}})
    assert [path.name for path in out.iterdir()] == [KEPT]


def test_what_another_run_has_left_is_replaced(out: Path) -> None:
    with pytest.raises(RuntimeError), recorded(out, RECORD | {"code": {}}, "a", "b"):
        (out / "a").unlink()
        (out / "a").write_text("half of another run")
        raise RuntimeError
    assert finished(out, RECORD) and texts(out) == ["first", "first"]


def test_a_later_run_takes_the_place_of_an_earlier_one(out: Path) -> None:
    later = RECORD | {"code": {"a": "3"}}
    write(out, later, "second")
    assert not finished(out, RECORD)
    (out / "a").unlink()
    assert finished(out, later) and texts(out) == ["second", "second"]


def test_what_is_kept_and_was_damaged_is_not_put_back(out: Path, capsys) -> None:
    (out / "a").write_text("torn")  # in place, so that the link is torn too
    assert not finished(out, RECORD) and "missing, or not as run.json says; running again" in capsys.readouterr().out


def test_a_run_is_finished_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / KEPT).write_text("a file in the way of the folder")
    write(tmp_path, dict(RECORD), "first")
    assert finished(tmp_path, RECORD) and texts(tmp_path) == ["first", "first"]


def test_a_run_that_was_not_kept_is_from_then_on(out: Path) -> None:
    for path in (out / KEPT).iterdir():
        path.unlink()
    assert finished(out, RECORD)
    (out / "b").unlink()
    assert finished(out, RECORD) and texts(out) == ["first", "first"]
