"""The report page, and the commands that make tables, figures and report of a study."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from apfl.cli import register
from apfl.durations import duration
from apfl.errors import UserError
from apfl.paper import published
from apfl.paper.html import PageSection, inline_svg
from apfl.paper.report.cost import costs, total
from apfl.paper.report.gallery import draw
from apfl.paper.report.provenance import essentials, provenance_facts, read_records
from apfl.paper.report.report import render
from apfl.storage.files import read_json, write_json, write_npz
from apfl.study.cells import cells, runs
from apfl.study.load import load_study
from apfl.study.runs import Run
from tests.helpers.paper_runs import row, write_run

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


def finished(folder: Path) -> Path:
    """The study's file, with all its runs finished beside it."""
    path = folder / "tiny.yaml"
    path.write_text(STUDY)
    results = folder / "results"
    loaded = load_study(path)
    for output in ("table2", "figure4"):
        for ours in cells(loaded, output):
            for seed, run in enumerate(ours.runs):
                rows = [
                    row(0.1 * number + 0.1 * seed + len(test) / 20, round=number, model=ours.model, test=test)
                    for number in range(3)
                    for test in ("pooled", "own")
                ]
                write_run(results, run, rows, module=ours.method)
    (first,) = cells(loaded, "table1")
    counts = np.zeros((10, 10), dtype=np.int64)
    for device in published.table1():
        counts[device.client, list(device.classes)] = 1
    write_npz(results / first.runs[0], counts=counts, dropout=np.arange(10) == 8, unseen=np.arange(10) >= 8)
    return path


