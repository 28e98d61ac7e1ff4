"""The audit of the installed packages: what it makes of an answer, and of none."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from types import SimpleNamespace

import pytest

from apfl.registry.trees import ROOT

spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci/audit.py")
audit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

SKIPPED = {"name": "a", "skip_reason": "Dependency not found on PyPI"}
CLEAN = {"name": "b", "version": "1", "vulns": []}
OPEN = {"name": "c", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": []}]}
MENDABLE = {"name": "d", "version": "1", "vulns": [{"id": "PYSEC-2", "aliases": ["CVE-2"], "fix_versions": ["2"]}]}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([SKIPPED], 0, "NOTHING WAS AUDITED"),
        ([], 0, "NOTHING WAS AUDITED"),
        ([SKIPPED, CLEAN], 0, "1 of 2 packages are known to pypi; 0 vulnerabilities"),
        ([CLEAN, OPEN], 0, "c 1: PYSEC-1, no fixed version yet"),
        ([CLEAN, MENDABLE], 1, "d 1: PYSEC-2, fixed in 2"),
    ],
)
def test_only_a_vulnerability_that_can_be_mended_is_a_failure_and_no_answer_is_no_clean_bill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], packages: list, status: int, said: str
) -> None:
    answer = SimpleNamespace(stdout=json.dumps({"dependencies": packages}), stderr="")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: answer)
    assert audit.main() == status
    assert said in capsys.readouterr().out


def test_an_accepted_advisory_is_shown_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(audit.ACCEPTED, "CVE-2", "not reachable")
    assert audit.judge([MENDABLE]) == (1, ["d 1: PYSEC-2, accepted: not reachable"], False)


def test_a_service_that_hangs_or_breaks_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hang(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("pip-audit", timeout)

    monkeypatch.setattr(audit.subprocess, "run", hang)
    assert audit.main() == 0 and "no answer within 120 s" in capsys.readouterr().out
    broken = SimpleNamespace(stdout="", stderr="Traceback\nConnectionError: no route\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: broken)
    assert audit.main() == 0 and "osv was of no use: ConnectionError: no route" in capsys.readouterr().out
