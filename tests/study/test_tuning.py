"""What is tried for each method: as much as for any other, reproducibly, on seeds of its own; and without a section
`tuning` everything is as it was."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from apfl.errors import UserError
from apfl.registry.cards import Field, methods
from apfl.registry.spaces import Choices, Range, space
from apfl.storage.files import canonical_json
from apfl.study.cells import artefacts, cells, runs
from apfl.study.load import load_study
from apfl.study.tuning import space_of, tuned
from tests.helpers.studies import tiny

PLACE = {"digits": "dirichlet-alpha0.1-clients3"}


def study_of(**tuning):
    values = tiny(methods__fedprox={}, methods__ditto={}, tables__table3={"clients": 10})
    values["tuning"] = {"seeds": [70, 71], "partitions": PLACE, "trials": 4} | tuning
    return load_study(values)


def trials(study, method):
    return [cell for cell in cells(study, "tuning") if cell.method == method]


@pytest.mark.parametrize("number", [2, 8])
def test_every_method_has_the_same_number_of_different_trials(number) -> None:
    study = study_of(trials=number)
    for method in study.methods:
        tried = {canonical_json(cell.axis["parameters"]) for cell in trials(study, method)}
        assert len(trials(study, method)) == len(tried) == number
    assert tuned(study) == list(study.methods)
    assert tuned(study_of(methods=["fedprox"])) == ["fedprox"]


def test_the_space_of_local_training_is_that_of_every_method_besides_its_own() -> None:
    study = study_of(training={"learning_rate": [0.1, 0.2], "local_epochs": [1, 2]}, trials=4)
    training = {
        "training.learning_rate": Choices((0.1, 0.2)),
        "training.local_epochs": Choices((1, 2)),
    }
    assert space_of(study, "fedavg") == training
    assert space_of(study, "fedprox") == training | {"mu": Range(1e-4, 1.0, log=True)}
    assert space_of(study, "apfl").keys() >= training.keys() | {"learning_rate", "friend_epochs", "beta", "teacher"}


def test_the_first_trial_is_the_published_setting() -> None:
    study = study_of()
    first = trials(study, "apfl")[0]
    by_path = {run.path: run for run in runs(study)}
    assert first.axis["parameters"]["beta"] == 0.1 and first.axis["parameters"]["width"] == 8  # the study's
    plain = next(cell for cell in cells(study, "table2") if cell.title == "AP-FL")
    assert first.runs[0].rpartition("/")[0] == plain.runs[0].rpartition("/")[0]
    assert by_path[first.runs[0]].spec | {"seed": 0} == by_path[plain.runs[0]].spec


def test_points_are_the_same_whenever_they_are_asked_for_and_more_trials_go_on_with_them() -> None:
    few, again, many = (
        [cell.axis["parameters"] for cell in trials(study_of(trials=number, methods=["apfl"]), "apfl")]
        for number in (4, 4, 9)
    )
    assert few == again == many[:4]
    values = tiny(name="other", methods__fedprox={}) | {"tuning": {"seeds": [70], "partitions": PLACE, "trials": 4}}
    assert [cell.axis["parameters"] for cell in trials(load_study(values), "apfl")][1:] != few[1:]


def test_the_order_in_which_a_study_names_a_space_does_not_move_its_points() -> None:
    space = {"width": [8, 16, 32], "beta": {"low": 0.0, "high": 1.0}, "epochs": [1, 2]}
    training = {"local_epochs": [1, 2], "learning_rate": [0.1, 0.2]}
    here, there = (
        [cell.runs for cell in trials(study_of(spaces={"apfl": dict(given)}, training=dict(local)), "apfl")]
        for given, local in ((space.items(), training.items()), (sorted(space.items()), sorted(training.items())))
    )
    assert here == there


def test_points_lie_in_the_space_and_spread_over_it() -> None:
    study = study_of(trials=17, methods=["apfl", "fedprox"])
    mu = np.log10([cell.axis["parameters"]["mu"] for cell in trials(study, "fedprox")][1:])
    # 16 points of a Sobol sequence: one in each sixteenth of the range.
    assert sorted(np.floor((mu + 4) / 4 * 16).clip(0, 15).astype(int)) == list(range(16))
    labels = [cell.axis["parameters"]["friend_labels"] for cell in trials(study, "apfl")][1:]
    assert labels.count("soft") == labels.count("hard") == 8


def test_trials_are_runs_with_these_hyper_parameters_on_seeds_that_no_table_uses() -> None:
    study = study_of()
    by_path = {run.path: run for run in runs(study)}
    for cell in cells(study, "tuning"):
        for path in cell.runs:
            run, wanted = by_path[path], cell.axis["parameters"]
            assert run.seed in (70, 71)
            links = [run, *(by_path[run.inputs[name]] for name in ("generator", "run") if name in run.inputs)]
            for link in links:
                training = {f"training.{name}": value for name, value in link.spec["training"].items()}
                assert training.items() >= {name: value for name, value in wanted.items() if "." in name}.items()
            used = [pair for link in links[:2] for pair in link.spec["parameters"].items()]
            assert all((name, value) in used for name, value in wanted.items() if "." not in name)
    shown = {seed for output in (*study.tables, *study.figures) for cell in cells(study, output) for seed in cell.seeds}
    assert shown == set(study.seeds)


def test_trials_share_the_federated_run_and_a_generator_where_they_agree_on_them() -> None:
    spaces = {"apfl": {"beta": [0.1, 0.5, 0.9], "width": [8, 16]}}
    rates = {"learning_rate": [0.001, 0.01, 0.1]}
    study = study_of(seeds=[70], methods=["fedavg", "apfl"], spaces=spaces, training=rates, trials=3)
    mine = [run for run in runs(study) if run.seed == 70]
    # FedAvg has a trial of each rate, and AP-FL has no other rates.
    assert [run.method for run in mine if run.stage == "federate"] == ["fedavg"] * 3
    assert len([run for run in mine if run.stage == "personalize"]) == 3
    used = {(link.inputs["run"], link.spec["parameters"]["width"]) for link in mine if link.stage == "memorize"}
    assert len([run for run in mine if run.stage == "memorize"]) == len(used)


def test_a_tuned_method_starts_from_a_run_of_its_own_only_where_local_training_is_tuned() -> None:
    def bases(study):
        return {
            run.inputs["run"].split("/")[-2]: "tuned" in run.spec
            for run in runs(study)
            if run.stage == "personalize" and run.method == "apfl" and run.seed == 0
        }

    assert bases(study_of())["fedavg"] is False and bases(study_of())["fedavg--tuned-apfl"] is True
    shared = study_of(training={}, methods=["apfl"])
    assert bases(shared).keys() == {"fedavg"}


def test_tables_show_published_and_tuned_side_by_side_and_tuned_runs_wait_for_the_choice() -> None:
    study = study_of()
    by_path = {run.path: run for run in runs(study)}
    made = {entry.path for entry in artefacts(study) if entry.kind == "tune"}
    assert made == {f"tiny/tuning/digits/{method}.json" for method in study.methods}
    titles = [cell.title for cell in cells(study, "table2")]
    for entry in study.methods.values():
        assert titles.index(f"{entry.title} (tuned)") == titles.index(entry.title) + 1
    assert "AP-FL (tuned)" in [cell.title for cell in cells(study, "table3")]
    tuned_runs = [run for run in by_path.values() if "tuned" in run.spec]
    assert {(run.stage, run.method, run.spec["tuned"].split("/")[-1]) for run in tuned_runs} == {
        *(("federate", method, f"{method}.json") for method in ("local", "fedavg", "fedprox", "ditto")),
        *(("federate", "fedavg", f"{method}.json") for method in ("fedavg-ft", "apfl")),
        *(("personalize", method, f"{method}.json") for method in ("fedavg-ft", "apfl")),
        ("memorize", "fedavg--tuned-apfl--minilm--tuned-apfl", "apfl.json"),
    }
    for run in tuned_runs:
        before = by_path.get(run.inputs.get("run", ""), run)
        assert before.spec["tuned"] == run.spec["tuned"]
    assert all(run.inputs["tuning"] == run.spec["tuned"] and run.seed == 0 for run in tuned_runs)


def test_a_study_without_tuning_plans_the_same_runs() -> None:
    values = tiny(methods__fedprox={}, methods__ditto={}, validation=True)
    plain = load_study(values)
    with_tuning = load_study(values | {"tuning": {"seeds": [70], "partitions": PLACE, "trials": 3}})
    planned = {run.path: run for run in runs(with_tuning) if run.seed == 0 and "tuned" not in run.spec}
    assert {run.path: json.dumps(asdict(run)) for run in runs(plain)} == {
        path: json.dumps(asdict(run)) for path, run in planned.items()
    }
    assert not plain.tuning and cells(plain, "tuning") == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seeds": [0]}, "tuning.seeds: 0 is a seed of the study too"),
        ({"trials": 5, "training": {"learning_rate": [0.1, 0.2]}}, "the search space of 'local' has 2 settings"),
        ({"training": {"optimizer": ["adam", 1]}}, "tuning: training.optimizer 1 is not of type str"),
        ({"training": {"rounds": [1, 2]}}, "tuning.training: unknown key 'rounds'"),
        ({"methods": ["fedfoo"]}, "tuning 'fedfoo': unknown method"),
        ({"partitions": {"mnist": "iid-clients3"}}, "tuning.partitions 'mnist': unknown data set"),
        ({"spaces": {"fedprox": {"nu": [1, 2]}}}, "unknown hyper-parameter 'nu'"),
        ({"spaces": {"fedprox": {"mu": {"low": 0, "high": 1, "scale": "log"}}}}, "is not a range on the scale log"),
        ({"spaces": {"apfl": {"friend_labels": {"low": 0, "high": 1}}}}, "is not of type str"),
        ({"trials": 1}, "tuning.trials"),
    ],
)
def test_a_mistake_is_named(changes, line) -> None:
    with pytest.raises(UserError, match=line):
        study_of(**changes)


def test_a_range_takes_its_ends_and_a_choice_each_value() -> None:
    fields = {"x": Field("float", 0.1), "n": Field("int", 3), "s": Field("str", "a")}
    written = {"x": {"low": 1, "high": 100, "scale": "log"}, "n": {"low": 1, "high": 3}, "s": ["a", "b"]}
    made = space(written, fields, "")
    assert made == {"x": Range(1.0, 100.0, True, False), "n": Range(1, 3, False, True), "s": Choices(("a", "b"))}
    assert [made["x"].at(share) for share in (0, 0.5, 1)] == [1.0, 10.0, 100.0]
    assert [made["n"].at(share) for share in (0, 0.5, 1)] == [1, 2, 3]
    assert [made["s"].at(share) for share in (0, 0.49, 0.5, 0.99)] == ["a", "a", "b", "b"]


@pytest.mark.parametrize("module", [name for name, card in methods().items() if card.search])
def test_the_space_of_each_method_holds_values_that_it_takes(module) -> None:
    """The ends of every range and every choice, one hyper-parameter at a time."""
    from apfl.federation.method import load_method
    from apfl.memorization.generator import GeneratorConfig
    from apfl.study.study import generator_fields

    card = methods()[module]
    fields = card.fields | (generator_fields() if "generator" in card.needs else {})
    for name, one in space(card.search, fields, module).items():
        for value in one.values if isinstance(one, Choices) else (one.at(0.0), one.at(1.0)):
            made = load_method(module, {name: value}) if name in card.fields else GeneratorConfig(**{name: value})
            assert getattr(made, name) == value
