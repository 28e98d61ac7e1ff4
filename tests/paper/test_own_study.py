"""A study of one's own, on other data or without AP-FL, shows what it asks for and nothing of the paper."""

from __future__ import annotations

import html
import re

import pytest

from apfl.data.catalogue import IN_PAPER
from apfl.paper import published
from apfl.paper.figures.files import pictures
from apfl.paper.labels import dataset_label
from apfl.paper.numbers.metrics import collect
from apfl.paper.report.report import build
from apfl.paper.tables.build import table
from apfl.paper.tables.formats import FORMATS
from apfl.study.cells import beside, cells, job_counts
from apfl.study.load import load_study
from tests.helpers.paper_runs import write_cell
from tests.helpers.studies import tiny

ON_CIFAR = {"cifar10": {"source": "torchvision"}}
OWN = tiny(
    seeds=[0, 1],
    methods={"fedprox": {}, "fedavg": {}, "ditto": {}},
    tables={
        "table1": {"dataset": "digits", "clients": 6, "missing": 10},
        "table2": {"clients": [3], "alphas": ["0.1", "0.5"]},
        "table3": {"methods": ["fedprox", "fedavg"]},
    },
    figures={"figure4": {"panels": {"digits": "dirichlet-alpha0.1"}, "clients": 3}},
)
OF_THE_PAPER = ("published", "Published", "reproduced on", "not run", "Verdict", "AP-FL", "The paper")


def loaded(**changes):
    return load_study(OWN | changes)


@pytest.mark.parametrize(
    ("changes", "paper"),
    [
        ({}, False),
        ({"methods": {"fedavg": {}, "apfl": {}}}, False),  # not the paper's data
        ({"data": ON_CIFAR}, False),  # not the paper's method
        ({"data": ON_CIFAR, "methods": {"fedavg": {}, "apfl-x": {"module": "apfl"}}}, True),
        ({"data": ON_CIFAR, "methods": {"fedavg": {}, "apfl": {}}, "paper": False}, False),
        ({"paper": True}, True),
    ],
)
def test_the_paper_comes_where_ap_fl_runs_on_its_data_or_as_the_study_says(changes, paper):
    assert loaded(**{"tables": {}, "figures": {}} | changes).paper is paper


def test_images_that_only_stand_in_for_others_bring_no_paper():
    changes = {"data": OWN["data"] | ON_CIFAR, "methods": {"fedavg": {}, "apfl": {}}, "proxy": {"digits": "cifar10"}}
    assert not loaded(tables={}, figures={}, **changes).paper


@pytest.mark.parametrize("name", ["table2", "table3"])
def test_a_table_has_the_asked_methods_in_their_order_and_no_other_row(tmp_path, name):
    study = loaded()
    made = table(study, name, tmp_path, collect(tmp_path, (), partial=True), partial=True)
    (panel,) = made.panels
    wanted = {"table2": ("FedProx", "FedAvg", "Ditto"), "table3": ("FedProx", "FedAvg")}[name]
    assert panel.columns == wanted
    assert [section.label for section in panel.sections] == ["Digits"]
    assert {row["dataset"] for _, row in made.rows.iterrows()} == {"digits"}
    assert (made.rows["seeds_planned"] == 2).all(), "each row is one of the study's cells"
    assert not [column for column in made.rows if "published" in column or column == "column_group"]


def test_more_methods_than_a_panel_of_the_paper_holds_stand_side_by_side(tmp_path):
    methods = {f"fedprox-{number}": {"module": "fedprox", "mu": number} for number in range(1, 13)}
    study = loaded(methods=methods, tables={"table2": {"clients": [3]}}, figures={})
    (panel,) = table(study, "table2", tmp_path, collect(tmp_path, (), partial=True), partial=True).panels
    assert len(panel.columns) == 12


def test_the_classes_of_any_number_of_clients_can_be_shown(tmp_path):
    made = table(loaded(), "table1", tmp_path, collect(tmp_path, (), partial=True), partial=True)
    (panel,) = made.panels
    assert panel.columns == tuple("012345")
    assert [line.name for line in panel.sections[0].groups[0].lines] == ["Digits, seed 0"]


def test_page_and_files_say_nothing_of_the_paper(tmp_path):
    study = loaded(tables={"table2": OWN["tables"]["table2"]})
    every = [cell for name in ("table2", "figure4") for cell in cells(study, name)]
    for cell in every:
        write_cell(tmp_path, cell, 0.5, 0.6)
    page = build(study, tmp_path, "own.yaml")
    assert re.findall(r'<section[^>]* id="([a-z0-9-]+)"', page) == [
        "table2", "figure4", "ranks", "spread", "partitions", "cost", "provenance",
    ]  # fmt: skip
    assert 'id="forest"' not in page and 'id="dumbbell"' not in page
    assert 'value="own"' in page and 'value="monopoly"' not in page, "the tests that one can choose"
    made = table(study, "table2", tmp_path, collect(tmp_path, {run for cell in every for run in cell.runs}))
    files = {kind: make(made) for kind, make in FORMATS.items()}
    visible = html.unescape(re.sub(r"<(style|script)\b.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL))
    for name, text in (files | {"page": visible}).items():
        text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
        text = text.replace("AP-FL bench", "")
        assert not [word for word in OF_THE_PAPER if word in text], name
        assert not [number for number in published.accuracies("table2") if f"{number.mean:.2f}" in text], name
        assert not re.search(r"\bTable [1-4]\b|\bFigure [45]\b", text), name
        assert not [data for data in IN_PAPER if dataset_label(data) in text], name


def test_a_figure_names_no_data_set_that_the_study_does_not_ask_for(tmp_path):
    study = loaded()
    drawn = {paper: pictures("figure4", cells(study, "figure4"), collect(tmp_path, (), partial=True), paper)[0]
             for paper in (True, False)}  # fmt: skip
    said = {paper: " ".join(text.get_text() for text in one[0].figure.texts) for paper, one in drawn.items()}
    assert "CIFAR-10" in said[True] and "CIFAR" not in said[False]


def test_nothing_is_judged_and_nothing_is_compared_without_a_second_method():
    assert job_counts(loaded())["claims"] == 0 and job_counts(loaded())["compare"] == 1
    alone = loaded(methods={"fedavg": {}}, tables={"table2": {"clients": [3]}}, figures={})
    assert beside(alone) == ("spread",) and "ranks" in beside(loaded())
    assert {"claims", "compare"}.isdisjoint(job_counts(loaded(tables={})))
    assert job_counts(loaded(paper=True))["claims"] == 1
