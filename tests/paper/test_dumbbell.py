"""Published and reproduced side by side, at the head of the page."""

from __future__ import annotations

import re

import pytest

from apfl.paper import published
from apfl.paper.figures import dumbbell
from apfl.paper.figures.dumbbell import LAYOUTS, METHODS, draw, pairs, write
from apfl.paper.figures.style import PAPER
from apfl.paper.numbers.metrics import collect
from apfl.paper.report.report import build
from apfl.study.cells import cells
from apfl.study.load import load_study
from tests.helpers.pages import dumbbells, section_ids, section_of
from tests.helpers.paper_runs import write_cell
from tests.helpers.studies import tiny

ALPHAS = ["0.05", "0.1"]
STUDY = tiny(
    name="small",
    paper=True,
    seeds=[0, 1],
    data={"cifar10": {"source": "torchvision"}, "digits": {"source": "digits"}},
    semantics={"minilm": {"source": "packaged"}},
    apfl={"semantics": "minilm"},
    methods={"local": {}, "fedavg": {}, "apfl": {}},
    tables={"table2": {"datasets": ["cifar10", "digits"], "clients": [5], "alphas": ALPHAS}},
    figures={},
)
ACCURACIES = {"local": (0.2, 0.3), "fedavg": (0.5, 0.6), "apfl": (0.31, 0.35)}
ROW = "cifar10-dirichlet-alpha0.05-clients5"


@pytest.fixture
def run(tmp_path):
    """The study, with runs of all data sets, at the first alpha alone on those of the paper."""
    study = load_study(STUDY)
    for cell in cells(study, "table2"):
        if cell.dataset == "digits" or cell.axis["alpha"] == ALPHAS[0]:
            write_cell(tmp_path, cell, *ACCURACIES[cell.method])
    return study, tmp_path


def metrics_of(study, results):
    return collect(results, {run for cell in cells(study, "table2") for run in cell.runs}, partial=True)


def test_each_reproduced_row_has_a_pair_and_none_that_the_paper_does_not_print(run):
    study, results = run
    found = pairs(cells(study, "table2"), metrics_of(study, results))
    assert [(row.dataset, row.alpha, row.column) for row in found.itertuples()] == [
        ("cifar10", ALPHAS[0], name) for name in METHODS
    ]
    assert set(found["test"]) == {"pooled"}
    for row in found.itertuples():
        assert row.published_mean == published.lookup("table2")["cifar10", ("5", ALPHAS[0]), row.column].mean
        seeds = ACCURACIES["apfl" if row.column == "AP-FL" else "fedavg"]
        assert row.reproduced_mean == pytest.approx(50 * sum(seeds))
        assert row.reproduced_std == pytest.approx(100 * abs(seeds[0] - seeds[1]) / 2**0.5)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_published_marks_are_hollow_and_reproduced_ones_filled_with_their_deviation(run, layout):
    study, results = run
    found = pairs(cells(study, "table2"), metrics_of(study, results))
    axes = draw(found, layout).axes[0]
    marks = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert set(marks) == {f"{ROW}-{name}-{what}" for name in METHODS for what in ("published", "reproduced")}
    for row in found.itertuples():
        color = PAPER[row.column].color
        hollow, filled = (marks[f"{ROW}-{row.column}-{what}"] for what in ("published", "reproduced"))
        assert (hollow.get_markerfacecolor(), filled.get_markerfacecolor()) == ("white", color)
        assert list(hollow.get_xdata()) == [row.published_mean] and list(filled.get_xdata()) == [row.reproduced_mean]
        assert hollow.get_markeredgecolor() == color
    bars = [container.lines[2][0].get_segments()[0] for container in axes.containers]
    assert [bar[1][0] - bar[0][0] for bar in bars] == pytest.approx([2 * std for std in found["reproduced_std"]])


def test_the_same_numbers_give_the_same_bytes(run):
    study, results = run
    first, second = (
        write(cells(study, "table2"), metrics_of(study, results), results / name) for name in ("once", "twice")
    )
    assert [path.name for path in first] == [f"dumbbell.{kind}" for kind in ("csv", "svg", "pdf", "png")]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_page_begins_with_two_sentences_and_both_pictures(run):
    study, results = run
    page = build(study, results, "small.yaml")
    assert section_ids(page)[:2] == ["conclusion", "verdicts"] and section_ids(page)[-1] == "missing"
    first = section_of(page, "conclusion")
    about, claims = re.findall(r'<p class="sentence">(.*?)</p>', first, re.DOTALL)
    printed = published.lookup("table2")
    gap = printed["cifar10", ("5", ALPHAS[0]), "AP-FL"].mean - printed["cifar10", ("5", ALPHAS[0]), "FedAvg"].mean
    assert "AP-FL is 22.0 points below FedAvg" in about and "in the one row of Table 2 that was run" in about
    assert f"prints AP-FL {gap:.1f} points above FedAvg" in about
    assert "15 claims" in claims and "wait for runs that are missing" in claims
    assert first.index('id="forest"') < first.index('id="dumbbell"')
    assert dumbbells(page) == {f"{ROW}-{name}-{what}" for name in METHODS for what in ("published", "reproduced")}


def test_where_no_row_is_run_there_is_a_file_that_says_so_and_nothing_on_the_page(tmp_path):
    study = load_study(STUDY)
    found = pairs(cells(study, "table2"), metrics_of(study, tmp_path))
    assert found.empty
    (said,) = dumbbell.draw(found).texts
    assert said.get_text() == "No row of Table 2 with printed numbers has been run."
    page = build(study, tmp_path, "small.yaml")
    assert 'id="forest"' in page and 'id="dumbbell"' not in page
    assert "have not been run in any row of Table 2 yet" in page


def test_a_study_without_the_papers_data_says_so_and_folds_the_picture_of_the_claims(tmp_path):
    study = load_study(tiny(paper=True))
    page = build(study, tmp_path, "small.yaml")
    first = section_of(page, "conclusion")
    assert "nothing about the paper" in first and "Table 2" not in first
    assert first.index("<details>") < first.index('id="forest"') < first.index("</details>")
