"""Figures: which points are drawn, and that the same numbers give the same files."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import pytest

from apfl.paper.figures import curves as figures
from apfl.paper.figures import files as files_module
from apfl.paper.figures import style
from apfl.paper.numbers.metrics import collect
from tests.helpers.paper_runs import both, cell, row, write_run


def along_rounds(results):
    cells = [cell(title, output="figure4", axis={"clients": 5}) for title in ("Other", "AP-FL", "FedAvg")]
    for place, ours in enumerate(cells):
        for seed, run in enumerate(ours.runs):
            rows = [
                line
                for number in range(4)
                for line in both(0.2 * number + 0.1 * seed + 0.01 * place, round=number, model=ours.model)
            ]
            write_run(results, run, rows, module=ours.method)
    return cells


def along_parameters(results):
    cells = []
    for name, values in (("noise_dimension", (100, 20)), ("samples_per_class", (50, 600))):
        for value in values:
            ours = cell(
                "AP-FL",
                output="figure5",
                axis={name: value},
                model="friend",
                semantics=f"{name}{value}",
                reading="literal",
            )
            cells.append(ours)
            for seed, run in enumerate(ours.runs):
                write_run(results, run, both(value / 1000 + 0.1 * seed, model="friend"))
    return cells


def metrics(results, cells, partial=False):
    return collect(results, [run for ours in cells for run in ours.runs], partial)


def test_figure_4_has_a_panel_a_data_set_and_a_line_a_method_in_the_papers_order(tmp_path):
    cells = along_rounds(tmp_path)
    (panel,) = figures.data("figure4", cells, metrics(tmp_path, cells), "pooled")
    assert panel.title == "CIFAR-10, \N{GREEK SMALL LETTER ALPHA} = 0.1"
    assert [item.name for item in panel.curves] == ["FedAvg", "AP-FL", "Other"]
    points = panel.curves[0].points
    # FedAvg stands third: 0.02 more; seeds differ by 0.1: mean 0.05 above seed 0, deviation 0.1 / sqrt(2).
    assert points["x"].tolist() == [0, 1, 2, 3]
    assert points["mean"].tolist() == pytest.approx([7.0, 27.0, 47.0, 67.0])
    assert points["std"].tolist() == pytest.approx([10 / 2**0.5] * 4)


def test_figure_5_has_a_panel_a_parameter_with_its_values_in_order(tmp_path):
    cells = along_parameters(tmp_path)
    noise, samples = figures.data("figure5", cells, metrics(tmp_path, cells), "own")
    assert (noise.xlabel, samples.xlabel) == ("noise dimension", "synthetic samples per class")
    assert noise.curves[0].name == "CIFAR-10"
    assert noise.curves[0].points["x"].tolist() == [20, 100]
    assert noise.curves[0].points["mean"].tolist() == pytest.approx([7.0, 15.0])
    assert samples.curves[0].points["mean"].tolist() == pytest.approx([10.0, 65.0])


@pytest.mark.parametrize(("name", "make"), [("figure4", along_rounds), ("figure5", along_parameters)])
def test_figures_are_written_in_three_formats_for_both_tests_and_always_the_same(tmp_path, name, make):
    cells = make(tmp_path)
    first = files_module.write(name, cells, metrics(tmp_path, cells), tmp_path / "one")
    again = files_module.write(name, list(reversed(cells)), metrics(tmp_path, cells), tmp_path / "two")
    assert {path.name for path in first} == {
        f"{name}.csv",
        *(f"{name}{test}.{kind}" for test in ("", "_own") for kind in ("svg", "pdf", "png")),
    }
    starts = {".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG", ".csv": b"test,"}
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes().startswith(starts[one.suffix])
        assert one.stat().st_size > (5000 if one.suffix != ".csv" else 100)
        assert one.read_bytes() == two.read_bytes()
    ElementTree.parse(next(path for path in first if path.suffix == ".svg"))


def test_the_points_of_a_figure_are_a_table(tmp_path):
    cells = along_rounds(tmp_path)
    files_module.write("figure4", cells, metrics(tmp_path, cells), tmp_path)
    points = pd.read_csv(tmp_path / "figure4.csv")
    assert len(points) == 2 * 3 * 4
    last = points[(points["test"] == "own") & (points["line"] == "AP-FL") & (points["x"] == 3)].iloc[0]
    assert (last["mean"], last["seeds"]) == (pytest.approx(66.0), 2)


def test_lines_without_runs_are_named_and_the_others_drawn(tmp_path):
    cells = along_rounds(tmp_path)
    missing = cell("FedProx", output="figure4", axis={"clients": 5})
    half = cell("SCAFFOLD", output="figure4", axis={"clients": 5})
    write_run(tmp_path, half.runs[0], [row(0.5)], module="scaffold")
    cells += [missing, half]
    (panel,) = figures.data("figure4", cells, metrics(tmp_path, cells, partial=True), "pooled")
    notes = {item.name: item.note for item in panel.curves}
    assert notes == {"FedAvg": "", "FedProx": "not run", "SCAFFOLD": "1 of 2 seeds", "AP-FL": "", "Other": ""}
    texts = [text.get_text() for text in figures.draw("figure4", [panel], "pooled").axes[0].texts]
    assert "no line:\nFedProx (not run)" in texts
    assert "SCAFFOLD  50.0 (1 of 2 seeds)" in texts


def test_a_study_without_a_figure_gets_one_that_says_so():
    figure = figures.draw("figure4", (), "pooled")
    assert "not part of this study" in figure.texts[0].get_text()
    assert files_module.encode(figure, "png").startswith(b"\x89PNG")


def test_a_data_set_that_is_drawn_in_two_readings_is_not_named_as_missing(tmp_path):
    cells = along_parameters(tmp_path)
    again = [replace(one, reading="soft-labels") for one in cells]
    panels = figures.data("figure5", cells + again, metrics(tmp_path, cells), "pooled")
    assert [item.name for item in panels[0].curves] == ["CIFAR-10 [literal]", "CIFAR-10 [soft-labels]"]
    text = figures.draw("figure5", panels, "pooled").texts[0].get_text()
    assert text == "Not run in this study: EMNIST letters."


def test_the_figure_names_the_papers_data_sets_that_are_missing(tmp_path):
    cells = along_rounds(tmp_path)
    panels = figures.data("figure4", cells, metrics(tmp_path, cells), "pooled")
    text = figures.draw("figure4", panels, "pooled").texts[0].get_text()
    assert text == "Not run in this study: CIFAR-100, EMNIST letters, Fashion-MNIST."


@pytest.mark.parametrize("wanted", [[5.0], [1.0, 1.0, 1.0], [0.0, 9.9, 10.0, 10.0], [float(x) for x in range(11)]])
def test_names_keep_their_order_their_distance_and_their_bounds(wanted):
    placed = style.spread(wanted, gap=1.0, low=0.0, high=10.0)
    assert all(b - a >= 1.0 - 1e-9 for a, b in pairwise(placed))
    assert min(placed) >= 0.0
    assert max(placed) <= 10.0 + 1e-9


def test_names_that_are_far_apart_stay_where_they_are():
    assert style.spread([9.0, 2.0, 5.0], gap=1.0, low=0.0, high=10.0) == [9.0, 2.0, 5.0]


def test_no_two_methods_look_alike():
    names = [*style.PAPER, *(f"other {number}" for number in range(8))]
    looks = {(look.color, look.marker) for look in style.method_styles(names).values()}
    assert len(looks) == len(names) == 15
