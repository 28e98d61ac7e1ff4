"""What stands beside the verdicts is written and shown, whatever has been run."""

from __future__ import annotations

import re

from studies import tiny

from apfl.config import load_study
from apfl.paper import beside, choice, teachers
from apfl.paper.verdicts import findings
from apfl.registry import ROOT


def test_every_file_is_written_and_every_section_there_before_anything_is_run(tmp_path):
    study = load_study(tiny())
    metrics = beside.gather(study, tmp_path / "results")
    paths = beside.write(study, metrics, findings(study, metrics), tmp_path)
    assert sorted(path.name for path in paths) == sorted(beside.FILES)
    assert all(path.stat().st_size for path in paths)
    parts = list(beside.sections(study, metrics))
    assert [part.identifier for part in parts] == ["ranks", "teachers"]
    assert "Not run" in parts[1].body
    assert all(f'id="{part.identifier}"' in part.body for part in parts)


def test_the_rule_names_every_file_and_every_output_that_is_read():
    rule = (ROOT / "workflow" / "rules" / "verdict.smk").read_text(encoding="utf-8")
    named = set(re.findall(r'"([a-z_]+\.[a-z]+)"', rule))
    assert set(beside.FILES) <= named
    assert all(f'"{output}"' in rule for output in (*teachers.OUTPUTS, choice.OUTPUT))
