"""The forest plot of the verdicts: what it shows is what was judged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apfl.paper import outputs as beside
from apfl.paper.figures.files import encode
from apfl.paper.numbers.choice import BEST
from apfl.paper.verdict import forest
from apfl.paper.verdict.claims import claims, parse
from apfl.paper.verdict.family import CONTRADICTED, OPEN, REPRODUCED
from apfl.paper.verdict.forest_look import EDGES, FILLS, SIGNS, SO_FAR
from apfl.paper.verdict.forest_picture import LAYOUTS, draw, inline, write
from apfl.paper.verdict.power import printed
from apfl.paper.verdict.verdicts import findings
from apfl.study.cells import cells
from apfl.study.load import load_study
from tests.helpers.paper_runs import both, write_run

ALPHAS = ["0.05", "0.1"]
STUDY = {
    "name": "small",
    "seeds": [0, 1, 2],
    "data": {name: {"source": "torchvision"} for name in ("cifar10", "cifar100")},
    "semantics": {"clip": {"source": "clip"}},
    "methods": {"local": {}, "fedavg": {}, "apfl": {}},
    "apfl": {"semantics": "clip"},
    "tables": {"table2": {"datasets": ["cifar10", "cifar100"], "clients": [5], "alphas": ALPHAS}},
}
CLAIM = {
    "id": "ahead",
    "title": "AP-FL is ahead",
    "sentence": "AP-FL is ahead.",
    "source": "paper",
    "where": "nowhere",
    "output": "table2",
    "tests": ["pooled"],
    "readings": ["literal"],
    "rows": [{"dataset": ["cifar10", "cifar100"], "clients": ["5"], "alpha": ALPHAS}],
    "asks": [{"first": "AP-FL", "against": ["FedAvg", "Local"], "mean_over": "all", "above": 0}],
    "why": "a test",
}
OURS = {"cifar10": (0.61, 0.62, 0.615), "cifar100": (0.41, 0.38, 0.39)}
THEIRS = {"fedavg": (0.5, 0.51, 0.5), "local": (0.2, 0.2, 0.2)}


@pytest.fixture
def judged(tmp_path: Path):
    """Of a study in which some data sets are run, with some claims: the study, its metrics, and the verdicts."""

    def made(run=("cifar10", "cifar100"), **changes):
        study = load_study(STUDY)
        for cell in cells(study, "table2"):
            values = OURS[cell.dataset] if cell.method == "apfl" else THEIRS[cell.method]
            for path, accuracy in zip(cell.runs if cell.dataset in run else (), values, strict=False):
                write_run(tmp_path, path, both(accuracy, model=cell.model, samples=1000), module=cell.method)
        metrics = beside.gather(study, tmp_path)
        return study, metrics, findings(study, metrics, parse({"claims": [CLAIM | changes]}))

    return made


def patches(figure, kind: str) -> dict[str, object]:
    """The boxes of a picture, by claim and data set."""
    found = {box.get_gid(): box for box in figure.axes[0].patches if box.get_gid()}
    return {name.rpartition("-")[0]: box for name, box in found.items() if name.endswith(kind)}


def by_dataset(made) -> dict[str, forest.Point]:
    return {one.dataset: one for one in made}


def test_every_claim_has_a_line_whatever_is_run(tmp_path: Path) -> None:
    study = load_study(STUDY)
    metrics = beside.gather(study, tmp_path)
    made = forest.points(study, metrics, findings(study, metrics))
    assert [one.claim for one in made if not one.dataset] == [claim.id for claim in claims()]
    boxes = patches(draw(made, "small", 3), "verdict")
    assert {f"{claim.id}-all-literal" for claim in claims()} <= set(boxes)
    assert len({claim.title for claim in claims()}) == len(claims())
    assert not [claim.id for claim in claims() if claim.title == claim.id.replace("-", " ")], (
        "a title is written for each"
    )


def test_points_are_the_means_and_intervals_of_the_verdicts(judged) -> None:
    study, metrics, found = judged()
    points = by_dataset(forest.points(study, metrics, found))
    assert set(points) == {"", "cifar10", "cifar100"}
    for one in (found[0].verdict, *found[0].datasets):
        point = points[one.dataset]
        line = next(line for line in one.lines if line.label == point.comparison)
        assert point.estimate == line.mean.estimate
        assert (point.low, point.high) == line.mean.interval()
        assert (point.strict_low, point.strict_high) == line.mean.interval(one.outcome.family)
        assert (point.status, point.interim) == (one.status, one.interim)


def test_the_comparison_that_is_hardest_for_the_claim_is_shown(judged) -> None:
    study, metrics, found = judged()
    for point in forest.points(study, metrics, found):
        assert point.comparison == "AP-FL − FedAvg" and point.comparisons == 2, "Local is far below"
        assert point.shown == "hardest of 2 comparisons; pooled test"
        assert replace(point, comparisons=0).shown == "pooled test", "nothing of the claim is in the study"


def test_what_the_paper_prints_is_the_mean_over_the_same_rows(judged) -> None:
    study, metrics, found = judged()
    points = by_dataset(forest.points(study, metrics, found))

    def lead(name: str) -> float:
        rows = [{"dataset": name, "clients": "5", "alpha": alpha} for alpha in ALPHAS]
        return np.mean([printed("table2", "AP-FL", row).mean - printed("table2", "FedAvg", row).mean for row in rows])

    assert points["cifar10"].printed == pytest.approx(lead("cifar10"))
    assert points[""].printed == pytest.approx((lead("cifar10") + lead("cifar100")) / 2)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ({"above": 0}, (0.01, 19.0), (-0.01, -19.0)),
        ({"above": -4.2}, (-4.1, 19.0), (-4.3, -19.0)),
        ({"below": 0}, (-0.01, -19.0), (0.01, 19.0)),
        ({"above": 5.2, "below": 9.8}, (5.3, 9.7), (5.1, 9.9)),
    ],
)
def test_the_side_that_is_claimed_is_shaded(judged, bounds, inside, outside, layout) -> None:
    ask = {"first": "AP-FL", "against": ["FedAvg"], "mean_over": "all"} | bounds
    study, metrics, found = judged(asks=[ask])
    made = forest.points(study, metrics, found)
    reach = forest.limit(made, made[0].unit)
    boxes = patches(draw(made, "small", 3, layout), "claimed")
    assert len(boxes) == len(made)
    middle, half = (layout.left + layout.right) / 2, (layout.right - layout.left) / 2
    for box in boxes.values():
        left, right = (reach * (x - middle) / half for x in (box.get_x(), box.get_x() + box.get_width()))
        assert all(left < value < right for value in inside)
        assert not any(left < value < right for value in outside)


def test_a_data_set_without_a_run_is_open_so_far_with_its_place_empty_and_the_others_coloured(judged) -> None:
    study, metrics, found = judged(run=("cifar10",))
    made = forest.points(study, metrics, found)
    points = by_dataset(made)
    assert points["cifar100"].interim and points["cifar100"].status == OPEN and np.isnan(points["cifar100"].estimate)
    assert points["cifar10"].status == REPRODUCED and not points["cifar10"].interim
    assert points[""].interim and points[""].status == OPEN
    figure = draw(made, "small", 3)
    assert {line.get_gid() for line in figure.axes[0].lines if line.get_gid()} == {"ahead-cifar10-literal"}
    boxes = patches(figure, "verdict")
    faces = {name: matplotlib_hex(box.get_facecolor()) for name, box in boxes.items()}
    assert faces["ahead-cifar10-literal"] == FILLS[REPRODUCED]
    assert faces["ahead-cifar100-literal"] == faces["ahead-all-literal"] == "#ffffff"
    assert matplotlib_hex(boxes["ahead-all-literal"].get_edgecolor()) == EDGES[OPEN], "interim: in outline"
    said = {name: within(figure, box) for name, box in boxes.items()}
    assert said["ahead-cifar100-literal"] == f"{SIGNS[OPEN]}{SO_FAR}" and said["ahead-all-literal"].endswith("so far")
    assert said["ahead-cifar10-literal"] == SIGNS[REPRODUCED]


def within(figure, box) -> str:
    """What is written in a cell."""
    x, y = box.get_x() + box.get_width() / 2, box.get_y() + box.get_height() / 2
    texts = [text for text in figure.axes[0].texts if np.allclose(text.get_position(), (x, y), atol=0.02)]
    (text,) = texts
    return text.get_text()


def matplotlib_hex(color) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in color[:3])


def test_verdicts_differ_by_sign_as_well_as_by_colour() -> None:
    assert len(set(SIGNS.values())) == len(SIGNS) == len(set(EDGES.values()))


def test_the_best_reading_stands_beside_the_literal_one(judged) -> None:
    study, metrics, found = judged()
    made = forest.points(study, metrics, found)
    best = [replace(one, reading=BEST, status=CONTRADICTED) for one in made]
    figure = draw([*made, *best], "small", 3)
    assert {"ahead-all-literal", "ahead-all-best"} <= set(patches(figure, "verdict"))
    faces = {line.get_gid(): line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_gid()}
    assert faces["ahead-all-best"] == "white" != faces["ahead-all-literal"]


def test_the_best_reading_is_drawn_where_a_study_lacks_rows_of_the_claim(judged) -> None:
    rows = [{"dataset": ["cifar10", "cifar100", "emnist"], "clients": ["5"], "alpha": ["0.01", *ALPHAS]}]
    study, metrics, (found,) = judged(rows=rows)
    assert found.verdict.outcome.family == 0 and found.verdict.status == OPEN
    best = replace(found, verdict=replace(found.verdict, reading=BEST))
    assert {one.reading for one in forest.points(study, metrics, [found, best])} >= {BEST}


def test_numbers_of_different_units_have_axes_of_their_own(tmp_path: Path) -> None:
    study = load_study(STUDY)
    metrics = beside.gather(study, tmp_path)
    made = forest.points(study, metrics, findings(study, metrics))
    units = {one.claim: one.unit for one in made}
    assert len({units[name] for name in ("noise-dimension-hurts", "steadier-when-skewed")}) == 2
    assert "speed" in units["summary-40-percent-faster"]
    assert units["above-every-baseline"] == units["summary-gain"] == "points of accuracy"


def test_what_lies_beyond_the_axis_is_said(judged) -> None:
    study, metrics, found = judged()
    made = list(forest.points(study, metrics, found))
    far = replace(made[1], estimate=-250.0, low=-260.0, high=-240.0)
    said = [text.get_text() for text in draw([made[0], far, *made[2:]], "small", 3).axes[0].texts]
    assert "−250" in said


def test_the_same_verdicts_give_the_same_bytes(judged, tmp_path: Path) -> None:
    study, metrics, found = judged()
    first, second = (write(study, metrics, found, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["forest.csv", "forest.svg", "forest.pdf", "forest.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for name, picture in inline(study, metrics, found).items():
        assert picture.startswith("<svg role=") and not re.search(f'id="(?!{name}-)', picture)
    made = forest.points(study, metrics, found)
    assert encode(draw(made, "small", 3), "png") == (tmp_path / "a" / "forest.png").read_bytes()
