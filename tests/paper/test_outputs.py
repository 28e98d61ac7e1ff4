"""What stands beside the verdicts is written and shown, whatever has been run."""

from __future__ import annotations

import pytest

from apfl.jobs.paths import BESIDE
from apfl.paper import outputs as beside
from apfl.paper.verdict.claims import claims
from apfl.paper.verdict.verdicts import findings
from apfl.study.load import load_study
from apfl.study.outputs import JUDGED, WITH_TEACHERS
from tests.helpers.studies import tiny


@pytest.mark.parametrize("paper", [True, False])
def test_every_file_is_written_before_anything_is_run(tmp_path, paper):
    study = load_study(tiny(paper=paper))
    metrics = beside.gather(study, tmp_path / "results")
    paths = beside.write(study, metrics, findings(study, metrics) if paper else (), tmp_path)
    expected = list(BESIDE) if paper else ["ranks", "spread", "teachers"]
    named = [path.rpartition("/")[2] for name in expected for path in BESIDE[name]]
    assert sorted(path.name for path in paths) == sorted(named)
    assert all(path.stat().st_size for path in paths)


def test_the_catalogue_names_every_output_that_verdicts_read():
    assert set(JUDGED) == {claim.output for claim in claims()} | {*WITH_TEACHERS, "selection"}