@pytest.fixture
def study(tmp_path):
    return finished(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study that nobody changes, and its page."""
    study = finished(tmp_path_factory.mktemp("whole"))
    return study, report(study)


def call(study: Path, command: str, *options: str):
    arguments = [command, str(study), "--results", str(study.parent / "results"), *options]
    return CliRunner().invoke(register(), arguments, catch_exceptions=True)


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
    assert "snakemake --configfile=" in str(refused.exception) and "with --partial" in str(refused.exception)
    assert not (study.parent / "results" / "tiny" / "tables" / "table2.csv").exists()


@pytest.mark.parametrize("name", ["tables", "claims", "report"])
def test_runs_of_different_code_are_refused_with_the_command_that_makes_them_again(study, name):
    run = study.parent / "results" / cells(load_study(study), "table2")[0].runs[0] / "run.json"
    write_json(run, read_json(run) | {"code": "other"})
    refused = call(study, name)
    assert isinstance(refused.exception, UserError)
    assert f"run `snakemake --configfile={study}` to make the older one again" in str(refused.exception)


def test_holes_end_in_status_1_and_are_listed(study):
    loaded = load_study(study)
    (study.parent / "results" / cells(loaded, "table2")[0].runs[0] / "run.json").unlink()
    assert call(study, "tables", "--partial").exit_code == 0
    done = call(study, "check-tables")
    assert done.exit_code == 1
    assert "table2, digits, dirichlet-alpha0.1-clients5, non_dropout, Local, pooled: 1 of 2 seeds" in done.output


def test_rows_that_are_gone_from_a_table_are_holes(study):
    assert call(study, "tables").exit_code == 0
    for name, gone in (("table1", "table1: client 9"), ("table2", "table2, digits, dirichlet-alpha0.1-clients5, ")):
        path = study.parent / "results" / "tiny" / "tables" / f"{name}.csv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(("9,", "table2,digits,"))))
        done = call(study, "check-tables")
        assert done.exit_code == 1 and gone in done.output and f": not in {path}" in done.output
        path.write_text("".join(lines))


def test_an_output_that_is_no_part_of_the_study_is_refused(study):
    refused = call(study, "figures", "--only", "figure5")
    assert str(refused.exception) == "--only figure5: not part of this study; it has figure4"


def test_figures_are_written_where_asked(study, tmp_path):
    assert call(study, "figures", "--out", str(tmp_path / "here")).exit_code == 0
    assert (tmp_path / "here" / "figure4_own.svg").is_file()


def report(study: Path) -> str:
    """The text of the study's page."""
    done = call(study, "report")
    assert done.exit_code == 0, done.output
    return (study.parent / "results" / "tiny" / "report.html").read_text()


def data_of(page: str) -> dict:
    """The JSON that the page carries."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def buttons(page: str) -> list[tuple[int, str]]:
    """The numbers that open something: which entry, and the text."""
    found = re.findall(r'<button[^>]* data-entry="(\d+)">(.*?)</button>', page)
    return [(int(entry), re.sub("<[^>]*>", "", text)) for entry, text in found]


def test_the_report_holds_tables_figures_and_provenance_and_needs_no_network(whole):
    _, page = whole
    assert re.findall(r'<section[^>]* id="([a-z0-9-]+)"', page) == [
        "table1", "table2", "figure4", "ranks", "spread", "partitions", "cost", "provenance",
    ]  # fmt: skip
    assert page.count('<svg role="img"') == 6, "figure 4 on two tests, and the ranks, each for wide and narrow pages"
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "A study of &#34;quotes&#34; &amp; &lt;angles&gt;." in page
    assert not re.search(r'(src|href)="(?!#|data:image)', page)
    assert "4 of 4 finished" in page
    assert "4 min 04 s" in page


def test_the_page_allows_its_own_script_and_nothing_else(whole):
    _, page = whole
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_every_reproduced_number_opens_the_seeds_that_it_is_the_mean_of(whole):
    _, page = whole
    data, shown = data_of(page), buttons(page)
    assert len(shown) == 2 * 2  # methods and tests
    for entry, text in shown:
        facts, columns, seeds, paths = data["entries"][entry]
        accuracy = 2 + data["values"][columns].index("accuracy (%)")
        assert [seed[:2] for seed in seeds] == [[0, "ok"], [1, "ok"]]
        assert text.split()[0] == f"{np.mean([seed[accuracy] for seed in seeds]):.2f}"
        assert text.split()[2] == f"{np.std([seed[accuracy] for seed in seeds], ddof=1):.2f}"
        names = dict(data["values"][fact] for fact in facts)
        assert [data["runs"][path][0].split("/")[-2:] for path in paths] == [
            [names["Method"].lower(), f"seed{seed}"] for seed in (0, 1)
        ]


def test_every_run_stands_in_the_page_with_what_made_it(whole):
    study, page = whole
    data = data_of(page)
    assert [path for path, *_ in data["runs"]] == [run.path for run in runs(load_study(study))]
    for path, names, numbers, _ in data["runs"]:
        facts = dict(zip(data["values"][names], (data["values"][one] for one in numbers), strict=True))
        record = json.loads((study.parent / "results" / path / "run.json").read_text())
        assert facts == essentials(record)
        assert facts["commit"] == "f00d" and facts["specification.module"] == path.split("/")[-2]


def test_a_study_with_holes_gives_a_page_that_names_them_and_fills_none(study, whole):
    gone = cells(load_study(study), "table2")[0].runs[0]
    (study.parent / "results" / gone / "run.json").unlink()
    page = report(study)
    assert "1 run is missing" in page and "1 run is missing" not in whole[1]
    text = html.unescape(page)
    assert f"<code>snakemake --configfile={study}</code>" in text
    assert f"<code>snakemake --configfile={study} results/tiny/tables/table2.csv</code>" in text
    assert f"<li><code>{gone}</code></li>" in page
    data = data_of(page)
    lacking = [run for run in data["runs"] if not run[2]]
    assert [path for path, *_ in lacking] == [gone]
    partial = [entry for entry, text in buttons(page) if "(1/2)" in text]
    assert len(partial) == 2
    for entry in partial:
        seeds = data["entries"][entry][2]
        assert [seed[1] for seed in seeds] == ["not run", "ok"]
        assert seeds[0][2:4] == [None, None]


def test_a_study_of_which_nothing_has_been_run_has_a_page_too(study):
    results = study.parent / "empty"
    assert CliRunner().invoke(register(), ["report", str(study), "--results", str(results)]).exit_code == 0
    page = (results / "tiny" / "report.html").read_text()
    assert "4 runs are missing" in page
    assert {text for _, text in buttons(page)} == {"not run"}
    assert page.count("has not been made") >= 2


HOSTILE = "</script><script>alert(1)</script>"


def test_text_of_a_study_is_never_markup(study):
    study.write_text(STUDY.replace("local: {}", f"local: {{title: '{HOSTILE}'}}"))
    page = report(study)
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert any(HOSTILE in map(str, value) for value in data_of(page)["values"] if isinstance(value, list))


def test_the_area_of_a_circle_is_the_number_of_images():
    counts = np.array([[400, 0], [100, 1]])
    made = draw("title", counts, np.array([False, True]), np.array([False, True]))
    assert [(one.client, one.label, one.count) for one in made.bubbles] == [(0, 0, 400), (1, 0, 100), (1, 1, 1)]
    first, second, smallest = (one.radius for one in made.bubbles)
    assert first / second == pytest.approx(2, rel=0.03)
    assert smallest > 0.5, "one image can be seen"
    assert [one.unseen for one in made.bubbles] == [False, False, True]
    assert [(drops, images) for _, drops, _, images in made.clients] == [(False, 400), (True, 101)]
    assert "501 in all" in made.description


def test_costs_add_up_over_finished_runs_and_count_planned_ones(study):
    loaded = load_study(study)
    planned = runs(loaded)
    record = {"peak_memory": 5, "device": "cpu", "precision": "bf16"}
    records = {run.path: record | {"seconds": 10.0 + place} for place, run in enumerate(planned[:3])}
    every = costs(loaded, planned, records)
    assert [(one.method, one.finished, one.planned) for one in every] == [("Local", 2, 2), ("FedAvg", 1, 2)]
    assert [one.seconds for one in every] == [21.0, 12.0]
    assert [one.mean for one in every] == [10.5, 12.0]
    assert (total(every).seconds, total(every).longest, total(every).planned) == (33.0, 12.0, 4)
    nothing = costs(loaded, planned, {})
    assert [one.mean for one in nothing] == [None, None]


def test_the_report_is_always_the_same(whole):
    study, page = whole
    assert report(study) == page


def test_another_section_is_added_as_it_is(study):
    page = render(load_study(study), [PageSection("verdicts", "Verdicts <1>", "<p>Yes.</p>")])
    assert '<a href="#verdicts">Verdicts &lt;1&gt;</a>' in page
    assert "<p>Yes.</p>" in page


def test_a_picture_in_a_page_has_ids_of_its_own_and_a_label():
    svg = '<?xml version="1.0"?><svg width="1"><path id="a"/><use href="#a" clip-path="url(#b)"/></svg>'
    found = inline_svg(svg, "x-", 'say "so"')
    assert found.startswith('<svg role="img" aria-label="say &#34;so&#34;" width="1">')
    assert 'id="x-a"' in found
    assert 'href="#x-a" clip-path="url(#x-b)"' in found


def test_a_record_that_is_none_is_refused_in_one_line(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "run.json").write_text("[]")
    with pytest.raises(UserError, match=r"one/run\.json: holds no JSON object; remove it and run again"):
        read_records(tmp_path, [Run("federate", "one", "digits", "iid", 0, "fedavg", {}, {})])


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
