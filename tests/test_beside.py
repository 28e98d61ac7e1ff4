"""What stands beside the verdicts is written and shown, whatever has been run."""

from __future__ import annotations

from studies import tiny

from apfl.config import load_study
from apfl.paper import beside


def test_every_file_is_written_and_every_section_there_before_anything_is_run(tmp_path):
    study = load_study(tiny())
    metrics = beside.gather(study, tmp_path / "results")
    paths = beside.write(study, metrics, tmp_path)
    assert sorted(path.name for path in paths) == sorted(beside.FILES)
    assert all(path.stat().st_size for path in paths)
    parts = list(beside.sections(study, metrics))
    assert [part.identifier for part in parts] == ["ranks", "ceilings", "paper-check"]
    assert "Not run" in parts[1].body
    assert all(f'id="{part.identifier}"' in part.body for part in parts)
