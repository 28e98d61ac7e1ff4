"""The report page, and the commands that make tables, figures and report of a study."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from paper_runs import row, write_run
from typer.testing import CliRunner

from apfl.artifacts import write_npz
from apfl.cli import app, paper
from apfl.config import load_study
from apfl.errors import UserError
from apfl.paper import published
from apfl.paper.report import Section, duration, inline_svg, provenance_facts, render
from apfl.study import cells

STUDY = """
name: tiny
description: A study of "quotes" & <angles>.
seeds: [0, 1]
data:
  digits: {source: digits}
training: {rounds: 2}
methods:
  local: {}
  fedavg: {}
tables:
  table1: {dataset: digits}
  table2: {clients: [5], alphas: ["0.1"]}
figures:
  figure4: {panels: {digits: dirichlet-alpha0.1}}
"""


@pytest.fixture(scope="module")
def register():
    if "tables" not in {command.name or command.callback.__name__ for command in app.registered_commands}:
        paper.register(app)


@pytest.fixture
def study(tmp_path, register):
    path = tmp_path / "tiny.yaml"
    path.write_text(STUDY)
    results = tmp_path / "results"
    loaded = load_study(path)
    for output in ("table2", "figure4"):
        for ours in cells(loaded, output):
            for seed, run in enumerate(ours.runs):
                rows = [
                    row(0.1 * number + 0.1 * seed + 0.2, round=number, model=ours.model, test=test)
                    for number in range(3)
                    for test in ("pooled", "own")
                ]
                write_run(results, run, rows, module=ours.method)
    (first,) = cells(loaded, "table1")
    counts = np.zeros((10, 10), dtype=np.int64)
    for device in published.table1():
        counts[device.client, list(device.classes)] = 1
    write_npz(results / first.runs[0], counts=counts, dropout=np.arange(10) == 8)
    return path


def call(study: Path, command: str, *options: str):
    arguments = [command, str(study), "--results", str(study.parent / "results"), *options]
    return CliRunner().invoke(app, arguments, catch_exceptions=True)


def test_tables_are_written_under_the_study_and_have_no_holes(study):
    assert call(study, "tables").exit_code == 0
    folder = study.parent / "results" / "tiny" / "tables"
    expected = {f"{name}.{kind}" for name in ("table1", "table2") for kind in ("csv", "md", "tex", "html")}
    assert {path.name for path in folder.iterdir()} == expected
    done = call(study, "check-tables")
    assert (done.exit_code, "every cell" in done.output) == (0, True)


def test_one_table_alone_needs_its_own_runs_alone(study):
    loaded = load_study(study)
    (study.parent / "results" / cells(loaded, "table2")[0].runs[0] / "run.json").unlink()
    assert call(study, "tables", "--only", "table1").exit_code == 0
    refused = call(study, "tables", "--only", "table2")
    assert isinstance(refused.exception, UserError)
    assert "snakemake --configfile" in str(refused.exception)
    assert not (study.parent / "results" / "tiny" / "tables" / "table2.csv").exists()


def test_holes_end_in_status_1_and_are_listed(study):
    loaded = load_study(study)
    (study.parent / "results" / cells(loaded, "table2")[0].runs[0] / "run.json").unlink()
    assert call(study, "tables", "--partial").exit_code == 0
    done = call(study, "check-tables")
    assert done.exit_code == 1
    assert "table2, digits, dirichlet-alpha0.1-clients5, non_dropout, Local, pooled: 1 of 2 seeds" in done.output


def test_an_output_that_is_no_part_of_the_study_is_refused(study):
    refused = call(study, "figures", "--only", "figure5")
    assert str(refused.exception) == "--only figure5: no part of this study; it has figure4"


def test_figures_are_written_where_asked(study, tmp_path):
    assert call(study, "figures", "--out", str(tmp_path / "here")).exit_code == 0
    assert (tmp_path / "here" / "figure4_own.svg").is_file()


def test_the_report_holds_tables_figures_and_provenance_and_needs_no_network(study):
    assert call(study, "report").exit_code == 0
    page = (study.parent / "results" / "tiny" / "report.html").read_text()
    assert re.findall(r'<section[^>]* id="([a-z0-9]+)"', page) == ["table1", "table2", "figure4", "provenance"]
    assert page.count("<svg") == 2
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "A study of &#34;quotes&#34; &amp; &lt;angles&gt;." in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert "4 of 4 finished" in page
    assert "4 min 04 s" in page


def test_the_report_is_always_the_same(study):
    path = study.parent / "results" / "tiny" / "report.html"
    call(study, "report")
    first = path.read_bytes()
    call(study, "report")
    assert path.read_bytes() == first


def test_another_section_is_added_as_it_is(study):
    page = render(load_study(study), [Section("verdicts", "Verdicts <1>", "<p>Yes.</p>")])
    assert '<a href="#verdicts">Verdicts &lt;1&gt;</a>' in page
    assert "<p>Yes.</p>" in page


def test_a_picture_in_a_page_has_ids_of_its_own_and_a_label():
    svg = '<?xml version="1.0"?><svg width="1"><path id="a"/><use href="#a" clip-path="url(#b)"/></svg>'
    found = inline_svg(svg, "x-", 'say "so"')
    assert found.startswith('<svg role="img" aria-label="say &#34;so&#34;" width="1">')
    assert 'id="x-a"' in found
    assert 'href="#x-a" clip-path="url(#x-b)"' in found


def test_provenance_lists_every_commit_and_every_diverged_run():
    records = {
        "one": {"commit": "aa", "clean": True, "seconds": 30, "versions": {"torch": "2.9"}},
        "two": {"commit": "bb", "clean": False, "seconds": 31, "versions": {"torch": "2.10"}, "status": "diverged"},
    }
    facts = dict(provenance_facts(records, 3))
    assert facts["Runs"] == "2 of 3 finished, of which diverged: two"
    assert facts["Commit"] == "aa, bb with uncommitted changes"
    assert facts["Versions"] == "torch 2.10, 2.9"
    assert facts["Computing time"] == "1 min 01 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.6, "1 min 00 s"), (7199.9, "2 h 00 min"), (360000, "100 h 00 min")]
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
