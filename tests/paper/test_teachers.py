"""Teachers and controls: what is compared with what, in which round, and what a blind guess is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from apfl.paper.labels import setting_label
from apfl.paper.numbers import teachers as teachers_module
from apfl.paper.numbers.metrics import Metrics
from apfl.paper.report.sections import sections_beside
from apfl.paper.tables import formats as render
from apfl.paper.tables import teachers
from apfl.study.load import load_study
from tests.helpers.paper_runs import DROPOUT, SETTING, cell, row
from tests.helpers.studies import tiny

SEEDS = (0, 1, 2)
IMAGES = 1000


def ours(reading="literal", *, seeds=SEEDS, **others):
    return cell("AP-FL", seeds=seeds, reading=reading, semantics="clip", model="personalized", **others)


def runs(one, friend, teachers, base, personalized=0.5, rounds=(1, 4)):
    """Metrics of a cell: in the last round these accuracies, a hundredth more for each seed; before, others."""
    frames, records = {}, {}
    for seed, run in zip(one.seeds, one.runs, strict=True):
        lines = []
        for number in rounds:
            for model, accuracy in (("friend", friend), ("personalized", personalized)):
                here = accuracy + 0.01 * seed if number == rounds[-1] else 0.01
                shared = {"model": model, "round": number, "samples": IMAGES}
                lines += [row(here, **shared), row(0.99, role="dropout", **shared)]
        frames[run] = pd.DataFrame(lines)
        wobble = 0.001 * seed
        given = {"teachers": teachers + 0.01 * seed + wobble, "global": base + 0.01 * seed + wobble}
        records[run] = {
            "status": "finished",
            "teachers": {"1": {"teachers": 0.9, "global": 0.9}, str(rounds[-1]): given},
        }
    return frames, records


def metrics(*parts):
    frames, records = {}, {}
    for part in parts:
        frames |= part[0]
        records |= part[1]
    return Metrics(frames, records)


def test_the_last_round_of_the_non_dropout_clients_counts():
    one = ours()
    rows = teachers_module.teacher_rows([one], metrics(runs(one, 0.30, 0.50, 0.40)))
    found = rows.iloc[0]
    assert found["friend_mean"] == pytest.approx(31.0)
    assert found["personalized_mean"] == pytest.approx(51.0)
    assert found["teachers_mean"] == pytest.approx(51.1)
    assert found["global_mean"] == pytest.approx(41.1)
    assert found["friend_minus_teacher"] == pytest.approx(-20.1)
    assert found["friend_minus_global"] == pytest.approx(-10.1)


@pytest.mark.parametrize(("friend", "said"), [(0.30, "below"), (0.501, "at"), (0.70, "above")])
def test_where_a_friend_stands_is_by_the_interval_paired_by_seed(friend, said):
    one = ours()
    rows = teachers_module.teacher_rows([one], metrics(runs(one, friend, 0.50, 0.40)))
    assert rows.iloc[0]["friend_is"] == said
    # Seeds are a point apart, but friend and teachers alike.
    assert rows.iloc[0]["teacher_high"] - rows.iloc[0]["teacher_low"] < 1.0


def test_the_teacher_of_a_reading_with_the_global_teacher_is_the_global_model():
    one = ours("soft-labels+global-teacher")
    found = teachers_module.teacher_rows([one], metrics(runs(one, 0.45, 0.50, 0.40))).iloc[0]
    assert found["friend_minus_teacher"] == pytest.approx(45 - 40 - 0.1)
    assert found["friend_is"] == "above"


def test_runs_that_several_outputs_show_have_one_row():
    one, again = ours(), ours(output="figure_multiverse")
    assert len(teachers_module.teacher_rows([one, again], metrics(runs(one, 0.3, 0.5, 0.4)))) == 1


def test_one_seed_has_no_interval_and_what_is_missing_is_named():
    one, other, third = ours(seeds=(0,)), ours("soft-labels"), ours("uniform-labels")
    frames, records = runs(third, 0.3, 0.5, 0.4)
    records = {run: {"status": "finished"} for run in records}
    rows = teachers_module.teacher_rows([one, other, third], metrics(runs(one, 0.3, 0.5, 0.4), (frames, records)))
    assert rows["friend_is"].tolist() == ["", "", ""]
    assert rows["status"].tolist() == ["ok", "not run", "no teachers"]
    notes = " ".join(teachers.teachers_table(rows).notes)
    assert "Not run: CIFAR-10, 5 clients, α = 0.1, soft-labels, clip." in notes
    assert "No teachers: CIFAR-10, 5 clients, α = 0.1, uniform-labels, clip." in notes


def test_a_diverged_seed_leaves_no_number():
    one = ours()
    frames, records = runs(one, 0.3, 0.5, 0.4)
    records[one.runs[1]]["status"] = "diverged"
    found = teachers_module.teacher_rows([one], Metrics(frames, records)).iloc[0]
    assert found["status"] == "diverged"
    assert np.isnan(found["friend_minus_teacher"])
    assert found["friend_is"] == ""


def test_methods_without_a_generator_have_no_row():
    assert teachers_module.teacher_rows([cell("FedAvg")], Metrics({}, {})).empty


def fourth(semantics, accuracies, reading="literal"):
    """A cell of Table 4 whose friend has these accuracies on monopoly classes."""
    one = cell(
        "AP-FL", output="table4", setting=DROPOUT, seeds=SEEDS, semantics=semantics, reading=reading, model="friend"
    )
    frames, records = {}, {}
    for run, accuracy in zip(one.runs, accuracies, strict=True):
        tested = row(accuracy, test="monopoly", role="dropout", model="friend", samples=IMAGES)
        lines = [tested, row(0.9, model="friend")]
        frames[run] = pd.DataFrame(lines)
        records[run] = {"status": "finished"}
    return one, (frames, records)


def controls(reading="literal"):
    made = [
        fourth("clip", (0.60, 0.71, 0.82), reading),
        fourth("bert", (0.50, 0.61, 0.70), reading),
        fourth("onehot", (0.50, 0.60, 0.70), reading),
    ]
    return [one for one, _ in made], metrics(*(part for _, part in made))


def test_controls_stand_beside_chance_and_a_blind_guess():
    cells, found = controls()
    rows = teachers_module.control_rows(cells, found, {"cifar10": 10}).set_index("semantics")
    assert rows.loc["clip", "monopoly_mean"] == pytest.approx(71.0)
    assert rows.loc["clip", "chance"] == 10.0
    # In the literal reading a friend knows the two classes of its client alone.
    assert rows.loc["clip", "blind_guess"] == 50.0
    assert rows.loc[["clip", "onehot"], "kind"].tolist() == ["semantic", "control"]
    low, high = rows.loc["clip", ["above_chance_low", "above_chance_high"]]
    assert (low + high) / 2 == pytest.approx(61.0)


def test_a_friend_of_uniform_labels_guesses_among_all_classes():
    cells, found = controls("uniform-labels")
    assert teachers_module.control_rows(cells, found, {"cifar10": 10})["blind_guess"].tolist() == [10.0] * 4


def test_embeddings_minus_controls_are_paired_by_seed():
    cells, found = controls()
    last = teachers_module.control_rows(cells, found, {"cifar10": 10}).iloc[-1]
    # Means of clip and bert: 55, 66, 76; minus 50, 60, 70.
    assert last["kind"] == "difference"
    assert last["monopoly_mean"] == pytest.approx((5 + 6 + 6) / 3)
    assert 0 < last["above_chance_low"] < last["monopoly_mean"] < last["above_chance_high"] < 10


def test_a_diverged_seed_leaves_no_difference_between_embeddings_and_controls():
    cells, (frames, records) = controls()[0], (controls()[1].frames, dict(controls()[1].records))
    records[cells[1].runs[2]] = {"status": "diverged"}
    rows = teachers_module.control_rows(cells, Metrics(frames, records), {"cifar10": 10}).set_index("semantics")
    assert rows.loc[["bert", ""], "status"].tolist() == ["diverged"] * 2
    assert np.isnan(rows.loc["", "monopoly_mean"]) and rows.loc["clip", "status"] == "ok"


def test_without_a_control_there_is_no_difference():
    cells, found = controls()
    assert "difference" not in set(teachers_module.control_rows(cells[:2], found, {"cifar10": 10})["kind"])


def test_seeds_that_agree_exactly_differ_by_an_image_for_all_that_is_known():
    one, part = fourth("clip", (0.5, 0.5, 0.5))
    found = teachers_module.control_rows([one], metrics(part), {"cifar10": 10}).iloc[0]
    assert found["monopoly_std"] == 0
    half = stats.t.ppf(0.975, 2) * (100 / IMAGES) / 3**0.5
    assert found["above_chance_high"] - found["above_chance_low"] == pytest.approx(2 * half)


def test_a_friend_one_image_above_its_teacher_in_each_seed_is_not_above_it():
    one = ours()
    frames, records = runs(one, 0.5 + 1 / IMAGES, 0.5, 0.4)
    for seed, run in enumerate(one.runs):
        records[run]["teachers"]["4"]["teachers"] = 0.5 + 0.01 * seed
    found = teachers_module.teacher_rows([one], Metrics(frames, records)).iloc[0]
    assert found["friend_minus_teacher"] == pytest.approx(100 / IMAGES)
    assert found["friend_is"] == "at"


def test_tables_go_through_all_formats():
    one = ours()
    first = teachers.teachers_table(teachers_module.teacher_rows([one], metrics(runs(one, 0.3, 0.5, 0.4))))
    cells, found = controls()
    second = teachers.controls_table(teachers_module.control_rows(cells, found, {"cifar10": 10}))
    for table, words in ((first, "below it"), (second, "embeddings − controls")):
        for make in render.FORMATS.values():
            assert make(table)
        assert words in render.markdown(table)
        assert words in render.fragment(table)
    assert "in 1, not told from it in 0 and above it in 0" in render.markdown(first)
    assert setting_label(SETTING) in render.markdown(first)


def test_a_study_without_ap_fl_says_so(tmp_path):
    study = load_study(tiny(methods={"local": {}, "fedavg": {}}, apfl={}))
    for make in (teachers.of_friends, teachers.of_controls):
        for path in render.write(make(study, Metrics({}, {})), tmp_path, ("csv", "md")):
            assert path.is_file()
            if path.suffix == ".md":
                assert "This study runs nothing that this table shows." in path.read_text(encoding="utf-8")
    assert not list(sections_beside(study, Metrics({}, {})))
