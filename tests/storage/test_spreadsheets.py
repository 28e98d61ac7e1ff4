"""CSV files as people and spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from apfl.errors import UserError
from apfl.storage.spreadsheets import read_rows
from apfl.study.schedules import read_trace

PLAIN = "client,start,arrival\n0,0,2.5\n1,0.5,3\n"
ROWS = [(0, 0.0, 2.5), (1, 0.5, 3.0)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r\n").encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", ";").replace(".", ","),
        PLAIN.replace(",", "\t"),
        "sep=;\r\n" + PLAIN.replace(",", ";"),
        "Client, Start, Arrival\n0, 0, 2.5\n1, 0.5, 3\n",
        '"client","start","arrival"\n"0","0","2.5"\n"1","0.5","3"\n',
        "start,arrival,client\n0,2.5,0\n0.5,3,1\n",
        "client,start,arrival\n0.0,0.0,2.5\n1.0,0.5,3.0\n",
        "\n" + PLAIN + "\n\n",
        PLAIN.rstrip("\n"),
    ],
    ids=range(14),
)
def test_a_trace_is_read_however_a_spreadsheet_has_written_it(tmp_path: Path, content: str | bytes) -> None:
    assert read_trace(write(tmp_path / "t.csv", content)) == ROWS


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a;b\n1;2\n", "line 1: must be client,start,arrival, with rows below; correct the file .it is 'a;b'"),
        ("client,start,arrival,client\n0,0,1,0\n", "line 1: must be client,start,arrival"),
        ("sep=;\nclient;start;arrival\n0;0\n", "line 3: '0;0' is not a client and two times; correct the line"),
        ("client,start,arrival\n0.5,0,1\n", "line 2: '0.5,0,1' is not a client and two times"),
        (PLAIN.encode("utf-16")[:-1], "not a CSV file .*; write columns client,start,arrival"),
    ],
)
def test_a_trace_that_cannot_be_read_is_told_what_it_holds(tmp_path: Path, content: str | bytes, line: str) -> None:
    with pytest.raises(UserError, match=line):
        read_trace(write(tmp_path / "t.csv", content))


def test_a_column_may_be_left_out_if_it_is_optional(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "a,b\n1,x\n")
    assert read_rows(path, ["a"], "a", ["b"]) == [(2, {"a": "1", "b": "x"})]
    assert read_rows(write(path, "a\n1\n"), ["a"], "a", ["b"]) == [(2, {"a": "1"})]
