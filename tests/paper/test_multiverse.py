"""The specification curve: what is paired, how readings are sorted, and what stands in the matrix below."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from apfl.paper.figures import files, multiverse
from apfl.paper.numbers import multiverse as multiverse_module
from apfl.paper.numbers.metrics import Metrics
from tests.helpers.paper_runs import both, cell

SEEDS = (0, 1, 2)
IMAGES = 1000
PLACES = ("dirichlet-alpha0.01-clients5", "dirichlet-alpha0.1-clients5")
READINGS = {"literal": -10.0, "uniform-labels": -4.0, "uniform-labels+global-teacher": 5.0}
"""Readings and what they are above FedAvg, in points."""


def one(title, setting, **others):
    return cell(title, output="figure_multiverse", setting=setting, seeds=SEEDS, axis={"clients": 5}, **others)


def study(wobble=1.0):
    """FedAvg, three readings of AP-FL and AP-FL with feedback, in two places."""
    cells, frames, records = [], {}, {}
    for place, setting in enumerate(PLACES):
        against = one("FedAvg", setting)
        readings = [one("AP-FL", setting, reading=name, semantics="clip") for name in READINGS]
        other = {"method": "apfl-feedback", "semantics": "clip", "model": "personalized"}
        feedback = one("AP-FL (feedback)", setting, **other)
        above = [0.0, *READINGS.values(), -6.0]
        for number, (ours, points) in enumerate(zip([against, *readings, feedback], above, strict=True)):
            cells.append(ours)
            for seed, run in enumerate(ours.runs):
                # Seeds differ much, but all methods alike; the places differ too.
                accuracy = 50 + 10 * seed + 5 * place + points + wobble * (seed - 1) * (number > 0)
                frames[run] = pd.DataFrame(both(accuracy / 100, model=ours.model, samples=IMAGES))
                records[run] = {"status": "finished", "specification": {"parameters": {"friend_distribution": "own"}}}
    return cells, Metrics(frames, records)


def without(metrics, *runs):
    def kept(values):
        return {run: value for run, value in values.items() if run not in runs}

    return Metrics(kept(metrics.frames), kept(metrics.records))


def test_differences_are_paired_by_seed():
    cells, metrics = study()
    rows = multiverse_module.points(cells, metrics, "pooled").set_index(["setting", "reading"])
    for setting in PLACES:
        for reading, points in READINGS.items():
            assert rows.loc[(setting, reading), "mean"] == pytest.approx(points)
    # The seeds' own spread of 10 points cancels; what is left is that of the differences, 1 point.
    width = rows["high"] - rows["low"]
    assert (width < 6).all()
    assert (width > 0).all()


def test_seeds_that_agree_to_the_last_image_have_an_interval_of_an_image():
    cells, metrics = study(wobble=0.0)
    width = multiverse_module.points(cells, metrics, "pooled").eval("high - low")
    assert width.to_numpy() == pytest.approx(2 * stats.t.ppf(0.975, 2) * (100 / IMAGES) / 3**0.5)


def test_readings_are_sorted_and_have_one_place_in_all_panels():
    cells, metrics = study()
    rows = multiverse_module.points([cells[0], *reversed(cells[1:5]), *cells[5:]], metrics, "own")
    first = rows[rows["setting"] == PLACES[0]]
    assert first["place"].tolist() == [1, 2, 3, 4]
    assert first["reading"].tolist() == ["literal", "", "uniform-labels", "uniform-labels+global-teacher"]
    second = rows[rows["setting"] == PLACES[1]]
    assert second[["reading", "place"]].to_numpy().tolist() == first[["reading", "place"]].to_numpy().tolist()


def test_the_matrix_has_the_options_of_each_reading():
    cells, metrics = study()
    rows = multiverse_module.points(cells, metrics, "pooled").set_index(["setting", "title", "reading"]).loc[PLACES[0]]
    literal, joined = rows.loc[("AP-FL", "literal")], rows.loc[("AP-FL", "uniform-labels+global-teacher")]
    assert {name: literal[name] for name in multiverse_module.DEFAULTS} == dict(multiverse_module.DEFAULTS)
    differing = {
        name: joined[name] for name in multiverse_module.DEFAULTS if joined[name] != multiverse_module.DEFAULTS[name]
    }
    assert differing == {"friend_distribution": "uniform", "teacher": "global"}
    assert rows.loc[("AP-FL (feedback)", ""), multiverse_module.WHEN] == "in every round"


def test_the_matrix_names_every_literal_option_a_zero_among_them():
    cells, metrics = study()
    texts = {
        text.get_text() for text in multiverse.draw(multiverse_module.points(cells, metrics, "pooled")).axes[-1].texts
    }
    named = {multiverse.GLOBAL[name] if value == "global" else multiverse.VALUES.get(value, value)
             for name, value in multiverse_module.DEFAULTS.items()}  # fmt: skip
    assert "epochs" in named and named | set(multiverse.OPTIONS.values()) <= texts


def test_what_a_method_without_readings_was_run_with_stands_in_the_matrix():
    cells, metrics = study()
    for run in cells[4].runs:
        metrics.records[run]["specification"]["parameters"]["friend_distribution"] = "uniform"
    rows = multiverse_module.points(cells, metrics, "pooled")
    chosen = rows[(rows["title"] == "AP-FL (feedback)")]["friend_distribution"]
    assert chosen.tolist() == ["uniform", "own"]


def test_holes_and_divergence_have_no_point_and_are_named():
    cells, metrics = study()
    literal = cells[1]
    holes = without(metrics, *literal.runs)
    rows = multiverse_module.points(cells, holes, "pooled")
    hole = rows[(rows["setting"] == PLACES[0]) & (rows["reading"] == "literal")].iloc[0]
    assert (hole["status"], hole["seeds"]) == ("not run", 0)
    assert np.isnan(hole["mean"])
    assert any("Not run: 1 (literal)." in text.get_text() for text in multiverse.draw(rows).texts)

    metrics.records[literal.runs[2]]["status"] = "diverged"
    rows = multiverse_module.points(cells, metrics, "pooled")
    bad = rows[(rows["setting"] == PLACES[0]) & (rows["reading"] == "literal")].iloc[0]
    assert bad["status"] == "diverged"
    assert np.isnan(bad["mean"])


def test_one_seed_has_a_point_but_no_interval():
    cells, metrics = study()
    literal = cells[1]
    rows = multiverse_module.points(cells, without(metrics, *literal.runs[1:]), "pooled")
    row = rows[(rows["setting"] == PLACES[0]) & (rows["reading"] == "literal")].iloc[0]
    assert (row["status"], row["seeds"], row["seeds_planned"]) == ("ok", 1, 3)
    assert not np.isnan(row["mean"])
    assert np.isnan(row["low"])
    assert multiverse.verdict(row["low"], row["high"]) == "one seed"


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.1, 2.0, "above"), (-2.0, -0.1, "below"), (-1.0, 1.0, "neither"), (0.0, 1.0, "neither")]
)
def test_a_verdict_is_where_the_whole_interval_lies(low, high, said):
    assert multiverse.verdict(low, high) == said


def test_the_picture_has_a_panel_a_place_and_says_how_many_are_above(tmp_path):
    cells, metrics = study(wobble=0.1)
    figure = multiverse.draw(multiverse_module.points(cells, metrics, "pooled"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["CIFAR-10, α = 0.01", "CIFAR-10, α = 0.1", ""]
    assert "1 above, 3 below FedAvg, of 4" in [text.get_text() for text in figure.axes[0].texts]
    labels = [text.get_text() for text in figure.axes[-1].texts]
    assert {"friend's classes", "uniform", "teacher", "literal"} <= set(labels)


def test_the_files_are_the_same_for_the_same_numbers(tmp_path):
    cells, metrics = study()
    first, again = (files.write("figure_multiverse", cells, metrics, tmp_path / name) for name in "ab")
    assert [path.name for path in first][-1] == "figure_multiverse.csv"
    assert len(first) == 7
    for one_, two in zip(first, again, strict=True):
        assert one_.read_bytes() == two.read_bytes()
    points = pd.read_csv(first[-1])
    assert set(points["test"]) == {"pooled", "own"}
    assert len(points) == 2 * 2 * 4


def test_nothing_run_is_said_and_no_error():
    cells, _ = study()
    figure = multiverse.draw(multiverse_module.points(cells, Metrics({}, {}), "pooled"))
    assert "No reading of AP-FL has been run yet." in figure.texts[0].get_text()
