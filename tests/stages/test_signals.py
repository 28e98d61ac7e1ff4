"""SIGTERM ends a command with its own status, whatever it interrupts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from apfl import cli
from apfl.errors import UserError


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("made_of_it", [UserError, OSError, ValueError, None])
def test_a_reader_that_catches_the_exit_does_not_make_it_a_damaged_file(monkeypatch, capsys, made_of_it) -> None:
    def read(**options) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            if made_of_it is not None:
                raise made_of_it("cannot be read") from None
        return 0

    monkeypatch.setattr(cli, "app", read)
    monkeypatch.setattr(cli, "register", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == ""


def test_without_a_signal_a_damaged_file_is_one(monkeypatch, capsys) -> None:
    def read(**options) -> int:
        raise UserError("generator x: cannot be read")

    monkeypatch.setattr(cli, "app", read)
    monkeypatch.setattr(cli, "register", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "apfl: error: generator x: cannot be read\n"
